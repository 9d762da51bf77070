//! What people type after `--for`, as actions: `delete ns prod`, `scale deploy/web`, `get secrets,configmaps -A`.
//!
//! Pure: no cluster is asked. Built-in kinds are known by all their names; custom resources are written with their
//! group, as `kubectl api-resources` shows them.

use crate::action::{self, Action, ActionPattern};

/// Where the action takes place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// In this namespace, where the resource has namespaces.
    Namespace(&'a str),
    /// `-A`.
    AllNamespaces,
    /// `--cluster-scoped`: a custom resource without namespaces.
    Cluster,
}

/// Why words are not an action.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NotAnAction {
    /// Too few words.
    #[error("say what for: VERB RESOURCE [NAME…], for example: --for delete namespace prod")]
    TooShort,
    /// Unknown verb.
    #[error(
        "{0:?} is not a verb that can be protected; the verbs are get, list, watch, create, update, patch, delete, \
         deletecollection, connect, impersonate, bind, escalate, approve, sign, attest and assume, and kubectl's scale, \
         exec, attach, cp, debug, port-forward, logs, rollout, edit, apply, replace, label, annotate, set, taint, \
         cordon, uncordon, describe and run"
    )]
    Verb(String),
    /// Unknown resource.
    #[error(
        "{0:?} is not a built-in resource; write a custom resource with its group, as \"kubectl api-resources\" shows it: \
         widgets.example.com"
    )]
    Resource(String),
    /// The verb needs a name.
    #[error("{0} needs a name: {1}")]
    Name(&'static str, &'static str),
    /// A name where there can be none.
    #[error("a name cannot be looked up across all namespaces: leave out -A or the name")]
    NameAndAll,
    /// `rollout` without a known second word.
    #[error("rollout what? restart, undo, pause, resume, status or history")]
    Rollout,
    /// `TYPE/NAME NAME`.
    #[error("{0:?} already has a name: write either TYPE/NAME … or TYPE NAME …")]
    TwoNames(String),
    /// `exec deploy/web`.
    #[error("name the pod: which one {0} would pick for {1} is not known beforehand")]
    Pod(&'static str, String),
}

/// A built-in resource.
#[derive(Debug)]
struct Kind {
    plural: &'static str,
    singular: &'static str,
    group: &'static str,
    namespaced: bool,
    short: &'static [&'static str],
}

/// What a verb of kubectl does to the API.
struct Meaning {
    verb: &'static str,
    /// Resource where the words name none.
    resource: Option<&'static str>,
    subresource: Option<&'static str>,
    /// Example to show when the name is missing, where there must be one.
    needs_name: Option<&'static str>,
}

/// The actions that `words` (VERB RESOURCE [NAME…]) mean.
pub fn actions(words: &[String], subresource: Option<&str>, scope: Scope<'_>) -> Result<Vec<Action>, NotAnAction> {
    let (verb, mut rest) = words.split_first().ok_or(NotAnAction::TooShort)?;
    let verb = verb.to_ascii_lowercase();
    let meaning = if verb == "rollout" {
        let (what, after) = rest.split_first().ok_or(NotAnAction::Rollout)?;
        rest = after;
        rollout(&what.to_ascii_lowercase()).ok_or(NotAnAction::Rollout)?
    } else {
        meaning(&verb).ok_or_else(|| NotAnAction::Verb(verb.clone()))?
    };
    if let [path] = rest
        && path.starts_with('/')
    {
        let path = Some(path.clone());
        return Ok(vec![Action { path, ..Action::new(meaning.verb, "", "") }]);
    }
    let targets = match meaning.resource {
        Some(resource) => fixed_targets(&meaning, &verb, resource, rest)?,
        None => targets(&meaning, rest)?,
    };
    let mut actions: Vec<Action> = Vec::new();
    for target in targets {
        let subresource = subresource.map(ToOwned::to_owned).or(target.subresource);
        if target.name.is_none()
            && let Some(example) = meaning.needs_name
        {
            return Err(NotAnAction::Name(meaning.verb_typed(&verb), example));
        }
        let verb = match (meaning.verb, &target.name) {
            // As the API server sees `kubectl get secrets` and `kubectl delete secrets --all`.
            ("get", None) if subresource.is_none() => "list",
            ("delete", None) => "deletecollection",
            (verb, _) => verb,
        };
        let namespace = match scope {
            _ if !target.namespaced => None,
            Scope::Namespace(namespace) => Some(namespace.to_owned()),
            Scope::AllNamespaces if target.name.is_some() => return Err(NotAnAction::NameAndAll),
            Scope::AllNamespaces | Scope::Cluster => None,
        };
        let plain = Action::new(verb, &target.group, &target.resource);
        let action = Action { subresource, namespace, name: target.name, ..plain }.normalized();
        if !actions.contains(&action) {
            actions.push(action);
        }
    }
    Ok(actions)
}

