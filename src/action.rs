//! What is done to the cluster, and patterns over that. No I/O; both programs use it.
//!
//! An [`Action`] is one request in the words of a `SubjectAccessReview`. An [`ActionPattern`] is one entry of a policy rule or of
//! a grant, and reads an action in one of two directions:
//!
//! - [`ActionPattern::protects`] leans wide: a protected `get` protects all that answers with the object, and a
//!   collection request over all namespaces touches every protected namespace.
//! - [`ActionPattern::permits`] leans narrow: what a grant does not plainly name is not granted.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::wire::review::AccessSpec;

/// One request to the cluster: who does it is not part of it.
///
/// For the core resource `namespaces`, `namespace` is the object's own name, as the API server's request info has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Action {
    /// RBAC verb: `get`, `list`, `delete`, `deletecollection`, `impersonate`, … ; `connect` for CONNECT admission.
    pub verb: String,
    /// API group, empty for the core group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Plural resource name; empty for a non-resource request.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resource: String,
    /// Subresource such as `scale` or `exec`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subresource: Option<String>,
    /// Namespace; `None` for cluster-scoped objects and for requests across all namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Object name; `None` for collections and for creations with a generated name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// URL path of a non-resource request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// Why something is not an action.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not an action: {0}")]
pub struct BadAction(&'static str);

/// Verbs that read objects: whoever may do one of them to a whole collection has read every object in it.
const READS: [&str; 3] = ["get", "list", "watch"];
/// Verbs that act on a collection as a whole.
const COLLECTION: [&str; 3] = ["list", "watch", "deletecollection"];
/// Verbs that are answered with the object: PATCH and PUT always, also where they change nothing; DELETE for some kinds,
/// and for every kind with `propagationPolicy: Foreground`, dry runs included (`Store.Delete` in k8s.io/apiserver).
pub(crate) const REVEALING: [&str; 7] = ["get", "list", "watch", "update", "patch", "delete", "deletecollection"];
/// Verbs that are answered with every object of a collection. `deletecollection` is, dry runs included.
pub(crate) const LISTING: [&str; 3] = ["list", "watch", "deletecollection"];
/// Verbs that change an object that exists. Which of the two a client sends is its own choice (`kubectl scale` patches
/// or updates by version), so a policy that names one means both.
pub(crate) const CHANGES: [&str; 2] = ["update", "patch"];
/// The verb of impersonation, and what those of constrained impersonation begin with (KEP-5284): `impersonate:user-info`.
pub(crate) const IMPERSONATE: &str = "impersonate";
/// API groups of what is impersonated. Which one the API server asks about depends on how it does it.
pub(crate) const IMPERSONATION_GROUPS: [&str; 2] = ["", AUTHENTICATION];
const AUTHENTICATION: &str = "authentication.k8s.io";
/// What the username of a node begins with.
const NODE_USER: &str = "system:node:";
/// API group of the `signers` that somebody may `approve`, `sign` or `attest` for.
pub(crate) const CERTIFICATES: &str = "certificates.k8s.io";
/// Questions to the API server that are created as objects, and that no webhook is called for
/// (`ExcludeAdmissionWebhookVirtualResources` in k8s.io/apiserver, on since 1.37).
pub(crate) const REVIEWS: [(&str, &str); 6] = [
    (AUTHENTICATION, "selfsubjectreviews"),
    (AUTHENTICATION, "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
];
/// Subresources that the API server opens as a connection (admission operation CONNECT).
pub(crate) const CONNECTS: [(&str, &str); 6] = [
    ("pods", "exec"),
    ("pods", "attach"),
    ("pods", "portforward"),
    ("pods", "proxy"),
    ("services", "proxy"),
    ("nodes", "proxy"),
];

/// Verbs of requests that policies speak of.
pub const VERBS: [&str; 15] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "connect",
    "impersonate",
    "bind",
    "escalate",
    "approve",
    "sign",
    "attest",
];

impl Action {
    /// Something done to a kind of resource: no object, namespace or subresource yet.
    pub fn new(verb: &str, group: &str, resource: &str) -> Self {
        Self {
            verb: verb.to_owned(),
            group: group.to_owned(),
            resource: resource.to_owned(),
            subresource: None,
            namespace: None,
            name: None,
            path: None,
        }
    }

    /// What an access review is about; `None` where it does not say.
    pub fn of_review(spec: &AccessSpec) -> Option<Self> {
        if let Some(resource) = &spec.resource_attributes {
            let action = Self {
                subresource: Some(resource.subresource.clone()),
                namespace: Some(resource.namespace.clone()),
                name: Some(resource.name.clone()),
                ..Self::new(&resource.verb, &resource.group, &resource.resource)
            };
            return Some(action.normalized());
        }
        let path = spec.non_resource_attributes.as_ref()?;
        Some(Self { path: Some(path.path.clone()), ..Self::new(&path.verb, "", "") })
    }

    /// Makes the namespace of `namespaces` objects explicit and turns empty strings into `None`, so that the same
    /// request looks the same whether it came from a `SubjectAccessReview`, an `AdmissionReview` or a person. Whoever is
    /// impersonated looks the same in every mode of impersonation: the API server asks about one after the other.
    #[must_use]
    pub fn normalized(mut self) -> Self {
        for field in [&mut self.subresource, &mut self.namespace, &mut self.name] {
            if field.as_deref() == Some("") {
                *field = None;
            }
        }
        if self.group.is_empty() && self.resource == "namespaces" && self.name.is_some() {
            self.namespace.clone_from(&self.name);
        }
        if self.is_connect() {
            "connect".clone_into(&mut self.verb);
        }
        if self.verb.strip_prefix(IMPERSONATE).is_some_and(|mode| mode.starts_with(':')) {
            IMPERSONATE.clone_into(&mut self.verb);
        }
        if self.is_impersonation() && IMPERSONATION_GROUPS.contains(&self.group.as_str()) {
            // A node is asked about by its own name in one mode, and as a user in the other.
            if self.resource == "nodes" {
                "users".clone_into(&mut self.resource);
                self.name = self.name.map(|node| format!("{NODE_USER}{node}"));
            }
            let group = match self.resource.as_str() {
                "users" | "groups" | "serviceaccounts" => "",
                _ => AUTHENTICATION,
            };
            group.clone_into(&mut self.group);
        }
        self
    }

    /// The action as a client may name it: one plain request, no wildcard in verb, group, resource or subresource.
    pub fn checked(self) -> Result<Self, BadAction> {
        let wild = |text: &str| text.contains(['*', '?']);
        if self.verb.is_empty() {
            return Err(BadAction("it has no verb"));
        }
        if self.resource.is_empty() == self.path.is_none() {
            return Err(BadAction("it needs a resource or a path, and not both"));
        }
        if [self.verb.as_str(), &self.group, &self.resource].into_iter().chain(self.subresource.as_deref()).any(wild) {
            return Err(BadAction("a wildcard is not an action: name the verb and the resource"));
        }
        Ok(self.normalized())
    }

    /// Whether the API server handles this as CONNECT: exec, attach, port-forward and the proxies. Authorization sees
    /// such requests as `get` or `create`, depending on the client's transport.
    pub fn is_connect(&self) -> bool {
        self.group.is_empty()
            && self.subresource.as_deref().is_some_and(|sub| CONNECTS.contains(&(self.resource.as_str(), sub)))
    }

    /// Whether this only reads: get, list or watch of a resource that is not a connection.
    pub fn is_read(&self) -> bool {
        READS.contains(&self.verb.as_str())
    }

    /// Whether admission webhooks are called for this request, so that the 429 belongs to them.
    ///
    /// They are called for writes and CONNECT, but never for the admission configuration itself
    /// (`IsExemptAdmissionConfigurationResource` in k8s.io/apiserver), for reviews, and for verbs that only authorization
    /// knows.
    pub fn reaches_admission(&self) -> bool {
        self.path.is_none()
            && matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection" | "connect")
            && !self.is_admission_configuration()
            && !REVIEWS.contains(&(self.group.as_str(), self.resource.as_str()))
    }

    /// The read that a change of an object amounts to even if nothing comes of it: what the API server says of a change that
    /// cannot be made quotes the object, and it says so before it asks admission (`Store.Update` and `jsonPatcher` in
    /// k8s.io/apiserver). So where that read is protected the change is the authorizer's, too.
    pub fn read_of_changed(&self) -> Option<Self> {
        let is_change = self.path.is_none() && CHANGES.contains(&self.verb.as_str());
        is_change.then(|| Self { verb: "get".to_owned(), ..self.clone() })
    }

    /// Whether this touches the objects that could switch our admission webhook off.
    pub fn is_admission_configuration(&self) -> bool {
        self.group == "admissionregistration.k8s.io"
    }

    /// Resource with its subresource, as RBAC writes it: `pods/exec`.
    pub fn full_resource(&self) -> String {
        match &self.subresource {
            Some(sub) => format!("{}/{sub}", self.resource),
            None => self.resource.clone(),
        }
    }

    /// Whether this is about who somebody acts as.
    pub fn is_impersonation(&self) -> bool {
        self.verb == IMPERSONATE
    }

    /// Whether this asks for every group or extra value at once. The API server asks so before it asks one by one
    /// (`manyAuthorizationChecksInLoop` in k8s.io/apiserver), which it does whatever the answer.
    pub fn is_impersonation_of_all(&self) -> bool {
        self.is_impersonation() && self.name.as_deref() == Some("*")
    }

    /// The domain of `signers` that this is about as a whole: it is called `DOMAIN/*` then.
    ///
    /// The API server asks about the signer's own name, and where that is not allowed about its domain
    /// (`IsAuthorizedForSignerName` in k8s.io/kubernetes).
    fn signer_domain(&self) -> Option<&str> {
        let is_signer = self.group == CERTIFICATES && self.resource == "signers";
        self.name.as_deref().filter(|_| is_signer)?.strip_suffix("/*")
    }

    /// Whether this follows `first` in one and the same request of a client: the question about a signer's domain.
    pub fn continues(&self, first: &Self) -> bool {
        let is_alike = || {
            Self { name: None, ..self.clone() } == Self { name: None, ..first.clone() }
                && first.signer_domain().is_none()
        };
        let signer = first.name.as_deref().and_then(|name| name.split_once('/'));
        self.signer_domain().is_some_and(|domain| signer.is_some_and(|(of, _)| of == domain)) && is_alike()
    }

    /// What the name stands for.
    pub(crate) fn target(&self) -> Target<'_> {
        let Some(name) = self.name.as_deref() else { return Target::Any };
        if self.signer_domain().is_some() || self.is_impersonation() {
            match name.strip_suffix('*') {
                Some("") => return Target::Any,
                Some(beginning) => return Target::Beginning(beginning),
                None => {}
            }
        }
        Target::Named { name, own: self.proxied() }
    }

    /// The own name of what is reached through a proxy: requests name it `[scheme:]name[:port]`
    /// (`SplitSchemeNamePort` in k8s.io/apimachinery).
    fn proxied(&self) -> Option<&str> {
        if !self.group.is_empty() || self.subresource.as_deref() != Some("proxy") {
            return None;
        }
        let mut parts = self.name.as_deref()?.split(':');
        match (parts.next()?, parts.next(), parts.next()) {
            (_, None, _) => None,
            (name, Some(_), None) | (_, Some(name), Some(_)) => Some(name),
        }
    }

    fn is_namespace_object(&self) -> bool {
        self.group.is_empty() && self.resource == "namespaces"
    }

    /// Whether this is about one object and does not say which. Requests do say it; what asks so beforehand
    /// (`kubectl auth can-i get secrets`, or a person who does not know yet) means any object of the kind.
    pub fn lacks_name(&self) -> bool {
        let is_about_one = match self.verb.as_str() {
            "get" | "update" | "patch" | "delete" | "connect" => true,
            // The name of what is created the server may make up; below an object it is the object's.
            "create" => self.subresource.is_some(),
            _ => false,
        };
        is_about_one && self.path.is_none() && self.name.is_none()
    }

    fn is_collection(&self) -> bool {
        self.name.is_none() && COLLECTION.contains(&self.verb.as_str())
    }
}

