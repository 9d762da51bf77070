//! What is protected from this person, as stepup-server last said: fetched and verified on calls that talk to the server
//! anyway, and kept in a file that is quick to search.
//!
//! It is a hint. Whoever changes the file changes what this machine asks beforehand, and nothing else; so it is verified
//! where it is fetched, and not again. One that has expired is as good a hint as any until it is replaced: at worst it
//! costs a question to the server, or a 403.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use chrono::{DateTime, Utc};
use openidconnect::JsonWebKey;
use openidconnect::core::{CoreJsonWebKeySet, CoreJwsSigningAlgorithm};
use serde::{Deserialize, Serialize};

use crate::action::{Action, ActionPattern, Parts, Words};
use crate::client::api::Server;
use crate::client::error::Error;
use crate::client::paths::Files;
use crate::client::profile::Profile;
use crate::client::{Clock, cache, output, provider_only, session};
use crate::wire::digest::{Digest, TYPE};

/// How old the digest may become before a call that talks to the server replaces it.
pub const USUAL_AGE: Duration = Duration::from_mins(10);
/// The same where the server knows better than the digest.
pub const AFTER_SURPRISE: Duration = Duration::from_secs(10);
/// The same for a call that renews the session, which takes its time anyway.
pub const WITH_SESSION: Duration = Duration::from_hours(1);
/// Whatever its age: another person may have signed in, or something was refused that it does not know of.
pub const NOW: Duration = Duration::ZERO;
/// When it was last tried to replace it.
const TRIED: &str = "digest-tried";
/// Clocks may differ by this many seconds.
const SKEW: i64 = 120;
/// Ends each word of a field, so that no words and one empty word (the core group) differ.
const END: char = '\u{1f}';
/// Version of the file.
const VERSION: u32 = 1;

/// The first line of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct About {
    version: u32,
    /// Whose it is, as the cluster knows them.
    pub user: String,
    /// Digest of the policy's match rules.
    pub policy: String,
    /// When the server made it, in unix seconds.
    pub issued_at: i64,
    /// When it should have been replaced, in unix seconds.
    pub expires_at: i64,
    /// Whether a denial of a write is as final as any other.
    #[serde(default)]
    pub denials_are_final: bool,
    /// How many patterns are in it.
    pub patterns: usize,
}

/// The digest that is kept.
#[derive(Debug)]
pub struct Kept {
    text: String,
}

impl Kept {
    /// Reads it. `None`: there is none.
    pub fn read(files: &Files) -> Option<Self> {
        fs::read_to_string(files.digest()).ok().map(|text| Self { text })
    }

    /// Whose it is and how old; `None` where the file makes no sense.
    pub fn about(&self) -> Option<About> {
        let about: About = serde_json::from_str(self.text.lines().next()?).ok()?;
        (about.version == VERSION).then_some(about)
    }

    /// Whether something of it protects `action`.
    pub fn protects(&self, action: &Action) -> bool {
        self.any(action, |parts| parts.protect(action))
    }

    /// Whether something of it protects `action` in some namespace.
    pub fn protects_somewhere(&self, action: &Action) -> bool {
        self.any(action, |parts| parts.protect_somewhere(action))
    }

    /// The API groups that it names, `*` among them.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.sections().flat_map(|section| section.api_groups.0.split_terminator(END))
    }

    fn any(&self, action: &Action, test: impl Fn(&Parts<Joined<'_>>) -> bool) -> bool {
        // Most are about something else, and need not be looked into.
        let is_about = |section: &Section<'_>| {
            let is_called = |resource: &str| {
                let name = resource.split('/').next().unwrap_or_default();
                name == "*" || name == action.resource
            };
            match action.path {
                Some(_) => !section.non_resource_urls.0.is_empty(),
                None => section.resources.any(is_called),
            }
        };
        self.sections().filter(is_about).any(|section| section.patterns().any(|parts| test(&parts)))
    }

    fn sections(&self) -> impl Iterator<Item = Section<'_>> {
        let mut rest = self.text.split_once('\n').map_or("", |(_, rest)| rest);
        std::iter::from_fn(move || {
            let (head, after) = rest.split_once('\n')?;
            let mut fields = head.split('\t');
            let length: usize = fields.next()?.parse().ok()?;
            let mut words = || fields.next().map(Joined);
            let (api_groups, resources, non_resource_urls) = (words()?, words()?, words()?);
            let body = after.get(..length)?;
            rest = &after[length..];
            Some(Section { api_groups, resources, non_resource_urls, body })
        })
    }
}