/// What a line like `delete,update deployments web-* -n prod,prod-*` protects: VERBS RESOURCES [NAME…] [-n NAMESPACES].
/// Names and namespaces may be globs.
pub fn patterns(line: &str) -> Result<Vec<ActionPattern>, NotAnAction> {
    let any = || vec!["*".to_owned()];
    let (mut words, mut namespaces) = (Vec::new(), Vec::new());
    let mut rest = line.split_whitespace();
    while let Some(word) = rest.next() {
        let of_flag = match word.strip_prefix("-n").or_else(|| word.strip_prefix("--namespace")) {
            Some("") => rest.next(),
            Some(value) => Some(value.strip_prefix('=').unwrap_or(value)),
            None => None,
        };
        match of_flag {
            Some(value) => namespaces.extend(value.split(',').filter(|name| !name.is_empty()).map(ToOwned::to_owned)),
            None if word.starts_with('-') => return Err(NotAnAction::Resource(word.to_owned())),
            None => words.push(word.to_owned()),
        }
    }
    let [verbs, resources, names @ ..] = words.as_slice() else { return Err(NotAnAction::TooShort) };
    let mut patterns = Vec::new();
    for typed in verbs.split(',') {
        let verb = typed.to_ascii_lowercase();
        let all = Meaning { verb: "*", resource: None, subresource: None, needs_name: None };
        let meaning = if verb == "*" { Some(all) } else { meaning(&verb) };
        let meaning = meaning.ok_or_else(|| NotAnAction::Verb(typed.to_owned()))?;
        for resource in resources.split(',') {
            let pattern = ActionPattern {
                verbs: vec![meaning.verb.to_owned()],
                api_groups: vec![],
                resources: vec![],
                namespaces: if namespaces.is_empty() { any() } else { namespaces.clone() },
                names: if names.is_empty() { any() } else { names.to_vec() },
                non_resource_urls: vec![],
            };
            if resource.starts_with('/') {
                patterns.push(ActionPattern { non_resource_urls: vec![resource.to_owned()], ..pattern });
                continue;
            }
            let (kind, below) = match resource.split_once('/') {
                Some((kind, below)) if is_subresource(below) || below == "*" => (kind, Some(below)),
                Some(_) => return Err(NotAnAction::Resource(resource.to_owned())),
                None => (resource, meaning.subresource),
            };
            let found = match kind {
                "*" => Named { group: "*".to_owned(), resource: "*".to_owned() },
                kind => lookup(kind)?.0,
            };
            if meaning.resource.is_some_and(|only| only != found.resource) {
                return Err(NotAnAction::Pod(meaning.verb_typed(&verb), resource.to_owned()));
            }
            let full = below.map_or_else(|| found.resource.clone(), |below| format!("{}/{below}", found.resource));
            patterns.push(ActionPattern { api_groups: vec![found.group], resources: vec![full], ..pattern });
        }
    }
    Ok(patterns)
}

/// One object, or one kind of objects, that the words name.
struct Target {
    group: String,
    resource: String,
    namespaced: bool,
    subresource: Option<String>,
    name: Option<String>,
}

/// Targets of a verb that acts on one kind only: `exec POD`, `cordon NODE`.
fn fixed_targets(meaning: &Meaning, typed: &str, resource: &str, words: &[String]) -> Result<Vec<Target>, NotAnAction> {
    // `exec POD -- COMMAND`: what comes after the pod is not for us.
    let words = if meaning.verb == "connect" { &words[..words.len().min(1)] } else { words };
    let mut found = Vec::new();
    for word in words {
        let name = match word.split_once('/') {
            None => word,
            Some((kind, name)) => {
                let (target, _) = lookup(kind)?;
                if target.resource != resource {
                    return Err(NotAnAction::Pod(meaning.verb_typed(typed), word.clone()));
                }
                name
            }
        };
        found.push(name.to_owned());
    }
    let (kind, namespaced) = lookup(resource)?;
    let target = |name| Target {
        group: kind.group.clone(),
        resource: kind.resource.clone(),
        namespaced,
        subresource: meaning.subresource.map(ToOwned::to_owned),
        name,
    };
    Ok(if found.is_empty() { vec![target(None)] } else { found.into_iter().map(|name| target(Some(name))).collect() })
}