/// As a person reads it: `delete namespaces/prod`, `get secrets/db -n prod`, `list secrets -A`.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.verb)?;
        if let Some(path) = &self.path {
            return write!(f, " {path}");
        }
        write!(f, " {}", self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        if let Some(sub) = &self.subresource {
            write!(f, "/{sub}")?;
        }
        if let Some(name) = &self.name {
            write!(f, "{}{name}", if self.subresource.is_some() { " " } else { "/" })?;
        }
        match &self.namespace {
            Some(_) if self.is_namespace_object() => Ok(()),
            Some(namespace) => write!(f, " -n {namespace}"),
            None if self.is_collection() && !self.is_namespace_object() => f.write_str(" -A"),
            None => Ok(()),
        }
    }
}

/// A pattern over actions, in the words of RBAC. Names, namespaces and paths take the globs `*` and `?`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ActionPattern {
    /// RBAC verbs, `connect` for exec, attach, port-forward and proxies, or `*`.
    pub verbs: Vec<String>,
    /// API groups, `""` for the core group, or `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// Plural resources, `resource/subresource`, `resource/*`, `*/subresource`, `*` (every resource and subresource).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Namespaces; default every one, and cluster-scoped objects. `""` is cluster-scoped objects alone.
    #[serde(default = "any", skip_serializing_if = "is_any")]
    pub namespaces: Vec<String>,
    /// Object names; default every one.
    #[serde(default = "any", skip_serializing_if = "is_any")]
    pub names: Vec<String>,
    /// Paths of non-resource requests, such as `/metrics` or `/debug/*`.
    #[serde(default, rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

