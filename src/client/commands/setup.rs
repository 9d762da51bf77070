//! `kubectl stepup setup`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use chrono::Utc;
use reqwest::Method;
use serde_json::Value;

use super::kubeconfig_files;
use crate::client::cli::{Setup, Switch};
use crate::client::error::Error;
use crate::client::http::{HttpClient, Problem, describe};
use crate::client::kubeconfig::{self, Edit};
use crate::client::output;
use crate::client::paths::Paths;
use crate::client::preflight::digest;
use crate::client::profile::{Flow, Profile, ServerSettings, StepUpSettings};
use crate::client::prompt::{self, Interrupt, Screen};
use crate::client::session::{self, LoginOptions};
use crate::client::trial::{self, Wanted};
use crate::client::words::plain;
use crate::secret::Secret;

/// For what is only asked to warn of it.
const CONNECT: Duration = Duration::from_secs(3);
const TOTAL: Duration = Duration::from_secs(5);
/// Larger than any client secret; something else was named.
const MAX_SECRET: u64 = 64 << 10;

/// Writes the profile and the kubeconfig's user, after checking all of it.
pub fn run(args: &Setup) -> Result<ExitCode, Error> {
    let paths = Paths::find();
    let before = match Profile::load(&paths, &args.profile) {
        Ok(profile) => Some(profile),
        Err(Error::NoProfile { .. }) => None,
        Err(error) => return Err(error),
    };
    let mut profile = wanted_profile(args, &paths, before.as_ref())?;
    let files = kubeconfig_files(args.kubeconfig.as_deref())
        .ok_or_else(|| Error::Usage("there is no home directory; name the kubeconfig with --kubeconfig".to_owned()))?;
    let wanted = kubeconfig::Wanted {
        user: args.user.clone().unwrap_or_else(|| args.profile.to_string()),
        profile: args.profile.to_string(),
        api_version: args.exec_api_version,
        context: args.context.clone(),
        cluster: args.cluster.clone(),
        overwrite: args.overwrite,
        cluster_info: profile.provider_only.is_some(),
    };
    let edits = kubeconfig::plan(&files, &wanted)?;
    if !args.offline {
        for warning in warnings(&mut profile) {
            output::note(format_args!("Warning: {warning}"));
        }
    }
    let is_new_profile = before.as_ref() != Some(&profile);
    if args.dry_run {
        show(before.as_ref(), &profile, &edits);
        return Ok(ExitCode::SUCCESS);
    }
    if !is_new_profile && edits.is_empty() && !args.try_step_up {
        output::line(format_args!(
            "Profile {} and the kubeconfig say all of that already; nothing changed.",
            profile.name
        ));
        return Ok(ExitCode::SUCCESS);
    }
    if is_new_profile {
        profile.save()?;
        output::line(format_args!("Wrote {}.", profile.files.settings().display()));
    }
    if is_new_profile && !args.offline {
        digest::renew(&profile, digest::NOW, Utc::now);
    }
    for edit in &edits {
        edit.write()?;
        output::line(format_args!("Changed {}.", edit.path.display()));
        for replaced in &edit.replaced {
            output::line(format_args!("  Replaced {}.", plain(replaced)));
        }
    }
    if args.try_step_up {
        find_step_up(args, &paths)?;
    }
    for line in next_steps(args, &profile, &wanted, before.as_ref()) {
        output::line(line);
    }
    Ok(ExitCode::SUCCESS)
}

