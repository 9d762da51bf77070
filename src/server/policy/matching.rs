//! What the API server is to ask about: the policy as CEL and webhook rules.
//!
//! A request that no rule protects must not depend on this server in any way, and one that is protected must never be
//! missed. So the expressions are as narrow as the policy, conditions aside, and where they would grow beyond what the
//! API server should evaluate for every request they get wider, never narrower: first names go, then namespaces, then
//! everything but the users.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{EVERYBODY, Enforcement, MASTERS, Rule, SYSTEM, Subjects, names_system};
use crate::action::{
    ActionPattern, CERTIFICATES, CHANGES, IMPERSONATE, IMPERSONATION_GROUPS, LISTING, REVEALING, REVIEWS, glob_matches,
    is_glob,
};

/// What to ask about.
#[derive(Debug)]
pub struct Matching {
    enforced: Matched,
    recorded: Matched,
    digests: Digests,
}

/// Digests of what each webhook is asked about, in hex: the last part of its rendered address, so that a stale rendering is
/// noticed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Digests {
    /// Changes whenever the authorizer's expressions do, and only then: the API server takes a new webhook address up when
    /// it takes up new expressions.
    pub authorization: String,
    /// Changes whenever what admission is to ask about does.
    pub admission: String,
}

/// What to ask about for some of the rules.
#[derive(Debug)]
pub struct Matched {
    authorization: String,
    admission: String,
    admission_rules: Vec<AdmissionRule>,
}

/// One entry of `webhooks[].rules`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AdmissionRule {
    /// API groups.
    pub api_groups: Vec<String>,
    /// Resources, in the syntax of admission webhooks, where `*` is without subresources and `*/*` is everything.
    pub resources: Vec<String>,
    /// Of CREATE, UPDATE, DELETE and CONNECT.
    pub operations: Vec<&'static str>,
}

/// Longer expressions are widened.
const MAX_EXPRESSION: usize = 8 * 1024;
/// More entries are merged into one for everything.
const MAX_ADMISSION_RULES: usize = 100;
/// The group of what configures admission; writes to it are the authorizer's.
const ADMISSION_GROUP: &str = "admissionregistration.k8s.io";
/// Verbs that belong to admission.
const ADMISSION_VERBS: [&str; 6] = ["create", "update", "patch", "delete", "deletecollection", "connect"];
/// Subresources whose requests are connections.
const CONNECTIONS: [&str; 4] = ["exec", "attach", "portforward", "proxy"];

impl Matching {
    pub(super) fn of(rules: &[Rule]) -> Self {
        let (enforced, recorded): (Vec<_>, Vec<_>) =
            rules.iter().partition(|rule| rule.enforcement == Enforcement::Enforce);
        let (mut enforced, is_wide) = Matched::of(&enforced, true);
        let (mut recorded, _) = Matched::of(&recorded, false);
        if is_wide {
            // What is asked about whatever it is cannot be told from the rest.
            (enforced, _) = Matched::of(&rules.iter().collect::<Vec<_>>(), true);
            (recorded, _) = Matched::of(&[], false);
        }
        let both = [&enforced, &recorded];
        let digests = Digests {
            authorization: digest(both.map(|matched| matched.authorization.clone())),
            admission: digest(both.map(|matched| format!("{}\n{:?}", matched.admission, matched.admission_rules))),
        };
        Self { enforced, recorded, digests }
    }

    /// For the rules that ask.
    pub fn enforced(&self) -> &Matched {
        &self.enforced
    }

    /// For the rules with `enforcement: audit`, which must stand in nobody's way. A request that a rule asks about, too, is
    /// left to the others.
    pub fn recorded(&self) -> &Matched {
        &self.recorded
    }

    /// What tells one rendering from another.
    pub fn digests(&self) -> &Digests {
        &self.digests
    }
}

/// The first 8 bytes of a SHA-256, in hex.
fn digest(parts: impl IntoIterator<Item = String>) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().iter().take(8).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

impl Matched {
    /// And whether they are so wide that they are about everything that somebody does.
    fn of(rules: &[&Rule], is_enforced: bool) -> (Self, bool) {
        let (authorization, one) = narrowest(rules, &AUTHORIZATION, is_enforced);
        let (admission, other) = narrowest(rules, &ADMISSION, false);
        (Self { authorization, admission, admission_rules: admission_rules(rules) }, one.max(other) >= Width::Users)
    }

