//! `stepup-server render`: what the cluster needs, made from configuration and policy, ready to apply.
//!
//! The documents are text, because their comments are for the person who applies them; every value in them goes through
//! [`quoted`] or [`block`]. The same configuration and policy give the same bytes.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use url::Url;

use crate::action::is_glob;
use crate::server::cli::Part;
use crate::server::config::{Claim, Config, IdentityProvider, Mode, RequiredClaim};
use crate::server::policy::groups::{self, Opened, RoleRule};
use crate::server::policy::matching::{Matched, NOTHING};
use crate::server::policy::{Policy, Rule};

/// One file for the cluster.
#[derive(Debug)]
pub struct Document {
    /// Which one.
    pub part: Part,
    /// Name of its file.
    pub file: &'static str,
    /// YAML.
    pub text: String,
}

/// Why something cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// A certificate that the documents must contain.
    #[error("{}: cannot be read: {source}", file.display())]
    Certificate {
        /// Its file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The API server must say who it is.
    #[error(
        "`webhooks.clientCertificate` and `webhooks.clientKey` are missing: reviews are refused without a certificate"
    )]
    NoClient,
}

/// Where the files are when nothing says otherwise.
const USUAL_DIRECTORY: &str = "/etc/kubernetes/stepup";
/// Name of the webhook; the API server puts it in front of our audit annotations.
const WEBHOOK_NAME: &str = "admit.kubectl-stepup.io";
/// Name of the webhook for rules that only record.
const RECORD_WEBHOOK_NAME: &str = "record.kubectl-stepup.io";
/// Name of the file of [`Part::Rbac`], which is left out where no rule gives a role out.
pub const RBAC_FILE: &str = "rbac.yaml";
/// Within this the API server wants its answer. Protected requests wait that long when we are gone, no others.
const TIMEOUT_SECONDS: u8 = 5;
/// The same for what is only recorded: so long it may be held up when we are gone, and no longer.
const RECORD_TIMEOUT_SECONDS: u8 = 1;

/// All documents that there is something to say in; `directory` is where the API server will find them, unless `webhooks.directory` says otherwise.
pub fn render(config: &Config, policy: &Policy, directory: Option<&Path>) -> Result<Vec<Document>, RenderError> {
    let directory = config.webhooks.directory.as_deref().or(directory).unwrap_or(Path::new(USUAL_DIRECTORY));
    let renderer = Renderer {
        config,
        policy,
        directory,
        ca: certificate(config.tls.ca.as_ref().unwrap_or(&config.tls.certificate))?,
    };
    let mut documents = vec![document(Part::Authentication, "authentication.yaml", renderer.authentication()?)];
    if config.mode == Mode::Groups {
        documents.extend(renderer.rbac().map(|text| document(Part::Rbac, RBAC_FILE, text)));
        return Ok(documents);
    }
    if config.webhooks.authorization {
        // In the order in which they are written: the API server reads the kubeconfig when the other file has changed, and
        // not again.
        documents.push(document(Part::WebhookKubeconfig, "webhook-kubeconfig.yaml", renderer.webhook_kubeconfig()?));
        documents.push(document(Part::Authorization, "authorization.yaml", renderer.authorization()));
    }
    let kubeconfig = renderer.admission_kubeconfig()?;
    documents.extend([
        document(Part::AdmissionControl, "admission-control.yaml", renderer.admission_control()),
        document(Part::AdmissionKubeconfig, "admission-kubeconfig.yaml", kubeconfig),
        document(Part::Admission, "validating-webhook.yaml", renderer.admission()),
    ]);
    documents.extend(renderer.rbac().map(|text| document(Part::Rbac, RBAC_FILE, text)));
    Ok(documents)
}

impl Document {
    /// Replaces the file at `path` at once: the API server reads some of them whenever they change.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let temporary = path.with_extension(format!("yaml.{}", std::process::id()));
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(self.text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    }
}

fn document(part: Part, file: &'static str, text: String) -> Document {
    Document { part, file, text }
}

