//! `POST /token`: OAuth 2.0 Token Exchange (RFC 8693). A fresh step-up ID token, and what it is for, becomes a grant and
//! the elevated token that carries it.

use chrono::{DateTime, TimeDelta, Utc};
use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::action::{Action, ActionPattern};
use crate::server::app::{ATTEMPTS, App, Unavailable};
use crate::server::audit::{Event, Record, Source, Verdict};
use crate::server::authorize::GRANTED_GROUP;
use crate::server::challenge::{Foreseen, Occasion, foresee};
use crate::server::failure::Failure;
use crate::server::identity::{Identity, LEEWAY};
use crate::server::provider::NOTABLE_SKEW;
use crate::server::random_id;
use crate::server::store::{
    ChallengeRecord, ChallengeState, Committed, GrantRecord, ReasonTerms, Standing, Transaction, Versioned,
};
use crate::wire::challenge::Grant;
use crate::wire::token::{
    ACTION_DETAIL_TYPE, GRANT_TYPE, ID_TOKEN_TYPE, JWT_TOKEN_TYPE, TokenError, TokenRequest, TokenResponse,
};

/// How long before it was made an elevated token begins.
const BACKDATED: TimeDelta = TimeDelta::seconds(90);
/// Longest reason, in characters.
const LONGEST_REASON: usize = 500;
/// Most grants that one token may carry beside its own.
const MOST_CARRIED: usize = 16;

/// Why no token was issued.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The request, the sign-in or the reason will not do.
    #[error("{}", .0.error_description)]
    Told(TokenError),
    /// The identity provider cannot be asked for its keys.
    #[error("{0}")]
    ProviderUnavailable(String),
    /// We cannot decide or record safely.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl Refusal {
    /// HTTP status code: 400 as RFC 6749, section 5.2, has it; 503 where trying again may help.
    pub fn status(&self) -> u16 {
        match self {
            Self::Told(_) => 400,
            Self::ProviderUnavailable(_) | Self::Unavailable(_) => 503,
        }
    }

    /// Body of the response.
    pub fn body(&self) -> TokenError {
        match self {
            Self::Told(error) => error.clone(),
            Self::ProviderUnavailable(message) => token_error("temporarily_unavailable", message.clone()),
            Self::Unavailable(unavailable) => {
                token_error("temporarily_unavailable", unavailable.public_message().to_owned())
            }
        }
    }
}

fn token_error(error: &str, description: String) -> TokenError {
    TokenError { error: error.to_owned(), error_description: description, acr_values: None, max_age: None }
}

fn told(error: &str, description: impl Into<String>) -> Refusal {
    Refusal::Told(token_error(error, description.into()))
}

/// The claims of an elevated token.
#[derive(Debug, Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    username: &'a str,
    groups: &'a [String],
    jti: &'a str,
    iat: i64,
    nbf: i64,
    exp: i64,
    acr: &'a str,
    auth_time: i64,
    rule: String,
    actions: &'a [ActionPattern],
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

/// Exchanges a step-up for an elevated token: verifies the sign-in, finds what it is for, weighs the one against the
/// other, makes the grant durable with its records, and signs.
pub async fn exchange(
    app: &App,
    request: TokenRequest,
    source: &Source,
    now: DateTime<Utc>,
) -> Result<TokenResponse, Refusal> {
    let mut audit = Record::new(Event::Refusal, now);
    match exchange_recorded(app, &request, &mut audit, source, now).await {
        Err(refusal @ (Refusal::Told(_) | Refusal::ProviderUnavailable(_))) => {
            let body = refusal.body();
            let code = audit.code.clone().unwrap_or(body.error);
            app.record(vec![audit.from(source).refused(&code, &body.error_description)]).await?;
            Err(refusal)
        }
        outcome => outcome,
    }
}