/// The profile as it was, or a new one, with all that the command line says.
fn wanted_profile(args: &Setup, paths: &Paths, before: Option<&Profile>) -> Result<Profile, Error> {
    let mut profile = match (before, &args.issuer, &args.client_id) {
        (Some(before), _, _) => before.clone(),
        (None, Some(issuer), Some(client_id)) => Profile::new(paths, &args.profile, issuer, client_id),
        (None, _, _) => {
            return Err(Error::Usage(format!("profile {} is new: it needs --issuer and --client-id", args.profile)));
        }
    };
    if let Some(issuer) = &args.issuer {
        profile.issuer.clone_from(issuer);
    }
    if let Some(client_id) = &args.client_id {
        profile.client_id.clone_from(client_id);
    }
    if let Some(file) = &args.client_secret_file {
        profile.client_secret = Some(client_secret(file)?);
    }
    if let Some(file) = &args.issuer_ca {
        profile.issuer_ca = Some(ca_file(file)?);
    }
    if !args.scope.is_empty() {
        // Without it there is no ID token (OpenID Connect Core 3.1.2.1).
        profile.scopes = vec!["openid".to_owned()];
        for scope in args.scope.iter().flat_map(|scopes| scopes.split_whitespace()) {
            if !profile.scopes.iter().any(|known| known == scope) {
                profile.scopes.push(scope.to_owned());
            }
        }
    }
    if let Some(url) = &args.server {
        let ca = profile.server.take().and_then(|server| server.ca);
        profile.server = Some(ServerSettings { url: url.trim_end_matches('/').to_owned(), ca });
    }
    if let Some(file) = &args.server_ca {
        let Some(server) = &mut profile.server else {
            return Err(Error::Usage("--server-ca needs --server".to_owned()));
        };
        server.ca = Some(ca_file(file)?);
    }
    if let Some(flow) = args.flow {
        profile.flow = flow;
    }
    if let Some(preflight) = args.preflight {
        profile.step_up.preflight = preflight == Switch::On;
    }
    set_step_up(&mut profile.step_up, args)?;
    set_provider_only(&mut profile, args)?;
    if args.preflight == Some(Switch::On) && !profile.steps_up() {
        return Err(Error::Usage("--preflight on needs --server, or --step-up-acr without one".to_owned()));
    }
    if let Some(hint) = &args.login_hint {
        profile.login_hint = Some(hint.clone());
    }
    if args.no_browser {
        profile.open_browser = false;
    }
    profile.check().map_err(Error::Usage)?;
    Ok(profile)
}

/// How to step up, with all that the command line says.
fn set_step_up(settings: &mut StepUpSettings, args: &Setup) -> Result<(), Error> {
    if let Some(flow) = args.step_up_flow {
        settings.flow = flow;
    }
    if let Some(method) = args.step_up_method {
        settings.method = method;
        settings.scopes = Vec::new();
        (settings.client_id, settings.client_secret) = (None, None);
    }
    if !args.step_up_scope.is_empty() {
        settings.scopes = Vec::new();
        for scope in args.step_up_scope.iter().flat_map(|scopes| scopes.split_whitespace()) {
            if !settings.scopes.iter().any(|known| known == scope) {
                settings.scopes.push(scope.to_owned());
            }
        }
    }
    if let Some(client_id) = &args.step_up_client_id {
        if settings.client_id.as_ref() != Some(client_id) {
            settings.client_secret = None;
        }
        settings.client_id = Some(client_id.clone());
    }
    if let Some(file) = &args.step_up_client_secret_file {
        settings.client_secret = Some(client_secret(file)?);
    }
    Ok(())
}

/// Step-up without stepup-server, with all that the command line says.
fn set_provider_only(profile: &mut Profile, args: &Setup) -> Result<(), Error> {
    if args.server.is_some() {
        profile.provider_only = None;
    }
    let is_said = !args.step_up_acr.is_empty()
        || args.step_up_max_age.is_some()
        || args.step_up_ttl.is_some()
        || !args.protect.is_empty()
        || args.protect_file.is_some()
        || args.digest_configmap.is_some();
    if !is_said {
        return Ok(());
    }
    if let Some(server) = &profile.server {
        return Err(Error::Usage(format!(
            "profile {} steps up at {}; without stepup-server it must be another profile: --profile NAME",
            profile.name, server.url
        )));
    }
    let settings = profile.provider_only.get_or_insert_default();
    if !args.step_up_acr.is_empty() {
        settings.acr_values.clone_from(&args.step_up_acr);
    }
    settings.max_age = args.step_up_max_age.unwrap_or(settings.max_age);
    settings.ttl = args.step_up_ttl.unwrap_or(settings.ttl);
    if !args.protect.is_empty() || args.protect_file.is_some() {
        settings.protected.clone_from(&args.protect);
    }
    if let Some(file) = &args.protect_file {
        let text = fs::read_to_string(file).map_err(Error::file("read", file))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        settings.protected.extend(lines.map(ToOwned::to_owned));
    }
    if let Some(name) = &args.digest_configmap {
        settings.digest_config_map = (!name.is_empty()).then(|| name.clone());
    }
    Ok(())
}