/// Patterns about the same things.
struct Section<'a> {
    api_groups: Joined<'a>,
    resources: Joined<'a>,
    non_resource_urls: Joined<'a>,
    body: &'a str,
}

impl<'a> Section<'a> {
    fn patterns(&self) -> impl Iterator<Item = Parts<Joined<'a>>> {
        let Self { api_groups, resources, non_resource_urls, body } = *self;
        body.lines().filter_map(move |line| {
            let mut fields = line.split('\t').map(Joined);
            let (verbs, namespaces, names) = (fields.next()?, fields.next()?, fields.next()?);
            Some(Parts { verbs, api_groups, resources, namespaces, names, non_resource_urls })
        })
    }
}

/// Words in one text.
#[derive(Clone, Copy, Debug)]
struct Joined<'a>(&'a str);

impl Words for Joined<'_> {
    fn any(&self, test: impl FnMut(&str) -> bool) -> bool {
        self.0.split_terminator(END).any(test)
    }
}

/// Replaces the digest if it is older than `age`, so that the next command knows what is protected now. Whatever goes
/// wrong is said and costs nothing else.
///
/// `user`: whom the server takes us for.
pub fn refresh(profile: &Profile, server: &Server, user: &str, age: Duration, now: DateTime<Utc>) {
    if !profile.has_preflight() || is_younger(&profile.files, age, now) {
        return;
    }
    let _ = cache::write_bytes(&profile.files.state(TRIED), b"");
    fetched(profile, server, user, now);
}

fn fetched(profile: &Profile, server: &Server, user: &str, now: DateTime<Utc>) {
    if let Err(problem) = fetch(profile, server, user, now) {
        output::note(format_args!("kubectl-stepup: the list of what is protected could not be renewed: {problem}"));
    }
}

/// The same for whoever is signed in; without a session or a server there is nothing to do.
pub fn renew(profile: &Profile, age: Duration, clock: Clock) {
    if !profile.has_digest() || is_younger(&profile.files, age, clock()) {
        return;
    }
    let Ok(session) = session::current(profile, clock) else { return };
    // A server that does not answer is not waited for at each renewal of a session.
    let _ = cache::write_bytes(&profile.files.state(TRIED), b"");
    if let Some(settings) = &profile.provider_only {
        if let Err(problem) = provider_only::renew_digest(profile, settings, &session, clock()) {
            output::note(format_args!("kubectl-stepup: the list of what is protected could not be renewed: {problem}"));
        }
        return;
    }
    let pending = Server::new(profile, &session.base_token).and_then(|server| Ok((server.challenges()?.user, server)));
    match pending {
        Ok((user, server)) => fetched(profile, &server, &user, clock()),
        Err(error) => output::note(format_args!("kubectl-stepup: {error}")),
    }
}

/// When it was last tried counts too: a server that has none is not asked again and again.
fn is_younger(files: &Files, age: Duration, now: DateTime<Utc>) -> bool {
    [files.digest(), files.state(TRIED)].iter().any(|path| cache::age(path, now).is_some_and(|since| since < age))
}

/// Forgets the digest, and when one was last asked for: the next one is somebody else's, or another server's.
pub fn forget(files: &Files) -> Result<(), Error> {
    cache::remove(&files.digest())?;
    cache::remove(&files.state(TRIED))
}

fn fetch(profile: &Profile, server: &Server, user: &str, now: DateTime<Utc>) -> Result<(), Error> {
    let signed = server.digest()?;
    let digest = verified(&signed, &server.keys()?, server.url(), user, now)
        .map_err(|problem| Error::Server { url: server.url().to_owned(), problem: format!("its digest {problem}") })?;
    keep(&profile.files, &digest)?;
    session::fit(profile)
}

