//! Keys and certificates of one lab, made afresh.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, date_time_ymd,
};

/// Paths of a certificate (PEM) and its key (PEM, 0600).
#[derive(Clone, Debug)]
pub struct Certified {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// All files of the lab's public-key infrastructure.
#[derive(Clone, Debug)]
pub struct Pki {
    /// What every server of the lab is signed by.
    pub ca: PathBuf,
    /// What the API server's own clients are signed by.
    pub client_ca: PathBuf,
    /// What the API server's webhook client certificate is signed by.
    pub webhook_ca: PathBuf,
    /// Of the API server.
    pub api_server: Certified,
    /// Of the identity provider.
    pub provider: Certified,
    /// Of stepup-server.
    pub stepup_server: Certified,
    /// `system:masters`.
    pub admin: Certified,
    /// What the API server presents to webhooks.
    pub webhook_client: Certified,
    /// A client certificate for webhooks that somebody else's authority signed.
    pub stranger: Certified,
    /// Signs service account tokens.
    pub service_account_key: PathBuf,
    /// Its public half.
    pub service_account_public_key: PathBuf,
    /// Signs the identity provider's tokens (RSA).
    pub provider_signing_key: PathBuf,
}

impl Pki {
    /// Where everything is in `directory`, whether it exists or not.
    fn at(directory: &Path) -> Self {
        let file = |name: &str| directory.join(name);
        let certified =
            |name: &str| Certified { certificate: file(&format!("{name}.crt")), key: file(&format!("{name}.key")) };
        Self {
            ca: file("ca.crt"),
            client_ca: file("client-ca.crt"),
            webhook_ca: file("webhook-ca.crt"),
            api_server: certified("kube-apiserver"),
            provider: certified("oidc-provider"),
            stepup_server: certified("stepup-server"),
            admin: certified("admin"),
            webhook_client: certified("webhook-client"),
            stranger: certified("stranger"),
            service_account_key: file("service-account.key"),
            service_account_public_key: file("service-account.pub"),
            provider_signing_key: file("oidc-provider-signing.key"),
        }
    }

    /// The files of `directory`, made now if there are none.
    pub fn open(directory: &Path) -> Result<Self> {
        let pki = Self::at(directory);
        // Written last, so if it is there everything is.
        if !pki.provider_signing_key.exists() {
            fs::create_dir_all(directory)?;
            pki.make()?;
        }
        Ok(pki)
    }

    fn make(&self) -> Result<()> {
        let servers = authority("lab")?;
        let clients = authority("lab clients")?;
        let webhooks = authority("lab webhooks")?;
        fs::write(&self.ca, servers.pem())?;
        fs::write(&self.client_ca, clients.pem())?;
        fs::write(&self.webhook_ca, webhooks.pem())?;

        for (files, name) in [
            (&self.api_server, "kube-apiserver"),
            (&self.provider, "oidc-provider"),
            (&self.stepup_server, "stepup-server"),
        ] {
            server(files, name, &servers)?;
        }
        client(&self.admin, "lab-admin", Some("system:masters"), &clients)?;
        client(&self.webhook_client, "kube-apiserver", None, &webhooks)?;
        client(&self.stranger, "kube-apiserver", None, &authority("somebody else")?)?;

        let service_accounts = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        write_private(&self.service_account_key, &service_accounts.serialize_pem())?;
        fs::write(&self.service_account_public_key, service_accounts.public_key_pem())?;
        let provider = KeyPair::generate_for(&PKCS_RSA_SHA256)?;
        write_private(&self.provider_signing_key, &provider.serialize_pem())
    }
}

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Result<Authority> {
    let mut params = params(name, &[])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)?)
}

fn server(files: &Certified, name: &str, authority: &Authority) -> Result<()> {
    let mut params = params(name, &["localhost", "127.0.0.1"])?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    sign(files, params, authority)
}

fn client(files: &Certified, name: &str, group: Option<&str>, authority: &Authority) -> Result<()> {
    let mut params = params(name, &[])?;
    if let Some(group) = group {
        // The API server takes the organization for a group.
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    sign(files, params, authority)
}

fn params(name: &str, hosts: &[&str]) -> Result<CertificateParams> {
    let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    // Wide enough for tests that set a clock wrong.
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2049, 12, 31);
    Ok(params)
}

fn sign(files: &Certified, mut params: CertificateParams, authority: &Authority) -> Result<()> {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    fs::write(&files.certificate, params.signed_by(&key, authority)?.pem())?;
    write_private(&files.key, &key.serialize_pem())
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}