/// Targets as kubectl takes them: `TYPE`, `TYPE NAME…`, `TYPE/NAME…`, `TYPE,TYPE`; and `TYPE/SUBRESOURCE NAME…`.
fn targets(meaning: &Meaning, words: &[String]) -> Result<Vec<Target>, NotAnAction> {
    let (first, names) = words.split_first().ok_or(NotAnAction::TooShort)?;
    let subresource = meaning.subresource.map(ToOwned::to_owned);
    let mut found = Vec::new();
    let mut add = |kind: &str, subresource: Option<String>, name: Option<&str>| {
        let (kind, namespaced) = lookup(kind)?;
        let name = name.map(ToOwned::to_owned);
        found.push(Target { group: kind.group, resource: kind.resource, namespaced, subresource, name });
        Ok(())
    };
    match first.split_once('/') {
        // As actions are printed: `connect pods/exec api-0`.
        Some((kind, sub))
            if is_subresource(sub)
                && (meaning.verb == "connect" || !names.is_empty() && names.iter().all(|name| !name.contains('/'))) =>
        {
            if names.is_empty() {
                add(kind, Some(sub.to_owned()), None)?;
            }
            for name in names {
                add(kind, Some(sub.to_owned()), Some(name))?;
            }
        }
        Some(_) => {
            for word in words {
                match word.split_once('/') {
                    Some((kind, name)) if !name.is_empty() => add(kind, subresource.clone(), Some(name))?,
                    _ => return Err(NotAnAction::TwoNames(first.clone())),
                }
            }
        }
        None => {
            for kind in first.split(',').filter(|kind| !kind.is_empty()) {
                if names.is_empty() {
                    add(kind, subresource.clone(), None)?;
                }
                for name in names {
                    add(kind, subresource.clone(), Some(name))?;
                }
            }
        }
    }
    if found.is_empty() { Err(NotAnAction::TooShort) } else { Ok(found) }
}

struct Named {
    group: String,
    resource: String,
}

/// A kind of objects, as requests name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Resource {
    /// API group.
    pub group: String,
    /// Plural name.
    pub resource: String,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
}

impl Resource {
    /// The built-in resource that is called `typed`: its plural, singular or short name, or its kind, with or without
    /// version and group.
    pub fn built_in(typed: &str) -> Option<Self> {
        let (Named { group, resource }, namespaced) = lookup(typed).ok()?;
        let is_known = |kind: &&Kind| kind.plural == resource && kind.group == group;
        KINDS.iter().any(|kind| is_known(&kind)).then_some(Self { group, resource, namespaced })
    }

    /// What `typed` most likely means where nobody knows it: its plural name and group, in namespaces.
    pub fn custom(typed: &str) -> Option<Self> {
        let (Named { group, resource }, namespaced) = lookup(typed).ok()?;
        Some(Self { group, resource, namespaced })
    }

    /// Whether a group is one of the built-in ones.
    pub fn is_built_in_group(group: &str) -> bool {
        KINDS.iter().any(|kind| kind.group == group)
    }
}

/// Parts of `RESOURCE`, `RESOURCE.VERSION` (core), `RESOURCE.VERSION.GROUP` or `RESOURCE.GROUP`, in lower case: name and
/// group.
pub fn name_and_group(typed: &str) -> (String, Option<String>) {
    let lower = typed.to_ascii_lowercase();
    let (name, group) = match lower.split_once('.') {
        None => (lower.as_str(), None),
        Some((name, rest)) => match rest.split_once('.') {
            Some((version, group)) if is_version(version) => (name, Some(group)),
            None if is_version(rest) => (name, Some("")),
            _ => (name, Some(rest)),
        },
    };
    (name.to_owned(), group.map(ToOwned::to_owned))
}

