//! The identity provider and stepup-server.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::http;
use crate::plan::{CLIENT_ID, Lock, Plan, write};
use crate::process::Daemon;
use crate::provider_only;
use crate::role::Tie;
use crate::trouble::Wrapper;

const START_LIMIT: Duration = Duration::from_mins(1);

impl Plan {
    pub(crate) fn start_provider(&self, tie: Tie) -> Result<Daemon> {
        let node = PathBuf::from("node");
        let mut provider = Daemon::start("oidc-provider", &node, tie, &self.log_directory(), |command| {
            command
                .arg(self.provider.join("server.mjs"))
                .env("LAB_ISSUER", self.issuer())
                .env("LAB_CLIENT_ID", CLIENT_ID)
                .env("LAB_PROVIDER_CERTIFICATE", &self.pki.provider.certificate)
                .env("LAB_PROVIDER_KEY", &self.pki.provider.key)
                .env("LAB_PROVIDER_SIGNING_KEYS", &self.pki.provider_signing_key)
                .envs(self.options.provider_environment.iter().cloned());
        })?;
        let client = http::client(&self.pki.ca)?;
        let url = format!("{}/.well-known/openid-configuration", self.issuer());
        provider.await_ready(START_LIMIT, || Ok(client.get(&url).send()?.error_for_status().map(drop)?))?;
        Ok(provider)
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.file("stepup/config.yaml")
    }

    pub(crate) fn policy_file(&self) -> PathBuf {
        self.file("stepup/policy.yaml")
    }

    pub(crate) fn audit_log(&self) -> PathBuf {
        self.file("stepup/audit.jsonl")
    }

    pub(crate) fn kube_audit_log(&self) -> PathBuf {
        self.file("log/kube-audit.log")
    }

    /// Writes stepup-server's configuration, and the policy if there is none: a person may have edited it.
    pub(crate) fn write_stepup_files(&self) -> Result<()> {
        if !self.policy_file().exists() {
            write(&self.policy_file(), self.options.policy.as_deref().unwrap_or(include_str!("../policy.yaml")))?;
        }
        write(&self.config_file(), &self.stepup_config())
    }

    fn stepup_config(&self) -> String {
        let pki = &self.pki;
        let (webhook_clients, webhooks) = match self.options.lock {
            Lock::Webhooks => (
                format!("webhookClients:\n  ca: {}\n  names: [kube-apiserver]\n", pki.webhook_ca.display()),
                format!(
                    "webhooks:\n  clientCertificate: {}\n  clientKey: {}\n",
                    pki.webhook_client.certificate.display(),
                    pki.webhook_client.key.display()
                ),
            ),
            Lock::Groups | Lock::Provider => ("mode: groups\n".to_owned(), String::new()),
        };
        format!(
            "\
listen: 127.0.0.1:{port}
publicUrl: {url}
tls:
  certificate: {certificate}
  key: {key}
{webhook_clients}identityProviders:
- name: lab
  issuer: {issuer}
  ca: {ca}
  audiences: [{CLIENT_ID}]
{people}
  groups: {{claim: groups, prefix: ''}}
  levels:
  - {{name: pwd, acrValues: ['urn:stepup:pwd']}}
  - {{name: mfa, acrValues: ['urn:stepup:mfa']}}
  # Bob has no second factor: he hears so at once instead of being asked for one.
  canStepUp:
    groups: [mfa]
{keycloak}token:
  audience: {CLIENT_ID}
  keys: keys
store:
  sqlite: {{path: stepup.db}}
audit:
  sinks:
  - file: {{path: audit.jsonl}}
policy: policy.yaml
administrators:
  users: [carol]
{webhooks}log: {{format: text, level: info}}
{extra}",
            port = self.ports.stepup_server,
            url = self.server_url(),
            certificate = pki.stepup_server.certificate.display(),
            key = pki.stepup_server.key.display(),
            webhook_clients = webhook_clients,
            webhooks = webhooks,
            issuer = self.issuer(),
            people = self.options.people.as_deref().unwrap_or("  username: {claim: sub, prefix: ''}"),
            ca = pki.ca.display(),
            keycloak = self.keycloak_config(),
            extra = self.options.extra_config,
        )
    }

    pub(crate) fn start_stepup_server(&self, tie: Tie, under: &Wrapper) -> Result<Daemon> {
        let mut words = under.0.clone();
        words.extend([self.program("stepup-server").into(), "serve".into(), self.config_file().into()]);
        let program = PathBuf::from(words.remove(0));
        let mut server = Daemon::start("stepup-server", &program, tie, &self.log_directory(), |command| {
            command.args(words);
        })?;
        let client = http::client(&self.pki.ca)?;
        let url = format!("{}/readyz", self.server_url());
        server.await_ready(START_LIMIT, || Ok(client.get(&url).send()?.error_for_status().map(drop)?))?;
        Ok(server)
    }

    /// Writes what the cluster needs to know of stepup-server, or of the provider alone, into `rendered/`.
    pub(crate) fn render(&self) -> Result<()> {
        if self.options.lock == Lock::Provider {
            let ca = fs::read_to_string(&self.pki.ca)?;
            let text = provider_only::authentication(&self.issuer(), CLIENT_ID, &ca)?;
            return write(&self.file("rendered/authentication.yaml"), &text);
        }
        let output = Command::new(self.program("stepup-server"))
            .arg("render")
            .arg(self.config_file())
            .arg("--output")
            .arg(self.file("rendered"))
            .output()
            .context("cannot run stepup-server render")?;
        if !output.status.success() {
            bail!("stepup-server render: {}", String::from_utf8_lossy(&output.stderr));
        }
        fs::metadata(self.file("rendered/authentication.yaml")).context("stepup-server render wrote nothing")?;
        Ok(())
    }
}