struct Renderer<'a> {
    config: &'a Config,
    policy: &'a Policy,
    directory: &'a Path,
    /// PEM of the authority that our own certificate is verified by.
    ca: String,
}

impl Renderer<'_> {
    fn authentication(&self) -> Result<String, RenderError> {
        let mut text = "\
# For the API server's --authentication-config. Rendered by stepup-server; render again when the configuration changes.
# The API server takes changes of this file up by itself.
apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt:
"
        .to_owned();
        for provider in &self.config.identity_providers {
            text += &base_issuer(provider)?;
        }
        let Config { public_url, token, .. } = self.config;
        let seconds = token.max_ttl.as_secs();
        put(
            &mut text,
            format_args!(
                "# Elevated tokens, made by stepup-server. The rules keep its signing key from being a master key."
            ),
        );
        put(
            &mut text,
            format_args!(
                "- issuer:\n    url: {}\n    audiences:\n    - {}",
                quoted(public_url),
                quoted(&token.audience)
            ),
        );
        put(&mut text, format_args!("    certificateAuthority: {}", block(&self.ca, 6)));
        put(&mut text, format_args!("  claimMappings:"));
        put(&mut text, format_args!("    username:\n      claim: username\n      prefix: \"\""));
        put(&mut text, format_args!("    groups:\n      claim: groups\n      prefix: \"\""));
        put(&mut text, format_args!("  claimValidationRules:\n  - expression: claims.exp - claims.nbf <= {seconds}"));
        put(&mut text, format_args!("    message: an elevated token lives {seconds} seconds at most"));
        put(
            &mut text,
            format_args!("  userValidationRules:\n  - expression: \"!user.username.startsWith('system:')\""),
        );
        put(&mut text, format_args!("    message: an elevated token cannot be a system user's"));
        put(&mut text, format_args!("  - expression: \"user.groups.all(group, !group.startsWith('system:'))\""));
        put(&mut text, format_args!("    message: an elevated token cannot carry system groups"));
        Ok(text)
    }

    fn authorization(&self) -> String {
        let mut text = "\
# For the API server's --authorization-config (instead of --authorization-mode). Rendered by stepup-server from the
# policy; render again when the policy changes. The API server takes changes of this file up by itself.
apiVersion: apiserver.config.k8s.io/v1
kind: AuthorizationConfiguration
authorizers:
# Denies, or has no opinion; it never allows. RBAC still decides.
"
        .to_owned();
        let matching = self.policy.matching();
        let enforced = matching.enforced().authorization();
        text += &self.authorizer(
            "stepup",
            TIMEOUT_SECONDS,
            "\
    # What is protected stays protected when stepup-server is down. Everything else is not asked about.
    failurePolicy: Deny
",
            "\
    # What admission webhooks are not called for: reads, impersonation and the like, other paths, reviews, and admission's
    # own configuration; and whoever carries a group that only a grant gives.
",
            &[enforced.to_owned()],
        );
        let recorded = matching.recorded().authorization();
        if recorded != NOTHING {
            text += &self.authorizer(
                "stepup-record",
                RECORD_TIMEOUT_SECONDS,
                "\
    # Rules with `enforcement: audit` stand in nobody's way.
    failurePolicy: NoOpinion
",
                "    # What only they are about.\n",
                &[recorded.to_owned(), format!("!(\n{enforced}\n)")],
            );
        }
        text + "- type: Node\n  name: node\n- type: RBAC\n  name: rbac\n"
    }

    fn authorizer(&self, name: &str, timeout: u8, failure: &str, about: &str, conditions: &[String]) -> String {
        let kubeconfig = quoted(&self.directory.join("webhook-kubeconfig.yaml").display().to_string());
        let mut text = format!(
            "\
- type: Webhook
  name: {name}
  webhook:
    # Nothing is cached: a grant can be used up or revoked at any time. The times must be set nevertheless.
    cacheAuthorizedRequests: false
    authorizedTTL: 1s
    cacheUnauthorizedRequests: false
    unauthorizedTTL: 1s
    timeout: {timeout}s
    subjectAccessReviewVersion: v1
    matchConditionSubjectAccessReviewVersion: v1
{failure}    connectionInfo:
      type: KubeConfigFile
      kubeConfigFile: {kubeconfig}
{about}    matchConditions:
"
        );
        for condition in conditions {
            put(&mut text, format_args!("    - expression: {}", block(condition, 8)));
        }
        text
    }

    fn webhook_kubeconfig(&self) -> Result<String, RenderError> {
        let client = self.config.webhooks.client.as_ref().ok_or(RenderError::NoClient)?;
        Ok(format!(
            "\
# With this the API server calls the authorizer of authorization.yaml. The last part of the address is the digest of
# the match conditions there, so that stepup-server notices when they are not those of its policy any more.
# The API server reads this file when authorization.yaml changes, so put this one in its place first.
apiVersion: v1
kind: Config
clusters:
- name: stepup
  cluster:
    server: {server}
    certificate-authority-data: {ca}
users:
- name: kube-apiserver
  user:
    client-certificate: {certificate}
    client-key: {key}
contexts:
- name: stepup
  context:
    cluster: stepup
    user: kube-apiserver
current-context: stepup
",
            server = quoted(&self.url("authorize", &self.policy.matching().digests().authorization)),
            ca = base64(&self.ca),
            certificate = quoted(&client.certificate.display().to_string()),
            key = quoted(&client.key.display().to_string()),
        ))
    }

    fn admission_control(&self) -> String {
        format!(
            "\
# For the API server's --admission-control-config-file: without it the API server shows webhooks no certificate, and
# stepup-server refuses its reviews.
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: ValidatingAdmissionWebhook
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: WebhookAdmissionConfiguration
    kubeConfigFile: {}
",
            quoted(&self.directory.join("admission-kubeconfig.yaml").display().to_string())
        )
    }

    fn admission_kubeconfig(&self) -> Result<String, RenderError> {
        let client = self.config.webhooks.client.as_ref().ok_or(RenderError::NoClient)?;
        Ok(format!(
            "\
# The certificate that the API server shows to the webhook of validating-webhook.yaml, found by host and port.
apiVersion: v1
kind: Config
users:
- name: {host}
  user:
    client-certificate: {certificate}
    client-key: {key}
",
            host = quoted(&host_and_port(&self.config.webhooks.url)),
            certificate = quoted(&client.certificate.display().to_string()),
            key = quoted(&client.key.display().to_string()),
        ))
    }

    fn admission(&self) -> String {
        let matching = self.policy.matching();
        let mut text = "\
# To apply with kubectl. Rendered by stepup-server from the policy; render and apply again when the policy changes.
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata:
  name: kubectl-stepup
"
        .to_owned();
        let (enforced, recorded) = (matching.enforced(), matching.recorded());
        if [enforced, recorded].iter().all(|matched| matched.admission_rules().is_empty()) {
            text += "# The policy protects nothing that admission sees.\nwebhooks: []\n";
            return text;
        }
        text += "webhooks:\n";
        if !enforced.admission_rules().is_empty() {
            let failure = "  # What is protected stays protected when stepup-server is down. Everything else is not asked about.\n  failurePolicy: Fail";
            let conditions = [("protected", enforced.admission().to_owned())];
            text += &self.webhook(WEBHOOK_NAME, TIMEOUT_SECONDS, failure, enforced, &conditions);
        }
        if !recorded.admission_rules().is_empty() {
            let failure = "  # Rules with `enforcement: audit` stand in nobody's way.\n  failurePolicy: Ignore";
            let mut conditions = vec![("recorded", recorded.admission().to_owned())];
            if !enforced.admission_rules().is_empty() {
                conditions.push(("not-protected", format!("!(\n{}\n)", enforced.admission())));
            }
            text += &self.webhook(RECORD_WEBHOOK_NAME, RECORD_TIMEOUT_SECONDS, failure, recorded, &conditions);
        }
        text
    }

    fn webhook(
        &self,
        name: &str,
        timeout: u8,
        failure: &str,
        matched: &Matched,
        conditions: &[(&str, String)],
    ) -> String {
        let mut text = format!("- name: {name}\n  clientConfig:\n");
        // The last part of the path is the digest of what is matched. A query is not allowed here.
        put(
            &mut text,
            format_args!(
                "    url: {}\n    caBundle: {}",
                quoted(&self.url("admit", &self.policy.matching().digests().admission)),
                base64(&self.ca)
            ),
        );
        put(&mut text, format_args!("  admissionReviewVersions: [v1]"));
        put(&mut text, format_args!("  # A dry run consumes no grant; it is recorded."));
        put(&mut text, format_args!("  sideEffects: NoneOnDryRun"));
        put(&mut text, format_args!("{failure}\n  timeoutSeconds: {timeout}"));
        put(
            &mut text,
            format_args!(
                "  # Also where the same objects are reached by another API group.\n  matchPolicy: Equivalent\n  rules:"
            ),
        );
        for rule in matched.admission_rules() {
            put(&mut text, format_args!("  - apiGroups: {}\n    apiVersions: [\"*\"]", list(&rule.api_groups)));
            put(
                &mut text,
                format_args!("    resources: {}\n    operations: {}", list(&rule.resources), list(&rule.operations)),
            );
            put(&mut text, format_args!("    scope: \"*\""));
        }
        put(&mut text, format_args!("  matchConditions:"));
        for (name, condition) in conditions {
            put(&mut text, format_args!("  - name: {name}\n    expression: {}", block(condition, 6)));
        }
        text
    }

    /// `None` where nothing is to be bound: `kubectl apply` refuses a list of nothing.
    fn rbac(&self) -> Option<String> {
        let bindings: BTreeSet<(&str, &str)> = (self.policy.rules().iter())
            .flat_map(|rule| {
                let roles = rule.assumed_roles().filter(|role| !is_glob(role));
                roles
                    .map(|role| role.strip_prefix('=').unwrap_or(role))
                    .flat_map(|role| rule.groups.iter().map(move |group| (group.as_str(), role)))
            })
            .collect();
        let mut items = String::new();
        if self.config.mode == Mode::Groups {
            for rule in self.policy.rules() {
                items += &opening(rule, &groups::opened(rule, self.policy.rules()));
            }
        }
        for (group, role) in bindings {
            let name = format!("{group}:{role}");
            items += &binding(None, &name, group, ("ClusterRole", role));
        }
        if !items.lines().any(|line| line.starts_with('-')) {
            return None;
        }
        let head = match self.config.mode {
            Mode::Webhooks => {
                "# To apply with kubectl. What the groups that only a grant gives may do: the roles that rules let people assume.\n"
            }
            Mode::Groups => GROUPS_HEAD,
        };
        Some(format!("{head}apiVersion: v1\nkind: List\nitems:\n{items}"))
    }

    fn url(&self, endpoint: &str, digest: &str) -> String {
        format!("{}/{endpoint}/{digest}", self.config.webhooks.url)
    }
}