/// The resource that a person calls `typed`, and whether it has namespaces.
fn lookup(typed: &str) -> Result<(Named, bool), NotAnAction> {
    let (name, group) = name_and_group(typed);
    let (name, group) = (name.as_str(), group.as_deref());
    let is_called =
        |kind: &&Kind| kind.plural == name || kind.singular.eq_ignore_ascii_case(name) || kind.short.contains(&name);
    let known = KINDS.iter().filter(is_called).find(|kind| group.is_none_or(|group| group == kind.group));
    match (known, group) {
        (Some(kind), _) => {
            Ok((Named { group: kind.group.to_owned(), resource: kind.plural.to_owned() }, kind.namespaced))
        }
        // A custom resource. Most have namespaces; --cluster-scoped says otherwise.
        (None, Some(group)) if !group.is_empty() && !name.is_empty() => {
            Ok((Named { group: group.to_owned(), resource: name.to_owned() }, true))
        }
        _ => Err(NotAnAction::Resource(typed.to_owned())),
    }
}

/// `v1`, `v2beta1`, …
fn is_version(text: &str) -> bool {
    text.strip_prefix('v').is_some_and(|rest| {
        let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        digits.len() < rest.len()
            && (digits.is_empty()
                || ["alpha", "beta"].iter().any(|stage| {
                    digits.strip_prefix(stage).is_some_and(|n| !n.is_empty() && n.chars().all(|c| c.is_ascii_digit()))
                }))
    })
}

fn is_subresource(text: &str) -> bool {
    const KNOWN: [&str; 14] = [
        "approval",
        "attach",
        "binding",
        "ephemeralcontainers",
        "eviction",
        "exec",
        "finalize",
        "log",
        "portforward",
        "proxy",
        "resize",
        "scale",
        "status",
        "token",
    ];
    KNOWN.contains(&text)
}

/// Verbs worth offering to somebody who is typing.
pub const VERBS: [&str; 16] = [
    "get",
    "list",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "edit",
    "apply",
    "scale",
    "rollout",
    "exec",
    "port-forward",
    "logs",
    "impersonate",
    "assume",
];

/// Plural names of all built-in resources.
pub fn names() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|kind| kind.plural)
}

fn meaning(verb: &str) -> Option<Meaning> {
    let plain = |verb| Meaning { verb, resource: None, subresource: None, needs_name: None };
    let pod = |verb, subresource, example| Meaning {
        verb,
        resource: Some("pods"),
        subresource: Some(subresource),
        needs_name: Some(example),
    };
    let named = |verb, example| Meaning { needs_name: Some(example), ..plain(verb) };
    if let Some(verb) = action::VERBS.iter().find(|known| **known == verb) {
        return Some(plain(verb));
    }
    Some(match verb {
        "assume" => named("assume", "--for assume clusterrole cluster-admin"),
        "describe" => plain("get"),
        "edit" => named("patch", "--for edit deployment web"),
        "apply" => named("patch", "--for apply deployment/web"),
        "label" => named("patch", "--for label namespace prod"),
        "annotate" => named("patch", "--for annotate namespace prod"),
        "set" => named("patch", "--for set deployment web"),
        "taint" => named("patch", "--for taint node worker-1"),
        "replace" => named("update", "--for replace deployment/web"),
        "scale" => Meaning { subresource: Some("scale"), ..named("patch", "--for scale deployment web") },
        "exec" => pod("connect", "exec", "--for exec POD"),
        "cp" => pod("connect", "exec", "--for cp POD"),
        "attach" => pod("connect", "attach", "--for attach POD"),
        "port-forward" | "portforward" => pod("connect", "portforward", "--for port-forward POD"),
        "logs" | "log" => pod("get", "log", "--for logs POD"),
        "debug" => pod("patch", "ephemeralcontainers", "--for debug POD"),
        "run" => Meaning { resource: Some("pods"), ..named("create", "--for run POD") },
        "cordon" | "uncordon" => Meaning { resource: Some("nodes"), ..named("patch", "--for cordon NODE") },
        _ => return None,
    })
}

fn rollout(what: &str) -> Option<Meaning> {
    let verb = match what {
        "restart" | "undo" | "pause" | "resume" => "patch",
        "status" | "history" => "get",
        _ => return None,
    };
    let needs_name = Some("--for rollout restart deployment web");
    Some(Meaning { verb, resource: None, subresource: None, needs_name })
}

