//! `kubectl stepup elevate`.

use std::process::ExitCode;

use chrono::{DateTime, Utc};

use super::{Chosen, Named, server};
use crate::action::Action;
use crate::client::cache::{self, Elevated};
use crate::client::cli::Elevate;
use crate::client::error::Error;
use crate::client::parent::{self, Asker};
use crate::client::preflight::digest;
use crate::client::profile::{Profile, ProviderOnly};
use crate::client::provider_only::{self, OwnToken};
use crate::client::session::{self, LoginOptions};
use crate::client::step_up::{self, Bind, StepUpOptions, Turn};
use crate::client::words::{left, plain, until};
use crate::client::{Clock, output, prompt};
use crate::wire::challenge::Challenge;

/// Steps up: for the newest challenge, or for the actions that were named.
pub fn run(args: &Elevate, clock: Clock) -> Result<ExitCode, Error> {
    let chosen = Chosen::find(&args.target)?;
    let actions = if args.what.is_empty() { None } else { Some(named(args).actions(&chosen)?) };
    let profile = &chosen.profile;
    if let Some(settings) = &profile.provider_only {
        return at_the_provider(args, profile, settings, &actions.unwrap_or_default(), clock);
    }
    let (_, server) = match server(profile, clock) {
        Err(Error::NotSignedIn { .. }) if prompt::person_is_there() => {
            session::login(profile, LoginOptions::default(), clock)?;
            server(profile, clock)?
        }
        other => other?,
    };
    let challenges = match &actions {
        None => {
            let pending = server.all_challenges()?;
            digest::refresh(profile, &server, &pending.user, digest::NOW, clock());
            newest(pending.challenges)?
        }
        Some(actions) => {
            let answer = server.ask(actions)?;
            digest::refresh(profile, &server, &answer.user, digest::USUAL_AGE, clock());
            for action in &answer.unprotected {
                output::line(format_args!("No step-up is needed to {}.", plain(&action.to_string())));
            }
            let open = not_yet_granted(answer.challenges, profile, clock());
            if open.is_empty() {
                return Ok(ExitCode::SUCCESS);
            }
            open
        }
    };
    let elevated = step_up::take_up(profile, &challenges, &options(args), clock)?;
    for line in report(&elevated, args.share, clock()) {
        output::line(line);
    }
    Ok(ExitCode::SUCCESS)
}

/// The same without stepup-server: a stronger sign-in, whatever it is for.
fn at_the_provider(
    args: &Elevate,
    profile: &Profile,
    settings: &ProviderOnly,
    actions: &[Action],
    clock: Clock,
) -> Result<ExitCode, Error> {
    let session = match session::current(profile, clock) {
        Err(Error::NotSignedIn { .. }) if prompt::person_is_there() => {
            session::login(profile, LoginOptions::default(), clock)?.session
        }
        other => other?,
    };
    digest::renew(profile, digest::USUAL_AGE, clock);
    let options = options(args);
    let turn = Turn::take(profile, options.interactive, clock)?;
    let own = OwnToken { settings, person: &session.person, clock };
    let elevated = turn.take_up(&own, &[provider_only::challenge(settings, actions, clock())], &options)?;
    for line in report(&elevated, args.share, clock()) {
        output::line(line);
    }
    Ok(ExitCode::SUCCESS)
}

fn options(args: &Elevate) -> StepUpOptions {
    StepUpOptions {
        reason: args.reason.clone(),
        ttl: args.ttl,
        bind: if args.share { Bind::Anyone } else { Bind::Terminal },
        // Somebody typed this: it is no background caller, whatever its terminal looks like.
        interactive: std::env::var_os(prompt::WHEN).is_none_or(|when| when != "never"),
    }
}

fn named(args: &Elevate) -> Named<'_> {
    Named {
        words: &args.what,
        subresource: args.subresource.as_deref(),
        namespace: args.namespace.as_deref(),
        all_namespaces: args.all_namespaces,
        cluster_scoped: args.cluster_scoped,
    }
}