/// The exchange itself. What is known of the asker when it fails is left in `audit`.
async fn exchange_recorded(
    app: &App,
    request: &TokenRequest,
    audit: &mut Record,
    source: &Source,
    now: DateTime<Utc>,
) -> Result<TokenResponse, Refusal> {
    if request.grant_type != GRANT_TYPE {
        return Err(told("unsupported_grant_type", format!("grant_type must be {GRANT_TYPE}")));
    }
    if request.subject_token_type != ID_TOKEN_TYPE {
        return Err(told("invalid_request", format!("subject_token_type must be {ID_TOKEN_TYPE}")));
    }
    let person = verified_step_up(app, request, audit, now).await?;
    for _ in 0..ATTEMPTS {
        if let Some(response) = attempt(app, request, &person, audit, source, now).await? {
            return Ok(response);
        }
    }
    Err(Unavailable::Contended.into())
}

/// One try; `None` when what it read has changed meanwhile.
async fn attempt(
    app: &App,
    request: &TokenRequest,
    person: &Identity,
    audit: &mut Record,
    source: &Source,
    now: DateTime<Utc>,
) -> Result<Option<TokenResponse>, Refusal> {
    let reason = request.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty());
    let (version, challenge) = wanted(app, request, person, now).await?;
    audit.challenge = version.map(|_| challenge.id.clone());
    audit.rules.clone_from(&challenge.rules);
    audit.actions = challenge.actions.iter().map(ToString::to_string).collect();
    let sign_in = sufficient(app, person, &challenge, now)?;
    reason_will_do(reason, challenge.reason.as_ref())?;
    let carried = carried(app, request, person, now).await?;
    let ttl = request.ttl.unwrap_or(u64::MAX).min(challenge.ttl).min(app.config.token.max_ttl.as_secs()).max(1);
    let Along { ttl, carried, replaced } = Along::of(carried, ttl, app.config.has_authorizer(), now);
    let terms = Terms { ttl, reason: reason.map(ToOwned::to_owned), on_record: version.is_some() };
    let grant = make_grant(person, sign_in, &challenge, terms, &carried, now);
    let response = sign(app, &grant, person, &carried, now)?;
    let step_up = Record {
        id: random_id("au"),
        event: Event::StepUp,
        decision: Some(Verdict::Allowed),
        reason: grant.grant.reason.clone(),
        ..audit.clone().from(source)
    };
    let mint = Record {
        id: random_id("au"),
        event: Event::Mint,
        actions: grant.grant.covers.clone(),
        grant: Some(grant.grant.id.clone()),
        ..step_up.clone()
    };
    let redeemed = version.map(|version| {
        let state = ChallengeState::Redeemed { grant: grant.grant.id.clone() };
        (Some(version), ChallengeRecord { state, ..challenge })
    });
    let revoked = replaced.iter().map(|(_, replaced)| Record {
        id: random_id("au"),
        event: Event::Revoke,
        rules: replaced.rules.clone(),
        actions: replaced.grant.covers.clone(),
        grant: Some(replaced.grant.id.clone()),
        reason: None,
        ..step_up.clone()
    });
    let audit = revoked.chain([step_up.clone(), mint]).collect();
    let transaction = Transaction {
        grants: std::iter::once((None, grant)).chain(replaced).collect(),
        challenges: redeemed.into_iter().collect(),
        audit,
        ..Transaction::default()
    };
    Ok((app.commit(transaction).await? == Committed::Done).then_some(response))
}

/// The person who signed in, by signature, issuer, audience and times.
async fn verified_step_up(
    app: &App,
    request: &TokenRequest,
    audit: &mut Record,
    now: DateTime<Utc>,
) -> Result<Identity, Refusal> {
    let person = app.identities.verify_step_up(&request.subject_token, now).await.map_err(|refused| {
        audit.code = Some(refused.code().to_owned());
        if refused.is_unavailable() {
            Refusal::ProviderUnavailable(refused.to_string())
        } else {
            told("invalid_grant", refused.to_string())
        }
    })?;
    audit.user.clone_from(&person.user);
    audit.acr.clone_from(&person.acr);
    audit.auth_time = person.auth_time;
    Ok(person)
}