/// What of a namespace or of a name there is none, as the API server puts it, and nothing else. In a grant only.
fn none() -> Vec<String> {
    vec![String::new()]
}

/// `["*"]`.
fn any() -> Vec<String> {
    vec!["*".to_owned()]
}

#[allow(clippy::ptr_arg, reason = "serde calls it with a reference to the field")]
fn is_any(globs: &Vec<String>) -> bool {
    globs.iter().any(|glob| glob == "*")
}

impl ActionPattern {
    /// The pattern that permits just `action`: same verb, same object. A collection is permitted as that collection,
    /// and not object by object. What is in no namespace is that, and no object of the same name in a namespace; and what
    /// [names no object](Action::lacks_name) is no request for any object.
    pub fn exactly(action: &Action) -> Self {
        let is_everywhere = action.path.is_some() || COLLECTION.contains(&action.verb.as_str());
        Self {
            verbs: vec![action.verb.clone()],
            api_groups: if action.path.is_some() { vec![] } else { vec![action.group.clone()] },
            resources: if action.path.is_some() { vec![] } else { vec![action.full_resource()] },
            namespaces: match action.namespace.as_deref() {
                Some(namespace) => vec![literal(namespace)],
                None if is_everywhere => any(),
                None => none(),
            },
            names: match (action.name.as_deref(), action.signer_domain()) {
                (None, _) if action.lacks_name() => none(),
                (None, _) => any(),
                // Whoever may do it for a domain may do it for each of its signers.
                (Some(domain), Some(name)) if !name.contains(['*', '?', '=']) => vec![domain.to_owned()],
                (Some(name), _) => vec![literal(name)],
            },
            non_resource_urls: action.path.as_deref().map(literal).into_iter().collect(),
        }
    }

    /// The pattern that permits the action's verb on every object of its kind in its namespace (or across the cluster,
    /// where the action names none). A read is permitted as any read.
    pub fn of_kind(action: &Action) -> Self {
        let mut pattern = Self::exactly(action);
        if action.is_read() {
            pattern.verbs = READS.iter().map(ToString::to_string).collect();
        }
        pattern.names = any();
        // A namespace is its own namespace: one level wider is all of them.
        if action.is_namespace_object() {
            pattern.namespaces = any();
        }
        pattern
    }

    /// Whether a rule with this pattern protects `action`. Leans wide: every request that could touch a protected
    /// object is protected.
    pub fn protects(&self, action: &Action) -> bool {
        let parts = Parts {
            verbs: self.verbs.as_slice(),
            api_groups: &self.api_groups,
            resources: &self.resources,
            namespaces: &self.namespaces,
            names: &self.names,
            non_resource_urls: &self.non_resource_urls,
        };
        parts.protect(action)
    }