/// The digest, if this server signed it for this person, and not long ago.
fn verified(
    signed: &str,
    keys: &CoreJsonWebKeySet,
    url: &str,
    user: &str,
    now: DateTime<Utc>,
) -> Result<Digest, String> {
    #[derive(Deserialize)]
    struct Header {
        alg: CoreJwsSigningAlgorithm,
        typ: Option<String>,
        kid: Option<String>,
    }
    let broken = || "is no signed text".to_owned();
    let mut parts = signed.trim().split('.');
    let (Some(header), Some(payload), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(broken());
    };
    let bytes = |part: &str| BASE64.decode(part).map_err(|_| broken());
    let Header { alg, typ, kid } = serde_json::from_slice(&bytes(header)?).map_err(|_| broken())?;
    if typ.as_deref() != Some(TYPE) {
        return Err("is of another kind".to_owned());
    }
    // Only what stepup-server signs with: no algorithm without a key of the server's.
    if !matches!(alg, CoreJwsSigningAlgorithm::EcdsaP256Sha256 | CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256) {
        return Err("is signed in an unusual way".to_owned());
    }
    let key = keys.keys().iter().find(|key| key.key_id().map(|id| id.as_str()) == kid.as_deref() && kid.is_some());
    let key = key.ok_or("is signed with a key that the server does not publish")?;
    let message = &signed.trim()[..header.len() + 1 + payload.len()];
    key.verify_signature(&alg, message.as_bytes(), &bytes(signature)?).map_err(|_| "has a wrong signature")?;

    let digest: Digest =
        serde_json::from_slice(&bytes(payload)?).map_err(|_| "does not say what it should".to_owned())?;
    if digest.iss.trim_end_matches('/') != url.trim_end_matches('/') {
        return Err(format!("is from {}", digest.iss));
    }
    if digest.sub != user {
        return Err("is somebody else's".to_owned());
    }
    if digest.exp + SKEW <= now.timestamp() || digest.iat - SKEW > now.timestamp() {
        return Err("is not of today: check the clocks".to_owned());
    }
    Ok(digest)
}

/// The file's text: a line about it, then the patterns, those about the same things together.
fn text_of(digest: &Digest) -> String {
    let mut sections: BTreeMap<String, String> = BTreeMap::new();
    let patterns = digest.protected.iter().flat_map(|part| &part.actions);
    for pattern in patterns.clone() {
        let ActionPattern { verbs, api_groups, resources, namespaces, names, non_resource_urls } = pattern;
        let head = [api_groups, resources, non_resource_urls].map(|words| joined(words)).join("\t");
        let body = [verbs, namespaces, names].map(|words| joined(words)).join("\t");
        let _ = writeln!(sections.entry(head).or_default(), "{body}");
    }
    let about = About {
        version: VERSION,
        user: digest.sub.clone(),
        policy: digest.policy.clone(),
        issued_at: digest.iat,
        expires_at: digest.exp,
        denials_are_final: digest.denials_are_final,
        patterns: patterns.count(),
    };
    let mut text = serde_json::to_string(&about).unwrap_or_default();
    text.push('\n');
    for (head, body) in sections {
        let _ = write!(text, "{}\t{head}\n{body}", body.len());
    }
    text
}

fn joined(words: &[String]) -> String {
    let mut text = String::new();
    for word in words {
        // No name has a control character in it. A pattern that has one becomes a wider hint.
        text.push_str(if word.contains(char::is_control) { "*" } else { word });
        text.push(END);
    }
    text
}

/// Keeps `digest`, wherever it is from.
pub fn keep(files: &Files, digest: &Digest) -> Result<(), Error> {
    cache::write_bytes(&files.digest(), text_of(digest).as_bytes())
}

#[cfg(test)]
mod tests {
    use base64::prelude::BASE64_STANDARD;
    use openidconnect::core::{CoreEdDsaPrivateSigningKey, CoreJsonWebKey, CoreRsaPrivateSigningKey};
    use openidconnect::{JsonWebKeyId, PrivateSigningKey};
    use serde_json::{Value, json};

    use super::*;
    use crate::client::paths::Paths;
    use crate::wire::digest::Protected;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn pattern(verbs: &[&str], group: &str, resource: &str, namespaces: &[&str], names: &[&str]) -> ActionPattern {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        ActionPattern {
            verbs: owned(verbs),
            api_groups: vec![group.to_owned()],
            resources: vec![resource.to_owned()],
            namespaces: owned(namespaces),
            names: owned(names),
            non_resource_urls: vec![],
        }
    }