/// The challenges that no token here answers already; says so about the others.
fn not_yet_granted(challenges: Vec<Challenge>, profile: &Profile, now: DateTime<Utc>) -> Vec<Challenge> {
    let scopes = Asker::find().map(|asker| asker.terminal_or_parent()).into_iter().chain([parent::Scope::Anyone]);
    let held: Vec<Elevated> = scopes.flat_map(|scope| cache::elevated(&profile.files, &scope, now)).collect();
    let carries = |elevated: &&Elevated, id: &String| elevated.grant.id == *id || elevated.carries.contains(id);
    let mut open = Vec::new();
    for challenge in challenges {
        let answered = challenge.covered_by.as_ref().and_then(|id| held.iter().find(|held| carries(held, id)));
        match answered {
            Some(elevated) => {
                let left = left(elevated.expires_at - now.timestamp());
                output::line(format_args!("Granted already, for {left} more: {}", described(&challenge)));
            }
            None => open.push(challenge),
        }
    }
    open
}

/// The newest of the pending challenges; the others are shown.
fn newest(pending: Vec<Challenge>) -> Result<Vec<Challenge>, Error> {
    let mut pending = pending.into_iter();
    let Some(newest) = pending.next() else {
        return Err(Error::Failed(
            "nothing is waiting for a step-up: try the command first, or name the action, for example \"kubectl stepup \
             elevate --for delete namespace prod\""
                .to_owned(),
        ));
    };
    output::note(format_args!("Stepping up for: {}", described(&newest)));
    let others: Vec<Challenge> = pending.collect();
    if !others.is_empty() {
        output::note("Also waiting, each of its own (name it with --for):");
        for other in others {
            output::note(format_args!("  {}", described(&other)));
        }
    }
    Ok(vec![newest])
}

fn described(challenge: &Challenge) -> String {
    let actions: Vec<String> = challenge.actions.iter().map(|action| plain(&action.to_string())).collect();
    format!("{} (rule {})", actions.join("; "), plain(&challenge.rule))
}

/// What is allowed now, for whom, for how long, and how to give it up.
fn report(elevated: &Elevated, share: bool, now: DateTime<Utc>) -> Vec<String> {
    let grant = &elevated.grant;
    let whom = if share { "All your processes" } else { "This terminal" };
    let uses = match grant.uses_left {
        None => "as often as you like".to_owned(),
        Some(1) => "once".to_owned(),
        Some(n) => format!("{n} times"),
    };
    // The token's own life is by this machine's clock.
    let left = DateTime::from_timestamp(elevated.expires_at, 0)
        .map_or_else(|| until(grant.expires_at, now), |at| until(at, now));
    let mut lines = vec![format!("{whom} may now, {uses}, for {left}:")];
    lines.extend(grant.covers.iter().map(|covered| format!("  {}", plain(covered))));
    if !grant.groups.is_empty() {
        lines.push(format!("  with the groups {}", plain(&grant.groups.join(", "))));
    }
    if !elevated.carries.is_empty() {
        lines.push(format!("and goes on with {} from before.", plain(&elevated.carries.join(", "))));
    }
    lines.push(format!("To give it up: kubectl stepup drop {}", plain(&grant.id)));
    if grant.irrevocable {
        lines.push("It cannot be ended early: a copy of its token would be good until then.".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::secret::Secret;
    use crate::wire::challenge::Grant;

    #[test]
    fn the_report_says_what_how_often_how_long_and_how_to_stop() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let grant = Grant {
            id: "gr-1".into(),
            user: "alice".into(),
            rule: "delete-namespace".into(),
            permits: vec![],
            covers: vec!["delete namespaces/prod".into()],
            groups: vec![],
            reason: None,
            acr: "mfa".into(),
            auth_time: now,
            created_at: now,
            expires_at: now + chrono::TimeDelta::seconds(300),
            uses_left: Some(1),
            irrevocable: false,
        };
        let elevated = Elevated { token: Secret::new("t"), expires_at: now.timestamp() + 290, grant, carries: vec![] };
        assert_eq!(
            report(&elevated, false, now),
            [
                "This terminal may now, once, for 4 min 50 s:",
                "  delete namespaces/prod",
                "To give it up: kubectl stepup drop gr-1"
            ]
        );
    }
}