/// What the step-up is for: the challenge on record (with its version), or one made up from `authorization_details`.
async fn wanted(
    app: &App,
    request: &TokenRequest,
    person: &Identity,
    now: DateTime<Utc>,
) -> Result<(Option<i64>, ChallengeRecord), Refusal> {
    match (&request.challenge, &request.authorization_details) {
        (Some(id), None) => {
            let gone = || told("invalid_grant", "no such challenge is pending for you: try the command again");
            let found = app.store.challenge(id).await.map_err(Unavailable::from)?.ok_or_else(gone)?;
            // Somebody else's challenge is answered like none: whose it is, is nobody else's business.
            if found.document.user != person.user || !found.document.is_pending(now) {
                return Err(gone());
            }
            let challenge = found.document.under(&app.policy(), &person.cluster_groups()).ok_or_else(|| {
                let changed = "what this challenge asked for is not asked of you any more, or asked otherwise: the policy or \
                               your groups have changed; try the command again";
                told("invalid_grant", changed)
            })?;
            Ok((Some(found.version), challenge))
        }
        (None, Some(details)) => {
            let Foreseen { mut groups, unprotected } =
                foresee(app, person, actions_of(details)?).map_err(|failure| match failure {
                    Failure::Unavailable(unavailable) => Refusal::Unavailable(unavailable),
                    Failure::Caller { description, .. } => told("invalid_request", description),
                })?;
            match (groups.len(), unprotected.first()) {
                (1, None) => {}
                (0, _) => {
                    return Err(told(
                        "invalid_request",
                        "no rule protects these actions from you: no step-up is needed",
                    ));
                }
                (_, Some(action)) => {
                    return Err(told("invalid_request", format!("no rule protects {action}: leave it out")));
                }
                (_, None) => {
                    return Err(told(
                        "invalid_request",
                        "these actions need more than one grant: ask for one at a time",
                    ));
                }
            }
            let (requirement, actions) = groups.remove(0);
            let occasion = Occasion {
                user: &person.user,
                credential: None,
                requirement: &requirement,
                actions: &actions,
                stepped_up_at: None,
                standing: Standing::Request,
            };
            Ok((None, occasion.challenge(app.config.limits.challenge_ttl, now)))
        }
        _ => Err(told("invalid_request", "say what the token is for: either challenge or authorization_details")),
    }
}

/// The actions in an `authorization_details` parameter (RFC 9396, section 2).
fn actions_of(details: &str) -> Result<Vec<Action>, Refusal> {
    #[derive(Deserialize)]
    struct Detail {
        #[serde(rename = "type")]
        kind: String,
        #[serde(flatten)]
        rest: serde_json::Value,
    }
    let bad = |what: String| told("invalid_authorization_details", what);
    let details: Vec<Detail> = serde_json::from_str(details)
        .map_err(|error| bad(format!("authorization_details is not a JSON array of objects with a type: {error}")))?;
    details
        .into_iter()
        .map(|detail| {
            if detail.kind != ACTION_DETAIL_TYPE {
                return Err(bad(format!("the only type known here is {ACTION_DETAIL_TYPE}")));
            }
            serde_json::from_value(detail.rest).map_err(|error| bad(format!("not an action: {error}")))
        })
        .collect()
}

/// How the person signed in, once that is known to be enough.
struct Sufficient {
    acr: String,
    auth_time: DateTime<Utc>,
}

/// Weighs what came back from the provider (not what it was asked) against what the challenge requires.
fn sufficient(
    app: &App,
    person: &Identity,
    challenge: &ChallengeRecord,
    now: DateTime<Utc>,
) -> Result<Sufficient, Refusal> {
    let insufficient = |description: String| {
        Refusal::Told(TokenError {
            error: "insufficient_user_authentication".to_owned(),
            error_description: description,
            acr_values: Some(challenge.acr_values.join(" ")),
            max_age: challenge.max_age,
        })
    };
    if !app.can_step_up_at(&person.provider, &person.user, &person.cluster_groups()) {
        return Err(told("access_denied", "you are not among those who may step up on this cluster"));
    }
    let wanted = || challenge.acr_values.join(" or ");
    let acr = match &person.acr {
        Some(acr) if accepted_acr(challenge, &person.provider).contains(acr) => acr.clone(),
        Some(acr) => {
            return Err(insufficient(format!(
                "the identity provider says you signed in with {acr}; {} is needed",
                wanted()
            )));
        }
        None => {
            return Err(insufficient(format!(
                "the identity provider does not say how you signed in (no acr in the ID token); {} is needed",
                wanted()
            )));
        }
    };
    let auth_time = person.auth_time.ok_or_else(|| {
        insufficient("the identity provider does not say when you signed in (no auth_time)".to_owned())
    })?;
    if auth_time > now + LEEWAY {
        return Err(insufficient(
            "you signed in in the future: check the clocks of the identity provider and this server".to_owned(),
        ));
    }
    if let Some(max_age) = challenge.max_age {
        let age = (now - auth_time).num_seconds().max(0).unsigned_abs();
        if age > max_age {
            let clocks = behind(app, &person.provider).map_or(String::new(), |behind| {
                format!(" (the clock of the identity provider is {behind} s behind this server's)")
            });
            return Err(insufficient(format!("you signed in {age} s ago; at most {max_age} s are allowed{clocks}")));
        }
    }
    Ok(Sufficient { acr, auth_time })
}