/// Tries the ways to step up that the profile has settings for, one after the other, and keeps the first that works.
fn find_step_up(args: &Setup, paths: &Paths) -> Result<(), Error> {
    let mut profile = Profile::load(paths, &args.profile)?;
    if !profile.steps_up() {
        return Err(Error::Usage(
            "--try needs --server, which knows what a step-up must be like, or --step-up-acr, which says it".to_owned(),
        ));
    }
    if !prompt::person_is_there() {
        return Err(Error::Failed("--try signs you in, and nobody is here: run it in a terminal".to_owned()));
    }
    let wanted = match Wanted::find(&profile, Utc::now) {
        Err(Error::NotSignedIn { .. }) => {
            output::line("An ordinary sign-in first.");
            session::login(&profile, LoginOptions::default(), Utc::now)?;
            Wanted::find(&profile, Utc::now)?
        }
        wanted => wanted?,
    };
    for settings in trial::candidates(&profile, args.step_up_method, args.step_up_flow) {
        output::line(format_args!("Trying {settings}."));
        profile.step_up = settings;
        match trial::run(&profile, &wanted, &Screen::open(), Utc::now) {
            Ok(trial) if trial.works() => {
                profile.save()?;
                output::line(format_args!(
                    "Step-up by {}. Wrote {}.",
                    plain(&trial.to_string()),
                    profile.files.settings().display()
                ));
                return Ok(());
            }
            Ok(trial) => output::line(format_args!("Step-up by {}.", plain(&trial.to_string()))),
            Err(error) if Interrupt::listen().happened() => return Err(error),
            Err(error @ (Error::Provider { .. } | Error::Declined { .. })) => {
                output::line(format_args!(
                    "Step-up by {} does not work: {}.",
                    profile.step_up,
                    plain(&error.to_string())
                ));
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::Failed(
        "no way to step up works; the profile is as it was. Another scope (--step-up-scope) or client \
         (--step-up-client-id) may, if the provider binds a stronger sign-in to it"
            .to_owned(),
    ))
}

/// What the provider and the server say about themselves that will not work, and who cannot be asked. Takes over how the
/// provider writes its issuer.
fn warnings(profile: &mut Profile) -> Vec<String> {
    let mut warnings = Vec::new();
    match discovery(&profile.issuer, profile.issuer_ca.as_deref()) {
        Err(problem) => warnings.push(format!("the identity provider cannot be asked now: {problem}")),
        Ok(document) => {
            let says = document["issuer"].as_str().unwrap_or_default();
            if says.trim_end_matches('/') == profile.issuer.trim_end_matches('/') && says != profile.issuer {
                warnings.push(format!(
                    "the issuer is {says}, with its slash or without: the cluster and stepup-server must have it just so"
                ));
                says.clone_into(&mut profile.issuer);
            } else if says != profile.issuer {
                warnings.push(format!(
                    "{} calls itself {says:?}; tokens will be refused unless --issuer is exactly that",
                    profile.issuer
                ));
            }
            let device = [profile.flow, if profile.steps_up() { profile.step_up.flow } else { profile.flow }];
            if device.contains(&Flow::Device) && document["device_authorization_endpoint"].is_null() {
                warnings.push(
                    "the identity provider offers no device flow: use --flow browser --step-up-flow browser".to_owned(),
                );
            }
        }
    }
    if let Some(server) = &profile.server
        && let Err(problem) = discovery(&server.url, server.ca.as_deref())
    {
        warnings.push(format!("stepup-server cannot be asked now: {problem}"));
    }
    let program = format!("kubectl-stepup{}", std::env::consts::EXE_SUFFIX);
    let on_path = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(&program).is_file()));
    if !on_path {
        warnings.push("kubectl-stepup is not on your PATH, where kubectl looks for it".to_owned());
    }
    warnings.iter().map(|warning| plain(warning)).collect()
}