impl Meaning {
    /// The verb as the person knows it, for messages.
    fn verb_typed(&self, typed: &str) -> &'static str {
        const TYPED: [&str; 12] =
            ["edit", "apply", "label", "annotate", "set", "taint", "replace", "scale", "exec", "cp", "attach", "logs"];
        TYPED.iter().find(|verb| **verb == typed).copied().unwrap_or(self.verb)
    }
}

const fn kind(
    plural: &'static str,
    singular: &'static str,
    group: &'static str,
    namespaced: bool,
    short: &'static [&'static str],
) -> Kind {
    Kind { plural, singular, group, namespaced, short }
}

/// `kubectl api-resources` of a kube-apiserver 1.37 with every API enabled, and the resources that exist for
/// authorization only (impersonation, signers). The first of several with one name is the one without a group.
#[rustfmt::skip]
static KINDS: &[Kind] = &[
    kind("bindings", "Binding", "", true, &[]),
    kind("componentstatuses", "ComponentStatus", "", false, &["cs"]),
    kind("configmaps", "ConfigMap", "", true, &["cm"]),
    kind("endpoints", "Endpoints", "", true, &["ep"]),
    kind("events", "Event", "", true, &["ev"]),
    kind("limitranges", "LimitRange", "", true, &["limits"]),
    kind("namespaces", "Namespace", "", false, &["ns"]),
    kind("nodes", "Node", "", false, &["no"]),
    kind("persistentvolumeclaims", "PersistentVolumeClaim", "", true, &["pvc"]),
    kind("persistentvolumes", "PersistentVolume", "", false, &["pv"]),
    kind("pods", "Pod", "", true, &["po"]),
    kind("podtemplates", "PodTemplate", "", true, &[]),
    kind("replicationcontrollers", "ReplicationController", "", true, &["rc"]),
    kind("resourcequotas", "ResourceQuota", "", true, &["quota"]),
    kind("secrets", "Secret", "", true, &[]),
    kind("serviceaccounts", "ServiceAccount", "", true, &["sa"]),
    kind("services", "Service", "", true, &["svc"]),
    kind("mutatingadmissionpolicies", "MutatingAdmissionPolicy", "admissionregistration.k8s.io", false, &[]),
    kind("mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding", "admissionregistration.k8s.io", false, &[]),
    kind("mutatingwebhookconfigurations", "MutatingWebhookConfiguration", "admissionregistration.k8s.io", false, &[]),
    kind("validatingadmissionpolicies", "ValidatingAdmissionPolicy", "admissionregistration.k8s.io", false, &[]),
    kind("validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", "admissionregistration.k8s.io", false, &[]),
    kind("validatingwebhookconfigurations", "ValidatingWebhookConfiguration", "admissionregistration.k8s.io", false, &[]),
    kind("customresourcedefinitions", "CustomResourceDefinition", "apiextensions.k8s.io", false, &["crd", "crds"]),
    kind("apiservices", "APIService", "apiregistration.k8s.io", false, &[]),
    kind("controllerrevisions", "ControllerRevision", "apps", true, &[]),
    kind("daemonsets", "DaemonSet", "apps", true, &["ds"]),
    kind("deployments", "Deployment", "apps", true, &["deploy"]),
    kind("replicasets", "ReplicaSet", "apps", true, &["rs"]),
    kind("statefulsets", "StatefulSet", "apps", true, &["sts"]),
    kind("selfsubjectreviews", "SelfSubjectReview", "authentication.k8s.io", false, &[]),
    kind("tokenreviews", "TokenReview", "authentication.k8s.io", false, &[]),
    kind("localsubjectaccessreviews", "LocalSubjectAccessReview", "authorization.k8s.io", true, &[]),
    kind("selfsubjectaccessreviews", "SelfSubjectAccessReview", "authorization.k8s.io", false, &[]),
    kind("selfsubjectrulesreviews", "SelfSubjectRulesReview", "authorization.k8s.io", false, &[]),
    kind("subjectaccessreviews", "SubjectAccessReview", "authorization.k8s.io", false, &[]),
    kind("horizontalpodautoscalers", "HorizontalPodAutoscaler", "autoscaling", true, &["hpa"]),
    kind("cronjobs", "CronJob", "batch", true, &["cj"]),
    kind("jobs", "Job", "batch", true, &[]),
    kind("certificatesigningrequests", "CertificateSigningRequest", "certificates.k8s.io", false, &["csr"]),
    kind("clustertrustbundles", "ClusterTrustBundle", "certificates.k8s.io", false, &[]),
    kind("podcertificaterequests", "PodCertificateRequest", "certificates.k8s.io", true, &[]),
    kind("leasecandidates", "LeaseCandidate", "coordination.k8s.io", true, &[]),
    kind("leases", "Lease", "coordination.k8s.io", true, &[]),
    kind("endpointslices", "EndpointSlice", "discovery.k8s.io", true, &[]),
    kind("events", "Event", "events.k8s.io", true, &["ev"]),
    kind("flowschemas", "FlowSchema", "flowcontrol.apiserver.k8s.io", false, &[]),
    kind("prioritylevelconfigurations", "PriorityLevelConfiguration", "flowcontrol.apiserver.k8s.io", false, &[]),
    kind("storageversions", "StorageVersion", "internal.apiserver.k8s.io", false, &[]),
    kind("ingressclasses", "IngressClass", "networking.k8s.io", false, &[]),
    kind("ingresses", "Ingress", "networking.k8s.io", true, &["ing"]),
    kind("ipaddresses", "IPAddress", "networking.k8s.io", false, &["ip"]),
    kind("networkpolicies", "NetworkPolicy", "networking.k8s.io", true, &["netpol"]),
    kind("servicecidrs", "ServiceCIDR", "networking.k8s.io", false, &[]),
    kind("runtimeclasses", "RuntimeClass", "node.k8s.io", false, &[]),
    kind("poddisruptionbudgets", "PodDisruptionBudget", "policy", true, &["pdb"]),
    kind("clusterrolebindings", "ClusterRoleBinding", "rbac.authorization.k8s.io", false, &[]),
    kind("clusterroles", "ClusterRole", "rbac.authorization.k8s.io", false, &[]),
    kind("rolebindings", "RoleBinding", "rbac.authorization.k8s.io", true, &[]),
    kind("roles", "Role", "rbac.authorization.k8s.io", true, &[]),
    kind("deviceclasses", "DeviceClass", "resource.k8s.io", false, &[]),
    kind("devicetaintrules", "DeviceTaintRule", "resource.k8s.io", false, &[]),
    kind("resourceclaims", "ResourceClaim", "resource.k8s.io", true, &[]),
    kind("resourceclaimtemplates", "ResourceClaimTemplate", "resource.k8s.io", true, &[]),
    kind("resourcepoolstatusrequests", "ResourcePoolStatusRequest", "resource.k8s.io", false, &[]),
    kind("resourceslices", "ResourceSlice", "resource.k8s.io", false, &[]),
    kind("priorityclasses", "PriorityClass", "scheduling.k8s.io", false, &["pc"]),
    kind("csidrivers", "CSIDriver", "storage.k8s.io", false, &[]),
    kind("csinodes", "CSINode", "storage.k8s.io", false, &[]),
    kind("csistoragecapacities", "CSIStorageCapacity", "storage.k8s.io", true, &[]),
    kind("storageclasses", "StorageClass", "storage.k8s.io", false, &["sc"]),
    kind("volumeattachments", "VolumeAttachment", "storage.k8s.io", false, &[]),
    kind("volumeattributesclasses", "VolumeAttributesClass", "storage.k8s.io", false, &["vac"]),
    kind("storageversionmigrations", "StorageVersionMigration", "storagemigration.k8s.io", false, &[]),
    kind("users", "User", "", false, &[]),
    kind("groups", "Group", "", false, &[]),
    kind("uids", "UID", "authentication.k8s.io", false, &[]),
    kind("userextras", "UserExtra", "authentication.k8s.io", false, &[]),
    kind("signers", "Signer", "certificates.k8s.io", false, &[]),
];

