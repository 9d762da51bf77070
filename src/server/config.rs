//! The configuration file of `stepup-server`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regex::Regex;
use url::Url;

use crate::server::document::{self, Fields, Problems, Size, Value, globs, nearest};
use crate::server::policy::condition;

/// Everything `stepup-server` is told. Paths are absolute or relative to the working directory: those in the file are
/// relative to the file.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it came from.
    pub file: PathBuf,
    /// Address to listen on.
    pub listen: SocketAddr,
    /// `iss` of elevated tokens, without a trailing slash.
    pub public_url: String,
    /// The server's own certificate and key.
    pub tls: KeyPair,
    /// Who holds protected requests up.
    pub mode: Mode,
    /// Who may send reviews; `None` where there are no webhooks.
    pub webhook_clients: Option<WebhookClients>,
    /// Where people sign in.
    pub identity_providers: Vec<IdentityProvider>,
    /// Elevated tokens.
    pub token: Token,
    /// Where challenges and grants are kept.
    pub store: Store,
    /// Where the audit records go.
    pub audit: Audit,
    /// The policy file.
    pub policy: PathBuf,
    /// Who may see and revoke everybody's grants.
    pub administrators: People,
    /// What `render` is to connect.
    pub webhooks: Webhooks,
    /// Bounds on what a caller may take.
    pub limits: Limits,
    /// The server's own log.
    pub log: Log,
}

/// Who holds protected requests up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The API server asks us about each of them.
    #[default]
    Webhooks,
    /// RBAC alone: people lack the right, and the token of a grant carries a group, `stepup:` and the rule's name, that
    /// has it. The API server never asks us, so what RBAC cannot say is not enforced.
    Groups,
}

/// A PEM certificate chain and its key.
#[derive(Clone, Debug)]
pub struct KeyPair {
    /// PEM file with the certificate, leaf first.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
    /// PEM file with the authorities that clients verify the certificate by; the certificate itself otherwise.
    pub ca: Option<PathBuf>,
}

/// Who may send reviews: holders of a certificate that `ca` signed.
#[derive(Clone, Debug)]
pub struct WebhookClients {
    /// PEM file with the authorities.
    pub ca: PathBuf,
    /// Common names or DNS names of which the certificate must have one; empty: any.
    pub names: Vec<String>,
}

/// One OpenID provider whose ID tokens are base tokens and step-ups.
#[derive(Clone, Debug)]
pub struct IdentityProvider {
    /// Name in logs, audit records and messages.
    pub name: String,
    /// `iss`, to the letter.
    pub issuer: String,
    /// PEM file with the authorities of the provider's own certificate; the system's otherwise.
    pub ca: Option<PathBuf>,
    /// Accepted `aud` of base tokens.
    pub audiences: Vec<String>,
    /// Accepted `aud` of step-up ID tokens.
    pub step_up_audiences: Vec<String>,
    /// The username, exactly as the API server maps it.
    pub username: Claim,
    /// The groups, exactly as the API server maps them.
    pub groups: Option<Claim>,
    /// Claims that every token must have, with these values: nobody else comes in.
    pub required_claims: Vec<RequiredClaim>,
    /// What `acr` values mean here, weakest first; a higher level satisfies a lower one.
    pub levels: Vec<Level>,
    /// Who can step up at all. Others are refused at once (403), never asked.
    pub can_step_up: People,
}

impl IdentityProvider {
    /// Whether it may let this person step up, as the cluster knows them: somebody whom another provider's prefix names is
    /// not this one's.
    pub fn lets_step_up(&self, user: &str, groups: &[String]) -> bool {
        let may_be_its_own = match &self.username {
            Claim::Named { prefix, .. } => user.starts_with(prefix),
            Claim::Expression(_) => true,
        };
        may_be_its_own && self.can_step_up.include(user, groups)
    }
}

