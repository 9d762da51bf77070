//! What a kubectl is about to ask the API server for, going by its arguments.
//!
//! A hint, never trusted: a wrong one costs a prompt or a 403. The verbs are those that kubectl 1.37 was seen to use, in
//! the words of authorization; `connect` stands for exec, attach and port-forward whatever the transport.

use std::collections::HashSet;

use super::Repeats;
use super::command_line::CommandLine;
use super::digest::Kept;
use super::manifest::{self, Object};
use super::surroundings::Surroundings;
use crate::action::{Action, CHANGES, VERBS};
use crate::client::resource::Resource;
use crate::request_info;

/// More requests than this are told apart by kind and namespace only.
const MOST: usize = 100;

/// Requests that a command makes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Those that its arguments tell.
    pub requests: Vec<Request>,
    /// Others that it may make, which only it and the API server know.
    pub others: Others,
}

/// Requests that the arguments do not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Others {
    /// There are none.
    #[default]
    None,
    /// Those of these verbs, of anything.
    Of(&'static [&'static str]),
    /// Any.
    Any,
}

/// One request, as far as it is known; or several that are alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// Any of these verbs.
    pub verbs: &'static [&'static str],
    /// Of what.
    pub kind: Kind,
    /// Its subresource.
    pub subresource: Option<String>,
    /// Where.
    pub place: Place,
    /// Which; `None`: a collection, or any.
    pub name: Option<String>,
    /// Whether client-go repeats it when it is answered 429.
    pub is_repeated: bool,
}

/// Kinds of objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A resource.
    Is(Resource),
    /// Whatever the cluster knows by this name.
    Called(String),
    /// The resource of this kind of objects, in this API group.
    OfKind {
        /// Kind, such as `Widget`.
        kind: String,
        /// API group.
        group: String,
    },
    /// No resource: this path.
    Path(String),
}

/// Namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// That of the command.
    Here,
    /// This one.
    In(String),
    /// All, or one that the arguments do not tell.
    Everywhere,
}

/// Whom a command acts as, by its flags or by its kubeconfig.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Impersonation {
    /// The user.
    pub user: Option<String>,
    /// Groups of theirs.
    pub groups: Vec<String>,
    /// Their uid.
    pub uid: Option<String>,
    /// More values of theirs, with their keys.
    pub extra: Vec<(String, String)>,
}

const GET: &[&str] = &["get"];
const LIST: &[&str] = &["list"];
const WATCH: &[&str] = &["watch"];
const CREATE: &[&str] = &["create"];
/// Which of the two kubectl sends depends on the command and its version; rules take them for one.
const CHANGE: &[&str] = &["patch", "update"];
const APPLY: &[&str] = &["patch", "update", "create"];
/// kubectl deletes the objects of a collection one by one.
const DELETE: &[&str] = &["delete"];
const ANYTHING: &[&str] = &["create", "patch", "update", "delete", "deletecollection"];
const CONNECT: &[&str] = &["connect"];

impl Plan {
    /// Reads a command line.
    pub fn of(line: &CommandLine) -> Self {
        let mut draft = Draft { line, plan: Self::default() };
        draft.command();
        if draft.plan.requests.is_empty() {
            // Nobody is impersonated where nothing is asked for, and the flags of a plugin are its own.
            return draft.plan;
        }
        let impersonation = Self::of_impersonation(&draft.impersonation());
        if !impersonation.requests.is_empty() {
            // The rest is another user's, about whom this person's rules say nothing.
            return impersonation;
        }
        draft.plan.bounded()
    }

    /// To act as somebody else, which is authorized beside whatever is done so.
    pub fn of_impersonation(impersonation: &Impersonation) -> Self {
        let mut requests = Vec::new();
        let mut impersonate = |resource: &str, subresource: Option<&str>, place: Place, name: &str| {
            let Some(resource) = Resource::built_in(resource) else { return };
            let (subresource, name) = (subresource.map(ToOwned::to_owned), Some(name.to_owned()));
            let (verbs, kind) = (&["impersonate"][..], Kind::Is(resource));
            requests.push(Request { verbs, kind, subresource, place, name, is_repeated: false });
        };
        if let Some(user) = &impersonation.user {
            match user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
                Some((namespace, name)) => {
                    impersonate("serviceaccounts", None, Place::In(namespace.to_owned()), name);
                }
                None => impersonate("users", None, Place::Everywhere, user),
            }
        }
        for group in &impersonation.groups {
            impersonate("groups", None, Place::Everywhere, group);
        }
        if let Some(uid) = &impersonation.uid {
            impersonate("uids", None, Place::Everywhere, uid);
        }
        for (key, value) in &impersonation.extra {
            impersonate("userextras", Some(key), Place::Everywhere, value);
        }
        Self { requests, others: Others::None }
    }

    /// Something that may do anything.
    pub fn unknown() -> Self {
        Self { requests: Vec::new(), others: Others::Any }
    }

    /// Whether a request of it can be denied in a way that it repeats.
    pub fn can_be_repeated(&self) -> bool {
        self.others != Others::None || self.requests.iter().any(Request::reaches_admission)
    }

    /// Whether every request of it that its arguments tell is one that is repeated after a denial, whatever is protected.
    pub fn is_all_repeated(&self) -> bool {
        self.requests.iter().all(|request| request.reaches_admission() && !request.changes())
    }

    /// Whether `denied` can be one of its requests.
    pub fn may(&self, denied: &Action, surroundings: &Surroundings) -> bool {
        let is_other = match self.others {
            Others::None => false,
            Others::Of(verbs) => verbs.contains(&denied.verb.as_str()),
            Others::Any => true,
        };
        is_other || self.tells(denied, surroundings)
    }

    /// Whether `denied` can be one of those that its arguments tell.
    pub fn tells(&self, denied: &Action, surroundings: &Surroundings) -> bool {
        self.requests.iter().any(|request| request.fits(denied, surroundings))
    }

    /// The requests of it that something of the digest protects, and that it will not repeat when they are denied: what to
    /// step up for before the first of them.
    pub fn protected(&self, repeats: Repeats, digest: &Kept, surroundings: &Surroundings) -> Vec<Action> {
        let mut protected: Vec<Action> = Vec::new();
        let has_custom = digest.groups().any(|group| group == "*" || !Resource::is_built_in_group(group));
        for request in self.requests.iter().filter(|request| !request.asks_about_oneself()) {
            let is_repeated = repeats == Repeats::Writes && request.reaches_admission();
            if is_repeated && !request.changes() {
                continue;
            }
            for action in request.actions(has_custom, surroundings) {
                // A change of what may not be read is denied like a read.
                let denied =
                    |action: &Action| if is_repeated { action.read_of_changed() } else { Some(action.clone()) };
                // Most commands are about nothing that is protected anywhere, and need not know where they are.
                if !denied(&action).is_some_and(|denied| digest.protects_somewhere(&denied)) {
                    continue;
                }
                let action = request.placed(action, surroundings).normalized();
                let is_protected = denied(&action).is_some_and(|denied| digest.protects(&denied));
                if is_protected && !protected.iter().any(|known| is_alike(known, &action)) {
                    protected.push(action);
                }
            }
        }
        protected.truncate(MOST);
        protected
    }

    fn bounded(mut self) -> Self {
        if self.requests.len() > MOST {
            for request in &mut self.requests {
                request.name = None;
            }
        }
        let mut seen = HashSet::new();
        self.requests.retain(|request| seen.insert(request.clone()));
        self
    }
}