#[cfg(test)]
mod tests {

    use super::*;

    fn parsed(text: &str, scope: Scope<'_>) -> Result<Vec<String>, NotAnAction> {
        let words: Vec<String> = text.split_whitespace().map(ToOwned::to_owned).collect();
        Ok(actions(&words, None, scope)?.iter().map(ToString::to_string).collect())
    }

    fn shop(text: &str) -> Vec<String> {
        parsed(text, Scope::Namespace("shop")).unwrap()
    }

    #[test]
    fn what_people_type_becomes_what_the_api_server_sees() {
        for (typed, expected) in [
            ("delete ns prod", "delete namespaces/prod"),
            ("delete namespace prod", "delete namespaces/prod"),
            ("delete Namespace/prod", "delete namespaces/prod"),
            ("get secret db", "get secrets/db -n shop"),
            ("get secrets", "list secrets -n shop"),
            ("describe po api-0", "get pods/api-0 -n shop"),
            ("delete cm", "deletecollection configmaps -n shop"),
            ("scale deploy/web", "patch deployments.apps/scale web -n shop"),
            ("scale sts web", "patch statefulsets.apps/scale web -n shop"),
            ("exec api-0", "connect pods/exec api-0 -n shop"),
            ("exec pod/api-0 sh", "connect pods/exec api-0 -n shop"),
            ("port-forward api-0 8080:80", "connect pods/portforward api-0 -n shop"),
            ("attach api-0", "connect pods/attach api-0 -n shop"),
            ("cp api-0", "connect pods/exec api-0 -n shop"),
            ("debug api-0", "patch pods/ephemeralcontainers api-0 -n shop"),
            ("logs api-0", "get pods/log api-0 -n shop"),
            ("connect pods/exec api-0", "connect pods/exec api-0 -n shop"),
            ("connect pods/exec", "connect pods/exec -n shop"),
            ("create pods/exec api-0", "connect pods/exec api-0 -n shop"),
            ("rollout restart deployment/web", "patch deployments.apps/web -n shop"),
            ("rollout status ds web", "get daemonsets.apps/web -n shop"),
            ("edit netpol deny", "patch networkpolicies.networking.k8s.io/deny -n shop"),
            ("cordon n1", "patch nodes/n1"),
            ("assume clusterrole cluster-admin", "assume clusterroles.rbac.authorization.k8s.io/cluster-admin"),
            ("impersonate users bob", "impersonate users/bob"),
            (
                "delete crd widgets.example.com",
                "delete customresourcedefinitions.apiextensions.k8s.io/widgets.example.com",
            ),
            ("delete widgets.example.com w", "delete widgets.example.com/w -n shop"),
            ("delete widgets.v1beta1.example.com/w", "delete widgets.example.com/w -n shop"),
            ("get deploy.v1.apps web", "get deployments.apps/web -n shop"),
            ("get pods.v1 web", "get pods/web -n shop"),
            ("get ev", "list events -n shop"),
            ("get events.events.k8s.io", "list events.events.k8s.io -n shop"),
            ("delete pods/exec", "delete pods/exec -n shop"),
            ("get /metrics", "get /metrics"),
        ] {
            assert_eq!(shop(typed), [expected], "{typed}");
        }
    }