    /// Whether a grant with this pattern permits `action`. Leans narrow: nothing that the pattern does not plainly say.
    pub fn permits(&self, action: &Action) -> bool {
        if !self.verbs.iter().any(|verb| verb_permits(verb, action)) {
            return false;
        }
        if let Some(path) = &action.path {
            return globs_match(&self.non_resource_urls, path);
        }
        let covers = |globs: &Vec<String>, part: &Option<String>| match part {
            Some(part) => globs_match(globs, part),
            None => is_any(globs) || globs.iter().any(String::is_empty),
        };
        self.matches_resource(action)
            && covers(&self.namespaces, &action.namespace)
            && covers(&self.names, &action.name)
    }

    /// What of the pattern is about one namespace; `None`: nothing.
    #[must_use]
    pub fn in_namespace(self, namespace: &str) -> Option<Self> {
        let is_there = globs_match(&self.namespaces, namespace);
        is_there.then(|| Self { namespaces: vec![literal(namespace)], ..self })
    }

    /// Whether this plainly names the action's kind of objects, whatever is done to them and wherever they are.
    pub(crate) fn matches_resource(&self, action: &Action) -> bool {
        self.api_groups.iter().any(|group| group == "*" || *group == action.group)
            && self.resources.iter().any(|pattern| resource_matches(pattern, action))
    }
}

/// What the name of an action stands for, where patterns protect objects by name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    /// No object in particular: a collection, a creation whose name the server makes up, or all names at once. It may
    /// touch the objects that are named.
    Any,
    /// Every object whose name begins so.
    Beginning(&'a str),
    /// One object.
    Named {
        /// As the request names it.
        name: &'a str,
        /// Its own name, where that is another one.
        own: Option<&'a str>,
    },
}

/// Words of one part of a pattern, however they are kept.
pub trait Words {
    /// Whether one of them passes `test`.
    fn any(&self, test: impl FnMut(&str) -> bool) -> bool;
}

impl Words for &[String] {
    fn any(&self, mut test: impl FnMut(&str) -> bool) -> bool {
        self.iter().any(|word| test(word))
    }
}

/// The parts of an [`ActionPattern`], wherever they are kept: a client reads thousands of them before each command, and
/// most of them are about something else.
#[derive(Clone, Copy, Debug)]
pub struct Parts<W> {
    /// See [`ActionPattern::verbs`].
    pub verbs: W,
    /// See [`ActionPattern::api_groups`].
    pub api_groups: W,
    /// See [`ActionPattern::resources`].
    pub resources: W,
    /// See [`ActionPattern::namespaces`].
    pub namespaces: W,
    /// See [`ActionPattern::names`].
    pub names: W,
    /// See [`ActionPattern::non_resource_urls`].
    pub non_resource_urls: W,
}

impl<W: Words> Parts<W> {
    /// See [`ActionPattern::protects`].
    pub fn protect(&self, action: &Action) -> bool {
        if action.path.is_some() {
            return self.protect_somewhere(action);
        }
        let is_there = match &action.namespace {
            Some(namespace) => self.namespaces.any(|glob| glob_matches(glob, namespace)),
            // A collection without a namespace spans all of them (or is cluster-scoped, where only `*` can be meant). It
            // has a name when a field selector picks objects of that name, in every namespace.
            None => COLLECTION.contains(&action.verb.as_str()) || self.namespaces.any(|glob| glob == "*"),
        };
        is_there && self.protect_somewhere(action)
    }

    /// The same for the action in whatever namespace: where that is not known yet.
    pub fn protect_somewhere(&self, action: &Action) -> bool {
        if !self.verbs.any(|verb| verb_protects(verb, action)) {
            return false;
        }
        if let Some(path) = &action.path {
            return self.non_resource_urls.any(|glob| glob_matches(glob, path));
        }
        let is_named = || match action.target() {
            Target::Any => true,
            Target::Beginning(beginning) => self.names.any(|glob| may_begin_with(glob, beginning)),
            Target::Named { name, own } => {
                self.names.any(|glob| glob_matches(glob, name) || own.is_some_and(|own| glob_matches(glob, own)))
            }
        };
        self.api_groups.any(|group| group_protects(group, action))
            && self.resources.any(|pattern| resource_protects(pattern, action))
            && is_named()
    }
}

fn group_protects(pattern: &str, action: &Action) -> bool {
    pattern == "*"
        || pattern == action.group
        || (action.is_impersonation()
            && [pattern, &action.group].iter().all(|group| IMPERSONATION_GROUPS.contains(group)))
}

fn resource_protects(pattern: &str, action: &Action) -> bool {
    // Extra values of every key at once.
    let is_any_key = || action.is_impersonation() && action.subresource.as_deref() == Some("*");
    resource_matches(pattern, action)
        || (is_any_key()
            && pattern.split_once('/').is_some_and(|(resource, _)| resource == "*" || resource == action.resource))
}

