//! `kubectl stepup logout`.

use std::process::ExitCode;

use super::{Chosen, server};
use crate::client::cli::Logout as Args;
use crate::client::error::Error;
use crate::client::profile::Profile;
use crate::client::session::{self, Logout};
use crate::client::words::plain;
use crate::client::{Clock, cache, output};

/// Drops all grants, revokes the session where the provider can, and forgets everything.
pub fn run(args: &Args, clock: Clock) -> Result<ExitCode, Error> {
    let profile = Chosen::find(&args.target)?.profile;
    let signed_in = cache::session(&profile.files).is_some();
    if signed_in && profile.server.is_some() {
        // Nothing of this may keep the person from signing out.
        match drop_grants(&profile, clock) {
            Ok(0) => {}
            Ok(1) => output::line("One grant was given up."),
            Ok(n) => output::line(format_args!("{n} grants were given up.")),
            Err(error) => {
                output::note(format_args!("Grants could not be given up, they expire by themselves: {error}"));
            }
        }
    }
    output::line(match session::logout(&profile)? {
        Logout::Revoked => {
            format!(
                "Signed out of profile {}: the provider revoked the session, all tokens here are deleted.",
                profile.name
            )
        }
        Logout::Forgotten(why) => format!(
            "Signed out of profile {}: all tokens here are deleted; the provider did not revoke the session ({}).",
            profile.name,
            plain(&why)
        ),
        Logout::NotSignedIn => format!("Nobody is signed in to profile {}.", profile.name),
    });
    Ok(ExitCode::SUCCESS)
}

fn drop_grants(profile: &Profile, clock: Clock) -> Result<usize, Error> {
    let (_, server) = server(profile, clock)?;
    let grants = server.grants(false)?.grants;
    for grant in &grants {
        server.revoke(&grant.id)?;
    }
    Ok(grants.len())
}
