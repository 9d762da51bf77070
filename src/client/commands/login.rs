//! `kubectl stepup login`.

use std::process::ExitCode;

use super::Chosen;
use crate::client::cli::Login;
use crate::client::error::Error;
use crate::client::preflight::digest;
use crate::client::session::LoginOptions;
use crate::client::words::{left, plain};
use crate::client::{Clock, output, session};

/// Signs in, unless somebody is signed in already.
pub fn run(args: &Login, clock: Clock) -> Result<ExitCode, Error> {
    let profile = Chosen::find(&args.target)?.profile;
    if !args.force
        && let Ok(session) = session::current(&profile, clock)
    {
        output::line(format_args!(
            "Already signed in{}, profile {}. To sign in again: kubectl stepup login --force",
            as_whom(&session.person.user),
            profile.name
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let login = session::login(&profile, LoginOptions { flow: args.flow, no_browser: args.no_browser }, clock)?;
    digest::renew(&profile, digest::NOW, clock);
    let left = left(login.session.base_expires_at - clock().timestamp());
    output::line(format_args!("Signed in{}, profile {}.", as_whom(&login.session.person.user), profile.name));
    output::line(match login.refresh_token {
        Some(place) => {
            format!("The token is good for {left} and is renewed by itself; the refresh token is kept in: {place}.")
        }
        None => format!("The token is good for {left}; the provider gave no refresh token, so you sign in again then."),
    });
    Ok(ExitCode::SUCCESS)
}

fn as_whom(user: &str) -> String {
    if user.is_empty() { String::new() } else { format!(" as {}", plain(user)) }
}