/// A claim that tokens must have: `--oidc-required-claim` of the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredClaim {
    /// Its name.
    pub claim: String,
    /// Its value, a text.
    pub value: String,
}

/// How a claim becomes a username or groups, in the words of the API server's `claimMappings`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A claim's value after a prefix.
    Named {
        /// Name of the claim.
        claim: String,
        /// Put before each value; may be empty.
        prefix: String,
    },
    /// A CEL expression over `claims`.
    Expression(String),
}

/// One level of assurance at one provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// Name that policies use, such as `mfa`.
    pub name: String,
    /// Values of `acr` that reach it, the one to ask for first.
    pub acr_values: Vec<String>,
}

/// Globs over usernames and groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct People {
    /// Globs over usernames.
    pub users: Vec<String>,
    /// Globs over groups.
    pub groups: Vec<String>,
}

impl People {
    /// Whether one of the globs names the user or one of the groups.
    pub fn include(&self, user: &str, groups: &[String]) -> bool {
        self.users.iter().any(|glob| crate::action::glob_matches(glob, user))
            || groups.iter().any(|group| self.groups.iter().any(|glob| crate::action::glob_matches(glob, group)))
    }
}

/// Elevated tokens.
#[derive(Clone, Debug)]
pub struct Token {
    /// `aud`, which the API server is told to expect.
    pub audience: String,
    /// Directory of the signing keys.
    pub keys: PathBuf,
    /// Algorithm of new tokens.
    pub sign_with: Algorithm,
    /// No token and no grant lives longer.
    pub max_ttl: Duration,
}

/// A signature algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
}

/// Where challenges and grants are kept.
#[derive(Clone, Debug)]
pub enum Store {
    /// An embedded database in one file.
    Sqlite {
        /// The file; made when it is not there.
        path: PathBuf,
    },
}

/// Where the audit records go: to all of the sinks, and no answer leaves before all have them.
#[derive(Clone, Debug)]
pub struct Audit {
    /// At least one.
    pub sinks: Vec<Sink>,
}

impl Audit {
    /// What is allowed and probably not meant.
    pub fn warning(&self) -> Option<&'static str> {
        let keeps = |sink: &Sink| matches!(sink, Sink::File { .. });
        (!self.sinks.iter().any(keeps)).then_some(
            "`audit.sinks` has no file: on standard output a record is on no disk before its answer leaves, and whoever \
             reads it has to keep it; a crash may repeat the last records, with the same `id`",
        )
    }
}

/// One place for audit records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// JSON Lines, appended to a file and synced.
    File {
        /// The file.
        path: PathBuf,
    },
    /// JSON Lines on standard output: kept by whoever reads it, if at all.
    Stdout,
}

/// What `render` is to connect, and how the API server reaches us.
#[derive(Clone, Debug)]
pub struct Webhooks {
    /// Whether the cluster's API server flags can be set, so that reads are guarded too.
    pub authorization: bool,
    /// Base URL that the API server calls, without a trailing slash.
    pub url: String,
    /// The API server's client certificate and key, as paths on *its* machine.
    pub client: Option<ClientFiles>,
    /// Directory on the API server's machine where the rendered files will be; default: where they are written.
    pub directory: Option<PathBuf>,
}

/// A certificate and a key on the machine of the API server.
#[derive(Clone, Debug)]
pub struct ClientFiles {
    /// PEM file with the certificate.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}

/// Bounds on what a caller may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest request body, in bytes.
    pub body_bytes: usize,
    /// Connections at a time.
    pub connections: usize,
    /// From the end of the header to the answer.
    pub request_timeout: Duration,
    /// For the TLS handshake and for the header.
    pub header_timeout: Duration,
    /// Challenges that one user may have pending.
    pub pending_challenges_per_user: usize,
    /// How long a challenge stays pending.
    pub challenge_ttl: Duration,
}

