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
use crate::server::config::{Claim, Config, IdentityProvider};
use crate::server::policy::Policy;

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
/// Within this the API server wants its answer. Protected requests wait that long when we are gone, no others.
const TIMEOUT_SECONDS: u8 = 5;

/// All documents; `directory` is where the API server will find them, unless `webhooks.directory` says otherwise.
pub fn render(config: &Config, policy: &Policy, directory: Option<&Path>) -> Result<Vec<Document>, RenderError> {
    let directory = config.webhooks.directory.as_deref().or(directory).unwrap_or(Path::new(USUAL_DIRECTORY));
    let renderer = Renderer {
        config,
        policy,
        directory,
        ca: certificate(config.tls.ca.as_ref().unwrap_or(&config.tls.certificate))?,
    };
    let mut documents = vec![document(Part::Authentication, "authentication.yaml", renderer.authentication()?)];
    if config.webhooks.authorization {
        documents.push(document(Part::Authorization, "authorization.yaml", renderer.authorization()));
        documents.push(document(Part::WebhookKubeconfig, "webhook-kubeconfig.yaml", renderer.webhook_kubeconfig()?));
    }
    let kubeconfig = renderer.admission_kubeconfig()?;
    documents.extend([
        document(Part::AdmissionControl, "admission-control.yaml", renderer.admission_control()),
        document(Part::AdmissionKubeconfig, "admission-kubeconfig.yaml", kubeconfig),
        document(Part::Admission, "validating-webhook.yaml", renderer.admission()),
        document(Part::Rbac, "rbac.yaml", renderer.rbac()),
    ]);
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
        let kubeconfig = self.directory.join("webhook-kubeconfig.yaml");
        let condition = self.policy.matching().authorization();
        format!(
            "\
# For the API server's --authorization-config (instead of --authorization-mode). Rendered by stepup-server from the
# policy; render again when the policy changes. The API server takes changes of this file up by itself.
apiVersion: apiserver.config.k8s.io/v1
kind: AuthorizationConfiguration
authorizers:
# Denies, or has no opinion; it never allows. RBAC still decides.
- type: Webhook
  name: stepup
  webhook:
    # Nothing is cached: a grant can be used up or revoked at any time. The times must be set nevertheless.
    cacheAuthorizedRequests: false
    authorizedTTL: 1s
    cacheUnauthorizedRequests: false
    unauthorizedTTL: 1s
    timeout: {TIMEOUT_SECONDS}s
    subjectAccessReviewVersion: v1
    matchConditionSubjectAccessReviewVersion: v1
    # What is protected stays protected when stepup-server is down. Everything else is not asked about.
    failurePolicy: Deny
    connectionInfo:
      type: KubeConfigFile
      kubeConfigFile: {kubeconfig}
    # What admission webhooks are not called for: reads, impersonation and the like, other paths, and admission's own
    # configuration; and whoever carries a group that only a grant gives.
    matchConditions:
    - expression: {condition}
- type: Node
  name: node
- type: RBAC
  name: rbac
",
            kubeconfig = quoted(&kubeconfig.display().to_string()),
            condition = block(condition, 8),
        )
    }

    fn webhook_kubeconfig(&self) -> Result<String, RenderError> {
        let client = self.config.webhooks.client.as_ref().ok_or(RenderError::NoClient)?;
        Ok(format!(
            "\
# With this the API server calls the authorizer of authorization.yaml. The last part of the address is the digest of
# the match conditions there, so that stepup-server notices when they are not those of its policy any more.
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
            server = quoted(&self.url("authorize")),
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
        if matching.admission_rules().is_empty() {
            text += "# The policy protects nothing that admission sees.\nwebhooks: []\n";
            return text;
        }
        put(&mut text, format_args!("webhooks:\n- name: {WEBHOOK_NAME}\n  clientConfig:"));
        // The last part of the path is the digest of what is matched. A query is not allowed here.
        put(&mut text, format_args!("    url: {}\n    caBundle: {}", quoted(&self.url("admit")), base64(&self.ca)));
        put(&mut text, format_args!("  admissionReviewVersions: [v1]"));
        put(&mut text, format_args!("  # A dry run consumes no grant; it is recorded."));
        put(&mut text, format_args!("  sideEffects: NoneOnDryRun"));
        put(
            &mut text,
            format_args!(
                "  # What is protected stays protected when stepup-server is down. Everything else is not asked about."
            ),
        );
        put(&mut text, format_args!("  failurePolicy: Fail\n  timeoutSeconds: {TIMEOUT_SECONDS}"));
        put(
            &mut text,
            format_args!(
                "  # By whatever API version a protected object is reached.\n  matchPolicy: Equivalent\n  rules:"
            ),
        );
        for rule in matching.admission_rules() {
            put(&mut text, format_args!("  - apiGroups: {}\n    apiVersions: [\"*\"]", list(&rule.api_groups)));
            put(
                &mut text,
                format_args!("    resources: {}\n    operations: {}", list(&rule.resources), list(&rule.operations)),
            );
            put(&mut text, format_args!("    scope: \"*\""));
        }
        put(&mut text, format_args!("  matchConditions:\n  - name: protected"));
        put(&mut text, format_args!("    expression: {}", block(matching.admission(), 6)));
        text
    }

    fn rbac(&self) -> String {
        let mut bindings = BTreeSet::new();
        let mut open = BTreeSet::new();
        for rule in self.policy.rules() {
            for pattern in rule.actions.iter().filter(|pattern| pattern.verbs.iter().any(|verb| verb == "assume")) {
                let roles = pattern.resources.iter().any(|resource| resource == "clusterroles");
                for role in pattern.names.iter().filter(|_| roles) {
                    if is_glob(role) {
                        open.insert((rule.name.as_str(), role.as_str()));
                    } else {
                        let role = role.strip_prefix('=').unwrap_or(role);
                        bindings.extend(rule.groups.iter().map(|group| (group.as_str(), role)));
                    }
                }
            }
        }
        let mut text = "\
# To apply with kubectl. What the groups that only a grant gives may do: the roles that rules let people assume.
apiVersion: v1
kind: List
"
        .to_owned();
        for (rule, role) in open {
            put(&mut text, format_args!("# Rule {rule} names cluster roles as {role}: bind those yourself."));
        }
        if bindings.is_empty() {
            text += "items: []\n";
            return text;
        }
        text += "items:\n";
        for (group, role) in bindings {
            put(&mut text, format_args!("- apiVersion: rbac.authorization.k8s.io/v1\n  kind: ClusterRoleBinding"));
            put(&mut text, format_args!("  metadata:\n    name: {}", quoted(&format!("{group}:{role}"))));
            put(&mut text, format_args!("  subjects:\n  - apiGroup: rbac.authorization.k8s.io\n    kind: Group"));
            put(&mut text, format_args!("    name: {}", quoted(group)));
            put(&mut text, format_args!("  roleRef:\n    apiGroup: rbac.authorization.k8s.io\n    kind: ClusterRole"));
            put(&mut text, format_args!("    name: {}", quoted(role)));
        }
        text
    }

    fn url(&self, endpoint: &str) -> String {
        format!("{}/{endpoint}/{}", self.config.webhooks.url, self.policy.match_digest())
    }
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
