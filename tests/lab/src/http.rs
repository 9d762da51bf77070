//! HTTPS clients that trust the lab's authority and nobody else.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::blocking::{Client, ClientBuilder};
use reqwest::{Certificate, Identity};

use crate::pki::Certified;

/// Programs that have just started answer their first questions slowly where two processors are shared by all of a lab.
const LIMIT: Duration = Duration::from_mins(1);

/// A client for servers that `ca` signed.
pub fn client(ca: &Path) -> Result<Client> {
    Ok(builder(ca)?.build()?)
}

/// A client that also presents a certificate.
pub fn client_with_certificate(ca: &Path, certified: &Certified) -> Result<Client> {
    let mut pem = read(&certified.key)?;
    pem.extend(read(&certified.certificate)?);
    Ok(builder(ca)?.identity(Identity::from_pem(&pem)?).build()?)
}

/// What both begin with.
pub(crate) fn builder(ca: &Path) -> Result<ClientBuilder> {
    let ca = Certificate::from_pem(&read(ca)?)?;
    Ok(Client::builder().tls_certs_only([ca]).timeout(LIMIT).no_proxy())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