/// The server's own log, on standard error.
#[derive(Clone, Debug)]
pub struct Log {
    /// How lines look.
    pub format: LogFormat,
    /// A `tracing` filter such as `info` or `stepup=debug`.
    pub level: String,
}

/// How lines of the log look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Why a configuration cannot be used: every problem that was found, a line each.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Config {
    /// Reads and checks the file. It opens none of the files that it names.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = document::read(file).map_err(ConfigError)?;
        Self::parse(&text, file)
    }

    /// Checks `text`, which came from `file`.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let problems = Problems::new(file.display().to_string());
        let config = document::parse(text, &problems)
            .and_then(|root| Fields::of(&root, "", &problems).and_then(|fields| read_config(fields, file)));
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(ConfigError(problems.to_string())),
        }
    }

    /// What the policy needs to know of it.
    pub fn levels(&self) -> Levels {
        Levels {
            providers: self
                .identity_providers
                .iter()
                .map(|provider| (provider.name.clone(), provider.levels.clone()))
                .collect(),
            max_ttl: self.token.max_ttl,
            mode: self.mode,
            authorization: self.has_authorizer(),
        }
    }

    /// Whether the API server asks us about what admission never sees, and about every request with a group that a grant
    /// gave.
    pub fn has_authorizer(&self) -> bool {
        self.mode == Mode::Webhooks && self.webhooks.authorization
    }
}

/// What a policy is compiled against: levels by provider, how long a grant may live, and who enforces it.
#[derive(Clone, Debug)]
pub struct Levels {
    /// Levels by the provider's name, weakest first.
    pub providers: BTreeMap<String, Vec<Level>>,
    /// [`Token::max_ttl`].
    pub max_ttl: Duration,
    /// [`Config::mode`].
    pub mode: Mode,
    /// [`Config::has_authorizer`].
    pub authorization: bool,
}

fn read_config(mut root: Fields<'_>, file: &Path) -> Option<Config> {
    let base = Base(file.parent().unwrap_or(Path::new("")));
    let listen = root.required::<String>("listen");
    let listen = listen.parse::<SocketAddr>().ok().or_else(|| {
        if !listen.is_empty() {
            root.report("listen", format_args!("`{listen}` is not an address and a port such as 0.0.0.0:8443"));
        }
        None
    });
    let public_url = required_url(&mut root, "publicUrl");
    let tls = root.required_fields("tls").map(|fields| read_tls(fields, base));
    let mode = one_of(&mut root, "mode", &[("webhooks", Mode::Webhooks), ("groups", Mode::Groups)], Mode::default());
    let webhook_clients = match mode {
        Mode::Webhooks => root.required_fields("webhookClients").map(|fields| Some(read_webhook_clients(fields, base))),
        Mode::Groups => {
            for key in ["webhookClients", "webhooks"] {
                if root.node(key).is_some() {
                    root.report(key, "there are no webhooks in `mode: groups`; leave this out");
                }
            }
            Some(None)
        }
    };
    let identity_providers = read_providers(&mut root, &public_url, base);
    let token = root.required_fields("token").map(|fields| read_token(fields, base));
    let store = root.required_fields("store").and_then(|fields| read_store(fields, base));
    let audit = root.required_fields("audit").map(|fields| read_audit(fields, base));
    let policy = base.join(root.required("policy"));
    let administrators = root.fields("administrators").map(read_people).unwrap_or_default();
    let webhooks = root.fields("webhooks").filter(|_| mode == Mode::Webhooks);
    let webhooks = read_webhooks(webhooks, &public_url, base);
    let limits = root.fields("limits").map_or_else(Limits::default, read_limits);
    let log = root.fields("log").map_or_else(Log::default, read_log);
    root.finish();
    Some(Config {
        file: file.to_owned(),
        listen: listen?,
        public_url,
        tls: tls?,
        mode,
        webhook_clients: webhook_clients?,
        identity_providers,
        token: token?,
        store: store?,
        audit: audit?,
        policy,
        administrators,
        webhooks,
        limits,
        log,
    })
}

