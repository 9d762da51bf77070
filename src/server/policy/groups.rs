//! `mode: groups`: what of a rule RBAC can enforce.
//!
//! RBAC only adds: people lack a right, the token of a grant carries the rule's group, and the group has the right. So a
//! rule that is wider than it says would hand rights out. What RBAC cannot say is therefore left out and told, never
//! widened.

use std::collections::BTreeMap;

use super::{Covers, Enforcement, Rule};
use crate::action::{Action, ActionPattern, CONNECTS, IMPERSONATION_GROUPS, glob_matches, is_glob, verb_protects};

/// Groups that only a grant gives.
const PREFIX: &str = "stepup:";

/// The group that opens `rule`.
pub fn group_of(rule: &Rule) -> String {
    format!("{PREFIX}{}", rule.name)
}

/// What the group of a rule opens.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// For the cluster (`None`) and for single namespaces.
    pub roles: BTreeMap<Option<String>, Vec<RoleRule>>,
    /// What the rule says and RBAC cannot: for people.
    pub left_out: Vec<String>,
}

/// One entry of a role's `rules`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleRule {
    /// `apiGroups`.
    pub api_groups: Vec<String>,
    /// `resources`.
    pub resources: Vec<String>,
    /// `resourceNames`; empty: any.
    pub resource_names: Vec<String>,
    /// `nonResourceURLs`.
    pub non_resource_urls: Vec<String>,
    /// `verbs`.
    pub verbs: Vec<String>,
}

/// Makes rules as RBAC can enforce them, and says what it cannot. Uses and objects are nothing that RBAC knows: a grant is
/// for the whole rule, until it expires.
pub(super) fn enforce(rules: &mut [Rule]) -> Vec<String> {
    let mut warnings = Vec::new();
    for rule in rules.iter_mut() {
        rule.by_group = true;
        rule.irrevocable = true;
        rule.uses = None;
        rule.covers = Covers::Rule;
        for pattern in &mut rule.actions {
            pattern.verbs = spelled_out(pattern);
        }
        // A role that is assumed comes with groups of its own.
        if rule.groups.is_empty() || rule.actions.iter().any(|pattern| !is_assumption(pattern)) {
            let group = group_of(rule);
            rule.groups.push(group);
        }
    }
    for rule in rules.iter() {
        let name = &rule.name;
        if rule.enforcement == Enforcement::Audit {
            warnings.push(format!("rule `{name}` does nothing: without webhooks there is nothing to record"));
            continue;
        }
        if rule.subjects.users.iter().any(|glob| glob == "*") {
            warnings.push(format!(
                "rule `{name}` is about everybody: all who can step up get its rights, whatever RBAC gives them today; name its \
                 `subjects`"
            ));
        }
        if !(rule.subjects.exclude_users.is_empty() && rule.subjects.exclude_groups.is_empty()) {
            warnings.push(format!(
                "rule `{name}`: whom it excludes is not asked and gets nothing from it; bind to them what they need"
            ));
        }
        if rule.assumed_roles().next().is_some() {
            warnings.push(format!(
                "rule `{name}`: whoever assumes its role may do all that the role may, whatever other rules protect"
            ));
        }
        let left_out = opened(rule, rules).left_out;
        warnings.extend(left_out.iter().map(|what| format!("rule `{name}`: {what}")));
    }
    warnings
}

/// What the group of `rule`, one of `rules`, opens.
pub fn opened(rule: &Rule, rules: &[Rule]) -> Opened {
    let mut opened = Opened::default();
    if rule.enforcement == Enforcement::Audit {
        return opened;
    }
    let yourself = format!("bind to {} yourself what is meant", group_of(rule));
    if rule.condition.is_some() {
        opened.left_out.push(format!("it is left out, because RBAC has no conditions; {yourself}"));
        return opened;
    }
    let stricter = rules.iter().find(|other| {
        other.name != rule.name
            && other.enforcement == Enforcement::Enforce
            && demands_more(other, rule)
            && meet(other, rule)
    });
    if let Some(stricter) = stricter {
        opened.left_out.push(format!(
            "it is left out, because its group would also open what rule `{}` protects more strictly; let both require the \
             same, or keep them apart",
            stricter.name
        ));
        return opened;
    }
    for pattern in rule.actions.iter().filter(|pattern| !is_assumption(pattern)) {
        translate(pattern, &yourself, &mut opened);
    }
    opened
}