    /// CEL over the `SubjectAccessReviewSpec` in `request`: what belongs to the authorizer. Among what is enforced is every
    /// request with one of our groups, so that a role that was assumed ends when its grant does.
    pub fn authorization(&self) -> &str {
        &self.authorization
    }

    /// CEL over the `AdmissionRequest` in `request`.
    pub fn admission(&self) -> &str {
        &self.admission
    }

    /// The kinds and operations that admission is to ask about at all. Empty: none.
    pub fn admission_rules(&self) -> &[AdmissionRule] {
        &self.admission_rules
    }
}

/// CEL that nothing satisfies.
pub const NOTHING: &str = "false";

/// How an expression calls the parts of a request.
struct Words {
    user: &'static str,
    groups: &'static str,
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    namespace: &'static str,
    name: &'static str,
    /// Whether fields without a value are absent. `SubjectAccessReviewSpec` has them all as empty strings
    /// (convertObjectToUnstructured in k8s.io/apiserver/pkg/authorization/cel), `AdmissionRequest` leaves them out.
    absent: bool,
}

const AUTHORIZATION: Words = Words {
    user: "request.user",
    groups: "request.groups",
    group: "request.resourceAttributes.group",
    resource: "request.resourceAttributes.resource",
    subresource: "request.resourceAttributes.subresource",
    namespace: "request.resourceAttributes.namespace",
    name: "request.resourceAttributes.name",
    absent: false,
};

const ADMISSION: Words = Words {
    user: "request.userInfo.username",
    groups: "request.userInfo.groups",
    group: "request.resource.group",
    resource: "request.resource.resource",
    subresource: "request.subResource",
    namespace: "request.namespace",
    name: "request.name",
    absent: true,
};

/// How wide an expression is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Width {
    Exact,
    WithoutNames,
    WithoutNamespaces,
    Users,
    Everybody,
}

fn narrowest(rules: &[&Rule], words: &Words, is_enforced: bool) -> (String, Width) {
    for width in [Width::Exact, Width::WithoutNames, Width::WithoutNamespaces, Width::Users] {
        let expression = words.expression(rules, width, is_enforced);
        if expression.len() <= MAX_EXPRESSION {
            return (expression, width);
        }
    }
    (words.expression(rules, Width::Everybody, is_enforced), Width::Everybody)
}

/// One pattern as tests; those that are alike but for namespaces or names become one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Test {
    /// Verb or operation, group and resource.
    kind: Vec<String>,
    own_namespace: OwnNamespace,
    /// Other names, as a test, that may stand for an object of one of [`Self::names`].
    also_named: Option<String>,
    /// Globs; `None`: any.
    names: Option<BTreeSet<String>>,
    /// Globs; `None`: any.
    namespaces: Option<BTreeSet<String>>,
}

/// Whether a test is about namespaces themselves, each of which is in itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum OwnNamespace {
    Never,
    Perhaps,
    Always,
}

impl Words {
    fn is_authorization(&self) -> bool {
        !self.absent
    }

    fn expression(&self, rules: &[&Rule], width: Width, is_enforced: bool) -> String {
        let mut by_user: BTreeMap<String, Vec<Test>> = BTreeMap::new();
        for rule in rules {
            let tests: Vec<_> =
                rule.actions.iter().flat_map(|pattern| self.tests(pattern, width, is_enforced)).collect();
            if !tests.is_empty() {
                let who = if width == Width::Everybody { self.anybody(rules) } else { self.user_in(&rule.subjects) };
                by_user.entry(who).or_default().extend(tests);
            }
        }
        let mut alternatives = Vec::new();
        if is_enforced {
            alternatives.push(format!("{}.exists(group, group.startsWith(\"stepup:\"))", self.groups));
        }
        for (who, tests) in by_user {
            let tests: Vec<_> = merged(tests).iter().map(|test| self.show(test)).collect();
            // A test without any condition is met by every request.
            let tests = match tests.as_slice() {
                tests if tests.iter().any(String::is_empty) => String::new(),
                [one] => format!("\n  {one}"),
                several => format!("(\n  {}\n)", several.join(" ||\n  ")),
            };
            alternatives.push(all_of(&[who, tests]));
        }
        match alternatives.as_slice() {
            [] => NOTHING.to_owned(),
            alternatives => alternatives.join(" ||\n"),
        }
    }

