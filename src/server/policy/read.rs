//! The policy file, from text to rules. Every problem in it is told at once.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use regex::Regex;

use super::condition::Condition;
use super::{Covers, Enforcement, Reason, Rule, Subjects, groups, matching};
use crate::action::{self, ActionPattern, is_glob};
use crate::server::config::{Levels, Mode, one_of, positive};
use crate::server::document::{self, Fields, FromNode, Mistake, Node, Problems, Value, globs, nearest, show_duration};

/// Rules, and what is allowed and probably not meant.
pub(super) struct Draft {
    pub(super) rules: Vec<Rule>,
    pub(super) warnings: Vec<String>,
}

/// Name of the built-in rule.
pub(super) const GUARDRAILS: &str = "guardrails";
/// What a grant lives when the policy does not say.
const USUAL_TTL: Duration = Duration::from_mins(5);

pub(super) fn read(text: &str, file: &str, levels: &Levels) -> Result<Draft, String> {
    let problems = Problems::new(file);
    let draft = document::parse(text, &problems).and_then(|root| {
        Fields::of(&root, "", &problems).map(|fields| Reader { levels, warnings: vec![] }.policy(fields))
    });
    match draft {
        Some(draft) if problems.is_empty() => Ok(draft),
        _ => Err(problems.to_string()),
    }
}

struct Reader<'l> {
    levels: &'l Levels,
    warnings: Vec<String>,
}

/// What a rule requires, as far as the file says.
#[derive(Clone, Default)]
struct Require {
    acr: Option<BTreeMap<String, Vec<String>>>,
    max_age: Option<Duration>,
    reason: Option<ReasonTerms>,
}

/// What a file says of the reason; not needing one has to be said where the defaults ask for it.
#[derive(Clone)]
enum ReasonTerms {
    NotRequired,
    Required(Reason),
}

/// What a rule grants, as far as the file says.
#[derive(Clone, Default)]
struct Grant {
    ttl: Option<Duration>,
    uses: Option<Uses>,
    covers: Option<Covers>,
    groups: Option<Vec<String>>,
}