fn is_assumption(pattern: &ActionPattern) -> bool {
    pattern.verbs.iter().all(|verb| verb == "assume")
}

/// Verbs as RBAC has to name them for all that the pattern protects: somebody who may `get` may `list` and `watch`.
fn spelled_out(pattern: &ActionPattern) -> Vec<String> {
    let any_name = pattern.names.iter().any(|name| name == "*");
    let mut all: Vec<String> = Vec::new();
    for verb in &pattern.verbs {
        let meant: &[&str] = match verb.as_str() {
            _ if !pattern.non_resource_urls.is_empty() => &[],
            "get" => &["get", "list", "watch"],
            "list" | "watch" => &["list", "watch"],
            "update" | "patch" => &["update", "patch"],
            "delete" if any_name => &["delete", "deletecollection"],
            _ => &[],
        };
        let plain = meant.is_empty().then_some(verb.as_str());
        for verb in plain.into_iter().chain(meant.iter().copied()) {
            if all.iter().all(|known| known != verb) {
                all.push(verb.to_owned());
            }
        }
    }
    all
}

fn translate(pattern: &ActionPattern, yourself: &str, opened: &mut Opened) {
    if !pattern.non_resource_urls.is_empty() {
        let (urls, unsayable) = split(&pattern.non_resource_urls, path);
        opened.leave_out("path", &unsayable, yourself);
        let verbs = pattern.verbs.iter().filter(|verb| *verb != "assume").cloned().collect();
        opened.add(None, RoleRule { non_resource_urls: urls, verbs, ..RoleRule::default() });
        return;
    }
    let (names, globs) = literals(&pattern.names);
    opened.leave_out("name", &globs, yourself);
    let (namespaces, globs) = literals(&pattern.namespaces);
    opened.leave_out("namespace", &globs, yourself);
    let (Some(names), Some(namespaces)) = (names, namespaces) else { return };
    let namespaces: Vec<Option<String>> =
        if namespaces.is_empty() { vec![None] } else { namespaces.into_iter().map(Some).collect() };

    let mut role_rules = connections(pattern, &names);
    let verbs = |dropped: &[&str]| {
        let all = pattern.verbs.iter().filter(|verb| !["assume", "connect"].contains(&verb.as_str()));
        all.filter(|verb| !dropped.contains(&verb.as_str())).cloned().collect::<Vec<_>>()
    };
    if !verbs(&[]).is_empty() {
        let sayable = |resource: &str| (!resource.ends_with("/*")).then(|| resource.to_owned());
        let (resources, unsayable) = split(&pattern.resources, sayable);
        opened.leave_out("resource", &unsayable, yourself);
        let (below, plain): (Vec<_>, Vec<_>) = resources.into_iter().partition(|resource| resource.contains('/'));
        // Which object is created, or which of a collection are deleted, RBAC does not see; below an object it does.
        let unseen: &[&str] = if names.is_empty() { &[] } else { &["create", "deletecollection"] };
        if pattern.verbs.iter().any(|verb| unseen.contains(&verb.as_str())) && !plain.is_empty() {
            opened.left_out.push(format!(
                "{} of certain names is left out, because RBAC sees no name there; {yourself}",
                pattern
                    .verbs
                    .iter()
                    .filter(|verb| unseen.contains(&verb.as_str()))
                    .cloned()
                    .collect::<Vec<_>>()
                    .join(", ")
            ));
        }
        for (resources, verbs) in [(plain, verbs(unseen)), (below, verbs(&[]))] {
            role_rules.push(RoleRule {
                api_groups: pattern.api_groups.clone(),
                resources,
                resource_names: names.clone(),
                verbs,
                ..RoleRule::default()
            });
        }
    }
    for namespace in namespaces {
        for role_rule in &role_rules {
            opened.add(namespace.clone(), role_rule.clone());
        }
    }
}