    /// Whether the user is one whom a rule with these subjects is about: [`Subjects::include`] in CEL.
    fn user_in(&self, subjects: &Subjects) -> String {
        let (literals, globs): (Vec<_>, Vec<_>) = subjects.users.iter().partition(|glob| !is_glob(glob));
        let (system_users, users): (Vec<_>, Vec<_>) = globs.into_iter().partition(|glob| names_system(glob));
        let system_groups: Vec<_> = subjects.groups.iter().filter(|glob| names_system(glob)).collect();
        let no_master = format!("!({})", self.in_group(&[format!("=={}", cel_string(MASTERS))]));
        let no_system = format!("!{}.startsWith(\"{SYSTEM}\")", self.user);

        let mut include = Vec::new();
        if !literals.is_empty() {
            include.push(glob_test(self.user, literals));
        }
        if !system_users.is_empty() {
            include.push(all_of(&[no_master.clone(), glob_test(self.user, system_users)]));
        }
        let people: Vec<_> = [
            (!users.is_empty()).then(|| glob_test(self.user, users)),
            (!subjects.groups.is_empty()).then(|| self.in_group(&[glob_test("group", &subjects.groups)])),
        ]
        .into_iter()
        .flatten()
        .collect();
        if !people.is_empty() {
            let people = if people.iter().any(|test| test == "true") { String::new() } else { any_of(&people) };
            include.push(all_of(&[no_system, no_master.clone(), people]));
        }
        if !system_groups.is_empty() {
            let not_everybody = EVERYBODY.map(|group| format!("group != {}", cel_string(group))).join(" && ");
            let named = format!("{not_everybody} && {}", glob_test("group", system_groups.iter().copied()));
            include.push(all_of(&[no_master, self.in_group(&[named])]));
        }
        if system_groups.iter().any(|glob| glob_matches(glob, MASTERS)) {
            include.push(self.in_group(&[format!("=={}", cel_string(MASTERS))]));
        }
        let mut exclude = Vec::new();
        if !subjects.exclude_users.is_empty() {
            exclude.push(glob_test(self.user, &subjects.exclude_users));
        }
        if !subjects.exclude_groups.is_empty() {
            exclude.push(self.in_group(&[glob_test("group", &subjects.exclude_groups)]));
        }
        match exclude.as_slice() {
            [] => any_of(&include),
            exclude => all_of(&[any_of(&include), format!("!({})", exclude.join(" || "))]),
        }
    }

    /// Everybody whom any rule could be about: people, and the system users and groups that are named.
    fn anybody(&self, rules: &[&Rule]) -> String {
        let all = |globs: fn(&Subjects) -> &Vec<String>| rules.iter().flat_map(move |rule| globs(&rule.subjects));
        let system = |globs| {
            let named: BTreeSet<_> = all(globs).filter(|glob| names_system(glob)).cloned().collect();
            named.into_iter().collect::<Vec<_>>()
        };
        // A user who is named is meant even as a member of `system:masters`.
        let mut who = vec![if all(|subjects| &subjects.users).any(|glob| !is_glob(glob)) {
            format!("!{}.startsWith(\"{SYSTEM}\")", self.user)
        } else {
            self.user_in(&Subjects::everybody())
        }];
        let machines = Subjects {
            users: system(|subjects| &subjects.users),
            groups: system(|subjects| &subjects.groups),
            ..Subjects::default()
        };
        if !machines.users.is_empty() || !machines.groups.is_empty() {
            who.push(self.user_in(&machines));
        }
        let who = any_of(&who);
        // With more machines named than an expression should hold, nobody can be left out.
        if who.len() > MAX_EXPRESSION / 2 { String::new() } else { who }
    }

    /// Whether the user is in a group that satisfies the test; `==x` stands for `x in groups`.
    fn in_group(&self, test: &[String; 1]) -> String {
        let test = match test[0].strip_prefix("==") {
            Some(literal) => format!("{literal} in {}", self.groups),
            None => format!("{}.exists(group, {})", self.groups, test[0]),
        };
        if self.absent { format!("has({}) && {test}", self.groups) } else { test }
    }

