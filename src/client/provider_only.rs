//! Step-up without stepup-server: the cluster itself tells the provider's strong tokens from others, so the ID token of
//! a stronger sign-in is the elevated token.
//!
//! There are no challenges and no grants then. One of each is made up here, so that a step-up is the same story, with
//! the same prompt, the same binding to a command or a terminal (invariant 10), and the same `status` and `drop`.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::action::Action;
use crate::client::api_server::{self, ApiServer};
use crate::client::cache::{Person, Session, SignIn};
use crate::client::error::Error;
use crate::client::preflight::digest;
use crate::client::profile::{Profile, ProviderOnly};
use crate::client::step_up::Grantor;
use crate::client::{Clock, output, resource};
use crate::secret::Secret;
use crate::wire::challenge::{Challenge, DeclineCause, Grant, GrantTerms};
use crate::wire::digest::{Digest, Protected};
use crate::wire::token::{JWT_TOKEN_TYPE, TokenError, TokenRequest, TokenResponse};

/// Key of the ConfigMap that lists what is protected.
const KEY: &str = "protected";
/// More lines are no list that somebody wrote.
const MOST_LINES: usize = 1000;
/// How long a list counts that could not be renewed.
const LIFE: TimeDelta = TimeDelta::hours(24);
/// What such a token opens, in words.
const EVERYTHING: &str = "whatever the cluster opens to a stronger sign-in";

/// The request for a stronger sign-in, for `actions` or for whatever comes.
pub fn challenge(settings: &ProviderOnly, actions: &[Action], now: DateTime<Utc>) -> Challenge {
    Challenge {
        id: format!("st-{:x}", now.timestamp_millis()),
        rule: "stronger sign-in".to_owned(),
        description: "this cluster asks the identity provider for it".to_owned(),
        actions: actions.to_vec(),
        acr_values: settings.acr_values.clone(),
        max_age: Some(settings.max_age),
        reason: None,
        grant: GrantTerms {
            ttl: settings.ttl,
            uses: None,
            covers: vec![EVERYTHING.to_owned()],
            groups: vec![],
            irrevocable: true,
        },
        created_at: now,
        denied_at: None,
        expires_at: now + TimeDelta::minutes(10),
        covered_by: None,
    }
}

/// Gives the sign-in's own token out, if it is what the cluster takes for strong.
#[derive(Debug)]
pub struct OwnToken<'a> {
    /// The profile's settings.
    pub settings: &'a ProviderOnly,
    /// Who signed in ordinarily.
    pub person: &'a Person,
    /// The time.
    pub clock: Clock,
}

impl Grantor for OwnToken<'_> {
    /// The API server has the last word; this keeps a person from waiting for a token that it will not take.
    fn exchange(&self, sign_in: &SignIn, request: &TokenRequest) -> Result<TokenResponse, Error> {
        let Self { settings, person, clock } = self;
        let now = clock();
        let weak = |description: String| {
            Error::Refused(TokenError {
                error: "insufficient_user_authentication".to_owned(),
                error_description: description,
                acr_values: Some(settings.acr_values.join(" ")),
                max_age: Some(settings.max_age),
            })
        };
        if !sign_in.person.is(person) {
            // The command would go on as somebody else.
            return Err(weak(format!("{} signed in, not {}", sign_in.person.user, person.user)));
        }
        let Some(acr) = sign_in.acr.clone() else {
            return Err(weak(
                "the identity provider does not say how you signed in (no acr in the ID token)".to_owned(),
            ));
        };
        if !settings.acr_values.contains(&acr) {
            return Err(weak(format!("the identity provider says you signed in with {acr}")));
        }
        let Some(auth_time) = sign_in.auth_time.and_then(|at| DateTime::from_timestamp(at, 0)) else {
            return Err(weak("the identity provider does not say when you signed in (no auth_time)".to_owned()));
        };
        let age = (now - auth_time).num_seconds();
        if age > i64::try_from(settings.max_age).unwrap_or(i64::MAX) {
            return Err(weak(format!("you signed in {age} s ago; at most {} s are allowed", settings.max_age)));
        }
        let left = (sign_in.expires_at - now.timestamp()).max(0).unsigned_abs();
        let life = request.ttl.unwrap_or(u64::MAX).min(settings.ttl).min(left);
        Ok(TokenResponse {
            access_token: sign_in.id_token.clone(),
            issued_token_type: JWT_TOKEN_TYPE.to_owned(),
            token_type: "Bearer".to_owned(),
            expires_in: life,
            grant: Grant {
                id: request.challenge.clone().unwrap_or_default(),
                user: person.user.clone(),
                rule: "stronger sign-in".to_owned(),
                permits: vec![],
                covers: vec![EVERYTHING.to_owned()],
                groups: vec![],
                reason: None,
                acr,
                auth_time,
                created_at: now,
                expires_at: now + Duration::from_secs(life),
                uses_left: None,
                irrevocable: true,
            },
        })
    }

    /// Nobody has to be told.
    fn decline(&self, _challenge: &str, _cause: DeclineCause) -> Result<(), Error> {
        Ok(())
    }
}