/// What `connect` stands for: the API server authorizes exec and the like as `get` or `create`, by the client's transport,
/// and the proxies by the method of the request that goes through.
fn connections(pattern: &ActionPattern, names: &[String]) -> Vec<RoleRule> {
    if pattern.verbs.iter().all(|verb| verb != "connect") {
        return Vec::new();
    }
    let meant = |(resource, subresource): &&(&str, &str)| {
        let subresource = Some((*subresource).to_owned());
        pattern.matches_resource(&Action { subresource, ..Action::new("connect", "", resource) })
    };
    let of = |proxies: bool, verbs: &[&str]| RoleRule {
        api_groups: vec![String::new()],
        resources: CONNECTS
            .iter()
            .filter(|(_, subresource)| (*subresource == "proxy") == proxies)
            .filter(meant)
            .map(|(resource, subresource)| format!("{resource}/{subresource}"))
            .collect(),
        resource_names: names.to_vec(),
        verbs: verbs.iter().map(ToString::to_string).collect(),
        ..RoleRule::default()
    };
    vec![of(false, &["get", "create"]), of(true, &["get", "create", "update", "patch", "delete"])]
}

impl Opened {
    fn add(&mut self, namespace: Option<String>, rule: RoleRule) {
        let is_about_something = !rule.resources.is_empty() || !rule.non_resource_urls.is_empty();
        if is_about_something && !rule.verbs.is_empty() {
            let rules = self.roles.entry(namespace).or_default();
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
    }

    fn leave_out(&mut self, what: &str, unsayable: &[String], yourself: &str) {
        for glob in unsayable {
            self.left_out.push(format!("{what} `{glob}` is left out, because RBAC cannot say it; {yourself}"));
        }
    }
}

/// The plain names of a list (none of them: any name) and its globs; `None` where nothing plain is left.
fn literals(globs: &[String]) -> (Option<Vec<String>>, Vec<String>) {
    if globs.iter().any(|glob| glob == "*") {
        return (Some(Vec::new()), Vec::new());
    }
    let plain = |glob: &str| (!is_glob(glob)).then(|| glob.strip_prefix('=').unwrap_or(glob).to_owned());
    let (plain, unsayable) = split(globs, plain);
    ((!plain.is_empty()).then_some(plain), unsayable)
}

/// A path as RBAC has it: a `*` at its end stands for any end, and nothing else is a wildcard.
fn path(glob: &str) -> Option<String> {
    let (text, is_literal) = glob.strip_prefix('=').map_or((glob, false), |text| (text, true));
    let stem = if is_literal { text } else { text.strip_suffix('*').unwrap_or(text) };
    (!stem.contains('*') && (is_literal || !stem.contains('?'))).then(|| text.to_owned())
}

fn split(all: &[String], sayable: impl Fn(&str) -> Option<String>) -> (Vec<String>, Vec<String>) {
    let (mut said, mut unsayable) = (Vec::new(), Vec::new());
    for item in all {
        match sayable(item) {
            Some(text) => said.push(text),
            None => unsayable.push(item.clone()),
        }
    }
    (said, unsayable)
}

/// Whether somebody who satisfies `rule` may not satisfy `other`.
fn demands_more(other: &Rule, rule: &Rule) -> bool {
    let shorter = |other: Option<std::time::Duration>, own: Option<std::time::Duration>| {
        other.is_some_and(|other| own.is_none_or(|own| other < own))
    };
    let weaker_acr = rule.acr.iter().any(|(provider, accepted)| {
        let wanted = other.acr.get(provider);
        accepted.iter().any(|acr| wanted.is_none_or(|wanted| !wanted.contains(acr)))
    });
    let pattern = |rule: &Rule| rule.reason.as_ref().map(|reason| reason.pattern.as_ref().map(ToString::to_string));
    weaker_acr
        || shorter(other.max_age, rule.max_age)
        || other.ttl < rule.ttl
        || (other.reason.is_some() && pattern(other) != pattern(rule))
}

/// Whether the group of `rule` may open a request that `stricter` protects. Leans towards yes.
fn meet(stricter: &Rule, rule: &Rule) -> bool {
    stricter.actions.iter().any(|stricter| rule.actions.iter().any(|opened| patterns_meet(stricter, opened)))
}

fn patterns_meet(stricter: &ActionPattern, opened: &ActionPattern) -> bool {
    let same = |a: &String, b: &String| a == b || a == "*" || b == "*";
    let any = |a: &[String], b: &[String], meet: &dyn Fn(&String, &String) -> bool| {
        a.iter().any(|a| b.iter().any(|b| meet(a, b)))
    };
    let path = opened.non_resource_urls.first();
    let verbs = |protected: &String, opened: &String| {
        let assumed = protected == "assume" || opened == "assume";
        let opens = || Action { path: path.cloned(), ..Action::new(opened, "", "") }.normalized();
        // A connection is opened as what it is for RBAC: see `connections`.
        let connects = |connect: &String, other: &String| {
            connect == "connect" && ["get", "create", "update", "patch", "delete"].contains(&other.as_str())
        };
        !assumed
            && (opened == "*"
                || verb_protects(protected, &opens())
                || connects(protected, opened)
                || connects(opened, protected))
    };
    // Whom one may act as is the same in either, see `Action::normalized`.
    let groups = |a: &String, b: &String| {
        same(a, b) || [a, b].iter().all(|group| IMPERSONATION_GROUPS.contains(&group.as_str()))
    };
    let globs = |a: &String, b: &String| match (is_glob(a), is_glob(b)) {
        (true, true) => true,
        (_, false) => glob_matches(a, b.strip_prefix('=').unwrap_or(b)),
        (false, true) => glob_matches(b, a.strip_prefix('=').unwrap_or(a)),
    };
    let parts = |resource: &str| match resource.split_once('/') {
        Some((resource, below)) => (resource.to_owned(), Some(below.to_owned())),
        None => (resource.to_owned(), None),
    };
    let resources = |a: &String, b: &String| {
        let ((of_a, below_a), (of_b, below_b)) = (parts(a), parts(b));
        let below = match (&below_a, &below_b) {
            (None, None) => true,
            (Some(a), Some(b)) => same(a, b),
            _ => false,
        };
        a == "*" || b == "*" || same(&of_a, &of_b) && below
    };
    if stricter.non_resource_urls.is_empty() != opened.non_resource_urls.is_empty() {
        return false;
    }
    any(&stricter.verbs, &opened.verbs, &verbs)
        && (any(&stricter.non_resource_urls, &opened.non_resource_urls, &globs)
            || any(&stricter.api_groups, &opened.api_groups, &groups)
                && any(&stricter.resources, &opened.resources, &resources)
                && any(&stricter.namespaces, &opened.namespaces, &globs)
                && any(&stricter.names, &opened.names, &globs))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::server::config::{Level, Levels, Mode};
    use crate::server::policy::Policy;

    fn policy(rules: &str) -> Policy {
        let level = |name: &str| Level { name: name.to_owned(), acr_values: vec![format!("urn:{name}")] };
        let providers = BTreeMap::from([("corp".to_owned(), vec![level("mfa"), level("hwk")])]);
        let levels = Levels { providers, max_ttl: Duration::from_mins(15), mode: Mode::Groups, authorization: false };
        let text = format!("defaults: {{require: {{acr: [mfa], maxAge: 5m}}}}\nrules:\n{rules}");
        Policy::parse(&text, "policy.yaml", &levels).unwrap()
    }

    fn rule(name: &str, action: &str, more: &str) -> String {
        format!("- name: {name}\n  subjects: {{groups: [developers]}}\n  actions: [{{{action}}}]\n{more}")
    }

    /// The only rule's roles, `NAMESPACE: VERBS RESOURCES NAMES`, and what is left out.
    fn roles(action: &str, more: &str) -> (Vec<String>, String) {
        let policy = policy(&rule("it", action, more));
        let opened = opened(&policy.rules()[0], policy.rules());
        let text = |(namespace, rule): (&Option<String>, &RoleRule)| {
            let what = [&rule.resources, &rule.non_resource_urls].into_iter().flatten().cloned().collect::<Vec<_>>();
            let names = if rule.resource_names.is_empty() { "*".to_owned() } else { rule.resource_names.join(",") };
            format!("{}: {} {} {names}", namespace.as_deref().unwrap_or("-"), rule.verbs.join(","), what.join(","))
        };
        let all = opened.roles.iter().flat_map(|(namespace, rules)| rules.iter().map(move |rule| (namespace, rule)));
        (all.map(text).collect(), opened.left_out.join("; "))
    }

    #[test]
    fn verbs_are_what_the_rule_protects_in_the_words_of_rbac() {
        for (action, expected) in [
            (
                "verbs: [get], apiGroups: [''], resources: [secrets], namespaces: [prod, staging]",
                vec!["prod: get,list,watch secrets *", "staging: get,list,watch secrets *"],
            ),
            (
                "verbs: [delete], apiGroups: [''], resources: [namespaces], names: [prod, =a]",
                vec!["-: delete namespaces prod,a"],
            ),
            (
                "verbs: [delete, update], apiGroups: [apps], resources: [deployments, deployments/scale]",
                vec![
                    "-: delete,deletecollection,update,patch deployments *",
                    "-: delete,deletecollection,update,patch deployments/scale *",
                ],
            ),
            (
                "verbs: [connect], apiGroups: [''], resources: [pods/exec, services/proxy], namespaces: [pay]",
                vec!["pay: get,create pods/exec *", "pay: get,create,update,patch,delete services/proxy *"],
            ),
            (
                "verbs: [connect], apiGroups: [''], resources: ['pods/*']",
                vec![
                    "-: get,create pods/exec,pods/attach,pods/portforward *",
                    "-: get,create,update,patch,delete pods/proxy *",
                ],
            ),
            ("verbs: ['*'], apiGroups: ['*'], resources: ['*']", vec!["-: * * *"]),
            ("verbs: [get], nonResourceURLs: [/metrics, '/debug/*']", vec!["-: get /metrics,/debug/* *"]),
            (
                "verbs: [impersonate], apiGroups: [''], resources: [users], names: [bob]",
                vec!["-: impersonate users bob"],
            ),
        ] {
            let (roles, left_out) = roles(action, "");
            assert_eq!(
                (roles, left_out.as_str()),
                (expected.iter().map(ToString::to_string).collect(), ""),
                "{action}"
            );
        }
    }

    #[test]
    fn what_rbac_cannot_say_is_left_out_and_told_and_never_widened() {
        for (action, more, expected, told) in [
            (
                "verbs: [delete], apiGroups: [''], resources: [namespaces], names: [prod, 'prod-*']",
                "",
                vec!["-: delete namespaces prod"],
                "name `prod-*` is left out",
            ),
            (
                "verbs: [get], apiGroups: [''], resources: [secrets], names: ['db-*']",
                "",
                vec![],
                "name `db-*` is left out",
            ),
            (
                "verbs: [get], apiGroups: [''], resources: [secrets], namespaces: ['prod-?']",
                "",
                vec![],
                "bind to stepup:it yourself",
            ),
            (
                "verbs: [create, delete, deletecollection], apiGroups: [''], resources: [secrets, serviceaccounts/token], names: [db]",
                "",
                vec!["-: delete secrets db", "-: create,delete,deletecollection serviceaccounts/token db"],
                "create, deletecollection of certain names",
            ),
            ("verbs: [update], apiGroups: [''], resources: ['pods/*']", "", vec![], "resource `pods/*` is left out"),
            ("verbs: [get], nonResourceURLs: ['/a*b']", "", vec![], "path `/a*b` is left out"),
            (
                "verbs: [delete], apiGroups: [''], resources: [pods]",
                "  condition: object.metadata.name == 'x'\n",
                vec![],
                "RBAC has no conditions",
            ),
        ] {
            let (roles, left_out) = roles(action, more);
            assert_eq!(roles, expected, "{action}");
            assert!(left_out.contains(told), "{action}: {left_out}");
        }
    }

    #[test]
    fn a_grant_is_for_the_whole_rule_and_carries_its_group() {
        let policy = policy(&rule(
            "it",
            "verbs: [get], apiGroups: [''], resources: [secrets]",
            "  grant: {uses: 3, covers: object}\n",
        ));
        let it = &policy.rules()[0];
        assert_eq!((it.groups.as_slice(), it.uses, it.covers), (&["stepup:it".to_owned()][..], None, Covers::Rule));
        let warnings = policy.warnings().join("\n");
        assert!(warnings.contains("`grant.uses` is not enforced") && warnings.contains("`grant.covers`"), "{warnings}");
        // No guardrails: a group that may impersonate anybody would be given to everybody.
        assert_eq!(policy.rules().len(), 1);
    }

    #[test]
    fn no_group_opens_what_another_rule_protects_more_strictly() {
        let secrets = |namespaces: &str| {
            format!("verbs: [get], apiGroups: [''], resources: [secrets], namespaces: [{namespaces}]")
        };
        let strict = "  require: {acr: [hwk], maxAge: 5m}\n";
        let both = |one: &str, other: &str, more: &str| {
            let policy = policy(&(rule("wide", one, "") + &rule("strict", other, more)));
            let roles = |rule: usize| opened(&policy.rules()[rule], policy.rules()).roles.len();
            (roles(0), roles(1))
        };
        assert_eq!(both(&secrets("dev, prod"), &secrets("prod"), strict), (0, 1));
        assert_eq!(both(&secrets("dev"), &secrets("prod"), strict), (1, 1));
        assert_eq!(both(&secrets("dev, prod"), &secrets("prod"), ""), (2, 1), "each is as strict as the other");
        // Each of these is answered with the object, though nothing may come of it.
        for verb in ["update", "patch", "delete", "deletecollection", "list"] {
            let wide =
                format!("verbs: [{verb}], apiGroups: [''], resources: [secrets, configmaps], namespaces: [prod]");
            assert_eq!(both(&wide, &secrets("prod"), strict), (0, 1), "{verb}");
        }
        // Who may read may not write, and who may create has seen nothing.
        for verb in ["update", "delete", "create", "deletecollection"] {
            let stricter = format!("verbs: [{verb}], apiGroups: [''], resources: [secrets], namespaces: [prod]");
            assert_eq!(both(&secrets("prod"), &stricter, strict), (1, 1), "{verb}");
        }
        let create = "verbs: [create], apiGroups: [''], resources: [secrets], namespaces: [prod]";
        assert_eq!(both(create, &secrets("prod"), strict), (1, 1));
        let listed = "verbs: [list], apiGroups: [''], resources: [secrets], namespaces: [prod]";
        for (verb, expected) in [("deletecollection", (0, 1)), ("update", (1, 1))] {
            let wide = format!("verbs: [{verb}], apiGroups: [''], resources: [secrets], namespaces: [prod]");
            assert_eq!(both(&wide, listed, strict), expected, "{verb}");
        }
        let one = "verbs: [delete], apiGroups: [''], resources: [pods], namespaces: [prod], names: [a]";
        let all = "verbs: [deletecollection], apiGroups: [''], resources: [pods], namespaces: [prod]";
        assert_eq!(both(all, one, strict), (0, 1));
        assert_eq!(both(one, all, strict), (1, 1));
        let path = |verb: &str| format!("verbs: [{verb}], nonResourceURLs: [/debug/pprof]");
        assert_eq!(both(&path("post"), &path("get"), strict), (0, 1), "most answer whatever the method");
        assert_eq!(both(&path("get"), &path("post"), strict), (1, 1));
        let user =
            |group: &str| format!("verbs: [impersonate], apiGroups: ['{group}'], resources: [users], names: [bob]");
        assert_eq!(both(&user(""), &user("authentication.k8s.io"), strict), (0, 1));
        let list = "verbs: [list], apiGroups: ['*'], resources: ['*']";
        assert_eq!(both(&secrets("dev"), list, strict), (0, 1));
        let exec = "verbs: [connect], apiGroups: [''], resources: [pods/exec]";
        assert_eq!(both("verbs: [create], apiGroups: [''], resources: ['*']", exec, strict), (0, 1));
        assert_eq!(both("verbs: [create], apiGroups: [''], resources: [pods]", exec, strict), (1, 1));
        let proxy = "verbs: [connect], apiGroups: [''], resources: [services/proxy]";
        for verb in ["update", "patch", "delete"] {
            let below = format!("verbs: [{verb}], apiGroups: [''], resources: [services/proxy]");
            assert_eq!(both(proxy, &below, strict), (0, 1), "{verb}");
        }
    }
}