/// Whether a grant for the one is one for the other: a client may patch or update.
fn is_alike(one: &Action, other: &Action) -> bool {
    let is_change = |action: &Action| CHANGES.contains(&action.verb.as_str());
    one == other || (is_change(one) && is_change(other) && Action { verb: one.verb.clone(), ..other.clone() } == *one)
}

impl Request {
    /// Whether it is one of those that the admission webhook answers, and that client-go then repeats.
    pub fn reaches_admission(&self) -> bool {
        let is_write = |verb: &&str| matches!(*verb, "create" | "update" | "patch" | "delete" | "deletecollection");
        self.is_repeated
            && self.verbs.iter().any(is_write)
            && !matches!(&self.kind, Kind::Path(_))
            // Webhooks are not called for these, so their answer is a 403.
            && !matches!(&self.kind, Kind::Is(resource) if resource.group == "admissionregistration.k8s.io")
    }
}

impl Request {
    /// Whether it changes an object that exists.
    fn changes(&self) -> bool {
        self.verbs.iter().any(|verb| CHANGES.contains(verb))
    }

    /// Whether it only asks who one is or what one may do (`kubectl auth`): nobody steps up for an answer to that.
    fn asks_about_oneself(&self) -> bool {
        matches!(&self.kind, Kind::Is(kind) if kind.resource.starts_with("selfsubject"))
    }

    /// What it is, as far as it is known without its namespace: an action for each verb.
    fn actions(&self, has_custom: bool, surroundings: &Surroundings) -> Vec<Action> {
        let resource = match &self.kind {
            Kind::Path(_) => None,
            Kind::Is(resource) => Some(resource.clone()),
            // To find out takes reading many files, and is of use only where such resources are protected.
            Kind::Called(_) | Kind::OfKind { .. } if !has_custom => return Vec::new(),
            kind => match surroundings.resource(kind) {
                Some(resource) => Some(resource),
                None => return Vec::new(),
            },
        };
        let path = if let Kind::Path(path) = &self.kind { Some(path.clone()) } else { None };
        let (group, resource) = resource.map_or_else(Default::default, |kind| (kind.group, kind.resource));
        let action = |verb: &&str| Action {
            verb: (*verb).to_owned(),
            group: group.clone(),
            resource: resource.clone(),
            subresource: self.subresource.clone(),
            namespace: None,
            name: self.name.clone(),
            path: path.clone(),
        };
        self.verbs.iter().map(action).collect()
    }

    /// The same with its namespace.
    fn placed(&self, action: Action, surroundings: &Surroundings) -> Action {
        let namespaced = match &self.kind {
            Kind::Is(resource) => resource.namespaced,
            Kind::Path(_) => false,
            kind => surroundings.resource(kind).is_some_and(|resource| resource.namespaced),
        };
        let namespace = match &self.place {
            _ if !namespaced => None,
            Place::Here => Some(surroundings.namespace()),
            Place::In(namespace) => Some(namespace.clone()),
            Place::Everywhere => None,
        };
        Action { namespace, ..action }
    }

    /// Whether `denied` can be it. What is not known fits anything.
    fn fits(&self, denied: &Action, surroundings: &Surroundings) -> bool {
        if !self.verbs.contains(&denied.verb.as_str()) {
            return false;
        }
        let resource = match &self.kind {
            Kind::Path(path) => return denied.path.as_ref().is_some_and(|denied| denied == path),
            Kind::Is(resource) => Some(resource.clone()),
            kind => surroundings.resource(kind),
        };
        let is_other = |ours: &Option<String>, theirs: &Option<String>| {
            ours.as_ref().is_some_and(|ours| theirs.as_ref().is_some_and(|theirs| ours != theirs))
        };
        if let Some(resource) = &resource
            && (resource.resource != denied.resource || resource.group != denied.group)
        {
            return false;
        }
        if self.subresource != denied.subresource || is_other(&self.name, &denied.name) {
            return false;
        }
        let namespace = match &self.place {
            Place::Here if denied.namespace.is_some() && resource.is_none_or(|resource| resource.namespaced) => {
                Some(surroundings.namespace())
            }
            Place::In(namespace) => Some(namespace.clone()),
            _ => None,
        };
        !is_other(&namespace, &denied.namespace)
    }
}

/// One object or kind of objects that words or a manifest name.
struct Target {
    kind: Kind,
    place: Place,
    name: Option<String>,
    /// A collection of the objects of this name (`--field-selector metadata.name=`): the API server sees the name.
    selected: Option<String>,
}

impl From<Object> for Target {
    fn from(Object { group, kind, namespace, name }: Object) -> Self {
        let dotted = if group.is_empty() { format!("{kind}.v1") } else { format!("{kind}.{group}") };
        let kind = Resource::built_in(&dotted).map_or(Kind::OfKind { kind, group }, Kind::Is);
        Self { kind, place: namespace.map_or(Place::Here, Place::In), name, selected: None }
    }
}

/// A plan that is being made.
struct Draft<'a> {
    line: &'a CommandLine,
    plan: Plan,
}