impl Reader<'_> {
    fn policy(mut self, mut root: Fields<'_>) -> Draft {
        let (mut usual_require, mut usual_grant) = (Require::default(), Grant::default());
        if let Some(mut defaults) = root.fields("defaults") {
            usual_require = defaults.fields("require").map(|fields| self.require(fields)).unwrap_or_default();
            usual_grant = defaults.fields("grant").map(|fields| self.grant(fields)).unwrap_or_default();
            defaults.finish();
        }
        let modes = [("enforce", Some(Enforcement::Enforce)), ("audit", Some(Enforcement::Audit)), ("off", None)];
        let guardrails = one_of(&mut root, "guardrails", &modes, Some(Enforcement::Enforce));

        let mut names = HashSet::from([GUARDRAILS.to_owned()]);
        let mut rules = Vec::new();
        for mut fields in root.maps("rules") {
            let name = fields.required::<String>("name");
            if !name.is_empty() {
                fields.rename(name.clone());
                if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
                    fields.report("name", format_args!("`{name}` may have only the characters a-z, 0-9 and -"));
                } else if name == GUARDRAILS {
                    fields.report("name", "the built-in rule has this name; choose another one");
                } else if !names.insert(name.clone()) {
                    fields.report("name", format_args!("there is another rule named `{name}`; names must be unique"));
                }
            }
            rules.push(self.rule(name, fields, &usual_require, &usual_grant));
        }
        if !root.has("rules") {
            root.missing("rules");
        }
        root.finish();
        if self.levels.mode == Mode::Groups {
            self.warnings.push(
                "mode: groups has no guardrails: see to it that RBAC lets nobody impersonate, bind, escalate or write admission \
                 configuration unasked"
                    .to_owned(),
            );
            self.warnings.extend(groups::enforce(&mut rules));
        } else if let Some(enforcement) = guardrails {
            rules.push(self.guardrails(enforcement, usual_require, usual_grant));
        } else {
            self.warnings.push(
                "guardrails are off: whoever may edit webhook configurations can switch step-up off unasked".to_owned(),
            );
        }
        if self.levels.mode == Mode::Webhooks && !self.levels.authorization {
            self.warnings.extend(rules.iter().flat_map(without_authorizer));
        }
        for rule in &rules {
            if rule.max_age.is_none() && rule.enforcement == Enforcement::Enforce {
                self.warnings.push(format!(
                    "rule `{}` has no maxAge: a sign-in of any age will do, a base token's too where its acr is strong enough",
                    rule.name
                ));
            }
            for role in rule.assumed_roles().filter(|role| is_glob(role)) {
                self.warnings.push(format!(
                    "rule `{}` names cluster roles as `{role}`: `render` cannot tell which they are; bind its groups yourself",
                    rule.name
                ));
            }
            for provider in rule.acr.iter().filter(|(_, accepted)| accepted.is_empty()).map(|(provider, _)| provider) {
                self.warnings.push(format!(
                    "rule `{}`: nobody who signs in at `{provider}` can satisfy it; give that provider a level of this name",
                    rule.name
                ));
            }
        }
        Draft { rules, warnings: self.warnings }
    }

    fn rule(&mut self, name: String, mut fields: Fields<'_>, usual_require: &Require, usual_grant: &Grant) -> Rule {
        let description = fields.optional("description").unwrap_or_default();
        let subjects = fields.fields("subjects").map_or_else(Subjects::everybody, read_subjects);
        let mut actions = Vec::new();
        let maps = fields.maps("actions");
        if maps.is_empty() {
            let why = "a rule without actions protects nothing; name verbs, apiGroups and resources";
            if fields.has("actions") { fields.report("actions", why) } else { fields.missing("actions") }
        }
        for map in maps {
            actions.push(self.pattern(map));
        }
        let condition = fields.optional::<String>("condition").and_then(|source| match Condition::compile(&source) {
            Ok(condition) => Some(condition),
            Err(error) => {
                fields.report("condition", error);
                None
            }
        });
        let require = fields.fields("require").map(|fields| self.require(fields)).unwrap_or_default();
        let grant = fields.fields("grant").map(|fields| self.grant(fields)).unwrap_or_default();
        let modes = [("enforce", Enforcement::Enforce), ("audit", Enforcement::Audit)];
        let enforcement = one_of(&mut fields, "enforcement", &modes, Enforcement::Enforce);
        if self.levels.mode == Mode::Groups {
            let limits = [("uses", matches!(grant.uses, Some(Uses::Times(_)))), ("covers", grant.covers.is_some())];
            for (key, _) in limits.into_iter().filter(|(_, is_said)| *is_said) {
                self.warnings.push(format!(
                    "rule `{name}`: `grant.{key}` is not enforced in mode: groups; its group opens the whole rule until the token \
                     expires"
                ));
            }
        }
        let rule = self.assemble(
            Rule { description, subjects, condition, ..usual(name, actions, enforcement) },
            require,
            usual_require.clone(),
            grant,
            usual_grant.clone(),
        );
        let irrevocable = !rule.groups.is_empty() && !self.levels.authorization;
        let rule = Rule { irrevocable, ..rule };
        let assumes = rule.actions.iter().any(|pattern| pattern.verbs.iter().any(|verb| verb == "assume"));
        if assumes && rule.groups.is_empty() {
            fields.report(
                "grant",
                "a role is assumed through groups; name at least one in `grant.groups`, such as stepup:admin",
            );
        }
        fields.finish();
        rule
    }

    /// Fills in what the rule says, then what the defaults say, then what is usual.
    fn assemble(&self, rule: Rule, require: Require, usual_require: Require, grant: Grant, usual: Grant) -> Rule {
        Rule {
            acr: require.acr.or(usual_require.acr).unwrap_or_else(|| self.strictest()),
            max_age: require.max_age.or(usual_require.max_age),
            reason: match require.reason.or(usual_require.reason) {
                Some(ReasonTerms::Required(reason)) => Some(reason),
                Some(ReasonTerms::NotRequired) | None => None,
            },
            ttl: grant.ttl.or(usual.ttl).unwrap_or(USUAL_TTL).min(self.levels.max_ttl),
            uses: match grant.uses.or(usual.uses) {
                Some(Uses::Unlimited) => None,
                Some(Uses::Times(times)) => Some(times),
                None => Some(1),
            },
            covers: grant.covers.or(usual.covers).unwrap_or(Covers::Object),
            groups: grant.groups.or(usual.groups).unwrap_or_default(),
            ..rule
        }
    }

    /// What could switch us off, or forge the credential that carries a grant.
    ///
    /// Admission webhooks are not called for the admission configuration itself, so whoever edits it edits us away;
    /// extra values, which name the grant of a request, can be set by whoever may impersonate `userextras`; and whoever
    /// may impersonate a system user or a service account does what no rule is about.
    fn guardrails(&self, enforcement: Enforcement, require: Require, mut grant: Grant) -> Rule {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let pattern = |verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]| ActionPattern {
            verbs: owned(verbs),
            api_groups: owned(groups),
            resources: owned(resources),
            namespaces: owned(&["*"]),
            names: owned(names),
            non_resource_urls: vec![],
        };
        let writes = ["create", "update", "patch", "delete", "deletecollection"];
        let actions = vec![
            pattern(&writes, &["admissionregistration.k8s.io"], &["*"], &["*"]),
            // Whatever the verb: nothing else can be done with them.
            pattern(&["*"], &["authentication.k8s.io"], &["userextras", "userextras/*"], &["*"]),
            // Machines are outside every rule, and `stepup:` groups are what grants give.
            pattern(&["impersonate"], &[""], &["users", "groups"], &["system:*", "stepup:*"]),
            pattern(&["impersonate"], &[""], &["serviceaccounts"], &["*"]),
        ];
        let description =
            "change what step-up rests on: admission webhooks and policies, impersonated machines and credentials";
        let rule = Rule {
            description: description.to_owned(),
            subjects: Subjects::everybody(),
            ..usual(GUARDRAILS.to_owned(), actions, enforcement)
        };
        // Groups are for assumed roles: no guardrail ever hands one out.
        grant.groups = None;
        self.assemble(rule, require, Require::default(), grant, Grant::default())
    }

    fn pattern(&mut self, mut fields: Fields<'_>) -> ActionPattern {
        let verbs = fields.required::<Vec<String>>("verbs");
        self.check_verbs(&fields, &verbs);
        let api_groups = fields.optional::<Vec<String>>("apiGroups").unwrap_or_default();
        let mut resources = fields.optional::<Vec<String>>("resources").unwrap_or_default();
        let non_resource_urls = globs(fields.optional("nonResourceURLs").unwrap_or_default());
        let restricted = fields.has("namespaces") || fields.has("names");
        let mut some = |key| match fields.optional(key).map(globs) {
            Some(list) if list.is_empty() => {
                fields.report(key, "an empty list matches nothing; leave it out for everything");
                list
            }
            Some(list) => list,
            None => vec!["*".to_owned()],
        };
        let (namespaces, names) = (some("namespaces"), some("names"));
        if non_resource_urls.is_empty() {
            if resources.is_empty() {
                fields.report("resources", "name at least one resource, or nonResourceURLs");
            }
            if api_groups.is_empty() {
                fields
                    .report("apiGroups", "name the API groups of the resources: [\"\"] is the core group, [\"*\"] all");
            }
        } else if !resources.is_empty() || !api_groups.is_empty() || restricted {
            fields.report("nonResourceURLs", "paths and resources do not mix; make it two actions");
        }
        for group in api_groups.iter().filter(|group| *group != "*" && is_glob(group)) {
            fields.report("apiGroups", format_args!("`{group}`: an API group is written out, or `*` for all"));
        }
        for group in api_groups.iter().filter(|group| group.contains('/')) {
            fields.report("apiGroups", format_args!("`{group}`: the group without the version, such as `apps`"));
        }
        for resource in &resources {
            if let Some(mistake) = resource_mistake(resource) {
                fields.report("resources", format_args!("`{resource}`: {mistake}"));
            }
        }
        // Of constrained impersonation: see `Action::normalized`.
        let impersonates =
            !verbs.is_empty() && verbs.iter().all(|verb| verb == "impersonate" || verb.starts_with("impersonate:"));
        if impersonates && resources.iter().any(|resource| resource == "nodes") {
            let mistake =
                "`nodes`: whoever impersonates a node is the user `system:node:NAME`; name that among `users`";
            fields.report("resources", mistake);
        }
        for path in non_resource_urls.iter().filter(|path| !path.starts_with(['/', '*', '='])) {
            fields.report("nonResourceURLs", format_args!("`{path}`: a path begins with `/`"));
        }
        fields.finish();
        if verbs.iter().any(|verb| matches!(verb.as_str(), "get" | "*")) {
            let mut others: Vec<String> = resources.iter().flat_map(|resource| other_ways_to(resource)).collect();
            others.retain(|other| !resources.contains(other));
            resources.extend(others);
        }
        ActionPattern { verbs, api_groups, resources, namespaces, names, non_resource_urls }
    }

    fn check_verbs(&mut self, fields: &Fields<'_>, verbs: &[String]) {
        if verbs.is_empty() && fields.has("verbs") {
            fields.report("verbs", "name at least one verb, or `*`");
        }
        let known = || action::VERBS.into_iter().chain(MORE_VERBS);
        for verb in verbs.iter().map(String::as_str).filter(|verb| known().all(|known| known != *verb)) {
            let hint = match verb {
                "exec" | "attach" | "portforward" | "port-forward" | "proxy" => {
                    Some("not a verb: write verbs [connect] and resources such as [pods/exec]".to_owned())
                }
                "scale" => {
                    Some("not a verb: write verbs [update] and resources such as [deployments/scale]".to_owned())
                }
                "apply" | "edit" | "replace" | "rollout" | "label" => {
                    Some("not a verb: write [create, update]".to_owned())
                }
                "read" => Some("not a verb: write [get, list, watch]".to_owned()),
                "write" => Some("not a verb: write [create, update, delete]".to_owned()),
                "" => Some("empty".to_owned()),
                verb if verb.contains(['*', '?', ' ']) => Some("a verb is written out, or `*` for all".to_owned()),
                verb if verb.starts_with("impersonate") => None,
                verb => nearest(verb, known()).map(|near| format!("unknown verb: did you mean `{near}`?")),
            };
            match hint {
                Some(hint) => fields.report("verbs", format_args!("`{verb}`: {hint}")),
                None if verb.starts_with("impersonate") => {}
                None => self.warnings.push(format!("`{}`: `{verb}` is no verb of Kubernetes", fields.name("verbs"))),
            }
        }
    }

    fn require(&self, mut fields: Fields<'_>) -> Require {
        let acr = fields.optional::<Vec<String>>("acr").map(|wanted| {
            if wanted.is_empty() {
                fields.report("acr", "name at least one level, or leave it out for the strictest one");
            }
            self.accepted(&wanted, &fields)
        });
        let max_age = fields.optional("maxAge");
        if max_age.is_some_and(|age: Duration| age < Duration::from_secs(10)) {
            fields.report("maxAge", "a sign-in takes longer than this; take 1m or more");
        }
        let reason = fields.fields("reason").map(read_reason);
        fields.finish();
        Require { acr, max_age, reason }
    }

    /// The acr values that satisfy one of `wanted`, by provider: a level means itself and the higher ones.
    fn accepted(&self, wanted: &[String], fields: &Fields<'_>) -> BTreeMap<String, Vec<String>> {
        let all = || self.levels.providers.values().flatten();
        for wanted in wanted {
            let known = all().any(|level| level.name == *wanted || level.acr_values.contains(wanted));
            if !known && !wanted.contains(':') {
                let names: Vec<_> = super::distinct(all().map(|level| level.name.clone()));
                let hint = match nearest(wanted, names.iter().map(String::as_str)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("the configuration has {}; a plain acr value has a `:`", names.join(", ")),
                };
                fields.report("acr", format_args!("unknown level `{wanted}`: {hint}"));
            }
        }
        let literal = |acr: &String| !all().any(|level| level.name == *acr || level.acr_values.contains(acr));
        let by_provider = self.levels.providers.iter().map(|(provider, levels)| {
            let accepted =
                wanted.iter().flat_map(|wanted| match levels.iter().position(|level| level.name == *wanted) {
                    Some(lowest) => levels[lowest..].iter().flat_map(|level| level.acr_values.clone()).collect(),
                    None if literal(wanted) || levels.iter().any(|level| level.acr_values.contains(wanted)) => {
                        vec![wanted.clone()]
                    }
                    None => vec![],
                });
            (provider.clone(), super::distinct(accepted))
        });
        by_provider.collect()
    }

    fn strictest(&self) -> BTreeMap<String, Vec<String>> {
        let values = |levels: &Vec<crate::server::config::Level>| {
            levels.last().map(|level| level.acr_values.clone()).unwrap_or_default()
        };
        self.levels.providers.iter().map(|(provider, levels)| (provider.clone(), values(levels))).collect()
    }

    fn grant(&self, mut fields: Fields<'_>) -> Grant {
        let ttl = fields.has("ttl").then(|| positive(&mut fields, "ttl", USUAL_TTL));
        if let Some(ttl) = ttl.filter(|ttl| *ttl > self.levels.max_ttl) {
            fields.report(
                "ttl",
                format_args!(
                    "{} is longer than token.maxTtl of the configuration ({}); lower it, or raise that and render again",
                    show_duration(ttl),
                    show_duration(self.levels.max_ttl)
                ),
            );
        }
        let all = [
            ("object", Some(Covers::Object)),
            ("kind", Some(Covers::Kind)),
            ("namespace", Some(Covers::Namespace)),
            ("rule", Some(Covers::Rule)),
        ];
        let grant = Grant {
            ttl,
            uses: fields.optional("uses"),
            covers: one_of(&mut fields, "covers", &all, None),
            groups: fields.optional("groups"),
        };
        for group in grant.groups.iter().flatten().filter(|group| {
            group.strip_prefix("stepup:").is_none_or(str::is_empty)
                || is_glob(group)
                || group.contains(char::is_whitespace)
        }) {
            fields.report(
                "groups",
                format_args!("`{group}`: a group that a grant adds begins with `stepup:`, such as stepup:admin"),
            );
        }
        fields.finish();
        grant
    }
}

