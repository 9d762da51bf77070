//! `kubectl stepup drop`.

use std::process::ExitCode;

use chrono::DateTime;

use super::{Chosen, server};
use crate::client::cache::{self, Elevated};
use crate::client::cli::Drop;
use crate::client::error::Error;
use crate::client::parent::Asker;
use crate::client::profile::Profile;
use crate::client::words::plain;
use crate::client::{Clock, output};

/// Revokes grants on the server and forgets their tokens here. What is here is forgotten even if the server is away.
pub fn run(args: &Drop, clock: Clock) -> Result<ExitCode, Error> {
    let profile = Chosen::find(&args.target)?.profile;
    let held = cache::all_elevated(&profile.files, clock());
    if profile.provider_only.is_some() {
        return forget_here(args, &profile, &held);
    }
    let server = server(&profile, clock).map(|(_, server)| server);
    let mut failed = None;
    let ids = if args.all {
        let mut ids: Vec<String> = held.iter().flat_map(|(_, elevated)| ids_of(elevated)).collect();
        match server.as_ref().map(|server| server.grants(false)) {
            Ok(Ok(list)) => ids.extend(list.grants.into_iter().map(|grant| grant.id)),
            Ok(Err(error)) => failed = Some(error),
            Err(_) => {}
        }
        ids
    } else if args.grants.is_empty() {
        let here = here();
        held.iter()
            .filter(|(scope, _)| Some(scope) == here.as_ref())
            .flat_map(|(_, elevated)| ids_of(elevated))
            .collect()
    } else {
        args.grants.clone()
    };
    let ids = distinct(ids);
    if ids.is_empty() && !args.all {
        output::line("This terminal holds no grants. (All of them: --all.)");
        return Ok(ExitCode::SUCCESS);
    }
    for id in &ids {
        cache::forget_grant(&profile.files, id)?;
        let revoked = match &server {
            Ok(server) => server.revoke(id),
            Err(error) => Err(Error::Failed(error.to_string())),
        };
        match revoked {
            Ok(()) => {
                let copy = held.iter().find(|(_, elevated)| elevated.has(id) && elevated.grant.irrevocable);
                let expiry = copy.and_then(|(_, elevated)| DateTime::from_timestamp(elevated.expires_at, 0));
                let id = plain(id);
                output::line(match expiry {
                    None => format!("{id} is given up."),
                    Some(at) => format!(
                        "{id} is given up here; a copy of its token would be good until {}.",
                        at.format("%H:%M:%S UTC")
                    ),
                });
            }
            Err(error) => {
                let expiry =
                    held.iter().find(|(_, elevated)| elevated.grant.id == *id).map(|(_, elevated)| elevated.expires_at);
                let expiry = expiry.and_then(|at| DateTime::from_timestamp(at, 0));
                output::note(format_args!(
                    "{id}: its token is deleted here, but the server still has the grant{}",
                    expiry.map(|at| format!(", until {}", at.format("%H:%M:%S UTC"))).unwrap_or_default()
                ));
                failed.get_or_insert(error);
            }
        }
    }
    match (failed, server) {
        // The error that kept us from every one of them says most.
        (_, Err(error)) | (Some(error), Ok(_)) => Err(error),
        (None, Ok(_)) => {
            if ids.is_empty() {
                output::line("You have no grants.");
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Without stepup-server there is nobody to tell: tokens are forgotten, and so is the sign-in that would be used again.
fn forget_here(args: &Drop, profile: &Profile, held: &[(String, Elevated)]) -> Result<ExitCode, Error> {
    let here = here();
    let is_meant = |scope: &String, elevated: &Elevated| {
        args.all || args.grants.contains(&elevated.grant.id) || args.grants.is_empty() && Some(scope) == here.as_ref()
    };
    let scope = Asker::find().map(|asker| asker.terminal_or_parent());
    match (args.all, &scope) {
        (true, _) => cache::forget_sign_in(&profile.sign_ins(), None)?,
        (false, Some(scope)) => cache::forget_sign_in(&profile.sign_ins(), Some(scope))?,
        (false, None) => {}
    }
    let mut found = false;
    for (_, elevated) in held.iter().filter(|(scope, elevated)| is_meant(scope, elevated)) {
        found = true;
        cache::forget_grant(&profile.files, &elevated.grant.id)?;
        let until = DateTime::from_timestamp(elevated.expires_at, 0);
        output::line(format_args!(
            "{} is forgotten here; a copy of its token would be good until the provider's own expiry, {} or later.",
            plain(&elevated.grant.id),
            until.map(|at| at.format("%H:%M:%S UTC").to_string()).unwrap_or_default()
        ));
    }
    if !found {
        output::line("There is no stronger token here to forget.");
    }
    Ok(ExitCode::SUCCESS)
}

/// The scope that `elevate` binds to from here, as the cache calls it.
fn here() -> Option<String> {
    Asker::find().map(|asker| asker.terminal_or_parent().file_name())
}

/// The grant of a token, and those that it carries.
fn ids_of(elevated: &Elevated) -> Vec<String> {
    std::iter::once(&elevated.grant.id).chain(&elevated.carries).cloned().collect()
}

fn distinct(ids: Vec<String>) -> Vec<String> {
    let mut seen: Vec<String> = Vec::new();
    for id in ids {
        if !seen.contains(&id) {
            seen.push(id);
        }
    }
    seen
}