/// The directory that relative paths start from.
#[derive(Clone, Copy)]
struct Base<'a>(&'a Path);

impl Base<'_> {
    fn join(self, path: PathBuf) -> PathBuf {
        if path.as_os_str().is_empty() { path } else { self.0.join(path) }
    }
}

fn read_tls(mut fields: Fields<'_>, base: Base<'_>) -> KeyPair {
    let pair = KeyPair {
        certificate: base.join(fields.required("certificate")),
        key: base.join(fields.required("key")),
        ca: fields.optional("ca").map(|path| base.join(path)),
    };
    fields.finish();
    pair
}

fn read_webhook_clients(mut fields: Fields<'_>, base: Base<'_>) -> WebhookClients {
    let clients =
        WebhookClients { ca: base.join(fields.required("ca")), names: fields.optional("names").unwrap_or_default() };
    fields.finish();
    clients
}

fn read_providers(root: &mut Fields<'_>, public_url: &str, base: Base<'_>) -> Vec<IdentityProvider> {
    let mut providers: Vec<IdentityProvider> = Vec::new();
    for mut fields in root.maps("identityProviders") {
        let provider = read_provider(&mut fields, base);
        if providers.iter().any(|other| other.name == provider.name) {
            fields.report("name", format_args!("there is another provider named `{}`", provider.name));
        }
        if providers.iter().any(|other| other.issuer == provider.issuer) {
            fields.report("issuer", "another provider has the same issuer; a token must have one meaning");
        }
        if provider.issuer == public_url {
            fields.report("issuer", "this is our own publicUrl; base tokens must come from another issuer");
        }
        fields.finish();
        providers.push(provider);
    }
    if providers.is_empty() && !root.has("identityProviders") {
        root.missing("identityProviders");
    } else if providers.is_empty() {
        root.report("identityProviders", "at least one is needed");
    }
    providers
}

fn read_provider(fields: &mut Fields<'_>, base: Base<'_>) -> IdentityProvider {
    let name = fields.required::<String>("name");
    let issuer = required_url(fields, "issuer");
    let audiences = fields.required::<Vec<String>>("audiences");
    if audiences.is_empty() && fields.has("audiences") {
        fields.report("audiences", "at least one is needed, usually the client id");
    }
    let step_up_audiences = fields.optional("stepUpAudiences").unwrap_or_else(|| audiences.clone());
    if step_up_audiences.is_empty() && fields.has("stepUpAudiences") {
        fields.report("stepUpAudiences", "at least one is needed; leave it out to use `audiences`");
    }
    let username = fields.required_fields("username").and_then(read_username);
    let groups = fields.fields("groups").and_then(read_claim);
    let required_claims = read_required_claims(fields);
    let can_step_up = match fields.fields("canStepUp") {
        Some(people) => read_people(people),
        None => People { users: vec!["*".to_owned()], groups: vec![] },
    };
    IdentityProvider {
        ca: fields.optional("ca").map(|path| base.join(path)),
        levels: read_levels(fields),
        name,
        issuer,
        audiences,
        step_up_audiences,
        username: username.unwrap_or(Claim::Named { claim: String::new(), prefix: String::new() }),
        groups,
        required_claims,
        can_step_up,
    }
}

fn read_required_claims(fields: &mut Fields<'_>) -> Vec<RequiredClaim> {
    let read = |mut fields: Fields<'_>| {
        let required = RequiredClaim { claim: fields.required("claim"), value: fields.required("value") };
        fields.finish();
        required
    };
    fields.maps("requiredClaims").into_iter().map(read).collect()
}

