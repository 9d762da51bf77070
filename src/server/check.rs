//! `stepup-server check`: everything that `serve` would stumble over, without starting.

use std::fs::{self, File, OpenOptions};
use std::path::Path;

use crate::server::config::{Config, Sink, Store};
use crate::server::identity::Identities;
use crate::server::listen::Tls;
use crate::server::policy::Policy;

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// Why `serve` would not start or would soon fail; a line each.
    pub problems: Vec<String>,
    /// What is allowed and probably not meant; a line each.
    pub warnings: Vec<String>,
}

/// Checks the configuration in `file`, all files that it names, and the policy.
pub fn check(file: &Path) -> Report {
    let mut report = Report::default();
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(error) => {
            report.problems.push(error.to_string());
            return report;
        }
    };
    check_certificates(&config, &mut report);
    if let Err(error) = Identities::new(&config) {
        report.problems.push(error.to_string());
    }
    match Policy::load(&config.policy, &config) {
        Ok(policy) => {
            let file = config.policy.display();
            report.warnings.extend(policy.warnings().iter().map(|warning| format!("{file}: {warning}")));
        }
        Err(error) => report.problems.push(error.to_string()),
    }
    let Store::Sqlite { path } = &config.store;
    report.problems.extend(unwritable_file("store.sqlite.path", path));
    for sink in &config.audit.sinks {
        if let Sink::File { path } = sink {
            report.problems.extend(unwritable_file("audit.sinks", path));
        }
    }
    report.problems.extend(unwritable_directory("token.keys", &config.token.keys));
    report
}

fn check_certificates(config: &Config, report: &mut Report) {
    let before = report.problems.len();
    let authorities = config.identity_providers.iter().filter_map(|provider| provider.ca.as_ref());
    let files = [
        ("tls.certificate", &config.tls.certificate),
        ("tls.key", &config.tls.key),
        ("webhookClients.ca", &config.webhook_clients.ca),
    ];
    let files = files.into_iter().chain(config.tls.ca.iter().map(|file| ("tls.ca", file)));
    for (key, file) in files.chain(authorities.map(|file| ("identityProviders", file))) {
        if let Err(error) = fs::read(file) {
            report.problems.push(format!("`{key}`: {}: cannot be read: {error}", file.display()));
        }
    }
    if report.problems.len() == before
        && let Err(error) = Tls::open(config)
    {
        report.problems.push(error.to_string());
    }
}

/// Why the file at `path` could not be appended to or made.
fn unwritable_file(key: &str, path: &Path) -> Option<String> {
    if path.exists() {
        let error = OpenOptions::new().append(true).open(path).err()?;
        return Some(format!("`{key}`: {}: cannot be written: {error}", path.display()));
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !directory.is_dir() {
        return Some(format!("`{key}`: {}: the directory does not exist; make it first", directory.display()));
    }
    unwritable_directory(key, directory)
}

/// Why nothing could be made in `directory`, or in the nearest one above it that exists.
fn unwritable_directory(key: &str, directory: &Path) -> Option<String> {
    let existing = directory.ancestors().find(|directory| directory.exists()).unwrap_or(Path::new("."));
    let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    let probe = existing.join(format!(".stepup-check-{}", std::process::id()));
    match File::create_new(&probe).and_then(|_| fs::remove_file(&probe)) {
        Ok(()) => None,
        Err(error) => Some(format!("`{key}`: {}: cannot be written to: {error}", existing.display())),
    }
}