    fn digest(actions: Vec<ActionPattern>) -> Digest {
        Digest {
            iss: "https://stepup.example.com".into(),
            sub: "alice".into(),
            iat: at(0).timestamp(),
            exp: at(86_400).timestamp(),
            policy: "abc".into(),
            denials_are_final: false,
            protected: vec![Protected { rule: "r".into(), actions }],
        }
    }

    fn action(verb: &str, group: &str, resource: &str, namespace: Option<&str>, name: Option<&str>) -> Action {
        let (resource, subresource) = match resource.split_once('/') {
            Some((resource, sub)) => (resource, Some(sub.to_owned())),
            None => (resource, None),
        };
        Action {
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            subresource,
            namespace: namespace.map(Into::into),
            name: name.map(Into::into),
            path: None,
        }
        .normalized()
    }

    #[test]
    fn what_is_kept_protects_just_as_its_patterns_do() {
        let patterns = vec![
            pattern(&["get"], "", "secrets", &["prod", "prod-*"], &["*"]),
            pattern(&["get"], "", "secrets", &["dev"], &["db", "odd\tname\n"]),
            pattern(&["connect"], "", "pods/exec", &["payment"], &["*"]),
            pattern(&["delete"], "apps", "*", &["*"], &["web"]),
            pattern(&["update"], "*", "*/scale", &["*"], &["*"]),
            ActionPattern {
                api_groups: vec![],
                resources: vec![],
                non_resource_urls: vec!["/debug/*".into()],
                ..pattern(&["get"], "", "", &["*"], &["*"])
            },
        ];
        let home = tempfile::tempdir().unwrap();
        let files = Paths::under(home.path()).of("p");
        keep(&files, &digest(patterns.clone())).unwrap();
        let kept = Kept::read(&files).unwrap();
        assert_eq!(kept.about().map(|about| (about.user, about.patterns)), Some(("alice".to_owned(), 6)));
        let path = |path: &str| Action { path: Some(path.into()), ..action("get", "", "", None, None) };
        let mut asked = vec![path("/debug/pprof"), path("/metrics")];
        for verb in ["get", "list", "watch", "delete", "patch", "create", "connect"] {
            for (group, resource) in [
                ("", "secrets"),
                ("", "pods/exec"),
                ("", "pods"),
                ("apps", "deployments"),
                ("apps", "deployments/scale"),
            ] {
                for namespace in [None, Some("prod"), Some("prod-1"), Some("dev"), Some("payment"), Some("x")] {
                    for name in [None, Some("db"), Some("web"), Some("other")] {
                        asked.push(action(verb, group, resource, namespace, name));
                    }
                }
            }
        }
        let mut protected = 0;
        for action in asked {
            // The name that cannot be written down became wider.
            let wider = pattern(&["get"], "", "secrets", &["dev"], &["*"]);
            let expected = patterns.iter().chain([&wider]).any(|pattern| pattern.protects(&action));
            assert_eq!(kept.protects(&action), expected, "{action}");
            assert!(!expected || kept.protects_somewhere(&action), "{action}");
            protected += usize::from(expected);
        }
        assert!(protected > 20);
        assert!(kept.protects_somewhere(&action("get", "", "secrets", None, Some("x"))));
        assert!(!kept.protects_somewhere(&action("get", "", "configmaps", None, Some("x"))));
    }

    #[test]
    fn a_file_that_makes_no_sense_protects_nothing() {
        let text = text_of(&digest(vec![pattern(&["*"], "*", "*", &["*"], &["*"])]));
        let anything = action("get", "", "secrets", Some("prod"), None);
        assert!(Kept { text: text.clone() }.protects(&anything));
        for cut in 0..text.len() {
            let _ = Kept { text: text[..cut].to_owned() }.protects(&anything);
        }
        for text in ["", "\n", "{}\n99999999999999999999\ta\tb\tc\n", "{}\n5\t\u{1f}\t\u{1f}\t\nééé", "{}\n1\t*\n"] {
            assert!(!Kept { text: text.to_owned() }.protects(&anything), "{text:?}");
        }
    }

    /// A server's key, and a signer with it.
    struct Signer {
        key: CoreRsaPrivateSigningKey,
    }