fn read_username(mut fields: Fields<'_>) -> Option<Claim> {
    if let Some(Value::Text(expression)) = fields.node("expression").map(|node| &node.value)
        && uses(expression, "email")
        && !uses(expression, "email_verified")
    {
        fields.report(
            "expression",
            "the API server takes `claims.email` only together with `claims.email_verified`, such as \
             `claims.email_verified == true ? claims.email : claims.sub`",
        );
    }
    read_claim(fields)
}

/// Whether an expression names this claim.
fn uses(expression: &str, claim: &str) -> bool {
    let named = Regex::new(&format!(r"\bclaims\s*\.\s*\??\s*{claim}\b")).expect("a claim is a word");
    named.is_match(expression)
}

fn read_claim(mut fields: Fields<'_>) -> Option<Claim> {
    let claim = fields.optional::<String>("claim");
    let prefix = fields.optional::<String>("prefix");
    let expression = fields.optional::<String>("expression");
    let claim = match (claim, expression) {
        (Some(claim), None) => Some(Claim::Named { claim, prefix: prefix.unwrap_or_default() }),
        (None, Some(expression)) => {
            if prefix.is_some() {
                fields.report("prefix", "an expression has no prefix; add it in the expression");
            }
            if let Err(error) = condition::compile(&expression, &["claims"]) {
                fields.report("expression", error);
            }
            Some(Claim::Expression(expression))
        }
        _ => {
            fields.report("claim", "either `claim` (with an optional `prefix`) or `expression` is needed");
            None
        }
    };
    fields.finish();
    claim
}

fn read_levels(provider: &mut Fields<'_>) -> Vec<Level> {
    let mut levels: Vec<Level> = Vec::new();
    for mut fields in provider.maps("levels") {
        let level = Level { name: fields.required("name"), acr_values: fields.required("acrValues") };
        if level.name.contains(':') {
            fields.report("name", "a level's name has no `:`, which is how acr values are told from levels");
        }
        if levels.iter().any(|other| other.name == level.name) {
            fields.report("name", format_args!("there is another level named `{}`", level.name));
        }
        if level.acr_values.is_empty() && fields.has("acrValues") {
            fields.report("acrValues", "at least one is needed");
        }
        if let Some(twice) = level.acr_values.iter().find(|acr| levels.iter().any(|l| l.acr_values.contains(acr))) {
            fields.report("acrValues", format_args!("`{twice}` stands for a weaker level already"));
        }
        fields.finish();
        levels.push(level);
    }
    if levels.is_empty() && provider.has("levels") {
        provider.report("levels", "at least one is needed");
    } else if levels.is_empty() {
        provider.missing("levels");
    }
    levels
}

fn read_people(mut fields: Fields<'_>) -> People {
    let people = People {
        users: globs(fields.optional("users").unwrap_or_default()),
        groups: globs(fields.optional("groups").unwrap_or_default()),
    };
    fields.finish();
    people
}

fn read_token(mut fields: Fields<'_>, base: Base<'_>) -> Token {
    let token = Token {
        audience: fields.required("audience"),
        keys: base.join(fields.required("keys")),
        sign_with: one_of(
            &mut fields,
            "signWith",
            &[("ES256", Algorithm::Es256), ("RS256", Algorithm::Rs256)],
            Algorithm::Es256,
        ),
        max_ttl: positive(&mut fields, "maxTtl", Duration::from_mins(15)),
    };
    if token.max_ttl > Duration::from_hours(24) {
        fields.report("maxTtl", "more than a day is not a step-up; take 15m or so");
    }
    fields.finish();
    token
}

fn read_store(mut fields: Fields<'_>, base: Base<'_>) -> Option<Store> {
    let store = fields.required_fields("sqlite").map(|mut sqlite| {
        let path = base.join(sqlite.required("path"));
        sqlite.finish();
        Store::Sqlite { path }
    });
    fields.finish();
    store
}