const GROUPS_HEAD: &str = "\
# To apply with kubectl. Rendered by stepup-server from the policy in `mode: groups`; render and apply again when the
# policy changes. What each group may do that only a grant gives.
#
# RBAC only adds rights: this protects nothing that people may do without a grant. Take it from the roles that they are
# bound to now, also from those that come with `edit`, `admin` and the like, and from who may `impersonate`, `bind`,
# `escalate`, create tokens of service accounts, or write admission configuration. Whoever may patch, update or delete an
# object reads it in the answer, dry runs included. The commands under each rule tell: PERSON and GROUP are anybody without
# a grant, and every answer must be `no`.
";

/// The role of a rule's group, under what there is to say of it.
fn opening(rule: &Rule, Opened { roles, left_out }: &Opened) -> String {
    let mut text = String::new();
    put(&mut text, format_args!("# Rule {}: {}", rule.name, comment(&rule.description)));
    for what in left_out {
        put(&mut text, format_args!("#   {}", comment(what)));
    }
    for check in
        roles.iter().flat_map(|(namespace, rules)| rules.iter().map(move |rule| checks(namespace.as_deref(), rule)))
    {
        text += &check;
    }
    let group = groups::group_of(rule);
    for (namespace, rules) in roles {
        let kind = if namespace.is_some() { "Role" } else { "ClusterRole" };
        put(&mut text, format_args!("- apiVersion: rbac.authorization.k8s.io/v1\n  kind: {kind}"));
        put(&mut text, format_args!("  metadata:\n{}  rules:", metadata(namespace.as_deref(), &group)));
        for RoleRule { api_groups, resources, resource_names, non_resource_urls, verbs } in rules {
            let lists = [
                ("apiGroups", api_groups),
                ("resources", resources),
                ("resourceNames", resource_names),
                ("nonResourceURLs", non_resource_urls),
            ];
            put(&mut text, format_args!("  - verbs: {}", list(verbs)));
            for (key, items) in lists.into_iter().filter(|(_, items)| !items.is_empty()) {
                put(&mut text, format_args!("    {key}: {}", list(items)));
            }
        }
        text += &binding(namespace.as_deref(), &group, &group, (kind, &group));
    }
    text
}