    fn tests(&self, pattern: &ActionPattern, width: Width, is_enforced: bool) -> Vec<Test> {
        if self.is_authorization() {
            self.authorization_tests(pattern, width, is_enforced)
        } else {
            self.admission_test(pattern, width)
        }
    }

    fn authorization_tests(&self, pattern: &ActionPattern, width: Width, is_enforced: bool) -> Vec<Test> {
        let verbs = protected_verbs(pattern);
        if !pattern.non_resource_urls.is_empty() {
            let mut kind = vec!["has(request.nonResourceAttributes)".to_owned()];
            if width < Width::Users {
                // `get` protects a path whatever the method.
                let verbs = verbs.filter(|verbs| !verbs.contains("get"));
                kind.extend(verbs.map(|verbs| one_of("request.nonResourceAttributes.verb", verbs)));
                kind.push(glob_test("request.nonResourceAttributes.path", &pattern.non_resource_urls));
            }
            kind.retain(|test| test != "true");
            let any = OwnNamespace::Never;
            return vec![Test { kind, own_namespace: any, also_named: None, names: None, namespaces: None }];
        }
        let verb = "request.resourceAttributes.verb";
        let for_admission = |verb: &&&str| ADMISSION_VERBS.contains(*verb);
        let mut tests = Vec::new();
        // What admission never sees, or too late: see `Action::read_of_changed`.
        let protects_reads = is_enforced && verbs.as_ref().is_none_or(|verbs| verbs.contains("get"));
        let is_too_late = |verb: &str| protects_reads && CHANGES.contains(&verb);
        let own = match &verbs {
            None => {
                let not_ours = ADMISSION_VERBS.into_iter().filter(|verb| !is_too_late(verb));
                Some(format!("!({verb} in {})", cel_list(not_ours)))
            }
            Some(verbs) => {
                let is_own = |verb: &&&str| (!for_admission(verb) || is_too_late(verb)) && **verb != IMPERSONATE;
                let own: Vec<_> = verbs.iter().filter(is_own).copied().collect();
                (!own.is_empty()).then(|| one_of(verb, own))
            }
        };
        let kind = |verb: String| vec!["has(request.resourceAttributes)".to_owned(), verb];
        tests.extend(own.map(|verb| self.resource_test(kind(verb), pattern, &pattern.api_groups, width)));
        if verbs.as_ref().is_none_or(|verbs| verbs.contains(IMPERSONATE)) {
            tests.push(self.impersonation_test(pattern, width));
        }
        let writes: Vec<_> = match &verbs {
            None => ADMISSION_VERBS.to_vec(),
            Some(verbs) => verbs.iter().filter(for_admission).copied().collect(),
        };
        if writes.is_empty() {
            return tests;
        }
        // What could switch admission off, and what it is not asked about.
        let has_group = |name: &str| pattern.api_groups.iter().any(|group| group == "*" || group == name);
        if has_group(ADMISSION_GROUP) {
            let groups = [ADMISSION_GROUP.to_owned()];
            tests.push(self.resource_test(kind(one_of(verb, writes.iter().copied())), pattern, &groups, width));
        }
        for group in REVIEWS.map(|(group, _)| group).into_iter().collect::<BTreeSet<_>>() {
            let is_meant = |resource: &&str| pattern.resources.iter().any(|meant| meant == "*" || meant == resource);
            let all = REVIEWS.iter().filter(|(of, _)| *of == group && has_group(group));
            let resources: Vec<_> = all.map(|(_, resource)| *resource).filter(is_meant).collect();
            if !resources.is_empty() {
                let of_reviews =
                    ActionPattern { resources: resources.iter().map(ToString::to_string).collect(), ..pattern.clone() };
                let kind = kind(one_of(verb, writes.iter().copied()));
                tests.push(self.resource_test(kind, &of_reviews, &[group.to_owned()], width));
            }
        }
        tests
    }

