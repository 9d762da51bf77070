//! `stepup-server check`: everything that `serve` would stumble over, without starting.

use std::fs::{self, File, OpenOptions};
use std::path::Path;

use crate::server::config::{Config, Sink, Store};
use crate::server::identity::Identities;
use crate::server::listen::Tls;
use crate::server::mint::Signer;
use crate::server::policy::Policy;
use crate::server::store::{Sqlite, StoreError, sqlite};

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
    check_store(&config, &mut report);
    report.warnings.extend(config.audit.warning().map(|warning| format!("{}: {warning}", file.display())));
    for sink in &config.audit.sinks {
        if let Sink::File { path } = sink {
            report.problems.extend(unwritable_file("audit.sinks", path));
        }
    }
    check_keys(&config, &mut report);
    report
}

fn check_store(config: &Config, report: &mut Report) {
    const KEY: &str = "store.sqlite.path";
    let Store::Sqlite { path } = &config.store;
    let before = report.problems.len();
    report.problems.extend(unwritable_file(KEY, path));
    if path.exists() && report.problems.len() == before {
        // SQLite has files of its own beside the database.
        report.problems.extend(unwritable_directory(KEY, directory_of(path)));
        let files = sqlite::COMPANIONS.map(|suffix| sqlite::beside(path, suffix));
        report.problems.extend(files.iter().filter(|file| file.exists()).filter_map(|file| unwritable_file(KEY, file)));
        report.problems.extend(Sqlite::check(path).err().map(|StoreError(error)| format!("`{KEY}`: {error}")));
    }
}

fn check_keys(config: &Config, report: &mut Report) {
    const KEY: &str = "token.keys";
    match Signer::check(&config.token.keys, config.token.sign_with) {
        // With its keys there the directory may be read-only.
        Ok(makes_keys) => {
            report.problems.extend(makes_keys.then(|| unwritable_directory(KEY, &config.token.keys)).flatten());
        }
        Err(problems) => report.problems.extend(problems.iter().map(|problem| format!("`{KEY}`: {problem}"))),
    }
}

fn check_certificates(config: &Config, report: &mut Report) {
    let before = report.problems.len();
    let authorities = config.identity_providers.iter().filter_map(|provider| provider.ca.as_ref());
    let files = [("tls.certificate", &config.tls.certificate), ("tls.key", &config.tls.key)];
    let clients = config.webhook_clients.iter().map(|clients| ("webhookClients.ca", &clients.ca));
    let files = files.into_iter().chain(clients).chain(config.tls.ca.iter().map(|file| ("tls.ca", file)));
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
        let error = OpenOptions::new().read(true).append(true).open(path).err()?;
        return Some(format!("`{key}`: {}: cannot be written: {error}", path.display()));
    }
    let directory = directory_of(path);
    if !directory.is_dir() {
        return Some(format!("`{key}`: {}: the directory does not exist; make it first", directory.display()));
    }
    unwritable_directory(key, directory)
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
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