/// How to find out whether people have what the role gives without it.
fn checks(namespace: Option<&str>, rule: &RoleRule) -> String {
    let mut text = String::new();
    let wherever = match namespace {
        Some(namespace) => format!(" -n {namespace}"),
        None if rule.non_resource_urls.is_empty() => " -A".to_owned(),
        None => String::new(),
    };
    let verbs = rule.verbs.iter().map(|verb| if verb == "*" { "'*'" } else { verb }).collect::<Vec<_>>().join(" ");
    let mut check = |what: &str, flags: &str| {
        let command = |verb: &str| {
            comment(&format!("kubectl auth can-i {verb} {what}{flags}{wherever} --as=PERSON --as-group=GROUP"))
        };
        match rule.verbs.as_slice() {
            [_] => put(&mut text, format_args!("#   {}", command(&verbs))),
            _ => put(&mut text, format_args!("#   for verb in {verbs}; do {}; done", command("$verb"))),
        }
    };
    for url in &rule.non_resource_urls {
        check(&format!("'{url}'"), "");
    }
    let group =
        rule.api_groups.iter().find(|group| !group.is_empty()).map(|group| format!(".{group}")).unwrap_or_default();
    let name = rule.resource_names.first().map(|name| format!("/{name}")).unwrap_or_default();
    for resource in &rule.resources {
        match resource.split_once('/') {
            Some((resource, below)) => check(&format!("'{resource}{group}{name}'"), &format!(" --subresource={below}")),
            None => check(&format!("'{resource}{group}{name}'"), ""),
        }
    }
    text
}

