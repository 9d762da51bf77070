//! The commands that people type: each one a function that reads as its story.

pub mod completion;
pub mod drop;
pub mod elevate;
pub mod login;
pub mod logout;
pub mod setup;
pub mod status;

use chrono::{DateTime, Utc};

use crate::client::Clock;
use crate::client::cache::Session;
use crate::client::cli::Target;
use crate::client::error::Error;
use crate::client::kubeconfig::{Current, Files, KubeconfigError};
use crate::client::paths::Paths;
use crate::client::profile::{Name, Profile};
use crate::client::{api, session};

/// The profile that is meant, and what the kubeconfig says about it.
struct Chosen {
    profile: Profile,
    current: Option<Current>,
}

impl Chosen {
    fn find(target: &Target) -> Result<Self, Error> {
        let paths = Paths::find();
        let current = current_context(target);
        // A kubeconfig that cannot be read matters only if it was to decide.
        let (name, current) = if let Some(name) = &target.profile {
            (name.clone(), current.ok().flatten())
        } else {
            let current = current?;
            let from_context = current.as_ref().and_then(|current| current.profile.as_deref()?.parse().ok());
            (from_context.map_or_else(|| only_profile(&paths), Ok)?, current)
        };
        Ok(Self { profile: Profile::load(&paths, &name)?, current })
    }
}

fn current_context(target: &Target) -> Result<Option<Current>, Error> {
    let Some(files) = kubeconfig_files(target.kubeconfig.as_deref()) else { return Ok(None) };
    let current = files.current(target.context.as_deref())?;
    if let (Some(context), None) = (&target.context, &current) {
        return Err(Error::Usage(format!("there is no context {context:?} in the kubeconfig")));
    }
    Ok(current)
}

fn kubeconfig_files(flag: Option<&std::path::Path>) -> Option<Files> {
    let home = directories::BaseDirs::new().map(|dirs| dirs.home_dir().to_owned());
    Files::find(flag, std::env::var_os("KUBECONFIG").as_deref(), home.as_deref())
}

/// "default" if there is one, else the only profile.
fn only_profile(paths: &Paths) -> Result<Name, Error> {
    let mut names = Profile::names(paths);
    if let Some(index) = names.iter().position(|name| name.as_str() == "default") {
        return Ok(names.swap_remove(index));
    }
    match names.len() {
        0 => Err(Error::NoProfile { name: "default".to_owned() }),
        1 => Ok(names.remove(0)),
        _ => {
            let names: Vec<&str> = names.iter().map(Name::as_str).collect();
            Err(Error::Usage(format!(
                "the current context does not use kubectl-stepup; say which profile with --profile: {}",
                names.join(", ")
            )))
        }
    }
}

impl From<KubeconfigError> for Error {
    fn from(error: KubeconfigError) -> Self {
        match error {
            KubeconfigError::OtherCredentials { .. }
            | KubeconfigError::NoContext { .. }
            | KubeconfigError::OtherCluster { .. } => Self::Usage(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// stepup-server, in the name of who is signed in.
fn server(profile: &Profile, clock: Clock) -> Result<(Session, api::Server), Error> {
    let session = session::current(profile, clock)?;
    let server = api::Server::new(profile, &session.base_token)?;
    Ok((session, server))
}

/// `4 min 50 s`, `2 h 5 min`, `3 d 4 h`.
fn duration(seconds: i64) -> String {
    let part = |large: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{large} {unit}") } else { format!("{large} {unit} {small} {small_unit}") }
    };
    match seconds.max(0) {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3600 => part(s / 60, "min", s % 60, "s"),
        s @ 3600..86400 => part(s / 3600, "h", s % 3600 / 60, "min"),
        s => part(s / 86400, "d", s % 86400 / 3600, "h"),
    }
}

/// How long from `now` to `then`, for people.
fn until(then: DateTime<Utc>, now: DateTime<Utc>) -> String {
    duration((then - now).num_seconds())
}

/// `one use left`, `3 uses left`, `any number of uses`.
fn uses(left: Option<u32>) -> String {
    match left {
        None => "any number of uses".to_owned(),
        Some(1) => "one use left".to_owned(),
        Some(n) => format!("{n} uses left"),
    }
}

/// Text from the server or the provider, made fit for a terminal: no control characters.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_for_people() {
        for (seconds, text) in
            [(-5, "0 s"), (59, "59 s"), (60, "1 min"), (290, "4 min 50 s"), (7500, "2 h 5 min"), (273_600, "3 d 4 h")]
        {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn nothing_from_outside_can_move_the_cursor() {
        assert_eq!(plain("a\u{1b}[2Jb\nc"), "a [2Jb c");
    }
}
