//! `kubectl stepup drop`.

use std::process::ExitCode;

use chrono::DateTime;

use super::{Chosen, server};
use crate::client::cache::{self, Elevated};
use crate::client::cli::Drop;
use crate::client::error::Error;
use crate::client::parent::Asker;
use crate::client::{Clock, output};

/// Revokes grants on the server and forgets their tokens here. What is here is forgotten even if the server is away.
pub fn run(args: &Drop, clock: Clock) -> Result<ExitCode, Error> {
    let profile = Chosen::find(&args.target)?.profile;
    let held = cache::all_elevated(&profile.files, clock());
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
            Ok(()) => output::line(format_args!("{id} is given up.")),
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