fn metadata(namespace: Option<&str>, name: &str) -> String {
    let mut text = String::new();
    put(&mut text, format_args!("    name: {}", quoted(name)));
    if let Some(namespace) = namespace {
        put(&mut text, format_args!("    namespace: {}", quoted(namespace)));
    }
    put(&mut text, format_args!("    labels:\n      app.kubernetes.io/managed-by: kubectl-stepup"));
    text
}

/// Binds a group to a role, in a namespace or everywhere.
fn binding(namespace: Option<&str>, name: &str, group: &str, (kind, role): (&str, &str)) -> String {
    let mut text = String::new();
    let scope = if namespace.is_some() { "" } else { "Cluster" };
    put(&mut text, format_args!("- apiVersion: rbac.authorization.k8s.io/v1\n  kind: {scope}RoleBinding"));
    put(&mut text, format_args!("  metadata:\n{}", metadata(namespace, name).trim_end()));
    put(&mut text, format_args!("  subjects:\n  - apiGroup: rbac.authorization.k8s.io\n    kind: Group"));
    put(&mut text, format_args!("    name: {}", quoted(group)));
    put(&mut text, format_args!("  roleRef:\n    apiGroup: rbac.authorization.k8s.io\n    kind: {kind}"));
    put(&mut text, format_args!("    name: {}", quoted(role)));
    text
}