/// Those of `protected` actions that take a stronger sign-in: what the base token may not do, and what admission might
/// refuse it. A read that it may do needs nothing: nobody looks at reads after the authorizers.
pub fn locked(profile: &Profile, base_token: &Secret, protected: Vec<Action>) -> Result<Vec<Action>, Error> {
    let Some(cluster) = api_server::cluster_of(profile) else { return Ok(protected) };
    // Where it cannot be asked, the list of what is protected has to do.
    let Ok(api_server) = ApiServer::new(&cluster, base_token) else { return Ok(protected) };
    let mut locked = Vec::new();
    for action in protected {
        if action.reaches_admission() || !api_server.may(&action)? {
            locked.push(action);
        }
    }
    Ok(locked)
}

/// Renews the list of what is protected: the profile's lines, and those of the ConfigMap if the API server can be asked.
pub fn renew_digest(
    profile: &Profile,
    settings: &ProviderOnly,
    session: &Session,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let mut lines = settings.protected.clone();
    if let Some((namespace, name)) = settings.config_map() {
        let Some(cluster) = api_server::cluster_of(profile) else {
            return Err(Error::Failed(format!(
                "ConfigMap {namespace}/{name} was not looked up, because nothing says which API server has it: run kubectl \
                 with a context of this profile"
            )));
        };
        let data = ApiServer::new(&cluster, &session.base_token)?.config_map(namespace, name)?;
        lines.extend(data.get(KEY).into_iter().flat_map(|text| text.lines()).map(ToOwned::to_owned));
    }
    let mut actions = Vec::new();
    for line in
        lines.iter().map(|line| line.trim()).filter(|line| !line.is_empty() && !line.starts_with('#')).take(MOST_LINES)
    {
        match resource::patterns(line) {
            Ok(patterns) => actions.extend(patterns),
            Err(error) => {
                let line: String = line.chars().filter(|char| !char.is_control()).take(80).collect();
                output::note(format_args!("kubectl-stepup: of what is protected, {line:?} is not understood: {error}"));
            }
        }
    }
    let digest = Digest {
        iss: profile.issuer.clone(),
        sub: session.person.user.clone(),
        iat: now.timestamp(),
        exp: (now + LIFE).timestamp(),
        policy: String::new(),
        denials_are_final: true,
        protected: vec![Protected { rule: String::new(), actions }],
    };
    digest::keep(&profile.files, &digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn settings() -> ProviderOnly {
        ProviderOnly { acr_values: vec!["mfa".to_owned()], ..ProviderOnly::new() }
    }

    fn exchanged(acr: Option<&str>, auth_time: Option<i64>, ttl: Option<u64>) -> Result<TokenResponse, String> {
        exchanged_by("alice", acr, auth_time, ttl)
    }

    /// What alice's command gets for the sign-in of `user`.
    fn exchanged_by(
        user: &str,
        acr: Option<&str>,
        auth_time: Option<i64>,
        ttl: Option<u64>,
    ) -> Result<TokenResponse, String> {
        let sign_in = SignIn {
            id_token: Secret::new("strong"),
            person: person(user),
            acr: acr.map(ToOwned::to_owned),
            auth_time: auth_time.map(|seconds| at(seconds).timestamp()),
            expires_at: at(200).timestamp(),
        };
        let request = TokenRequest {
            grant_type: String::new(),
            subject_token: Secret::new("strong"),
            subject_token_type: String::new(),
            challenge: Some("st-1".to_owned()),
            authorization_details: None,
            reason: None,
            ttl,
            carry: None,
        };
        let own = OwnToken { settings: &settings(), person: &person("alice"), clock: || at(0) };
        own.exchange(&sign_in, &request).map_err(|error| error.to_string())
    }

    fn person(user: &str) -> Person {
        Person { user: user.to_owned(), subject: format!("sub-{user}") }
    }

    #[test]
    fn a_strong_and_fresh_token_is_its_own_elevated_token_for_a_while() {
        let given = exchanged(Some("mfa"), Some(-60), None).unwrap();
        assert_eq!((given.access_token.expose(), given.expires_in), ("strong", 200), "no longer than its own life");
        assert!(given.grant.irrevocable && given.grant.uses_left.is_none() && given.grant.id == "st-1");
        assert_eq!(exchanged(Some("mfa"), Some(-60), Some(30)).unwrap().expires_in, 30);
    }

    #[test]
    fn what_came_back_counts_and_not_what_was_asked() {
        for (acr, auth_time, told) in [
            (Some("pwd"), Some(-1), "you signed in with pwd"),
            (None, Some(-1), "no acr"),
            (Some("mfa"), None, "no auth_time"),
            (Some("mfa"), Some(-301), "you signed in 301 s ago"),
        ] {
            let error = exchanged(acr, auth_time, None).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }
    #[test]
    fn the_sign_in_of_somebody_else_is_none() {
        let error = exchanged_by("carol", Some("mfa"), Some(-1), None).unwrap_err();
        assert!(error.contains("carol signed in, not alice"), "{error}");
    }
}