/// Whether a protected verb protects what `action` does, to whatever it does that.
pub(crate) fn verb_protects(pattern: &str, action: &Action) -> bool {
    let verb = action.verb.as_str();
    let both_in = |class: &[&str]| class.contains(&pattern) && class.contains(&verb);
    pattern == "*"
        || pattern == verb
        || (pattern == "get" && REVEALING.contains(&verb))
        || (matches!(pattern, "list" | "watch") && LISTING.contains(&verb))
        || both_in(&CHANGES)
        || (pattern == "delete" && verb == "deletecollection")
        || (verb == "connect" && matches!(pattern, "get" | "create"))
        // Most of what is behind such a path answers whatever the method: HEAD and POST of a profile take it too.
        || (pattern == "get" && action.path.is_some())
        || (action.is_impersonation() && pattern.starts_with("impersonate:"))
}

fn verb_permits(pattern: &str, action: &Action) -> bool {
    let verb = action.verb.as_str();
    pattern == "*"
        || pattern == verb
        || (CHANGES.contains(&pattern) && CHANGES.contains(&verb))
        || (verb == "connect" && matches!(pattern, "get" | "create"))
}

fn resource_matches(pattern: &str, action: &Action) -> bool {
    if pattern == "*" {
        return true;
    }
    let (resource, subresource) = match pattern.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource)),
        None => (pattern, None),
    };
    (resource == "*" || resource == action.resource)
        && match (subresource, action.subresource.as_deref()) {
            (None, None) => true,
            (Some(pattern), Some(actual)) => pattern == "*" || pattern == actual,
            _ => false,
        }
}

fn globs_match(globs: &[String], text: &str) -> bool {
    globs.iter().any(|glob| glob_matches(glob, text))
}

/// Whether `text` matches `glob`, where `*` stands for any run of characters and `?` for one. After a leading `=` the
/// rest is taken to the letter.
pub fn glob_matches(glob: &str, text: &str) -> bool {
    match glob.strip_prefix('=') {
        Some(literal) => literal == text,
        None if is_glob(glob) => wildcards_match(glob.as_bytes(), text.as_bytes()),
        None => glob == text,
    }
}

/// Whether `glob` matches some text that begins with `beginning`. Leans towards yes.
fn may_begin_with(glob: &str, beginning: &str) -> bool {
    match glob.strip_prefix('=') {
        Some(literal) => literal.starts_with(beginning),
        None => match glob.find(['*', '?']) {
            Some(wildcard) => glob[..wildcard].starts_with(beginning) || beginning.starts_with(&glob[..wildcard]),
            None => glob.starts_with(beginning),
        },
    }
}

/// In place and in time proportional to `glob.len() * text.len()` at most: this runs for every request. On a mismatch
/// only the last `*` has to give way, so there is nothing else to come back to.
fn wildcards_match(glob: &[u8], text: &[u8]) -> bool {
    let (mut at_glob, mut at_text) = (0, 0);
    let mut last_star = None;
    while at_text < text.len() {
        match glob.get(at_glob) {
            Some(b'*') => {
                last_star = Some((at_glob, at_text));
                at_glob += 1;
            }
            Some(b'?') => {
                at_glob += 1;
                at_text += char_length(text[at_text]);
            }
            Some(byte) if *byte == text[at_text] => {
                at_glob += 1;
                at_text += 1;
            }
            _ => match last_star {
                Some((star, from)) => {
                    let from = from + char_length(text[from]);
                    last_star = Some((star, from));
                    (at_glob, at_text) = (star + 1, from);
                }
                None => return false,
            },
        }
    }
    glob[at_glob..].iter().all(|byte| *byte == b'*')
}

/// Length of the UTF-8 character that `first` begins.
fn char_length(first: u8) -> usize {
    match first {
        ..0xC0 => 1,
        0xC0..0xE0 => 2,
        0xE0..0xF0 => 3,
        0xF0.. => 4,
    }
}

/// Whether `pattern` has a wildcard in it.
pub fn is_glob(pattern: &str) -> bool {
    !pattern.starts_with('=') && pattern.contains(['*', '?'])
}