/// `/.well-known/openid-configuration` of `url`, which is an issuer.
fn discovery(url: &str, ca: Option<&Path>) -> Result<Value, String> {
    let address = format!("{}/.well-known/openid-configuration", url.trim_end_matches('/'));
    let http = HttpClient::new(ca, CONNECT, TOTAL).map_err(|error| error.to_string())?;
    let answer = http.send(http.request(Method::GET, &address)).map_err(|Problem(why)| format!("{address}: {why}"))?;
    match serde_json::from_slice(answer.body()) {
        Ok(document) if answer.status().is_success() => Ok(document),
        Err(_) if answer.status().is_success() => Err(format!("{address} is not JSON: is this the right URL?")),
        _ => Err(format!("{address}: {}", describe(&answer))),
    }
}

/// A CA file as the profile keeps it: an absolute path to a PEM file that can be read now.
fn ca_file(file: &Path) -> Result<PathBuf, Error> {
    certificates(file)?;
    std::path::absolute(file).map_err(Error::file("find", file))
}

fn certificates(file: &Path) -> Result<Vec<reqwest::Certificate>, Error> {
    let pem = fs::read(file).map_err(Error::file("read", file))?;
    let bad = |problem: &str| Error::BadFile { path: file.to_owned(), problem: problem.to_owned() };
    match reqwest::Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(bad("there is no PEM certificate in it")),
        Err(_) => Err(bad("it is not a PEM certificate")),
    }
}

fn client_secret(file: &Path) -> Result<Secret, Error> {
    let bad = |problem: &str| Error::BadFile { path: file.to_owned(), problem: problem.to_owned() };
    if fs::metadata(file).map_err(Error::file("read", file))?.len() > MAX_SECRET {
        return Err(bad("it is too large for a client secret"));
    }
    let text = fs::read_to_string(file).map_err(Error::file("read", file))?;
    let secret = text.trim();
    if secret.is_empty() || secret.contains(char::is_whitespace) {
        return Err(bad("a client secret is one word"));
    }
    Ok(Secret::new(secret))
}

fn show(before: Option<&Profile>, profile: &Profile, edits: &[Edit]) {
    let text = |profile: &Profile| serde_json::to_string_pretty(profile).map(|text| text + "\n").unwrap_or_default();
    let before = before.map(text);
    let after = text(profile);
    let diff = kubeconfig::diff(profile.files.settings(), before.as_deref(), &after);
    let diffs: Vec<String> =
        std::iter::once(diff).chain(edits.iter().map(Edit::diff)).filter(|diff| !diff.is_empty()).collect();
    if diffs.is_empty() {
        output::line("Nothing would change.");
    }
    for diff in diffs {
        output::line(diff.trim_end());
    }
    for replaced in edits.iter().flat_map(|edit| &edit.replaced) {
        output::note(format_args!("Would replace {}.", plain(replaced)));
    }
}

fn next_steps(args: &Setup, profile: &Profile, wanted: &kubeconfig::Wanted, before: Option<&Profile>) -> Vec<String> {
    let mut lines = Vec::new();
    if wanted.context.is_none() && before.is_none() {
        lines.push(format!(
            "Use it in a context: kubectl config set-context --current --user={}",
            kubeconfig_word(&wanted.user)
        ));
    }
    let signs_in_elsewhere =
        before.is_none_or(|before| (&before.issuer, &before.client_id) != (&profile.issuer, &profile.client_id));
    if signs_in_elsewhere {
        let which =
            if args.profile.as_str() == "default" { String::new() } else { format!(" --profile {}", args.profile) };
        lines.push(format!("Next: kubectl stepup login{which}"));
    }
    lines
}

/// `word` as a shell takes it.
fn kubeconfig_word(word: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_./:@".contains(c);
    if word.chars().all(safe) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}