    #[test]
    fn a_line_says_what_is_protected() {
        let text = |line: &str| {
            let words = |list: &[String]| list.join(",");
            let show = |pattern: &ActionPattern| {
                let what = if pattern.resources.is_empty() { &pattern.non_resource_urls } else { &pattern.resources };
                let group = pattern.api_groups.first().map(|group| format!(".{group}")).unwrap_or_default();
                let (names, namespaces) = (words(&pattern.names), words(&pattern.namespaces));
                format!("{} {}{group} {names} {namespaces}", words(&pattern.verbs), words(what))
            };
            patterns(line).map(|patterns| patterns.iter().map(show).collect::<Vec<_>>())
        };
        for (line, expected) in [
            ("delete namespaces", vec!["delete namespaces. * *"]),
            ("delete ns prod prod-*", vec!["delete namespaces. prod,prod-* *"]),
            ("get secrets -n pay,prod-*", vec!["get secrets. * pay,prod-*"]),
            ("get secrets --namespace=pay", vec!["get secrets. * pay"]),
            (
                "update,delete deploy,sts -n prod",
                vec![
                    "update deployments.apps * prod",
                    "update statefulsets.apps * prod",
                    "delete deployments.apps * prod",
                    "delete statefulsets.apps * prod",
                ],
            ),
            ("exec,port-forward pods", vec!["connect pods/exec. * *", "connect pods/portforward. * *"]),
            ("scale deploy -n prod", vec!["patch deployments/scale.apps * prod"]),
            ("* widgets.example.com", vec!["* widgets.example.com * *"]),
            ("get */scale", vec!["get */scale.* * *"]),
            ("get /metrics", vec!["get /metrics * *"]),
        ] {
            assert_eq!(text(line).unwrap(), expected, "{line}");
        }
        for line in
            ["", "delete", "delte ns", "exec deployments", "delete widgets", "get secrets --all", "get secrets/x"]
        {
            assert!(text(line).is_err(), "{line}");
        }
        // A protected `get` protects what kubectl sends for `get` of many, and so on.
        let protects = |line: &str, typed: &str| {
            let words: Vec<String> = typed.split_whitespace().map(ToOwned::to_owned).collect();
            let actions = actions(&words, None, Scope::Namespace("shop")).unwrap();
            patterns(line).unwrap().iter().any(|pattern| actions.iter().all(|action| pattern.protects(action)))
        };
        assert!(protects("get secrets", "get secrets") && protects("get secrets -n shop", "get secret db"));
        assert!(protects("update deployments", "edit deploy web") && protects("exec pods", "exec api-0"));
        assert!(!protects("get secrets -n other", "get secrets") && !protects("delete ns prod", "delete ns dev"));
    }