/// What becomes of a rule where the API server does not ask about what admission never sees.
fn without_authorizer(rule: &Rule) -> Vec<String> {
    let name = &rule.name;
    let unseen: Vec<String> = rule.actions.iter().filter_map(matching::unseen_by_admission).collect();
    let mut warnings = Vec::new();
    if !unseen.is_empty() {
        let what = super::distinct(unseen.into_iter()).join("; ");
        warnings.push(format!(
            "rule `{name}` does not hold for {what}: admission never sees that, and `webhooks.authorization` is false"
        ));
    }
    if rule.irrevocable {
        let groups = rule.groups.join(", ");
        warnings.push(format!(
            "rule `{name}`: {groups} cannot be taken away before the token expires: nobody looks the grant up while \
             `webhooks.authorization` is false"
        ));
    }
    warnings
}

/// Subresources that show the object itself, whole: who reads or changes `pods/status` is answered with the pod. RBAC's roles
/// `view` and `edit` give them beside the resource.
fn other_ways_to(resource: &str) -> impl Iterator<Item = String> + use<'_> {
    let subresources: &[&str] = match resource {
        "pods" => &["status", "ephemeralcontainers", "resize"],
        "namespaces" => &["status", "finalize"],
        "certificatesigningrequests" => &["status", "approval"],
        // What is a subresource itself, what means them all, and what has none.
        _ if resource.contains(['/', '*']) => &[],
        "secrets"
        | "configmaps"
        | "events"
        | "endpoints"
        | "serviceaccounts"
        | "podtemplates"
        | "limitranges"
        | "roles"
        | "rolebindings"
        | "clusterroles"
        | "clusterrolebindings" => &[],
        _ => &["status"],
    };
    subresources.iter().map(move |subresource| format!("{resource}/{subresource}"))
}