    /// Impersonation in whatever mode the API server does it: [`Action::normalized`] makes one of them.
    ///
    /// [`Action::normalized`]: crate::action::Action::normalized
    fn impersonation_test(&self, pattern: &ActionPattern, width: Width) -> Test {
        let mut groups = pattern.api_groups.clone();
        if groups.iter().any(|group| IMPERSONATION_GROUPS.contains(&group.as_str())) {
            groups.extend(IMPERSONATION_GROUPS.map(ToOwned::to_owned));
        }
        let mut resources = pattern.resources.clone();
        for resource in &pattern.resources {
            match resource.split_once('/').unwrap_or((resource, "")) {
                // A user who is a node is asked about as a node.
                ("users", "") => resources.push("nodes".to_owned()),
                // Extra values of every key at once.
                ("userextras" | "*", key) if !key.is_empty() => resources.push("userextras/*".to_owned()),
                _ => {}
            }
        }
        for list in [&mut groups, &mut resources] {
            list.sort_unstable();
            list.dedup();
        }
        let verb = "request.resourceAttributes.verb";
        let verb = format!("({verb} == \"{IMPERSONATE}\" || {verb}.startsWith(\"{IMPERSONATE}:\"))");
        let kind = vec!["has(request.resourceAttributes)".to_owned(), verb];
        let about_who = ActionPattern { resources, ..pattern.clone() };
        let test = self.resource_test(kind, &about_who, &groups, width);
        let also = || format!("{}.endsWith(\"*\") || {} == \"nodes\"", self.name, self.resource);
        Test { also_named: test.names.as_ref().map(|_| also()), ..test }
    }

    fn admission_test(&self, pattern: &ActionPattern, width: Width) -> Vec<Test> {
        let operations = operations(pattern);
        if operations.is_empty() || !pattern.api_groups.iter().any(|group| group != ADMISSION_GROUP) {
            return vec![];
        }
        let mut kind = Vec::new();
        if operations.len() < 4 {
            let verbs = protected_verbs(pattern);
            let collections_only = verbs.is_some_and(|verbs| !verbs.contains("delete"));
            if operations.contains(&"DELETE") && collections_only {
                // Each object of a collection is reviewed without a name.
                let others: Vec<_> = operations.iter().filter(|operation| **operation != "DELETE").copied().collect();
                let collection = format!("request.operation == \"DELETE\" && {}", self.empty(self.name));
                let alternatives = if others.is_empty() {
                    vec![collection]
                } else {
                    vec![one_of("request.operation", others), collection]
                };
                kind.push(any_of(&alternatives));
            } else {
                kind.push(one_of("request.operation", operations));
            }
        }
        vec![self.resource_test(kind, pattern, &pattern.api_groups, width)]
    }

    fn resource_test(&self, mut kind: Vec<String>, pattern: &ActionPattern, groups: &[String], width: Width) -> Test {
        if width < Width::Users {
            if !groups.iter().any(|group| group == "*") {
                kind.push(one_of(self.group, groups.iter().map(String::as_str)));
            }
            kind.extend(self.resources_test(&pattern.resources));
        } else if !self.is_authorization() {
            kind.clear();
        }
        let is_namespaces = |resource: &String| matches!(resource.split('/').next(), Some("namespaces"));
        let own_namespace = if !groups.iter().any(|group| group == "*" || group.is_empty()) {
            OwnNamespace::Never
        } else if pattern.resources.iter().all(is_namespaces) && groups.iter().all(String::is_empty) {
            OwnNamespace::Always
        } else if pattern.resources.iter().any(|resource| is_namespaces(resource) || resource.starts_with('*')) {
            OwnNamespace::Perhaps
        } else {
            OwnNamespace::Never
        };
        let restricted = |globs: &[String], from: Width| {
            let free = width >= from || globs.iter().any(|glob| glob == "*");
            (!free).then(|| globs.iter().cloned().collect::<BTreeSet<_>>())
        };
        let namespaces = restricted(&pattern.namespaces, Width::WithoutNamespaces);
        let names = restricted(&pattern.names, Width::WithoutNames);
        Test {
            kind,
            also_named: names.as_ref().and_then(|_| self.also_named(pattern, groups)),
            own_namespace: if namespaces.is_none() { OwnNamespace::Never } else { own_namespace },
            names,
            namespaces,
        }
    }