fn read_audit(mut fields: Fields<'_>, base: Base<'_>) -> Audit {
    let mut sinks = Vec::new();
    for mut sink in fields.maps("sinks") {
        let file = sink.fields("file").map(|mut file| {
            let path = base.join(file.required("path"));
            file.finish();
            Sink::File { path }
        });
        let stdout = sink.fields("stdout").map(|stdout| {
            stdout.finish();
            Sink::Stdout
        });
        match (file, stdout) {
            (Some(one), None) | (None, Some(one)) => sinks.push(one),
            _ => sink.report("file", "a sink is either `file: {path: …}` or `stdout: {}`"),
        }
        sink.finish();
    }
    if sinks.is_empty() && !fields.has("sinks") {
        fields.missing("sinks");
    } else if sinks.is_empty() {
        fields.report("sinks", "at least one is needed: without an audit record nothing is granted");
    }
    fields.finish();
    Audit { sinks }
}

fn read_webhooks(fields: Option<Fields<'_>>, public_url: &str, base: Base<'_>) -> Webhooks {
    let mut webhooks = Webhooks { authorization: true, url: public_url.to_owned(), client: None, directory: None };
    let Some(mut fields) = fields else { return webhooks };
    webhooks.authorization = fields.optional("authorization").unwrap_or(true);
    if fields.has("url") {
        webhooks.url = required_url(&mut fields, "url");
    }
    let certificate = fields.optional::<PathBuf>("clientCertificate");
    let key = fields.optional::<PathBuf>("clientKey");
    webhooks.client = match (certificate, key) {
        (Some(certificate), Some(key)) => {
            Some(ClientFiles { certificate: base.join(certificate), key: base.join(key) })
        }
        (None, None) => None,
        (Some(_), None) => {
            fields.missing("clientKey");
            None
        }
        (None, Some(_)) => {
            fields.missing("clientCertificate");
            None
        }
    };
    webhooks.directory = fields.optional("directory");
    if webhooks.directory.as_ref().is_some_and(|directory| !directory.is_absolute()) {
        fields.report("directory", "the API server wants absolute paths");
    }
    fields.finish();
    webhooks
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 4 << 20,
            connections: 1024,
            request_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(5),
            pending_challenges_per_user: 50,
            challenge_ttl: Duration::from_mins(10),
        }
    }
}

fn read_limits(mut fields: Fields<'_>) -> Limits {
    let usual = Limits::default();
    let mut count = |key, usual: usize| match fields.optional::<Size>(key) {
        Some(Size(0)) => {
            fields.report(key, "must be more than 0");
            usual
        }
        Some(Size(count)) => count,
        None => usual,
    };
    let body_bytes = count("bodyBytes", usual.body_bytes);
    let connections = count("connections", usual.connections);
    let pending_challenges_per_user = count("pendingChallengesPerUser", usual.pending_challenges_per_user);
    let limits = Limits {
        body_bytes,
        connections,
        pending_challenges_per_user,
        request_timeout: positive(&mut fields, "requestTimeout", usual.request_timeout),
        header_timeout: positive(&mut fields, "headerTimeout", usual.header_timeout),
        challenge_ttl: positive(&mut fields, "challengeTtl", usual.challenge_ttl),
    };
    fields.finish();
    limits
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Json, level: "info".to_owned() }
    }
}

fn read_log(mut fields: Fields<'_>) -> Log {
    let usual = Log::default();
    let formats = [("json", LogFormat::Json), ("text", LogFormat::Text)];
    let log = Log {
        format: one_of(&mut fields, "format", &formats, usual.format),
        level: fields.optional("level").unwrap_or(usual.level),
    };
    if let Err(error) = tracing_subscriber::EnvFilter::try_new(&log.level) {
        fields.report("level", format_args!("`{}` is not a log filter such as info: {error}", log.level));
    }
    fields.finish();
    log
}