impl Draft<'_> {
    /// `--as` and its kin.
    fn impersonation(&self) -> Impersonation {
        let line = self.line;
        let pair = |extra: &str| extra.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        Impersonation {
            user: line.flag("as").map(ToOwned::to_owned),
            groups: line.values("as-group").map(ToOwned::to_owned).collect(),
            uid: line.flag("as-uid").map(ToOwned::to_owned),
            extra: line.values("as-user-extra").filter_map(pair).collect(),
        }
    }

    fn command(&mut self) {
        let line = self.line;
        let second = line.arguments(0).first().map_or("", String::as_str);
        match (line.command(), second) {
            ("get", _) => self.get(),
            ("describe", _) => self.describe(),
            ("logs", _) => self.logs(),
            ("exec", _) => self.pod("exec", line.arguments_before_dash(0)),
            ("attach", _) => self.pod("attach", line.arguments_before_dash(0)),
            ("port-forward", _) => self.pod("portforward", line.arguments_before_dash(0)),
            ("cp", _) => self.copy(),
            ("debug", _) => self.debug(),
            ("run", _) => self.run(),
            ("top", what) => self.top(what),
            ("events", _) => self.events(),
            ("wait", _) => self.wait(),
            ("cluster-info", what) => self.cluster_info(what == "dump"),
            ("delete", _) => self.delete(),
            ("create", _) => self.create(second),
            ("apply", "view-last-applied") | ("rollout", "history") => self.read(1),
            ("apply", "set-last-applied" | "edit-last-applied") => self.change(1, None),
            ("apply", _) => self.apply(),
            ("diff", _) => self.each(0, |draft, target| draft.read_and(target, APPLY, None)),
            ("replace", _) => self.replace(),
            ("edit" | "patch", _) => self.change(0, line.flag("subresource")),
            ("label" | "annotate" | "taint", _) => self.change_pairs(0),
            ("set", "serviceaccount" | "sa") => self.set_service_account(),
            ("set", _) => {
                self.change_pairs(1);
                // `set env --from=secret/NAME` names its keys.
                self.read_from();
            }
            ("scale", _) => self.scale(),
            ("autoscale", _) => self.beside("horizontalpodautoscalers"),
            ("expose", _) => self.beside("services"),
            ("rollout", "status") => self.each(1, Self::follow),
            ("rollout", _) => self.change(1, None),
            ("cordon" | "uncordon", _) => self.cordon(),
            ("drain", _) => self.drain(),
            ("certificate", _) => self.certificate(),
            ("auth", "can-i" | "whoami") => self.review(second),
            ("auth", "reconcile") => self.each(1, |draft, target| draft.read_and(target, APPLY, None)),
            (
                "api-resources" | "api-versions" | "explain" | "version" | "config" | "completion" | "__complete"
                | "__completeNoDesc" | "help" | "options" | "plugin" | "kustomize" | "kuberc" | "alpha" | "",
                _,
            ) => {}
            // `proxy`, a plugin that kubectl runs as a child, an alias, or a command of some other version.
            _ => self.plan.others = Others::Any,
        }
    }

    // Requests.

    fn push(&mut self, verbs: &'static [&'static str], target: &Target, subresource: Option<&str>) {
        self.plan.requests.push(Request {
            verbs,
            kind: target.kind.clone(),
            subresource: subresource.map(ToOwned::to_owned),
            place: target.place.clone(),
            name: target.name.clone().or_else(|| target.selected.clone()),
            // client-go opens these another way, and never again.
            is_repeated: verbs != CONNECT,
        });
    }

    /// `get` of one object, `list` of many.
    fn push_read(&mut self, target: &Target, subresource: Option<&str>) {
        self.push(if target.name.is_some() { GET } else { LIST }, target, subresource);
    }

    fn read_and(&mut self, target: &Target, verbs: &'static [&'static str], subresource: Option<&str>) {
        self.push_read(target, None);
        self.push(verbs, target, subresource);
    }

    /// Reads, and watches until something is so. Older kubectls list before they watch: a list of this one object.
    fn follow(&mut self, target: &Target) {
        self.push_read(target, None);
        if target.name.is_some() {
            self.push(LIST, target, None);
        }
        self.push(WATCH, target, None);
    }

    fn target(&self, resource: &str, name: Option<&str>) -> Target {
        let kind = kind_called(resource);
        Target { kind, place: self.here(), name: name.map(ToOwned::to_owned), selected: None }
    }

    fn here(&self) -> Place {
        if self.line.has("all-namespaces") { Place::Everywhere } else { Place::Here }
    }

    /// Each object that words after the first `skip`, or manifests, name.
    fn each(&mut self, skip: usize, mut act: impl FnMut(&mut Self, &Target)) {
        for target in self.targets(self.line.arguments(skip)) {
            act(self, &target);
        }
    }

    // What words name.

    /// As kubectl's resource builder takes them: manifests, `TYPE`, `TYPE NAME…`, `TYPE/NAME…`, `TYPE,TYPE`.
    fn targets(&mut self, words: &[String]) -> Vec<Target> {
        let line = self.line;
        let mut targets = self.manifests();
        let here = self.here();
        // `=`, or `==`.
        let selected = line.values("field-selector").find_map(|term| term.strip_prefix("metadata.name="));
        let selected = selected.map(|name| name.trim_start_matches('=').to_owned());
        let mut add = |kinds: &str, name: Option<&str>| {
            for kind in category(kinds) {
                let (kind, name) = (kind_called(kind), name.map(ToOwned::to_owned));
                let selected = if name.is_none() { selected.clone() } else { None };
                targets.push(Target { kind, place: here.clone(), name, selected });
            }
        };
        match words.split_first() {
            Some((first, _)) if first.contains('/') => {
                for word in words {
                    if let Some((kind, name)) = word.split_once('/').filter(|(_, name)| !name.is_empty()) {
                        add(kind, Some(name));
                    }
                }
            }
            Some((kinds, names)) => {
                for kind in kinds.split(',').filter(|kind| !kind.is_empty()) {
                    if names.is_empty() {
                        add(kind, None);
                    }
                    for name in names {
                        add(kind, Some(name));
                    }
                }
            }
            None => {}
        }
        targets
    }

    fn manifests(&mut self) -> Vec<Target> {
        let line = self.line;
        if line.flag("kustomize").is_some() {
            self.plan.others = self.writes();
        }
        if line.command() == "logs" || line.flag("filename").is_none() {
            return Vec::new();
        }
        let Some(objects) = manifest::objects(line.values("filename"), line.has("recursive")) else {
            self.plan.others = self.writes();
            return Vec::new();
        };
        objects.into_iter().map(Target::from).collect()
    }

    /// What the command does to objects of manifests that cannot be seen from here.
    fn writes(&self) -> Others {
        match self.line.command() {
            "get" | "describe" | "exec" | "wait" => Others::None,
            "create" | "expose" | "autoscale" => Others::Of(CREATE),
            "delete" => Others::Of(DELETE),
            "apply" | "replace" => Others::Of(ANYTHING),
            "rollout" if matches!(self.line.arguments(0).first().map(String::as_str), Some("status" | "history")) => {
                Others::None
            }
            "auth" | "diff" => Others::Of(APPLY),
            _ => Others::Of(CHANGE),
        }
    }

    // Commands.

    fn get(&mut self) {
        if let Some(path) = self.line.flag("raw") {
            return self.raw("GET", path);
        }
        let line = self.line;
        let subresource = line.flag("subresource");
        let watches = line.has("watch") || line.has("watch-only");
        self.each(0, |draft, target| {
            draft.push_read(target, subresource);
            if watches {
                draft.push(WATCH, target, subresource);
            }
        });
    }

    /// `--raw`: one request to this path. No write of this kind is repeated: client-go cannot send its body twice.
    fn raw(&mut self, method: &str, path: &str) {
        self.plan.requests.extend(raw_request(method, path));
    }

    fn describe(&mut self) {
        self.each(0, |draft, target| {
            draft.push_read(target, None);
            if target.name.is_none() {
                // Each of them is read again by itself.
                draft.push(GET, target, None);
            }
            // Secrets have no events worth showing.
            if draft.line.flag("show-events") != Some("false") && !is_called(target, "secrets") {
                draft.plan.requests.push(Request {
                    verbs: LIST,
                    kind: kind_called("events"),
                    subresource: None,
                    place: target.place.clone(),
                    name: None,
                    is_repeated: true,
                });
            }
        });
    }

    fn logs(&mut self) {
        let line = self.line;
        let words = line.arguments(0);
        if line.flag("selector").is_some() {
            let pods = self.target("pods", None);
            self.push(LIST, &pods, None);
            return self.push(GET, &pods, Some("log"));
        }
        self.pod_request(words, GET, "log");
    }

    fn pod(&mut self, subresource: &'static str, words: &[String]) {
        if self.line.flag("filename").is_some() {
            for target in self.manifests() {
                self.push_read(&target, None);
            }
            let some_pod = self.target("pods", None);
            return self.push(CONNECT, &some_pod, Some(subresource));
        }
        self.pod_request(words, CONNECT, subresource);
    }

    /// A request for a subresource of the pod that the first word names, or of one that it leads to.
    fn pod_request(&mut self, words: &[String], verbs: &'static [&'static str], subresource: &str) {
        let Some(first) = words.first() else { return };
        let (kind, name) = first.split_once('/').unwrap_or(("pods", first));
        let named = self.target(kind, Some(name));
        self.push(GET, &named, None);
        if is_called(&named, "pods") {
            return self.push(verbs, &named, Some(subresource));
        }
        let some_pod = self.target("pods", None);
        self.push(LIST, &some_pod, None);
        self.push(verbs, &some_pod, Some(subresource));
    }

    /// `cp FILE [NAMESPACE/]POD:FILE`, or the other way round.
    fn copy(&mut self) {
        for word in self.line.arguments(0) {
            let Some((pod, _)) = word.split_once(':').filter(|(pod, _)| !pod.is_empty()) else { continue };
            let (place, name) = match pod.split_once('/') {
                Some((namespace, name)) => (Place::In(namespace.to_owned()), name),
                None => (Place::Here, pod),
            };
            let target = Target { place, ..self.target("pods", Some(name)) };
            self.push(GET, &target, None);
            self.push(CONNECT, &target, Some("exec"));
        }
    }

    fn debug(&mut self) {
        let line = self.line;
        let words = line.arguments_before_dash(0);
        let attaches = line.has("attach") || (line.flag("attach").is_none() && line.has("stdin"));
        for word in words {
            let (kind, name) = word.split_once('/').unwrap_or(("pods", word));
            let named = self.target(kind, Some(name));
            self.push(GET, &named, None);
            let copies = line.flag("copy-to");
            // A node gets a pod whose name the server makes up; a pod gets a container, or a copy.
            let pod = match copies {
                _ if !is_called(&named, "pods") => self.target("pods", None),
                Some(copy) => self.target("pods", Some(copy)),
                None => named,
            };
            if copies.is_none() && pod.name.is_some() {
                self.push(CHANGE, &pod, Some("ephemeralcontainers"));
            } else {
                self.push(CREATE, &pod, None);
            }
            if attaches {
                self.attach_to(&pod);
            }
        }
    }

    /// Waits for the pod, and attaches to it.
    fn attach_to(&mut self, pod: &Target) {
        self.push(GET, pod, None);
        self.push(WATCH, pod, None);
        self.push(CONNECT, pod, Some("attach"));
    }

    fn run(&mut self) {
        let line = self.line;
        let Some(name) = line.arguments_before_dash(0).first() else { return };
        let pod = self.target("pods", Some(name));
        self.push(CREATE, &pod, None);
        if line.has("expose") {
            let service = self.target("services", Some(name));
            self.push(CREATE, &service, None);
        }
        if line.has("attach") || (line.flag("attach").is_none() && line.has("stdin")) {
            self.attach_to(&pod);
        }
        if line.has("rm") {
            self.push(DELETE, &pod, None);
        }
    }

    fn top(&mut self, what: &str) {
        let name = self.line.arguments(1).first().map(String::as_str);
        match what {
            "pod" | "pods" | "po" => {
                let pods = self.target("pods.metrics.k8s.io", name);
                self.push_read(&pods, None);
            }
            "node" | "nodes" | "no" => {
                for kind in ["nodes.metrics.k8s.io", "nodes"] {
                    let nodes = self.target(kind, name);
                    self.push_read(&nodes, None);
                }
            }
            _ => {}
        }
    }

    fn events(&mut self) {
        let events = self.target("events", None);
        self.push(LIST, &events, None);
        if self.line.has("watch") {
            self.push(WATCH, &events, None);
        }
    }

    fn wait(&mut self) {
        self.each(0, Self::follow);
    }

    fn cluster_info(&mut self, dumps: bool) {
        let kinds: &[&str] = if dumps {
            &[
                "nodes",
                "events",
                "replicationcontrollers",
                "services",
                "daemonsets",
                "deployments",
                "replicasets",
                "pods",
            ]
        } else {
            &["services"]
        };
        for kind in kinds {
            let system = Target { place: Place::In("kube-system".to_owned()), ..self.target(kind, None) };
            self.push(LIST, &system, None);
            if dumps {
                let here = self.target(kind, None);
                self.push(LIST, &here, None);
            }
        }
    }

    fn delete(&mut self) {
        if let Some(path) = self.line.flag("raw") {
            return self.raw("DELETE", path);
        }
        self.each(0, |draft, target| {
            if target.name.is_none() {
                // Of a collection it reads the names first, and deletes one by one.
                draft.push(LIST, target, None);
            }
            draft.push(DELETE, target, None);
        });
    }

    fn create(&mut self, what: &str) {
        let line = self.line;
        if let Some(path) = line.flag("raw") {
            return self.raw("POST", path);
        }
        if line.flag("filename").is_some() || line.flag("kustomize").is_some() {
            return self.each_manifest(|draft, target| draft.push(CREATE, target, None));
        }
        let (kind, skip) = match what {
            "secret" => ("secrets", 2),
            "service" | "svc" => ("services", 2),
            "token" => {
                let name = line.arguments_before_dash(1).first().map(String::as_str);
                let account = self.target("serviceaccounts", name);
                return self.push(CREATE, &account, Some("token"));
            }
            "" => return,
            kind => (kind, 1),
        };
        self.read_from();
        let name = line.arguments_before_dash(skip).first().map(String::as_str);
        let created = self.target(kind, name);
        self.push(CREATE, &created, None);
    }

    /// What `--from` names is read.
    fn read_from(&mut self) {
        if let Some((from, name)) = self.line.flag("from").and_then(|from| from.split_once('/')) {
            let from = self.target(from, Some(name));
            self.push(GET, &from, None);
        }
    }

    fn each_manifest(&mut self, mut act: impl FnMut(&mut Self, &Target)) {
        for target in self.manifests() {
            act(self, &target);
        }
    }

    fn apply(&mut self) {
        let line = self.line;
        if line.has("prune") {
            self.plan.others = self.writes();
        }
        // The server merges by itself, so kubectl need not look first.
        let looks_first = !line.has("server-side");
        self.each_manifest(|draft, target| {
            if looks_first && target.name.is_some() {
                draft.push(GET, target, None);
            }
            draft.push(APPLY, target, line.flag("subresource"));
            if line.has("force") {
                draft.push(DELETE, target, None);
            }
        });
    }

    fn replace(&mut self) {
        let line = self.line;
        if let Some(path) = line.flag("raw") {
            return self.raw("PUT", path);
        }
        self.each_manifest(|draft, target| {
            draft.push_read(target, None);
            draft.push(CHANGE, target, line.flag("subresource"));
            if line.has("force") {
                draft.push(DELETE, target, None);
                draft.push(CREATE, target, None);
            }
        });
    }

    fn read(&mut self, skip: usize) {
        self.each(skip, |draft, target| draft.push_read(target, None));
    }

    /// Reads, and then changes.
    fn change(&mut self, skip: usize, subresource: Option<&str>) {
        self.each(skip, |draft, target| {
            draft.push_read(target, subresource);
            draft.push(CHANGE, target, subresource);
        });
    }

    /// The same, where pairs (`KEY=VALUE`, `KEY-`, `KEY:EFFECT-`) come after the objects.
    fn change_pairs(&mut self, skip: usize) {
        let words = self.line.arguments(skip);
        // Names of roles have colons too.
        let is_taint = self.line.command() == "taint";
        let is_pair = |word: &String| word.contains('=') || word.ends_with('-') || (is_taint && word.contains(':'));
        let end = words.iter().position(is_pair).unwrap_or(words.len());
        for target in self.targets(&words[..end]) {
            self.read_and(&target, CHANGE, None);
        }
    }

    /// `set serviceaccount TYPE NAME ACCOUNT`.
    fn set_service_account(&mut self) {
        let words = self.line.arguments(1);
        for target in self.targets(&words[..words.len().saturating_sub(1)]) {
            self.read_and(&target, CHANGE, None);
        }
    }

    fn scale(&mut self) {
        self.each(0, |draft, target| draft.read_and(target, CHANGE, Some("scale")));
    }

    /// Makes an object of another kind beside each that is named.
    fn beside(&mut self, kind: &'static str) {
        self.each(0, |draft, target| {
            draft.push_read(target, None);
            let name = draft.line.flag("name").map(ToOwned::to_owned).or_else(|| target.name.clone());
            let made = Target { place: target.place.clone(), name, ..draft.target(kind, None) };
            draft.push(CREATE, &made, None);
        });
    }

    fn nodes(&mut self) -> Vec<Target> {
        let names = self.line.arguments(0);
        let called = |name: &String| name.split_once('/').map_or(name.as_str(), |(_, name)| name).to_owned();
        let mut nodes: Vec<Target> = names.iter().map(|name| self.target("nodes", Some(&called(name)))).collect();
        if nodes.is_empty() {
            nodes.push(self.target("nodes", None));
        }
        nodes
    }

    fn cordon(&mut self) {
        for node in self.nodes() {
            self.read_and(&node, CHANGE, None);
        }
    }

    fn drain(&mut self) {
        self.cordon();
        let pods = Target { place: Place::Everywhere, ..self.target("pods", None) };
        self.push(LIST, &pods, None);
        if self.line.has("disable-eviction") {
            self.push(DELETE, &pods, None);
        } else {
            self.push(CREATE, &pods, Some("eviction"));
        }
    }

    fn certificate(&mut self) {
        for name in self.line.arguments(1) {
            let request = self.target("certificatesigningrequests", Some(name));
            self.push(GET, &request, None);
            self.push(CHANGE, &request, Some("approval"));
        }
        // Checked by name of the signer, which the request tells.
        let signer = self.target("signers", None);
        self.push(&["approve"], &signer, None);
    }

    /// What it really asks: a review, which tells and does nothing.
    fn review(&mut self, what: &str) {
        let review = if what == "whoami" { "selfsubjectreviews" } else { "selfsubjectaccessreviews" };
        let review = self.target(review, None);
        self.push(CREATE, &review, None);
    }
}