    /// What else than their names may stand for objects of the pattern; see [`Action::target`].
    ///
    /// [`Action::target`]: crate::action::Action
    fn also_named(&self, pattern: &ActionPattern, groups: &[String]) -> Option<String> {
        let has_group = |name: &str| groups.iter().any(|group| group == "*" || group == name);
        let has_resource = |test: &dyn Fn(&str) -> bool| pattern.resources.iter().any(|resource| test(resource));
        if self.is_authorization() {
            let signers = has_group(CERTIFICATES) && has_resource(&|resource| matches!(resource, "*" | "signers"));
            return signers.then(|| format!("{} == \"signers\" && {}.endsWith(\"/*\")", self.resource, self.name));
        }
        let proxies = |resource: &str| resource == "*" || resource.ends_with("/*") || resource.ends_with("/proxy");
        (has_group("") && has_resource(&proxies))
            .then(|| format!("has({0}) && {0} == \"proxy\" && {1}.contains(\":\")", self.subresource, self.name))
    }

    fn resources_test(&self, resources: &[String]) -> Option<String> {
        if resources.iter().any(|resource| resource == "*") {
            return None;
        }
        let (plain, with): (Vec<_>, Vec<_>) = resources.iter().partition(|resource| !resource.contains('/'));
        let mut tests = Vec::new();
        if !plain.is_empty() {
            let resource = one_of(self.resource, plain.iter().map(|resource| resource.as_str()));
            tests.push(format!("{resource} && {}", self.empty(self.subresource)));
        }
        let mut by_resource: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (resource, subresource) in with.iter().filter_map(|resource| resource.split_once('/')) {
            by_resource.entry(resource).or_default().insert(subresource);
        }
        for (resource, subresources) in by_resource {
            let mut parts = Vec::new();
            if resource != "*" {
                parts.push(format!("{} == {}", self.resource, cel_string(resource)));
            }
            if self.absent {
                parts.push(format!("has({})", self.subresource));
            }
            parts.push(if subresources.contains("*") {
                format!("{} != \"\"", self.subresource)
            } else {
                one_of(self.subresource, subresources)
            });
            tests.push(parts.join(" && "));
        }
        Some(any_of(&tests))
    }

    fn show(&self, test: &Test) -> String {
        let mut parts = test.kind.clone();
        if let Some(namespaces) = &test.namespaces {
            // A request without a namespace spans all of them when it is for a collection. What is absent is an error to
            // compare, which only a true alternative makes up for.
            let inside = glob_test(self.namespace, namespaces);
            let inside = if self.absent {
                let nowhere = [self.empty(self.namespace), self.empty(self.name)].join(" && ");
                format!("{nowhere} || has({}) && {inside}", self.namespace)
            } else {
                format!("{} || {inside}", self.empty(self.namespace))
            };
            let named = format!("{} || {}", self.empty(self.name), glob_test(self.name, namespaces));
            let is_namespace = format!("{} == \"\" && {} == \"namespaces\"", self.group, self.resource);
            parts.push(match test.own_namespace {
                OwnNamespace::Never => format!("({inside})"),
                OwnNamespace::Always => format!("({named})"),
                OwnNamespace::Perhaps => format!("({is_namespace} ? ({named}) : ({inside}))"),
            });
        }
        if let Some(names) = &test.names {
            // Without a name it is a collection, or an object whose name is not known yet.
            let also = test.also_named.as_ref().map_or(String::new(), |test| format!(" || {test}"));
            parts.push(format!("({} || {}{also})", self.empty(self.name), glob_test(self.name, names)));
        }
        parts.join(" && ")
    }

    fn empty(&self, field: &str) -> String {
        if self.absent { format!("(!has({field}) || {field} == \"\")") } else { format!("{field} == \"\"") }
    }
}