/// A rule that grants what is usual, and requires nothing yet.
fn usual(name: String, actions: Vec<ActionPattern>, enforcement: Enforcement) -> Rule {
    Rule {
        name,
        description: String::new(),
        subjects: Subjects::default(),
        actions,
        condition: None,
        enforcement,
        acr: BTreeMap::new(),
        max_age: None,
        reason: None,
        ttl: USUAL_TTL,
        uses: Some(1),
        covers: Covers::Object,
        groups: vec![],
        by_group: false,
        irrevocable: false,
    }
}

/// What a policy may name beside [`action::VERBS`]: all of them, verbs of policies and of non-resource requests, and `assume`,
/// which is ours.
const MORE_VERBS: [&str; 5] = ["*", "use", "assume", "post", "put"];

fn resource_mistake(resource: &str) -> Option<&'static str> {
    let parts: Vec<_> = resource.split('/').collect();
    if parts.len() > 2 || parts.iter().any(|part| part.is_empty()) {
        Some("a resource is written `pods` or `pods/exec`")
    } else if parts.iter().any(|part| *part != "*" && is_glob(part)) {
        Some("a resource is written out; `*` stands for all, `*/scale` for one subresource of all")
    } else if resource.contains(|char: char| char.is_ascii_uppercase()) {
        Some("a resource is the plural in lower case, as `kubectl api-resources` shows it, not the kind")
    } else if parts[0].contains('.') {
        Some("the resource without its group; that goes to `apiGroups`")
    } else {
        None
    }
}