    impl Signer {
        fn new() -> Self {
            let pem = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap().serialize_pem();
            let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
            // The crate wants PKCS#1, which is what is in PKCS#8 behind its head.
            let pkcs1 = BASE64_STANDARD.encode(&BASE64_STANDARD.decode(body).unwrap()[26..]);
            let lines: Vec<String> =
                pkcs1.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
            let pem = format!("-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----\n", lines.join("\n"));
            Self { key: CoreRsaPrivateSigningKey::from_pem(&pem, Some(JsonWebKeyId::new("k1".into()))).unwrap() }
        }

        fn keys(&self) -> CoreJsonWebKeySet {
            CoreJsonWebKeySet::new(vec![self.key.as_verification_key()])
        }

        fn sign(&self, header: &Value, payload: &Value) -> String {
            let message = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(payload.to_string()));
            let signature = self.key.sign(&CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256, message.as_bytes()).unwrap();
            format!("{message}.{}", BASE64.encode(signature))
        }
    }

    #[test]
    fn a_digest_counts_when_this_server_signed_it_for_this_person_today() {
        let signer = Signer::new();
        let header = json!({"alg": "RS256", "typ": TYPE, "kid": "k1"});
        let payload = json!(digest(vec![]));
        let read = |signed: &str, now| verified(signed, &signer.keys(), "https://stepup.example.com/", "alice", now);
        let good = signer.sign(&header, &payload);
        assert_eq!(read(&good, at(10)), Ok(digest(vec![])));
        assert!(read(&format!("{good}\n"), at(86_400)).is_ok());

        let with = |key: &str, value: Value| {
            let mut payload = payload.clone();
            payload[key] = value;
            signer.sign(&header, &payload)
        };
        let typed = |header: Value| signer.sign(&header, &payload);
        let mut forged: Vec<char> = good.chars().collect();
        let last = forged.len() - 10;
        forged[last] = if forged[last] == 'A' { 'B' } else { 'A' };
        let other = Signer::new().sign(&header, &payload);
        let unsigned =
            format!("{}.{}.", BASE64.encode(json!({"alg": "none", "typ": TYPE}).to_string()), BASE64.encode("{}"));
        for (signed, problem) in [
            (forged.iter().collect::<String>(), "wrong signature"),
            (other, "wrong signature"),
            (with("sub", json!("bob")), "somebody else's"),
            (with("iss", json!("https://evil.example.com")), "from https://evil"),
            (with("exp", json!(at(-SKEW).timestamp())), "not of today"),
            (with("iat", json!(at(1000).timestamp())), "not of today"),
            (with("protected", json!(7)), "does not say"),
            (typed(json!({"alg": "RS256", "typ": "JWT", "kid": "k1"})), "another kind"),
            (typed(json!({"alg": "RS256", "typ": TYPE, "kid": "k2"})), "does not publish"),
            (typed(json!({"alg": "RS256", "typ": TYPE})), "does not publish"),
            (typed(json!({"alg": "HS256", "typ": TYPE, "kid": "k1"})), "unusual way"),
            (typed(json!({"alg": "ES256", "typ": TYPE, "kid": "k1"})), "wrong signature"),
            (unsigned, "unusual way"),
            (String::new(), "no signed text"),
            ("a.b".to_owned(), "no signed text"),
            ("é.é.é".to_owned(), "no signed text"),
            (format!("{good}.x"), "no signed text"),
        ] {
            let told = read(&signed, at(10)).unwrap_err();
            assert!(told.contains(problem), "{told:?}, not {problem:?}");
        }
        let told = read(&good, at(86_400 + SKEW)).unwrap_err();
        assert!(told.contains("not of today"), "{told}");
    }

    #[test]
    fn keys_of_another_kind_are_no_keys() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let key =
            CoreEdDsaPrivateSigningKey::from_ed25519_pem(&pair.serialize_pem(), Some(JsonWebKeyId::new("k1".into())))
                .unwrap();
        let key: CoreJsonWebKey = key.as_verification_key();
        let signed = Signer::new().sign(&json!({"alg": "RS256", "typ": TYPE, "kid": "k1"}), &json!({}));
        let told = verified(&signed, &CoreJsonWebKeySet::new(vec![key]), "https://x", "alice", at(0)).unwrap_err();
        assert!(told.contains("wrong signature"), "{told}");
    }
}