/// The glob that matches `text` and nothing else. Some objects (RBAC roles, for one) may be called `*`.
fn literal(text: &str) -> String {
    if text.starts_with('=') || text.contains(['*', '?']) { format!("={text}") } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(verb: &str, resource: &str, namespace: Option<&str>, name: Option<&str>) -> Action {
        let (resource, subresource) = match resource.split_once('/') {
            Some((resource, sub)) => (resource, Some(sub.to_owned())),
            None => (resource, None),
        };
        let (namespace, name) = (namespace.map(ToOwned::to_owned), name.map(ToOwned::to_owned));
        Action { subresource, namespace, name, ..Action::new(verb, "", resource) }.normalized()
    }

    fn pattern(verbs: &[&str], resource: &str, namespaces: &[&str], names: &[&str]) -> ActionPattern {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        ActionPattern {
            verbs: owned(verbs),
            api_groups: vec![String::new()],
            resources: vec![resource.to_owned()],
            namespaces: owned(namespaces),
            names: owned(names),
            non_resource_urls: vec![],
        }
    }

    #[test]
    fn a_protected_get_protects_list_and_watch_across_all_namespaces() {
        let secrets = pattern(&["get"], "secrets", &["prod"], &["*"]);
        for verb in ["get", "list", "watch"] {
            assert!(secrets.protects(&action(verb, "secrets", Some("prod"), None)), "{verb}");
        }
        assert!(secrets.protects(&action("list", "secrets", None, None)));
        assert!(secrets.protects(&action("watch", "secrets", None, None)));
        assert!(secrets.protects(&action("list", "secrets", None, Some("db"))), "--field-selector metadata.name=db");
        assert!(!secrets.protects(&action("get", "secrets", Some("dev"), Some("db"))));
        assert!(!secrets.protects(&action("list", "secrets", Some("dev"), None)));
        assert!(!secrets.protects(&action("create", "secrets", Some("prod"), Some("db"))));
    }

    #[test]
    fn a_protected_read_protects_all_that_answers_with_the_object() {
        let get = pattern(&["get"], "secrets", &["prod"], &["db"]);
        for verb in ["patch", "update", "delete"] {
            assert!(get.protects(&action(verb, "secrets", Some("prod"), Some("db"))), "{verb}");
            assert!(!get.protects(&action(verb, "secrets", Some("prod"), Some("other"))), "{verb}");
            assert!(!get.permits(&action(verb, "secrets", Some("prod"), Some("db"))), "{verb}");
        }
        for verb in ["get", "list", "watch"] {
            let read = pattern(&[verb], "secrets", &["prod"], &["*"]);
            assert!(read.protects(&action("deletecollection", "secrets", Some("prod"), None)), "{verb}");
            assert!(read.protects(&action("deletecollection", "secrets", None, None)), "{verb}");
            assert!(!read.permits(&action("deletecollection", "secrets", Some("prod"), None)), "{verb}");
        }
        // Who may not list may still change what they know the name of.
        assert!(!pattern(&["list"], "secrets", &["*"], &["*"]).protects(&action(
            "patch",
            "secrets",
            Some("prod"),
            Some("db")
        )));
    }

    #[test]
    fn a_proxied_object_is_known_by_its_own_name_whatever_scheme_and_port() {
        let named = pattern(&["connect"], "services/proxy", &["*"], &["payments"]);
        let proxy = |name: &str| action("get", "services/proxy", Some("prod"), Some(name));
        for name in ["payments", "payments:80", "https:payments:443", "http:payments:", ":payments:http", "payments:"] {
            assert!(named.protects(&proxy(name)), "{name}");
            assert_eq!(named.permits(&proxy(name)), name == "payments", "{name}");
            let grant = ActionPattern::exactly(&proxy(name));
            assert!(grant.permits(&proxy(name)) && !grant.permits(&proxy("other")), "{name}");
        }
        for name in ["other:80", "payments2:80", "https:other:payments"] {
            assert!(!named.protects(&proxy(name)), "{name}");
        }
        assert!(!pattern(&["*"], "services", &["*"], &["a"]).protects(&action(
            "get",
            "services",
            Some("p"),
            Some("a:b")
        )));
    }

    fn signer(verb: &str, name: &str) -> Action {
        Action { group: CERTIFICATES.to_owned(), ..action(verb, "signers", None, Some(name)) }
    }

    #[test]
    fn a_domain_of_signers_touches_each_of_them() {
        let rule = |names: &[&str]| ActionPattern {
            api_groups: vec![CERTIFICATES.to_owned()],
            ..pattern(&["approve"], "signers", &["*"], names)
        };
        let (one, domain) = (signer("approve", "example.com/web"), signer("approve", "example.com/*"));
        for names in
            [&["example.com/web"], &["example.com/*"], &["*"], &["=example.com/web"], &["*/web"], &["ex?mple*"]]
        {
            assert!(rule(names).protects(&one) && rule(names).protects(&domain), "{names:?}");
        }
        for names in [&["example.org/web"], &["example.com"], &["=*"]] {
            assert!(!rule(names).protects(&domain), "{names:?}");
        }
        // A grant for the domain is one for each of its signers, and not the reverse.
        let (of_one, of_domain) = (ActionPattern::exactly(&one), ActionPattern::exactly(&domain));
        assert!(of_one.permits(&one) && !of_one.permits(&domain));
        assert!(of_domain.permits(&one) && of_domain.permits(&domain));
        assert!(!of_domain.permits(&signer("approve", "example.org/web")));
        assert!(!ActionPattern::exactly(&signer("approve", "*/*")).permits(&one));
        assert!(domain.continues(&one) && !one.continues(&domain) && !domain.continues(&domain));
        assert!(!domain.continues(&signer("sign", "example.com/web")));
        assert!(!domain.continues(&signer("approve", "example.org/web")));
    }

    #[test]
    fn impersonation_is_one_thing_in_every_mode() {
        let asked = |verb: &str, group: &str, resource: &str, namespace: Option<&str>, name: &str| {
            Action { group: group.into(), ..action(verb, resource, namespace, Some(name)) }.normalized()
        };
        let bob = asked("impersonate", "", "users", None, "bob");
        assert_eq!(asked("impersonate:user-info", AUTHENTICATION, "users", None, "bob"), bob);
        let node = asked("impersonate", "", "users", None, "system:node:a");
        assert_eq!(asked("impersonate:arbitrary-node", AUTHENTICATION, "nodes", None, "a"), node);
        assert_eq!(
            asked("impersonate:serviceaccount", AUTHENTICATION, "serviceaccounts", Some("ci"), "x"),
            asked("impersonate", "", "serviceaccounts", Some("ci"), "x")
        );
        let rule = |verb: &str, group: &str, resource: &str, names: &[&str]| ActionPattern {
            api_groups: vec![group.into()],
            ..pattern(&[verb], resource, &["*"], names)
        };
        for (verb, group) in
            [("impersonate", ""), ("impersonate", AUTHENTICATION), ("impersonate:user-info", "*"), ("*", "")]
        {
            let users = rule(verb, group, "users", &["bob"]);
            assert!(users.protects(&bob), "{verb} {group}");
            assert!(users.protects(&asked("impersonate:user-info", AUTHENTICATION, "users", None, "*")), "{verb}");
            assert!(!users.protects(&node), "{verb} {group}");
        }
        let nodes = rule("impersonate", "", "users", &["system:node:*"]);
        assert!(nodes.protects(&asked("impersonate:associated-node", AUTHENTICATION, "nodes", None, "*")));
        // All groups, and all extra values of all keys, at once.
        let all_groups = asked("impersonate:user-info", AUTHENTICATION, "groups", None, "*");
        assert!(rule("impersonate", "", "groups", &["system:*"]).protects(&all_groups));
        let all_extra = asked("impersonate:user-info", AUTHENTICATION, "userextras/*", None, "*");
        for resources in ["userextras/scopes", "userextras/*", "*/scopes", "*"] {
            assert!(rule("impersonate", AUTHENTICATION, resources, &["a"]).protects(&all_extra), "{resources}");
        }
        assert!(!ActionPattern::exactly(&all_groups).permits(&asked("impersonate", "", "groups", None, "a")));
        // What is done then is another question, which only a rule for every verb is about.
        let then = asked("impersonate-on:user-info:get", "", "secrets", Some("prod"), "db");
        assert!(!rule("impersonate", "*", "*", &["*"]).protects(&then));
    }

    #[test]
    fn a_protected_delete_protects_deletecollection_of_named_objects() {
        let delete = pattern(&["delete"], "configmaps", &["prod"], &["payment"]);
        assert!(delete.protects(&action("deletecollection", "configmaps", Some("prod"), None)));
        assert!(delete.protects(&action("deletecollection", "configmaps", None, None)));
        assert!(!delete.protects(&action("delete", "configmaps", Some("prod"), Some("other"))));
    }

    #[test]
    fn a_namespace_is_its_own_namespace() {
        for rule in [
            pattern(&["delete"], "namespaces", &["*"], &["prod"]),
            pattern(&["delete"], "namespaces", &["prod"], &["*"]),
        ] {
            assert!(rule.protects(&action("delete", "namespaces", None, Some("prod"))));
            assert!(!rule.protects(&action("delete", "namespaces", None, Some("dev"))));
        }
    }

    #[test]
    fn update_and_patch_are_one() {
        let update = pattern(&["update"], "deployments", &["*"], &["*"]);
        assert!(update.protects(&action("patch", "deployments", Some("prod"), Some("web"))));
        assert!(update.permits(&action("patch", "deployments", Some("prod"), Some("web"))));
        assert!(!update.protects(&action("create", "deployments", Some("prod"), Some("web"))));
    }

    #[test]
    fn exec_is_connect_whatever_verb_the_transport_used() {
        for verb in ["get", "create", "connect"] {
            for rule_verb in ["create", "get", "connect", "*"] {
                let exec = pattern(&[rule_verb], "pods/exec", &["pay"], &["*"]);
                assert!(exec.protects(&action(verb, "pods/exec", Some("pay"), Some("api-0"))), "{verb} {rule_verb}");
                assert!(!exec.protects(&action(verb, "pods", Some("pay"), Some("api-0"))));
            }
        }
    }

    #[test]
    fn subresources_follow_rbac() {
        let scale = action("patch", "deployments/scale", Some("prod"), Some("web"));
        assert!(!pattern(&["patch"], "deployments", &["*"], &["*"]).protects(&scale));
        for resources in ["deployments/scale", "deployments/*", "*/scale", "*"] {
            assert!(pattern(&["patch"], resources, &["*"], &["*"]).protects(&scale), "{resources}");
        }
    }

    #[test]
    fn a_grant_for_one_object_permits_no_other_and_no_collection() {
        let grant = ActionPattern::exactly(&action("get", "secrets", Some("prod"), Some("db")));
        assert!(grant.permits(&action("get", "secrets", Some("prod"), Some("db"))));
        assert!(!grant.permits(&action("get", "secrets", Some("prod"), Some("other"))));
        assert!(!grant.permits(&action("get", "secrets", Some("dev"), Some("db"))));
        assert!(!grant.permits(&action("list", "secrets", Some("prod"), None)));
        assert!(!grant.permits(&action("list", "secrets", None, None)));
        assert!(!grant.permits(&action("delete", "secrets", Some("prod"), Some("db"))));
    }

    #[test]
    fn a_grant_for_what_names_no_object_or_namespace_permits_no_other() {
        for verb in ["get", "update", "patch", "delete"] {
            let nameless = action(verb, "secrets", Some("prod"), None);
            let grant = ActionPattern::exactly(&nameless);
            assert!(grant.permits(&nameless), "{verb}: \"kubectl auth can-i\" asks so");
            assert!(!grant.permits(&action(verb, "secrets", Some("prod"), Some("db"))), "{verb}");
            let placeless = ActionPattern::exactly(&action(verb, "secrets", None, Some("db")));
            assert!(placeless.permits(&action(verb, "secrets", None, Some("db"))), "{verb}");
            assert!(!placeless.permits(&action(verb, "secrets", Some("prod"), Some("db"))), "{verb}");
            let kind = ActionPattern::of_kind(&action(verb, "secrets", None, Some("db")));
            assert!(!kind.permits(&action(verb, "secrets", Some("prod"), Some("db"))), "{verb}");
        }
        for sub in ["pods/exec", "pods/eviction"] {
            let grant = ActionPattern::exactly(&action("create", sub, Some("prod"), None));
            assert!(!grant.permits(&action("create", sub, Some("prod"), Some("api-0"))), "{sub}");
        }
        // What has no name, or a name that is not known beforehand.
        for (verb, resource) in
            [("create", "pods"), ("deletecollection", "pods"), ("list", "pods"), ("approve", "signers")]
        {
            let grant = ActionPattern::exactly(&action(verb, resource, Some("prod"), None));
            assert!(grant.permits(&action(verb, resource, Some("prod"), Some("a"))), "{verb} {resource}");
        }
        let everywhere = ActionPattern::exactly(&action("list", "secrets", None, None));
        assert!(everywhere.permits(&action("list", "secrets", Some("prod"), None)));
    }

    #[test]
    fn a_grant_for_a_collection_in_a_namespace_does_not_reach_all_namespaces() {
        let grant = ActionPattern::of_kind(&action("list", "secrets", Some("prod"), None));
        assert!(grant.permits(&action("get", "secrets", Some("prod"), Some("db"))));
        assert!(grant.permits(&action("list", "secrets", Some("prod"), None)));
        assert!(!grant.permits(&action("list", "secrets", None, None)));
        assert!(!grant.permits(&action("list", "configmaps", Some("prod"), None)));
    }

    #[test]
    fn a_creation_without_a_name_could_be_any_name() {
        let create = pattern(&["create"], "pods", &["prod"], &["debug-*"]);
        assert!(create.protects(&action("create", "pods", Some("prod"), None)));
        assert!(!create.protects(&action("create", "pods", Some("dev"), None)));
        assert!(!create.permits(&action("create", "pods", Some("prod"), None)));
    }

    #[test]
    fn an_object_called_star_is_one_object() {
        let star = action("delete", "clusterroles", None, Some("*"));
        let grant = ActionPattern::exactly(&star);
        assert!(grant.permits(&star));
        assert!(!grant.permits(&action("delete", "clusterroles", None, Some("admin"))));
        assert!(!grant.permits(&action("deletecollection", "clusterroles", None, None)));
    }

    #[test]
    fn an_action_from_a_client_is_one_request_not_a_pattern() {
        assert!(action("delete", "pods", Some("a"), Some("b")).checked().is_ok());
        for (verb, resource) in [("*", "pods"), ("delete", "*"), ("", "pods"), ("delete", ""), ("delete", "po?s")] {
            assert!(action(verb, resource, None, Some("x")).checked().is_err(), "{verb:?} {resource:?}");
        }
    }

    #[test]
    fn globs_span_and_are_literal_elsewhere() {
        assert!(glob_matches("prod-*", "prod-eu"));
        assert!(!glob_matches("prod-*", "prod"));
        assert!(glob_matches("db?", "db1"));
        assert!(!glob_matches("a.b", "aXb"));
        for (glob, text, matches) in [
            ("*", "", true),
            ("?", "", false),
            ("?", "é", true),
            ("??", "é", false),
            ("*-é?", "a-é-éß", true),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("**a", "ba", true),
            ("*a*", "bbb", false),
            ("*aab", "aaaab", true),
        ] {
            assert_eq!(glob_matches(glob, text), matches, "{glob} {text}");
        }
        // Tried every way, this would take until the end of time.
        assert!(!glob_matches(&"*a".repeat(50), &format!("{}b", "a".repeat(5000))));
    }

    #[test]
    fn non_resource_paths_have_their_own_patterns() {
        let metrics = ActionPattern {
            verbs: vec!["get".into()],
            api_groups: vec![],
            resources: vec![],
            namespaces: any(),
            names: any(),
            non_resource_urls: vec!["/debug/*".into()],
        };
        let asked = |verb: &str, path: &str| Action { path: Some(path.into()), ..action(verb, "", None, None) };
        for verb in ["get", "head", "post", "put", "delete", "options"] {
            assert!(metrics.protects(&asked(verb, "/debug/pprof")), "{verb}");
            assert_eq!(metrics.permits(&asked(verb, "/debug/pprof")), verb == "get");
            assert!(!metrics.protects(&asked(verb, "/metrics")));
        }
        let put = ActionPattern { verbs: vec!["put".into()], ..metrics.clone() };
        assert!(!put.protects(&asked("get", "/debug/pprof")));
        assert!(!metrics.protects(&action("get", "pods", Some("a"), Some("b"))));
    }

    #[test]
    fn admission_never_sees_reads_special_verbs_or_its_own_configuration() {
        let webhook = Action {
            group: "admissionregistration.k8s.io".into(),
            ..action("delete", "validatingwebhookconfigurations", None, Some("x"))
        };
        assert!(!webhook.reaches_admission());
        assert!(!action("get", "secrets", Some("a"), Some("b")).reaches_admission());
        assert!(!action("impersonate", "users", None, Some("b")).reaches_admission());
        let review =
            Action { group: "authorization.k8s.io".into(), ..action("create", "subjectaccessreviews", None, None) };
        assert!(!review.reaches_admission());
        assert!(action("create", "pods/exec", Some("a"), Some("b")).reaches_admission());
    }

    #[test]
    fn actions_read_like_commands() {
        for (action, text) in [
            (action("delete", "namespaces", None, Some("prod")), "delete namespaces/prod"),
            (action("get", "secrets", Some("prod"), Some("db")), "get secrets/db -n prod"),
            (action("list", "secrets", None, None), "list secrets -A"),
            (action("list", "namespaces", None, None), "list namespaces"),
            (action("create", "pods/exec", Some("pay"), Some("api-0")), "connect pods/exec api-0 -n pay"),
        ] {
            assert_eq!(action.to_string(), text);
        }
    }
}