/// Joins tests that differ only in their namespaces, then those that differ only in their names.
fn merged(tests: Vec<Test>) -> Vec<Test> {
    fn join(into: &mut Option<BTreeSet<String>>, more: Option<BTreeSet<String>>) {
        match (into.as_mut(), more) {
            (Some(globs), Some(more)) => globs.extend(more),
            _ => *into = None,
        }
    }
    let mut by_names: BTreeMap<_, Option<BTreeSet<String>>> = BTreeMap::new();
    for Test { kind, own_namespace, also_named, names, namespaces } in tests {
        // An unrestricted namespace has no use for the distinction, a restricted one must keep it.
        match by_names.entry((kind, own_namespace, also_named, names)) {
            std::collections::btree_map::Entry::Vacant(entry) => drop(entry.insert(namespaces)),
            std::collections::btree_map::Entry::Occupied(mut entry) => join(entry.get_mut(), namespaces),
        }
    }
    let mut by_namespaces: BTreeMap<_, Option<BTreeSet<String>>> = BTreeMap::new();
    for ((kind, own_namespace, also_named, names), namespaces) in by_names {
        match by_namespaces.entry((kind, own_namespace, also_named, namespaces)) {
            std::collections::btree_map::Entry::Vacant(entry) => drop(entry.insert(names)),
            std::collections::btree_map::Entry::Occupied(mut entry) => join(entry.get_mut(), names),
        }
    }
    by_namespaces
        .into_iter()
        .map(|((kind, own_namespace, also_named, namespaces), names)| Test {
            kind,
            own_namespace,
            also_named,
            names,
            namespaces,
        })
        .collect()
}

/// The verbs that the pattern protects, by the rules of [`ActionPattern::protects`]; `None`: every one.
fn protected_verbs(pattern: &ActionPattern) -> Option<BTreeSet<&str>> {
    let mut verbs = BTreeSet::new();
    for verb in &pattern.verbs {
        match verb.as_str() {
            "*" => return None,
            "get" => verbs.extend(REVEALING.into_iter().chain(["connect"])),
            "list" | "watch" => verbs.extend(LISTING),
            "update" | "patch" => verbs.extend(["update", "patch"]),
            "delete" => verbs.extend(["delete", "deletecollection"]),
            "create" => verbs.extend(["create", "connect"]),
            // Ours: the API server never asks.
            "assume" => {}
            verb if verb.starts_with("impersonate:") => drop(verbs.insert(IMPERSONATE)),
            other => drop(verbs.insert(other)),
        }
    }
    Some(verbs)
}

/// What the pattern protects and admission never sees, in words.
pub(super) fn unseen_by_admission(pattern: &ActionPattern) -> Option<String> {
    if !pattern.non_resource_urls.is_empty() {
        return Some(pattern.non_resource_urls.join(", "));
    }
    let only_configuration = pattern.api_groups.iter().all(|group| group == ADMISSION_GROUP);
    let verbs = match protected_verbs(pattern) {
        None => "reads and special verbs".to_owned(),
        Some(verbs) => {
            let unseen = |verb: &&str| *verb != "connect" && (only_configuration || !ADMISSION_VERBS.contains(verb));
            let unseen: Vec<&str> = verbs.into_iter().filter(unseen).collect();
            if unseen.is_empty() {
                return None;
            }
            unseen.join(", ")
        }
    };
    let of = if only_configuration { ADMISSION_GROUP.to_owned() } else { pattern.resources.join(", ") };
    Some(format!("{verbs} of {of}"))
}

/// The admission operations that the pattern protects.
fn operations(pattern: &ActionPattern) -> Vec<&'static str> {
    // `userextras` exist for impersonation only: nobody can write one.
    let written = |resource: &String| !matches!(resource.as_str(), "userextras" | "userextras/*");
    if !pattern.non_resource_urls.is_empty() || !pattern.resources.iter().any(written) {
        return vec![];
    }
    let verbs = protected_verbs(pattern);
    let any = |wanted: &[&str]| verbs.as_ref().is_none_or(|verbs| wanted.iter().any(|verb| verbs.contains(verb)));
    let connects = |resource: &String| match resource.split_once('/') {
        Some((_, subresource)) => subresource == "*" || CONNECTIONS.contains(&subresource),
        None => resource == "*",
    };
    let mut operations = Vec::new();
    if any(&["connect"]) && pattern.resources.iter().any(connects) {
        operations.push("CONNECT");
    }
    if any(&["create"]) {
        operations.push("CREATE");
    }
    if any(&["delete", "deletecollection"]) {
        operations.push("DELETE");
    }
    if any(&["update", "patch"]) {
        operations.push("UPDATE");
    }
    operations
}