/// How far the provider's clock is behind ours, in seconds, where that is worth a word.
fn behind(app: &App, provider: &str) -> Option<i64> {
    let (_, health) = app.identities.health().find(|(name, _)| *name == provider)?;
    health.skew.map(|skew| -skew.num_seconds()).filter(|behind| *behind > NOTABLE_SKEW.num_seconds())
}

/// The API server takes no token whose `nbf` is more than a minute ahead of its clock; this makes two minutes and a half of
/// it. Never so early that `exp - nbf` is more than the cluster is told to accept.
fn not_before(expires_at: DateTime<Utc>, max_ttl: std::time::Duration, now: DateTime<Utc>) -> DateTime<Utc> {
    let longest = TimeDelta::from_std(max_ttl).unwrap_or(TimeDelta::MAX);
    let earliest = expires_at.checked_sub_signed(longest).unwrap_or(now);
    (now - BACKDATED).max(earliest).min(now)
}

fn accepted_acr<'a>(challenge: &'a ChallengeRecord, provider: &str) -> &'a [String] {
    challenge.acr_by_provider.get(provider).map_or(&[], Vec::as_slice)
}

fn reason_will_do(reason: Option<&str>, required: Option<&ReasonTerms>) -> Result<(), Refusal> {
    if reason.is_some_and(|reason| reason.chars().count() > LONGEST_REASON || reason.chars().any(char::is_control)) {
        return Err(told(
            "invalid_request",
            format!("the reason must be one line of at most {LONGEST_REASON} characters"),
        ));
    }
    let Some(required) = required else { return Ok(()) };
    let hint = required.hint.as_deref().map_or(String::new(), |hint| format!(" ({hint})"));
    let Some(reason) = reason else {
        return Err(told("invalid_request", format!("a reason is required{hint}: give one with --reason")));
    };
    let accepts = |pattern: &String| Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(reason));
    if required.patterns.iter().all(accepts) {
        Ok(())
    } else {
        Err(told("invalid_request", format!("this reason will not do{hint}: give another with --reason")))
    }
}

/// Live grants of the same person that the new token is to carry along.
async fn carried(
    app: &App,
    request: &TokenRequest,
    person: &Identity,
    now: DateTime<Utc>,
) -> Result<Vec<Versioned<GrantRecord>>, Refusal> {
    let ids = request.carry.as_deref().unwrap_or_default().split_ascii_whitespace().take(MOST_CARRIED);
    let mut carried: Vec<Versioned<GrantRecord>> = Vec::new();
    for id in ids {
        if let Some(found) = app.store.grant(id).await.map_err(Unavailable::from)?
            && found.document.grant.user == person.user
            && found.document.is_live(now)
            && found.document.has_uses()
            && carried.iter().all(|other| other.document.grant.id != id)
        {
            carried.push(found);
        }
    }
    Ok(carried)
}

/// Grants that go along with a new one in its token.
struct Along {
    /// Life of the token and of the new grant, in seconds.
    ttl: u64,
    carried: Vec<GrantRecord>,
    /// Grants that end because the new token takes the place of theirs and does not carry them.
    replaced: Vec<(Option<i64>, GrantRecord)>,
}