fn kind_called(typed: &str) -> Kind {
    Resource::built_in(typed).map_or_else(|| Kind::Called(typed.to_owned()), Kind::Is)
}

/// What `all` stands for, or the kind itself.
fn category<'a>(typed: &'a str) -> impl Iterator<Item = &'a str> {
    const ALL: [&str; 9] = [
        "pods",
        "replicationcontrollers",
        "services",
        "daemonsets",
        "deployments",
        "replicasets",
        "statefulsets",
        "horizontalpodautoscalers",
        "jobs",
    ];
    let all: &'static [&'static str] = if typed == "all" { &ALL } else { &[] };
    let itself = (typed != "all").then_some(typed);
    itself.into_iter().chain(all.iter().map(|kind| -> &'a str { kind })).chain((typed == "all").then_some("cronjobs"))
}

fn is_called(target: &Target, resource: &str) -> bool {
    matches!(&target.kind, Kind::Is(kind) if kind.resource == resource && kind.group.is_empty())
}

/// The request of `method` to a path.
fn raw_request(method: &str, url: &str) -> Option<Request> {
    let (path, query) = url.split_once('?').map_or((url, None), |(path, query)| (path, Some(query)));
    let action = request_info::action(method, path, query)?;
    let verb = VERBS.iter().chain(METHODS).find(|verb| **verb == action.verb)?;
    let is_namespace = action.group.is_empty() && action.resource == "namespaces";
    let namespace = action.namespace.filter(|_| !is_namespace);
    Some(Request {
        verbs: std::slice::from_ref(verb),
        place: namespace.clone().map_or(Place::Everywhere, Place::In),
        kind: match action.path {
            Some(path) => Kind::Path(path),
            None => {
                Kind::Is(Resource { group: action.group, resource: action.resource, namespaced: namespace.is_some() })
            }
        },
        subresource: action.subresource,
        name: action.name,
        is_repeated: false,
    })
}

/// Verbs of requests to paths that are no resources: their methods.
const METHODS: &[&str] = &["post", "put"];

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn plan(text: &str) -> Plan {
        let arguments: Vec<String> = format!("kubectl {text}").split(' ').map(str::to_owned).collect();
        Plan::of(&CommandLine::parse(&arguments).unwrap())
    }

    /// `get secrets/db`, `list secrets -n prod`, `connect pods/exec x`, with `-A` for every namespace.
    fn told(text: &str) -> Vec<String> {
        let describe = |request: &Request| {
            let kind = match &request.kind {
                Kind::Is(kind) if kind.group.is_empty() => kind.resource.clone(),
                Kind::Is(kind) => format!("{}.{}", kind.resource, kind.group),
                Kind::Called(typed) => format!("?{typed}"),
                Kind::OfKind { kind, group } => format!("?{kind}.{group}"),
                Kind::Path(path) => path.clone(),
            };
            let part = |before: &str, part: &Option<String>| {
                part.as_ref().map_or(String::new(), |part| format!("{before}{part}"))
            };
            let place = match &request.place {
                Place::Here => String::new(),
                Place::In(namespace) => format!(" -n {namespace}"),
                Place::Everywhere => " -A".to_owned(),
            };
            let (subresource, name) = (part("/", &request.subresource), part(" ", &request.name));
            format!("{} {kind}{subresource}{name}{place}", request.verbs[0])
        };
        plan(text).requests.iter().map(describe).collect()
    }

    #[test]
    fn reads() {
        for (typed, expected) in [
            ("get secret db", vec!["get secrets db"]),
            ("get secret/db", vec!["get secrets db"]),
            ("get secrets", vec!["list secrets"]),
            ("get secrets -A", vec!["list secrets -A"]),
            ("get po,secrets", vec!["list pods", "list secrets"]),
            ("get po,secrets a b", vec!["get pods a", "get pods b", "get secrets a", "get secrets b"]),
            ("get pod/a secret/b", vec!["get pods a", "get secrets b"]),
            ("get secret db -w", vec!["get secrets db", "watch secrets db"]),
            ("get secrets --watch-only", vec!["list secrets", "watch secrets"]),
            ("get secrets --field-selector metadata.name=db", vec!["list secrets db"]),
            ("get secrets --field-selector metadata.name==db", vec!["list secrets db"]),
            ("get secrets --field-selector type=Opaque", vec!["list secrets"]),
            ("get deploy.v1.apps web", vec!["get deployments.apps web"]),
            ("get pods.v1 a", vec!["get pods a"]),
            ("get wd", vec!["list ?wd"]),
            ("get pod a --subresource status", vec!["get pods/status a"]),
            ("get --raw /metrics", vec!["get /metrics -A"]),
            ("get --raw /api/v1/namespaces/prod/secrets/db", vec!["get secrets db -n prod"]),
            ("get --raw /api/v1/namespaces/prod/secrets?limit=1", vec!["list secrets -n prod"]),
            ("get --raw /api/v1/namespaces/prod/secrets?watch=true", vec!["watch secrets -n prod"]),
            ("get --raw /api/v1/watch/secrets", vec!["watch secrets -A"]),
            ("get --raw /apis/apps/v1/namespaces/a/deployments/w/scale", vec!["get deployments.apps/scale w -n a"]),
            ("get --raw /api/v1/namespaces/prod", vec!["get namespaces prod -A"]),
            ("get --raw /api/v1/namespaces/prod/secrets?watch=yes", vec!["watch secrets -n prod"]),
            ("get --raw /api/v1/secrets?fieldSelector=metadata.name%3Ddb", vec!["list secrets db -A"]),
            ("get --raw /api/v1/namespaces/prod/%73ecrets/db", vec!["get secrets db -n prod"]),
            ("get --raw /api/v1/namespaces/a/pods/x/proxy/metrics", vec!["connect pods/proxy x -n a"]),
            ("get --raw /api", vec!["get /api -A"]),
            ("describe secret db", vec!["get secrets db"]),
            ("describe pod a", vec!["get pods a", "list events"]),
            ("describe cm --show-events=false", vec!["list configmaps", "get configmaps"]),
            ("logs api-0", vec!["get pods api-0", "get pods/log api-0"]),
            ("logs -f api-0 -c app", vec!["get pods api-0", "get pods/log api-0"]),
            ("logs deploy/web", vec!["get deployments.apps web", "list pods", "get pods/log"]),
            ("logs -l app=web", vec!["list pods", "get pods/log"]),
            ("top pods", vec!["list ?pods.metrics.k8s.io"]),
            ("events", vec!["list events"]),
            ("wait --for=delete pod/a", vec!["get pods a", "list pods a", "watch pods a"]),
            (
                "rollout status deploy/web",
                vec!["get deployments.apps web", "list deployments.apps web", "watch deployments.apps web"],
            ),
            ("rollout history ds web", vec!["get daemonsets.apps web"]),
        ] {
            assert_eq!(told(typed), expected, "{typed}");
            assert!(!plan(typed).can_be_repeated(), "{typed}");
        }
        assert_eq!(told("get all").len(), 10);
    }

    #[test]
    fn connections() {
        let exec = vec!["get pods api-0", "connect pods/exec api-0"];
        for typed in ["exec api-0 -- ls secret", "exec -it api-0 -c app -- sh -c x", "exec pod/api-0 -- delete ns prod"]
        {
            assert_eq!(told(typed), exec, "{typed}");
        }
        for (typed, expected) in [
            ("exec deploy/web -- ls", vec!["get deployments.apps web", "list pods", "connect pods/exec"]),
            ("attach api-0", vec!["get pods api-0", "connect pods/attach api-0"]),
            ("port-forward api-0 8080:80", vec!["get pods api-0", "connect pods/portforward api-0"]),
            ("port-forward svc/web 80", vec!["get services web", "list pods", "connect pods/portforward"]),
            ("cp a.txt pay/api-0:/tmp/a", vec!["get pods api-0 -n pay", "connect pods/exec api-0 -n pay"]),
            ("cp api-0:/tmp/a a.txt", exec),
        ] {
            assert_eq!(told(typed), expected, "{typed}");
            assert!(!plan(typed).can_be_repeated(), "{typed}");
        }
        assert_eq!(
            told("debug api-0 -it --image=busybox"),
            ["get pods api-0", "patch pods/ephemeralcontainers api-0", "watch pods api-0", "connect pods/attach api-0"]
        );
        assert_eq!(told("debug node/n1 --image=busybox"), ["get nodes n1", "create pods"]);
        assert_eq!(told("debug api-0 --image=x --copy-to=y"), ["get pods api-0", "create pods y"]);
        assert_eq!(
            told("run x --image=y -i --rm -- sh"),
            ["create pods x", "get pods x", "watch pods x", "connect pods/attach x", "delete pods x"]
        );
    }

    #[test]
    fn writes() {
        for (typed, expected) in [
            ("delete ns prod", vec!["delete namespaces prod"]),
            ("delete po/a svc/b", vec!["delete pods a", "delete services b"]),
            ("delete pods --all", vec!["list pods", "delete pods"]),
            ("delete pods -l app=web -A", vec!["list pods -A", "delete pods -A"]),
            ("scale deploy/web --replicas 2", vec!["get deployments.apps web", "patch deployments.apps/scale web"]),
            ("rollout restart deploy web", vec!["get deployments.apps web", "patch deployments.apps web"]),
            ("label pods a b x=y z-", vec!["get pods a", "patch pods a", "get pods b", "patch pods b"]),
            ("annotate secret/db x=y", vec!["get secrets db", "patch secrets db"]),
            ("taint nodes n1 a=b:NoSchedule", vec!["get nodes n1", "patch nodes n1"]),
            ("taint nodes n1 a:NoSchedule-", vec!["get nodes n1", "patch nodes n1"]),
            (
                "label clusterrole system:x a=b",
                vec![
                    "get clusterroles.rbac.authorization.k8s.io system:x",
                    "patch clusterroles.rbac.authorization.k8s.io system:x",
                ],
            ),
            ("set image deploy/web app=x:1", vec!["get deployments.apps web", "patch deployments.apps web"]),
            (
                "set env deploy/web --from=secret/db",
                vec!["get deployments.apps web", "patch deployments.apps web", "get secrets db"],
            ),
            ("set sa deploy web bot", vec!["get deployments.apps web", "patch deployments.apps web"]),
            ("patch secret db -p {}", vec!["get secrets db", "patch secrets db"]),
            ("edit secret db", vec!["get secrets db", "patch secrets db"]),
            ("cordon n1", vec!["get nodes n1", "patch nodes n1"]),
            (
                "drain n1 --ignore-daemonsets",
                vec!["get nodes n1", "patch nodes n1", "list pods -A", "create pods/eviction -A"],
            ),
            ("expose deploy web --port 80", vec!["get deployments.apps web", "create services web"]),
            (
                "autoscale deploy web --max 3",
                vec!["get deployments.apps web", "create horizontalpodautoscalers.autoscaling web"],
            ),
            ("create ns prod", vec!["create namespaces prod"]),
            ("create secret generic db --from-literal a=b", vec!["create secrets db"]),
            ("create token bot", vec!["create serviceaccounts/token bot"]),
            ("create job x --from=cronjob/y", vec!["get cronjobs.batch y", "create jobs.batch x"]),
            (
                "certificate approve x",
                vec![
                    "get certificatesigningrequests.certificates.k8s.io x",
                    "patch certificatesigningrequests.certificates.k8s.io/approval x",
                    "approve signers.certificates.k8s.io",
                ],
            ),
            ("auth can-i get secrets", vec!["create selfsubjectaccessreviews.authorization.k8s.io"]),
        ] {
            assert_eq!(told(typed), expected, "{typed}");
            assert!(plan(typed).can_be_repeated(), "{typed}");
        }
        for typed in ["delete --raw /api/v1/namespaces/prod", "create --raw /api/v1/namespaces -f x"] {
            assert!(!plan(typed).can_be_repeated(), "client-go cannot send the body twice: {typed}");
        }
    }

    #[test]
    fn what_asks_for_nothing_is_nothing() {
        for typed in [
            "",
            "version",
            "config view",
            "config set-context x --namespace secrets",
            "api-resources",
            "explain secrets",
            "completion bash",
            "__complete get secrets ",
            "plugin list",
            "options",
            "kustomize .",
            "help get",
            "__complete get secrets --as bob",
            "config view --as bob",
        ] {
            let plan = plan(typed);
            assert!(plan.requests.is_empty() && !plan.can_be_repeated(), "{typed}: {plan:?}");
        }
        for typed in ["proxy", "neat get secrets", "neat --as bob", "getn secrets", "frobnicate"] {
            let plan = plan(typed);
            assert!(plan.requests.is_empty() && plan.others == Others::Any, "{typed}: {plan:?}");
        }
    }

    #[test]
    fn what_only_looks_like_it_is_not_it() {
        assert_eq!(told("get pods -- secrets"), ["get pods secrets"]);
        assert_eq!(told("delete pod -- --all"), ["delete pods --all"]);
        assert_eq!(told("get -n secrets pods"), ["list pods"]);
        assert_eq!(told("get pods -l secret"), ["list pods"]);
        assert_eq!(told("get pods -o jsonpath={.secret}"), ["list pods"]);
        assert_eq!(told("get secrets/"), [""; 0]);
        assert_eq!(told("get / /"), [""; 0]);
        assert_eq!(told("get ,,"), [""; 0]);
    }

    #[test]
    fn impersonation_is_all_that_is_this_persons_own() {
        assert_eq!(
            told("get secrets --as bob --as-group a --as-group b"),
            ["impersonate users bob -A", "impersonate groups a -A", "impersonate groups b -A"]
        );
        assert_eq!(told("get secrets --as system:serviceaccount:a:b"), ["impersonate serviceaccounts b -n a"]);
        assert_eq!(
            told("get secrets --as-uid 1 --as-user-extra k=v"),
            ["impersonate uids.authentication.k8s.io 1 -A", "impersonate userextras.authentication.k8s.io/k v -A"]
        );
    }

    #[test]
    fn manifests_tell_their_objects() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("m.yaml");
        fs::write(&path, "apiVersion: v1\nkind: Secret\nmetadata: {name: db, namespace: prod}\n---\napiVersion: example.com/v1\nkind: Widget\nmetadata: {name: w}\n").unwrap();
        let path = path.display();
        assert_eq!(
            told(&format!("apply -f {path}")),
            [
                "get secrets db -n prod",
                "patch secrets db -n prod",
                "get ?Widget.example.com w",
                "patch ?Widget.example.com w"
            ]
        );
        assert_eq!(
            told(&format!("apply --server-side -f {path}")),
            ["patch secrets db -n prod", "patch ?Widget.example.com w"]
        );
        assert_eq!(told(&format!("create -f {path}"))[0], "create secrets db -n prod");
        assert_eq!(told(&format!("get -f {path}"))[0], "get secrets db -n prod");
        assert_eq!(plan(&format!("delete -f {path}")).others, Others::None);
        for typed in ["delete -f -", "delete -k .", "delete -f https://example.com/x.yaml"] {
            assert_eq!(plan(typed).others, Others::Of(DELETE), "{typed}");
        }
        assert!(!plan("get -f -").can_be_repeated());
    }

    #[test]
    fn a_great_many_names_are_told_apart_no_longer() {
        let names: Vec<String> = (0..10_000).map(|number| format!("n{number}")).collect();
        assert_eq!(told(&format!("get secrets {}", names.join(" "))), ["get secrets"]);
    }

    fn action(text: &str) -> Action {
        let mut words = text.split(' ');
        let (verb, kind) = (words.next().unwrap(), words.next().unwrap());
        let (kind, sub) = kind.split_once('/').map_or((kind, None), |(kind, sub)| (kind, Some(sub.to_owned())));
        let resource = Resource::built_in(kind).unwrap();
        let name = words.next().filter(|name| *name != "-").map(ToOwned::to_owned);
        Action {
            verb: verb.to_owned(),
            group: resource.group,
            resource: resource.resource,
            subresource: sub,
            namespace: words.next().map(ToOwned::to_owned),
            name,
            path: None,
        }
        .normalized()
    }

    #[test]
    fn a_command_takes_up_its_own_denials_and_no_others() {
        let may = |typed: &str, denied: &str| {
            let arguments: Vec<String> = format!("kubectl {typed}").split(' ').map(str::to_owned).collect();
            let line = CommandLine::parse(&arguments).unwrap();
            let surroundings = Surroundings::new(line.clone(), Box::new(|_| Some("/nonexistent".into())));
            Plan::of(&line).may(&action(denied), &surroundings)
        };
        for (typed, denied) in [
            ("delete ns prod", "delete ns prod"),
            ("delete pod x", "delete pods x default"),
            ("delete pods --all -n a", "delete pods x a"),
            ("delete pods --all -A", "delete pods x a"),
            ("scale deploy/web --replicas 1 -n a", "update deploy/scale web a"),
            ("rollout restart deploy -n a", "patch deploy web a"),
            ("apply -f -", "patch deploy web a"),
            ("drain n1", "create pods/eviction x a"),
            ("create ns prod", "create ns prod"),
            ("neat", "delete ns prod"),
        ] {
            assert!(may(typed, denied), "{typed}: {denied}");
        }
        for (typed, denied) in [
            ("delete pod x", "delete pods y default"),
            ("delete pod x", "delete pods x other"),
            ("delete pod x -n a", "delete configmaps x a"),
            ("delete pod x", "delete ns x"),
            ("delete ns a", "delete ns b"),
            ("delete ns a", "patch ns a"),
            ("scale deploy/web --replicas 1 -n a", "update deploy web a"),
            ("apply --server-side -f -", "connect pods/exec x a"),
            ("create -f -", "delete ns prod"),
            ("get ns prod", "delete ns prod"),
            ("exec api-0 -- sh", "connect pods/exec api-1 default"),
        ] {
            assert!(!may(typed, denied), "{typed}: {denied}");
        }
    }
}