fn base_issuer(provider: &IdentityProvider) -> Result<String, RenderError> {
    let mut text = String::new();
    put(&mut text, format_args!("# Base tokens of {}.", provider.name.escape_debug()));
    put(&mut text, format_args!("- issuer:\n    url: {}\n    audiences:", quoted(&provider.issuer)));
    for audience in &provider.audiences {
        put(&mut text, format_args!("    - {}", quoted(audience)));
    }
    if provider.audiences.len() > 1 {
        put(&mut text, format_args!("    audienceMatchPolicy: MatchAny"));
    }
    if let Some(ca) = &provider.ca {
        put(&mut text, format_args!("    certificateAuthority: {}", block(&certificate(ca)?, 6)));
    }
    put(&mut text, format_args!("  claimMappings:\n    username:\n{}", mapping(&provider.username)));
    if let Some(groups) = &provider.groups {
        put(&mut text, format_args!("    groups:\n{}", mapping(groups)));
    }
    if !provider.required_claims.is_empty() {
        put(&mut text, format_args!("  claimValidationRules:"));
    }
    for RequiredClaim { claim, value } in &provider.required_claims {
        put(&mut text, format_args!("  - claim: {}\n    requiredValue: {}", quoted(claim), quoted(value)));
    }
    put(&mut text, format_args!("  userValidationRules:\n  - expression: \"!user.username.startsWith('system:')\""));
    put(&mut text, format_args!("    message: a person cannot be a system user, whom no rule is about"));
    put(&mut text, format_args!("  - expression: \"user.groups.all(group, !group.startsWith('system:'))\""));
    put(&mut text, format_args!("    message: a person cannot be in a system group"));
    put(&mut text, format_args!("  - expression: \"user.groups.all(group, !group.startsWith('stepup:'))\""));
    put(&mut text, format_args!("    message: groups that begin with stepup come with an elevated token only"));
    Ok(text)
}

fn mapping(claim: &Claim) -> String {
    match claim {
        Claim::Named { claim, prefix } => format!("      claim: {}\n      prefix: {}", quoted(claim), quoted(prefix)),
        Claim::Expression(expression) => format!("      expression: {}", quoted(expression)),
    }
}

/// As the API server looks a webhook's credentials up: the port is named unless it is the usual one.
fn host_and_port(url: &str) -> String {
    match Url::parse(url) {
        Ok(url) => {
            let host = url.host_str().unwrap_or_default();
            url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
        }
        Err(_) => url.to_owned(),
    }
}

fn certificate(file: &Path) -> Result<String, RenderError> {
    std::fs::read_to_string(file).map_err(|source| RenderError::Certificate { file: file.to_owned(), source })
}

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a `String` does not fail.
    let _ = writeln!(text, "{line}");
}

/// A YAML string. JSON's strings are YAML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// What can stand in a comment: nothing in it ends the line.
fn comment(text: &str) -> String {
    let ends = |char: char| char.is_control() || matches!(char, '\u{2028}' | '\u{2029}' | '\u{feff}');
    text.replace(ends, " ")
}

fn list<T: AsRef<str>>(items: &[T]) -> String {
    format!("[{}]", items.iter().map(|item| quoted(item.as_ref())).collect::<Vec<_>>().join(", "))
}

/// A literal block, indented by `indent`. What could end or change it (other line ends, a space in front, controls) is
/// quoted instead.
fn block(text: &str, indent: usize) -> String {
    let plain = |char: char| {
        char == '\n' || !char.is_control() && !matches!(char, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}')
    };
    let text = text.trim_end().replace("\r\n", "\n");
    if text.starts_with(char::is_whitespace) || !text.chars().all(plain) {
        return quoted(&text);
    }
    text.lines().fold("|-".to_owned(), |block, line| format!("{block}\n{:indent$}{line}", ""))
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}