impl Along {
    /// What adds no groups may go along whatever its life: it is looked up. A token has all of its groups until it expires:
    /// where nobody looks those up it opens them for as long, and where somebody does, every request with the group of
    /// what has ended is denied. So it must not outlive any grant whose groups it carries, and one that would cut its life
    /// by more than half is better asked for again.
    fn of(live: Vec<Versioned<GrantRecord>>, ttl: u64, has_authorizer: bool, now: DateTime<Utc>) -> Self {
        let mut along = Self { ttl, carried: Vec::new(), replaced: Vec::new() };
        for Versioned { version, document } in live {
            let left = (document.grant.expires_at - now).num_seconds().max(0).unsigned_abs();
            if document.grant.groups.is_empty() {
                along.carried.push(document);
            } else if left >= (ttl / 2).max(1) {
                along.ttl = along.ttl.min(left);
                along.carried.push(document);
            } else if !has_authorizer {
                along.replaced.push((Some(version), GrantRecord { revoked_at: Some(now), ..document }));
            }
        }
        along
    }
}

/// What of a grant depends on the exchange rather than on the challenge.
struct Terms {
    ttl: u64,
    reason: Option<String>,
    on_record: bool,
}

fn make_grant(
    person: &Identity,
    sign_in: Sufficient,
    challenge: &ChallengeRecord,
    terms: Terms,
    carried: &[GrantRecord],
    now: DateTime<Utc>,
) -> GrantRecord {
    GrantRecord {
        grant: Grant {
            id: random_id("gr"),
            user: person.user.clone(),
            rule: challenge.rules.join(", "),
            permits: challenge.permits.clone(),
            covers: challenge.covers.clone(),
            groups: challenge.groups.clone(),
            reason: terms.reason,
            acr: sign_in.acr,
            auth_time: sign_in.auth_time,
            created_at: now,
            expires_at: now + std::time::Duration::from_secs(terms.ttl),
            uses_left: challenge.uses,
            irrevocable: challenge.irrevocable || carried.iter().any(|carried| carried.grant.irrevocable),
        },
        provider: Some(person.provider.clone()),
        rules: challenge.rules.clone(),
        challenge: terms.on_record.then(|| challenge.id.clone()),
        carries: carried.iter().map(|grant| grant.grant.id.clone()).collect(),
        revoked_at: None,
        open: vec![],
    }
}

fn sign(
    app: &App,
    record: &GrantRecord,
    person: &Identity,
    carried: &[GrantRecord],
    now: DateTime<Utc>,
) -> Result<TokenResponse, Refusal> {
    let grant = &record.grant;
    // Only a grant adds such groups, whatever the identity provider says.
    let mut groups: Vec<String> =
        person.groups.iter().filter(|group| !group.starts_with(GRANTED_GROUP)).cloned().collect();
    for group in carried.iter().flat_map(|carried| &carried.grant.groups).chain(&grant.groups) {
        if !groups.contains(group) {
            groups.push(group.clone());
        }
    }
    let claims = Claims {
        iss: &app.config.public_url,
        aud: &app.config.token.audience,
        sub: &person.user,
        username: &person.user,
        groups: &groups,
        jti: &grant.id,
        iat: now.timestamp(),
        nbf: not_before(grant.expires_at, app.config.token.max_ttl, now).timestamp(),
        exp: grant.expires_at.timestamp(),
        acr: &grant.acr,
        auth_time: grant.auth_time.timestamp(),
        rule: record.rules.join(", "),
        actions: &grant.permits,
        reason: grant.reason.as_deref(),
    };
    let access_token = app.signer.sign(&claims).map_err(|error| {
        tracing::error!(%error, "an elevated token could not be signed");
        Refusal::ProviderUnavailable("stepup-server cannot sign tokens: tell your cluster's administrator".to_owned())
    })?;
    Ok(TokenResponse {
        access_token,
        issued_token_type: JWT_TOKEN_TYPE.to_owned(),
        token_type: "Bearer".to_owned(),
        expires_in: (grant.expires_at - now).num_seconds().max(0).unsigned_abs(),
        grant: grant.clone(),
    })
}
