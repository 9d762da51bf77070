//! What is done to the cluster, and patterns over that. No I/O; both programs use it.
//!
//! An [`Action`] is one request in the words of a `SubjectAccessReview`. An [`ActionPattern`] is one entry of a policy rule or of
//! a grant, and reads an action in one of two directions:
//!
//! - [`ActionPattern::protects`] leans wide: a protected `get` protects `list` and `watch` too, and a collection
//!   request over all namespaces touches every protected namespace.
//! - [`ActionPattern::permits`] leans narrow: what a grant does not plainly name is not granted.

use std::fmt;

use serde::{Deserialize, Serialize};

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
/// Verbs that change an object that exists. Which of the two a client sends is its own choice (`kubectl scale` patches
/// or updates by version), so a policy that names one means both.
const CHANGES: [&str; 2] = ["update", "patch"];
/// Subresources that the API server opens as a connection (admission operation CONNECT).
const CONNECTS: [(&str, &str); 6] = [
    ("pods", "exec"),
    ("pods", "attach"),
    ("pods", "portforward"),
    ("pods", "proxy"),
    ("services", "proxy"),
    ("nodes", "proxy"),
];

impl Action {
    /// Makes the namespace of `namespaces` objects explicit and turns empty strings into `None`, so that the same
    /// request looks the same whether it came from a `SubjectAccessReview`, an `AdmissionReview` or a person.
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
    /// (`IsExemptAdmissionConfigurationResource` in k8s.io/apiserver) and never for verbs that only authorization knows.
    pub fn reaches_admission(&self) -> bool {
        self.path.is_none()
            && matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection" | "connect")
            && !self.is_admission_configuration()
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

    fn is_namespace_object(&self) -> bool {
        self.group.is_empty() && self.resource == "namespaces"
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
    /// Namespaces; default every one, and cluster-scoped objects.
    #[serde(default = "any", skip_serializing_if = "is_any")]
    pub namespaces: Vec<String>,
    /// Object names; default every one.
    #[serde(default = "any", skip_serializing_if = "is_any")]
    pub names: Vec<String>,
    /// Paths of non-resource requests, such as `/metrics` or `/debug/*`.
    #[serde(default, rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
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
    /// and not object by object.
    pub fn exactly(action: &Action) -> Self {
        Self {
            verbs: vec![action.verb.clone()],
            api_groups: if action.path.is_some() { vec![] } else { vec![action.group.clone()] },
            resources: if action.path.is_some() { vec![] } else { vec![action.full_resource()] },
            namespaces: action.namespace.as_deref().map_or_else(any, |namespace| vec![literal(namespace)]),
            names: action.name.as_deref().map_or_else(any, |name| vec![literal(name)]),
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
        if !self.verbs.iter().any(|verb| verb_protects(verb, action)) {
            return false;
        }
        if let Some(path) = &action.path {
            return globs_match(&self.non_resource_urls, path);
        }
        if !self.matches_resource(action) {
            return false;
        }
        let namespace = match &action.namespace {
            Some(namespace) => globs_match(&self.namespaces, namespace),
            // A collection without a namespace spans all of them (or is cluster-scoped, where only `*` can be meant). It
            // has a name when a field selector picks objects of that name, in every namespace.
            None => is_any(&self.namespaces) || COLLECTION.contains(&action.verb.as_str()),
        };
        // Without a name the request is a collection, or a creation whose name the server makes up: either may touch
        // the objects that are named.
        namespace && action.name.as_ref().is_none_or(|name| globs_match(&self.names, name))
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
            None => is_any(globs),
        };
        self.matches_resource(action)
            && covers(&self.namespaces, &action.namespace)
            && covers(&self.names, &action.name)
    }

    /// The same pattern, narrowed to one namespace (`None`: cluster-scoped or all, which narrows nothing).
    #[must_use]
    pub fn in_namespace(mut self, namespace: Option<&str>) -> Self {
        if let Some(namespace) = namespace {
            self.namespaces = vec![literal(namespace)];
        }
        self
    }

    fn matches_resource(&self, action: &Action) -> bool {
        self.api_groups.iter().any(|group| group == "*" || *group == action.group)
            && self.resources.iter().any(|pattern| resource_matches(pattern, action))
    }
}

fn verb_protects(pattern: &str, action: &Action) -> bool {
    let verb = action.verb.as_str();
    let both_in = |class: &[&str]| class.contains(&pattern) && class.contains(&verb);
    pattern == "*"
        || pattern == verb
        || (pattern == "get" && READS.contains(&verb))
        || (pattern == "list" && verb == "watch")
        || (pattern == "watch" && verb == "list")
        || both_in(&CHANGES)
        || (pattern == "delete" && verb == "deletecollection")
        || (verb == "connect" && matches!(pattern, "get" | "create"))
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
        Action {
            verb: verb.to_owned(),
            group: String::new(),
            resource: resource.to_owned(),
            subresource,
            namespace: namespace.map(ToOwned::to_owned),
            name: name.map(ToOwned::to_owned),
            path: None,
        }
        .normalized()
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
        assert!(!secrets.protects(&action("delete", "secrets", Some("prod"), Some("db"))));
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
        let path = |path: &str| Action { path: Some(path.into()), ..action("get", "", None, None) };
        assert!(metrics.protects(&path("/debug/pprof")));
        assert!(!metrics.protects(&path("/metrics")));
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