    #[test]
    fn lists_of_kinds_and_names_are_many_actions_each_once() {
        assert_eq!(shop("delete ns a b a"), ["delete namespaces/a", "delete namespaces/b"]);
        assert_eq!(shop("get secrets,cm x"), ["get secrets/x -n shop", "get configmaps/x -n shop"]);
        assert_eq!(shop("delete po/a svc/b"), ["delete pods/a -n shop", "delete services/b -n shop"]);
    }

    #[test]
    fn the_scope_is_where_it_happens() {
        assert_eq!(parsed("get secrets", Scope::AllNamespaces).unwrap(), ["list secrets -A"]);
        assert_eq!(parsed("get secrets db", Scope::AllNamespaces), Err(NotAnAction::NameAndAll));
        assert_eq!(parsed("delete ns prod", Scope::AllNamespaces).unwrap(), ["delete namespaces/prod"]);
        let words = ["delete".to_owned(), "planets.example.com/mars".to_owned()];
        assert_eq!(actions(&words, None, Scope::Cluster).unwrap()[0].namespace, None);
    }

    #[test]
    fn a_subresource_can_be_named_apart() {
        let words = ["patch".to_owned(), "deploy".to_owned(), "web".to_owned()];
        let found = actions(&words, Some("status"), Scope::Namespace("shop")).unwrap();
        assert_eq!(found[0].to_string(), "patch deployments.apps/status web -n shop");
    }

    #[test]
    fn what_is_printed_can_be_typed_again() {
        for typed in ["delete ns prod", "get secret db", "exec api-0", "scale deploy web", "assume clusterrole x"] {
            let printed = shop(typed).remove(0);
            let again = printed.split(" -n ").next().unwrap();
            assert_eq!(shop(again), [printed.as_str()]);
        }
    }

    #[test]
    fn what_is_no_action_says_how_to_write_one() {
        for (typed, part) in [
            ("", "VERB RESOURCE"),
            ("delete", "VERB RESOURCE"),
            ("delte ns prod", "not a verb"),
            ("delete widgets w", "widgets.example.com"),
            ("scale deploy", "scale needs a name"),
            ("exec deploy/web", "name the pod"),
            ("rollout deploy/web", "rollout what?"),
            ("delete po/a b", "already has a name"),
            ("delete po/", "already has a name"),
            ("assume clusterrole", "assume needs a name"),
        ] {
            let message = parsed(typed, Scope::Namespace("shop")).unwrap_err().to_string();
            assert!(message.contains(part), "{typed}: {message}");
        }
    }

    #[test]
    fn every_name_means_one_resource() {
        for kind in KINDS {
            for name in kind.short.iter().copied().chain([kind.plural, kind.singular]) {
                let (found, _) = lookup(name).unwrap();
                assert!(found.resource == kind.plural, "{name} is {} and {}", found.resource, kind.plural);
                let (found, _) =
                    lookup(&format!("{name}.{}", if kind.group.is_empty() { "v1" } else { kind.group })).unwrap();
                assert_eq!((found.resource.as_str(), found.group.as_str()), (kind.plural, kind.group));
            }
        }
    }
}
