//! `kubectl stepup status`.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::Chosen;
use crate::client::api::{self, Server};
use crate::client::cache::{self, Elevated, Session};
use crate::client::cli::{Format, Status as Args};
use crate::client::error::Error;
use crate::client::preflight::digest;
use crate::client::profile::Profile;
use crate::client::words::{plain, until, uses_left};
use crate::client::{Clock, output, secrets, session};
use crate::wire::challenge::{Challenge, Grant};

/// Shows where things stand. What cannot be reached is said, and is no failure.
pub fn run(args: &Args, clock: Clock) -> Result<ExitCode, Error> {
    let profile = Chosen::find(&args.target)?.profile;
    let status = Status::collect(&profile, args.all, clock)?;
    match args.output {
        Format::Json => output::json(&status),
        Format::Text => status.lines(clock()).iter().for_each(output::line),
    }
    Ok(if status.signed_in { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

/// The documented shape of `-o json`. No secret has a place in it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    profile: String,
    issuer: String,
    client_id: String,
    server: Option<String>,
    /// Whether the provider's own stronger token opens more, without stepup-server.
    provider_only: bool,
    signed_in: bool,
    user: Option<String>,
    base_token: Option<BaseToken>,
    refresh_token: Option<secrets::Place>,
    step_up: StepUp,
    grants: Vec<GrantStatus>,
    challenges: Vec<ChallengeStatus>,
    /// Why there is no live base token.
    #[serde(skip)]
    session_problem: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BaseToken {
    expires_at: DateTime<Utc>,
    live: bool,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct StepUp {
    enabled: bool,
    reachable: bool,
    problem: Option<String>,
    clock_skew_seconds: Option<i64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct GrantStatus {
    id: String,
    /// Whose it is, as the cluster knows them.
    user: String,
    rule: String,
    covers: Vec<String>,
    reason: Option<String>,
    acr: String,
    created_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    uses_left: Option<u32>,
    /// Whether its token is good until then, whatever becomes of the grant.
    irrevocable: bool,
    /// `terminal`, `process`, `anyone`; null when this machine does not have the token.
    held: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ChallengeStatus {
    id: String,
    rule: String,
    description: String,
    actions: Vec<String>,
    created_at: DateTime<Utc>,
    denied_at: Option<DateTime<Utc>>,
    expires_at: DateTime<Utc>,
    covered_by: Option<String>,
}

impl Status {
    /// `all`: with everybody's grants, or not at all.
    fn collect(profile: &Profile, all: bool, clock: Clock) -> Result<Self, Error> {
        let known = cache::session(&profile.files);
        // Renews an expired token if it can, and asks nobody.
        let current = session::current(profile, clock);
        let session_problem = current.as_ref().err().map(ToString::to_string);
        let signed_in = !matches!(current, Err(Error::NotSignedIn { .. })) && (current.is_ok() || known.is_some());
        let session = current.ok().or(known).filter(|_| signed_in);
        let held = cache::all_elevated(&profile.files, clock());
        if profile.provider_only.is_some() && signed_in {
            digest::renew(profile, digest::USUAL_AGE, clock);
        }
        let mut status = Self {
            profile: profile.name.clone(),
            issuer: profile.issuer.clone(),
            client_id: profile.client_id.clone(),
            server: profile.server.as_ref().map(|server| server.url.clone()),
            provider_only: profile.provider_only.is_some(),
            signed_in,
            user: session.as_ref().map(|session| session.person.user.clone()).filter(|user| !user.is_empty()),
            base_token: session.as_ref().and_then(|session| {
                let expires_at = DateTime::from_timestamp(session.base_expires_at, 0)?;
                Some(BaseToken { expires_at, live: session.is_live(clock(), 0) })
            }),
            refresh_token: secrets::place(profile).filter(|_| signed_in),
            step_up: StepUp { enabled: profile.server.is_some(), ..StepUp::default() },
            grants: held.iter().map(|(scope, held)| GrantStatus::new(&held.grant, Some(scope))).collect(),
            challenges: Vec::new(),
            session_problem,
        };
        if let Some(session) = session.filter(|_| status.step_up.enabled || all) {
            match status.ask_server(profile, &session, all, &held, clock) {
                Err(error) if all => return Err(error),
                Err(error) => status.step_up.problem = Some(error.to_string()),
                Ok(()) => {}
            }
        }
        Ok(status)
    }

    /// What only the server knows: uses left, grants of other machines, what is pending.
    fn ask_server(
        &mut self,
        profile: &Profile,
        session: &Session,
        all: bool,
        held: &[(String, Elevated)],
        clock: Clock,
    ) -> Result<(), Error> {
        let server = Server::new(profile, &session.base_token)?;
        let pending = server.all_challenges()?;
        self.step_up.reachable = true;
        self.step_up.clock_skew_seconds = Some(api::skew(pending.server_time, clock()));
        digest::refresh(profile, &server, &pending.user, digest::USUAL_AGE, clock());
        self.user = Some(pending.user);
        self.challenges = pending.challenges.into_iter().map(ChallengeStatus::new).collect();
        let scope_of = |id: &str| {
            let has =
                |elevated: &Elevated| elevated.grant.id == id || elevated.carries.iter().any(|carried| carried == id);
            held.iter().find(|(_, elevated)| has(elevated)).map(|(scope, _)| scope.as_str())
        };
        self.grants =
            server.grants(all)?.grants.iter().map(|grant| GrantStatus::new(grant, scope_of(&grant.id))).collect();
        Ok(())
    }

    fn lines(&self, now: DateTime<Utc>) -> Vec<String> {
        let mut lines = vec![format!("Profile       {} ({}, client {})", self.profile, self.issuer, self.client_id)];
        if !self.signed_in {
            lines.push(format!("Signed in     no: kubectl stepup login --profile {}", self.profile));
        } else if let Some(user) = &self.user {
            lines.push(format!("Signed in     as {}", plain(user)));
        } else {
            lines.push("Signed in     yes".to_owned());
        }
        if let Some(token) = &self.base_token {
            lines.push(match (token.live, &self.session_problem) {
                (true, _) => format!("Base token    good for {}", until(token.expires_at, now)),
                (false, Some(problem)) => {
                    format!("Base token    expired, and could not be renewed: {}", plain(problem))
                }
                (false, None) => "Base token    expired".to_owned(),
            });
            lines.push(format!(
                "Refresh token {}",
                self.refresh_token.map_or_else(|| "none".to_owned(), |place| format!("kept in: {place}"))
            ));
        }
        lines.push(match (&self.server, &self.step_up) {
            (None, _) if self.provider_only => {
                "Step-up       at the identity provider; its stronger token opens more by itself".to_owned()
            }
            (None, _) => "Step-up       not set up (kubectl stepup setup --server URL)".to_owned(),
            (Some(url), StepUp { reachable: true, clock_skew_seconds, .. }) => match clock_skew_seconds {
                Some(skew) if skew.abs() >= 5 => {
                    let direction = if *skew > 0 { "ahead of" } else { "behind" };
                    format!("Step-up       {url}; this machine's clock is {} s {direction} the server's", skew.abs())
                }
                _ => format!("Step-up       {url}"),
            },
            (Some(url), StepUp { problem: Some(problem), .. }) => {
                format!("Step-up       {url}, which cannot be asked now: {}", plain(problem))
            }
            (Some(url), _) => format!("Step-up       {url}"),
        });
        if !self.grants.is_empty() {
            lines.push("Grants".to_owned());
            for grant in &self.grants {
                let whose = match grant.held.as_deref() {
                    Some("terminal") => "one terminal",
                    // There is no other terminal there.
                    Some("process") if cfg!(windows) => "one command or shell",
                    Some("process") => "one command",
                    Some(_) => "all your processes",
                    None if self.user.as_ref().is_some_and(|user| *user != grant.user) => &plain(&grant.user),
                    None => "token not on this machine",
                };
                let ends = if grant.irrevocable { ", cannot be ended early" } else { "" };
                lines.push(format!(
                    "  {}  {} left, {}, {whose}{ends}",
                    plain(&grant.id),
                    until(grant.expires_at, now),
                    uses_left(grant.uses_left)
                ));
                lines.extend(grant.covers.iter().map(|covered| format!("      {}", plain(covered))));
                lines.extend(grant.reason.iter().map(|reason| format!("      reason: {}", plain(reason))));
            }
        } else if self.signed_in && (self.server.is_some() || self.provider_only) {
            lines.push("Grants        none".to_owned());
        }
        if !self.challenges.is_empty() {
            lines.push("Waiting for a step-up (kubectl stepup elevate)".to_owned());
            for challenge in &self.challenges {
                let actions = plain(&challenge.actions.join("; "));
                let rule = plain(&challenge.rule);
                lines.push(format!("  {actions}  (rule {rule}, for {} more)", until(challenge.expires_at, now)));
            }
        }
        lines
    }
}

impl GrantStatus {
    fn new(grant: &Grant, scope: Option<&str>) -> Self {
        Self {
            id: grant.id.clone(),
            user: grant.user.clone(),
            rule: grant.rule.clone(),
            covers: grant.covers.clone(),
            reason: grant.reason.clone(),
            acr: grant.acr.clone(),
            created_at: grant.created_at,
            expires_at: grant.expires_at,
            uses_left: grant.uses_left,
            irrevocable: grant.irrevocable,
            // Scopes are kept in files called `terminal-…`, `process-…` and `anyone`.
            held: scope.map(|file| file.split(['-', '.']).next().unwrap_or(file).to_owned()),
        }
    }
}

impl ChallengeStatus {
    fn new(challenge: Challenge) -> Self {
        Self {
            id: challenge.id,
            rule: challenge.rule,
            description: challenge.description,
            actions: challenge.actions.iter().map(ToString::to_string).collect(),
            created_at: challenge.created_at,
            denied_at: challenge.denied_at,
            expires_at: challenge.expires_at,
            covered_by: challenge.covered_by,
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn status() -> Status {
        Status {
            profile: "work".into(),
            issuer: "https://idp".into(),
            client_id: "kubernetes".into(),
            server: Some("https://stepup".into()),
            provider_only: false,
            signed_in: true,
            user: Some("alice".into()),
            base_token: Some(BaseToken { expires_at: at(600), live: true }),
            refresh_token: Some(secrets::Place::File),
            step_up: StepUp { enabled: true, reachable: true, problem: None, clock_skew_seconds: Some(0) },
            grants: vec![],
            challenges: vec![],
            session_problem: None,
        }
    }

    #[test]
    fn a_quiet_day() {
        assert_eq!(
            status().lines(at(0)),
            [
                "Profile       work (https://idp, client kubernetes)",
                "Signed in     as alice",
                "Base token    good for 10 min",
                "Refresh token kept in: file (0600)",
                "Step-up       https://stepup",
                "Grants        none",
            ]
        );
    }

    #[test]
    fn a_server_that_is_down_is_said() {
        let step_up = StepUp { enabled: true, problem: Some("connection refused".into()), ..StepUp::default() };
        let lines = Status { step_up, ..status() }.lines(at(0));
        assert!(
            lines.contains(&"Step-up       https://stepup, which cannot be asked now: connection refused".to_owned())
        );
    }

    #[test]
    fn grants_and_challenges_say_what_and_how_long() {
        let grant = || GrantStatus {
            id: "gr-1".into(),
            user: "alice".into(),
            rule: "r".into(),
            covers: vec!["delete namespaces/prod".into()],
            reason: Some("OPS-1".into()),
            acr: "mfa".into(),
            created_at: at(0),
            expires_at: at(90),
            uses_left: Some(1),
            irrevocable: false,
            held: Some("terminal".into()),
        };
        let challenge = ChallengeStatus {
            id: "ch-1".into(),
            rule: "secrets".into(),
            description: String::new(),
            actions: vec!["get secrets/db -n prod".into()],
            created_at: at(0),
            denied_at: None,
            expires_at: at(60),
            covered_by: None,
        };
        let others =
            GrantStatus { id: "gr-2".into(), user: "bob\u{1b}[2J".into(), held: None, covers: vec![], ..grant() };
        let grants = vec![grant(), others];
        let text = Status { grants, challenges: vec![challenge], ..status() }.lines(at(0)).join("\n");
        assert!(
            text.contains(
                "  gr-1  90 s left, one use left, one terminal\n      delete namespaces/prod\n      reason: OPS-1"
            ),
            "{text}"
        );
        assert!(text.contains("  gr-2  90 s left, one use left, bob[2J\n"), "{text}");
        assert!(text.ends_with("  get secrets/db -n prod  (rule secrets, for 1 min more)"), "{text}");
    }

    #[test]
    fn the_json_has_the_documented_keys() {
        let json = serde_json::to_value(status()).unwrap();
        let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            [
                "baseToken",
                "challenges",
                "clientId",
                "grants",
                "issuer",
                "profile",
                "providerOnly",
                "refreshToken",
                "server",
                "signedIn",
                "stepUp",
                "user"
            ]
        );
        assert_eq!(json["refreshToken"], "file");
    }
}