/// Kinds and operations of all rules. Each entry has resources that may stand together: the API server refuses a
/// wildcard next to something that it contains.
fn admission_rules(rules: &[&Rule]) -> Vec<AdmissionRule> {
    let mut kinds: BTreeMap<(&str, String), BTreeSet<&'static str>> = BTreeMap::new();
    for pattern in rules.iter().flat_map(|rule| &rule.actions) {
        let operations = operations(pattern);
        if operations.is_empty() {
            continue;
        }
        for group in pattern.api_groups.iter().filter(|group| *group != ADMISSION_GROUP) {
            let is_sent = |resource: &&String| !REVIEWS.contains(&(group.as_str(), resource.as_str()));
            for resource in pattern.resources.iter().filter(is_sent) {
                let resource = if resource == "*" { "*/*".to_owned() } else { resource.clone() };
                kinds.entry((group, resource)).or_default().extend(&operations);
            }
        }
    }
    let mut rules: Vec<AdmissionRule> = Vec::new();
    for ((group, resource), operations) in kinds {
        let (api_groups, operations) = (vec![group.to_owned()], operations.into_iter().collect());
        let plain = |resource: &String| !resource.contains('*');
        let alike = rules.iter_mut().find(|rule| {
            rule.api_groups == api_groups && rule.operations == operations && rule.resources.iter().all(plain)
        });
        match alike {
            Some(rule) if plain(&resource) => rule.resources.push(resource),
            _ => rules.push(AdmissionRule { api_groups, resources: vec![resource], operations }),
        }
        if rules.len() > MAX_ADMISSION_RULES {
            let everything = |star: &str| vec![star.to_owned()];
            let operations = vec!["CONNECT", "CREATE", "DELETE", "UPDATE"];
            return vec![AdmissionRule { api_groups: everything("*"), resources: everything("*/*"), operations }];
        }
    }
    rules
}

/// Whether `value` matches one of the globs.
fn glob_test<'g>(value: &str, globs: impl IntoIterator<Item = &'g String>) -> String {
    let (mut literals, mut patterns, mut tests) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for glob in globs {
        if glob == "*" {
            return "true".to_owned();
        } else if is_glob(glob) {
            patterns.insert(glob.as_str());
        } else {
            literals.insert(glob.strip_prefix('=').unwrap_or(glob));
        }
    }
    if !literals.is_empty() {
        tests.push(one_of(value, literals));
    }
    match patterns.iter().copied().collect::<Vec<_>>().as_slice() {
        [] => {}
        [one] if one.ends_with('*') && !is_glob(&one[..one.len() - 1]) => {
            tests.push(format!("{value}.startsWith({})", cel_string(&one[..one.len() - 1])));
        }
        several => {
            let several: Vec<_> = several.iter().map(|glob| glob_to_regex(glob)).collect();
            tests.push(format!("{value}.matches({})", cel_string(&format!("(?s)^(?:{})$", several.join("|")))));
        }
    }
    any_of(&tests)
}

fn glob_to_regex(glob: &str) -> String {
    glob.chars().fold(String::new(), |regex, char| match char {
        '*' => regex + ".*",
        '?' => regex + ".",
        char => regex + &regex::escape(char.encode_utf8(&mut [0; 4])),
    })
}

fn one_of<'v>(value: &str, list: impl IntoIterator<Item = &'v str>) -> String {
    let list: Vec<_> = list.into_iter().collect();
    match list.as_slice() {
        [one] => format!("{value} == {}", cel_string(one)),
        several => format!("{value} in {}", cel_list(several.iter().copied())),
    }
}

fn any_of(tests: &[String]) -> String {
    match tests {
        [one] => one.clone(),
        several => format!("({})", several.join(" || ")),
    }
}

/// Tests that are empty do not restrict.
fn all_of(tests: &[String]) -> String {
    let tests: Vec<_> = tests.iter().filter(|test| !test.is_empty() && *test != "true").map(String::as_str).collect();
    match tests.as_slice() {
        [] => "true".to_owned(),
        [one] => (*one).to_owned(),
        several => format!("({})", several.join(" && ")),
    }
}

fn cel_list<'v>(list: impl IntoIterator<Item = &'v str>) -> String {
    format!("[{}]", list.into_iter().map(cel_string).collect::<Vec<_>>().join(", "))
}

/// A CEL string literal. JSON's escapes are a part of CEL's.
fn cel_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