/// An https URL, without its trailing slash. It is compared to the letter, so it is kept as it was written otherwise.
fn required_url(fields: &mut Fields<'_>, key: &'static str) -> String {
    let text = fields.required::<String>(key);
    if text.is_empty() {
        return text;
    }
    match Url::parse(&text) {
        Ok(url) if url.scheme() != "https" => {
            fields.report(key, format_args!("`{text}` must begin with https://; the API server accepts nothing else"));
        }
        Ok(url) if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() => {
            fields.report(key, format_args!("`{text}` must be a plain URL, without user, query or fragment"));
        }
        Ok(_) => {}
        Err(error) => fields.report(key, format_args!("`{text}` is not a URL: {error}")),
    }
    // An issuer is an identifier: some really end in a slash.
    if key == "issuer" { text } else { text.trim_end_matches('/').to_owned() }
}

/// A time that is not zero.
pub(crate) fn positive(fields: &mut Fields<'_>, key: &'static str, usual: Duration) -> Duration {
    match fields.optional::<Duration>(key) {
        Some(Duration::ZERO) => {
            fields.report(key, "must be more than 0");
            usual
        }
        Some(duration) => duration,
        None => usual,
    }
}

/// One of a few words.
pub(crate) fn one_of<T: Copy>(fields: &mut Fields<'_>, key: &'static str, words: &[(&str, T)], usual: T) -> T {
    let Some(text) = fields.optional::<String>(key) else { return usual };
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return *value;
    }
    let all = words.iter().map(|(word, _)| *word);
    let hint = match nearest(&text, all.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("it is one of {}", all.collect::<Vec<_>>().join(", ")),
    };
    fields.report(key, format_args!("unknown value `{text}`: {hint}"));
    usual
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::server::policy::Policy;

    fn sample() -> (String, PathBuf) {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/stepup-server.yaml");
        (std::fs::read_to_string(&file).unwrap(), file)
    }

    #[test]
    fn the_samples_are_in_order() {
        let (text, file) = sample();
        let config = Config::parse(&text, &file).unwrap();
        let (named, expression) = text.split_once("{claim: sub, prefix: \"\"}      # or ").unwrap();
        Config::parse(&format!("{named}{expression}"), &file).unwrap();
        assert_eq!(config.policy, file.with_file_name("policy.yaml"));
        assert_eq!(config.public_url, "https://stepup.example.com");
        assert_eq!(config.webhooks.url, config.public_url);
        assert_eq!(config.identity_providers[0].step_up_audiences, ["kubernetes"]);
        assert_eq!((config.limits.body_bytes, config.token.max_ttl), (4 << 20, Duration::from_mins(15)));
        let policy = Policy::load(&config.policy, &config).unwrap();
        assert_eq!(policy.warnings(), [""; 0]);
        assert!(policy.longest_ttl() <= config.token.max_ttl);
    }

    #[test]
    fn the_defaults_in_the_sample_are_the_defaults() {
        let (text, file) = sample();
        let uncommented: String = text
            .lines()
            .map(|line| match line.trim_start().strip_prefix("# ") {
                // Keys in comments; other comments are sentences.
                Some(key) if line.starts_with("  # ") && key.contains(": ") && !key.starts_with("ca:") => {
                    line.replacen("# ", "", 1) + "\n"
                }
                _ => line.to_owned() + "\n",
            })
            .collect();
        let (plain, full) = (Config::parse(&text, &file).unwrap(), Config::parse(&uncommented, &file).unwrap());
        assert_eq!(format!("{:?}", plain.limits), format!("{:?}", full.limits));
        assert_eq!(format!("{:?}", plain.log), format!("{:?}", full.log));
        assert_eq!(format!("{:?}", plain.token), format!("{:?}", full.token));
        assert_eq!(plain.webhooks.url, full.webhooks.url);
        assert_eq!(plain.identity_providers[0].can_step_up, full.identity_providers[0].can_step_up);
        assert_eq!(full.identity_providers[0].required_claims.len(), 1);
        assert_eq!((full.webhooks.authorization, full.audit.sinks.len()), (true, 2));
    }

    #[test]
    fn without_webhooks_nothing_about_webhooks_is_needed() {
        let (text, file) = sample();
        let keep = |section: &str| !section.starts_with("webhook") && !section.starts_with("# Who may send reviews");
        let text: Vec<&str> = text.split("\n\n").filter(|section| keep(section)).collect();
        let text = text.join("\n\n").replace("# mode: webhooks ", "mode: groups #");
        let config = Config::parse(&text, &file).unwrap();
        assert_eq!((config.mode, config.webhook_clients.is_none()), (Mode::Groups, true));
        assert_eq!(config.levels().mode, Mode::Groups);
    }

    #[test]
    fn mistakes_are_told_with_their_place_and_what_to_do() {
        let (text, file) = sample();
        for (from, to, told) in [
            ("listen: 0.0.0.0:8443", "listen: 8443", "expected text, not `8443`; put it in quotes"),
            ("listen: 0.0.0.0:8443", "listen: localhost", "`listen`: `localhost` is not an address and a port"),
            ("publicUrl: https", "publicUrl: http", "must begin with https://"),
            ("publicUrl: https", "publicURL: https", "unknown key `publicURL`: did you mean `publicUrl`?"),
            ("publicUrl: https", "publicURL: https", "`publicUrl` is missing"),
            ("  key: tls.key", "  keys: tls.key", "unknown key `keys` in `tls`: did you mean `key`?"),
            ("issuer: https://idp.example.com", "issuer: https://stepup.example.com", "this is our own publicUrl"),
            ("audiences: [kubernetes]", "audiences: []", "at least one is needed"),
            ("{claim: sub, prefix: \"\"}", "{}", "either `claim` (with an optional `prefix`) or `expression`"),
            (
                "{claim: sub, prefix: \"\"}",
                "{expression: claim.sub}",
                "unknown variable `claim`: did you mean `claims`?",
            ),
            (
                "{claim: sub, prefix: \"\"}",
                "{expression: \"claims.email.split('@')[0]\"}",
                "only together with `claims.email_verified`",
            ),
            ("name: mfa,", "name: pwd,", "there is another level named `pwd`"),
            ("urn:example:mfa", "urn:example:pwd", "stands for a weaker level already"),
            ("# signWith: ES256 ", "signWith: es256 #", "unknown value `es256`: did you mean `ES256`?"),
            ("# maxTtl: 15m ", "maxTtl: 0s #", "`token.maxTtl`: must be more than 0"),
            ("# maxTtl: 15m ", "maxTtl: 15 #", "expected a time such as 90s, 5m or 1h30m, not `15`"),
            ("sqlite: {path: stepup.db}", "postgres: {}", "unknown key `postgres` in `store`"),
            ("- file: {path: audit.jsonl}", "- {}", "a sink is either"),
            ("clientKey:", "clientKye:", "`webhooks.clientKey` is missing"),
            ("# bodyBytes: 4MiB", "bodyBytes: 4M", "expected a size such as 65536, 512KiB or 4MiB, not `4M`"),
            ("# level: info", "level: a=b=c", "is not a log filter"),
            ("policy: policy.yaml", "policy: [a]", "`policy`: expected a path, not a list"),
            ("# mode: webhooks ", "mode: group #", "unknown value `group`: did you mean `groups`?"),
            ("# mode: webhooks ", "mode: groups #", "`webhookClients`: there are no webhooks in `mode: groups`"),
        ] {
            assert!(text.contains(from), "{from}");
            let error = Config::parse(&text.replacen(from, to, 1), &file).unwrap_err().to_string();
            assert!(error.contains(told), "{to}: {error}");
            let place = error.lines().next().unwrap().strip_prefix(&format!("{}:", file.display())).unwrap();
            assert!(place.starts_with(|char: char| char.is_ascii_digit()), "{error}");
        }
    }
}