fn read_subjects(mut fields: Fields<'_>) -> Subjects {
    let users = fields.optional("users").map(globs);
    let groups = fields.optional("groups").map(globs);
    let (mut exclude_users, mut exclude_groups) = (vec![], vec![]);
    if let Some(mut exclude) = fields.fields("exclude") {
        exclude_users = globs(exclude.optional("users").unwrap_or_default());
        exclude_groups = globs(exclude.optional("groups").unwrap_or_default());
        exclude.finish();
    }
    let named = users.as_ref().is_some_and(|list| !list.is_empty()) || groups.as_ref().is_some_and(|l| !l.is_empty());
    if !named && (users.is_some() || groups.is_some()) {
        let key = if users.is_some() { "users" } else { "groups" };
        fields.report(key, "the rule would be about nobody; leave `users` and `groups` out for every person");
    }
    fields.finish();
    let users = if named { users.unwrap_or_default() } else { vec!["*".to_owned()] };
    Subjects { users, groups: groups.unwrap_or_default(), exclude_users, exclude_groups }
}

/// The longest pattern or hint that fits a prompt.
const MAX_REASON_TEXT: usize = 500;

fn read_reason(mut fields: Fields<'_>) -> ReasonTerms {
    let required = fields.optional("required").unwrap_or(true);
    let pattern = fields.optional::<String>("pattern").and_then(|source| {
        if source.len() > MAX_REASON_TEXT {
            fields.report("pattern", format_args!("is longer than {MAX_REASON_TEXT} characters"));
            return None;
        }
        // On its own first, so that a stray parenthesis is not balanced by ours.
        match Regex::new(&source).and_then(|_| Regex::new(&format!(r"\A(?:{source})\z"))) {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                let text = error.to_string();
                let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
                fields.report("pattern", format_args!("not a regular expression: {last}"));
                None
            }
        }
    });
    let hint = fields.optional::<String>("hint");
    if hint.as_ref().is_some_and(|hint| hint.len() > MAX_REASON_TEXT) {
        fields.report("hint", format_args!("is longer than {MAX_REASON_TEXT} characters"));
    }
    if !required && (pattern.is_some() || hint.is_some()) {
        fields.report("required", "a reason with a pattern or a hint is required; leave this out or drop those");
    }
    fields.finish();
    if required { ReasonTerms::Required(Reason { pattern, hint }) } else { ReasonTerms::NotRequired }
}

/// How often a grant may be used.
#[derive(Clone, Copy)]
enum Uses {
    Times(u32),
    Unlimited,
}

impl FromNode for Uses {
    fn from_node(node: &Node) -> Result<Self, Mistake> {
        match &node.value {
            Value::Integer(0) => Err(Mistake::from(
                "a grant that may be used 0 times is none; take 1, or drop the rule's users from `canStepUp`"
                    .to_owned(),
            )),
            Value::Integer(times) if u32::try_from(*times).is_ok() => {
                Ok(Self::Times(u32::try_from(*times).unwrap_or(1)))
            }
            Value::Text(text) if text == "unlimited" => Ok(Self::Unlimited),
            other => Err(Mistake::from(format!("expected a number such as 1, or unlimited, not {other}"))),
        }
    }
}
