//! `kubectl stepup doctor`: every part between a person and a step-up, each looked at in a thread of its own that has so
//! much time and no more.

use std::env;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Chosen, current_context, kubeconfig_files};
use crate::action::Action;
use crate::client::api::{self, Server};
use crate::client::cli::{Doctor, Format, Target};
use crate::client::error::Error;
use crate::client::http::HttpClient;
use crate::client::idp::Provider;
use crate::client::preflight::digest::Kept;
use crate::client::profile::{Flow, Profile};
use crate::client::prompt::{self, Interrupt, Screen};
use crate::client::trial::{self, Wanted};
use crate::client::words::{left, plain};
use crate::client::{Clock, output, secrets, session};
use crate::wire::challenge::{DeclineCause, WebhookTerms};

/// How long one check may take before it counts as hanging.
const LIMIT: Duration = Duration::from_secs(12);
/// The same for those that ask the API server several times.
const LONG_LIMIT: Duration = Duration::from_secs(30);
/// How long kubectl may take for one request.
const REQUEST: Duration = Duration::from_secs(9);
/// Clocks further apart than this many seconds make trouble.
const SKEW: i64 = 30;
/// Columns of state and name on the left.
const INDENT: usize = 32;

/// Looks at everything, prints what it found, and fails if there is a problem.
pub fn run(args: &Doctor, clock: Clock) -> Result<ExitCode, Error> {
    let mut findings = Vec::new();
    let mut tell = |finding: Finding| {
        if args.output == Format::Text {
            finding.lines().iter().flat_map(|line| output::fitted(line, INDENT)).for_each(output::line);
        }
        findings.push(finding);
    };
    let chosen = Chosen::find(&args.target);
    let target = args.target.clone();
    let mut checks = vec![
        Check::begin("plugin", LIMIT, plugin),
        Check::begin("kubeconfig", LIMIT, {
            let (target, profile) = (target.clone(), chosen.as_ref().ok().map(|chosen| chosen.profile.name.clone()));
            move || kubeconfig(&target, profile.as_deref())
        }),
    ];
    match &chosen {
        Err(error) => {
            let fix = error.hint().unwrap_or_else(|| "kubectl stepup setup --help".to_owned());
            checks.push(Check::done(Finding::problem("profile", error, fix)));
        }
        Ok(Chosen { profile, .. }) => checks.extend(checks_of(profile, target, clock)),
    }
    for check in checks {
        check.findings().into_iter().for_each(&mut tell);
    }
    if args.step_up
        && let Ok(Chosen { profile, .. }) = &chosen
    {
        tell(step_up(profile, clock));
    }
    let healthy = findings.iter().all(|finding| finding.state != State::Problem);
    if args.output == Format::Json {
        output::json(&json!({"healthy": healthy, "checks": findings}));
    }
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn checks_of(profile: &Profile, target: Target, clock: Clock) -> Vec<Check> {
    let own = || profile.clone();
    let mut checks = vec![
        Check::done(about(profile)),
        Check::begin("refresh token", LIMIT, with(own(), |profile| vec![refresh_token(profile)])),
        Check::begin("session", LIMIT, with(own(), move |profile| vec![signed_in(profile, clock)])),
        Check::begin("identity provider", LIMIT, with(own(), move |profile| provider(profile, clock))),
    ];
    if profile.server.is_some() {
        checks.push(Check::begin("stepup-server", LIMIT, with(own(), move |profile| stepup_server(profile, clock))));
    }
    if profile.steps_up() {
        checks.push(Check::begin("preflight", LIMIT, with(own(), move |profile| vec![preflight(profile, clock())])));
    }
    checks.push(Check::begin(
        "API server",
        LONG_LIMIT,
        with(own(), move |profile| api_server(profile, &Kubectl { target }, clock)),
    ));
    checks.push(Check::done(surroundings()));
    checks
}

fn with(
    profile: Profile,
    check: impl FnOnce(&Profile) -> Vec<Finding> + Send + 'static,
) -> impl FnOnce() -> Vec<Finding> + Send + 'static {
    move || check(&profile)
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    state: State,
    says: String,
    /// What to do about it.
    fix: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Problem,
    /// It cannot be told from here.
    Unknown,
}

#[allow(clippy::needless_pass_by_value, reason = "errors and texts alike are said and done with")]
impl Finding {
    fn ok(check: &'static str, says: impl ToString) -> Self {
        Self { check, state: State::Ok, says: plain(&says.to_string()), fix: None }
    }

    fn problem(check: &'static str, says: impl ToString, fix: impl Into<String>) -> Self {
        Self { check, state: State::Problem, says: plain(&says.to_string()), fix: Some(plain(&fix.into())) }
    }

    /// `fix`: what it would take to tell.
    fn unknown(check: &'static str, says: impl ToString, fix: impl Into<String>) -> Self {
        Self { check, state: State::Unknown, says: plain(&says.to_string()), fix: Some(plain(&fix.into())) }
    }

    fn lines(&self) -> Vec<String> {
        let state = match self.state {
            State::Ok => "ok",
            State::Problem => "problem",
            State::Unknown => "unknown",
        };
        let mut lines = vec![format!("{state:<9}{:<width$}{}", self.check, self.says, width = INDENT - 9)];
        if let Some(fix) = &self.fix {
            let what = if self.state == State::Problem { "to fix it: " } else { "to tell: " };
            lines.push(format!("{:<INDENT$}{what}{fix}", ""));
        }
        lines
    }
}

/// A check that is under way.
struct Check {
    name: &'static str,
    deadline: Instant,
    limit: Duration,
    findings: Receiver<Vec<Finding>>,
}

impl Check {
    fn begin(name: &'static str, limit: Duration, look: impl FnOnce() -> Vec<Finding> + Send + 'static) -> Self {
        let (sender, findings) = mpsc::channel();
        thread::spawn(move || {
            let _ = sender.send(look());
        });
        Self { name, deadline: Instant::now() + limit, limit, findings }
    }

    fn done(finding: Finding) -> Self {
        let (sender, findings) = mpsc::channel();
        let _ = sender.send(vec![finding]);
        Self { name: "", deadline: Instant::now() + LIMIT, limit: LIMIT, findings }
    }

    /// What was found by the end of its time.
    fn findings(self) -> Vec<Finding> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        self.findings.recv_timeout(left).unwrap_or_else(|_| {
            let says = format!("no result after {} s: it hangs", self.limit.as_secs());
            vec![Finding::problem(self.name, says, "see what it waits for: network, proxy, file system, keyring")]
        })
    }
}

/// Which kubectl-stepup it is that kubectl finds.
fn plugin() -> Vec<Finding> {
    let version = env!("CARGO_PKG_VERSION");
    let me = env::current_exe().and_then(|path| path.canonicalize()).unwrap_or_default();
    let Some(found) = on_path("kubectl-stepup") else {
        let says = format!("{} {version} runs, and none is on your PATH, where kubectl looks for it", me.display());
        return vec![Finding::problem("plugin", says, "put kubectl-stepup into a directory of your PATH")];
    };
    if found.canonicalize().is_ok_and(|found| found == me) {
        return vec![Finding::ok("plugin", format!("kubectl-stepup {version}, {}", found.display()))];
    }
    let answer = bounded(Command::new(&found).arg("--version"), None, REQUEST);
    let theirs = answer.as_deref().unwrap_or_default().trim().rsplit(' ').next().unwrap_or_default().to_owned();
    vec![if theirs == version {
        Finding::ok("plugin", format!("kubectl-stepup {version}; kubectl runs {}", found.display()))
    } else {
        let says = format!("kubectl runs {} of version {theirs:?}, this is {version}", found.display());
        Finding::problem("plugin", says, "remove the older one, or put the newer one first on your PATH")
    }]
}

fn on_path(program: &str) -> Option<PathBuf> {
    let name = format!("{program}{}", env::consts::EXE_SUFFIX);
    env::split_paths(&env::var_os("PATH")?).map(|directory| directory.join(&name)).find(|path| path.is_file())
}

/// Whether the context that counts signs in with us, in a way that works.
fn kubeconfig(target: &Target, profile: Option<&str>) -> Vec<Finding> {
    const CHECK: &str = "kubeconfig";
    let setup = || format!("kubectl stepup setup --profile {} --context CONTEXT", profile.unwrap_or("NAME"));
    let current = match current_context(target) {
        Err(error) => {
            return vec![Finding::problem(CHECK, error, "correct the file, or name another with --kubeconfig")];
        }
        Ok(None) => return vec![Finding::problem(CHECK, "there is no current context", setup())],
        Ok(Some(current)) => current,
    };
    let context = &current.context;
    let plugin = current
        .user
        .as_deref()
        .and_then(|user| kubeconfig_files(target.kubeconfig.as_deref())?.plugin(user))
        .filter(|plugin| plugin.is_ours);
    let Some(plugin) = plugin else {
        let user = current.user.as_deref().unwrap_or("");
        let says = format!("the context {context:?} (user {user:?}) does not sign in with kubectl-stepup");
        return vec![Finding::problem(CHECK, says, setup())];
    };
    let mut findings = Vec::new();
    match plugin.api_version.as_deref() {
        Some("client.authentication.k8s.io/v1" | "client.authentication.k8s.io/v1beta1") => {}
        version => {
            let says = format!("the plugin's apiVersion is {:?}, which nobody speaks", version.unwrap_or_default());
            findings.push(Finding::problem(CHECK, says, setup()));
        }
    }
    match plugin.interactive_mode.as_deref() {
        Some("Never" | "IfAvailable") => {}
        Some("Always") => findings.push(Finding::problem(
            CHECK,
            "interactiveMode is Always: kubectl apply -f - and every script would fail",
            setup(),
        )),
        _ => findings.push(Finding::problem(CHECK, "the plugin has no interactiveMode, which v1 demands", setup())),
    }
    if findings.is_empty() {
        let profile = current.profile.as_deref().unwrap_or("default");
        let user = current.user.as_deref().unwrap_or_default();
        findings.push(Finding::ok(CHECK, format!("context {context}, user {user}, profile {profile}")));
    }
    findings
}

fn about(profile: &Profile) -> Finding {
    let file = profile.files.settings().display();
    match profile.files.remark() {
        None => Finding::ok("profile", format!("{}, {file}", profile.name)),
        Some(remark) => Finding::problem(
            "profile",
            format!("{}, {file}; {remark}", profile.name),
            "make the home directory writable, or set KUBECTL_STEPUP_HOME",
        ),
    }
}

fn refresh_token(profile: &Profile) -> Finding {
    const CHECK: &str = "refresh token";
    match (secrets::place(profile), secrets::load(profile)) {
        (_, Err(error)) => Finding::problem(
            CHECK,
            match error {
                Error::NotSignedIn { why, .. } => why,
                error => error.to_string(),
            },
            "unlock the keyring; or sign in again with KUBECTL_STEPUP_SECRETS=file: kubectl stepup login --force",
        ),
        (Some(place), Ok(Some(_))) => Finding::ok(CHECK, format!("kept in: {place}")),
        (None, Ok(Some(_))) => Finding::ok(CHECK, format!("kept in: {}", secrets::Place::File)),
        (_, Ok(None)) => Finding::unknown(
            CHECK,
            "there is none: you sign in again when the base token expires",
            "kubectl stepup login (a provider gives one for the scope offline_access, if it does at all)",
        ),
    }
}

fn signed_in(profile: &Profile, clock: Clock) -> Finding {
    match session::current(profile, clock) {
        Ok(session) => {
            let left = left(session.base_expires_at - clock().timestamp());
            let user = &session.person.user;
            let user = if user.is_empty() { String::new() } else { format!(" as {user}") };
            Finding::ok("session", format!("signed in{user}, token good for {left}"))
        }
        Err(error) => {
            let fix = error.hint().unwrap_or_else(|| "see the identity provider's line".to_owned());
            Finding::problem("session", error, fix)
        }
    }
}

/// Discovery, TLS, what its sign-in offers, and its clock.
fn provider(profile: &Profile, clock: Clock) -> Vec<Finding> {
    const CHECK: &str = "identity provider";
    if let Err(error) = Provider::discover(profile, None) {
        let fix = "check URL, network, HTTPS_PROXY and NO_PROXY, and the CA (setup --issuer, --issuer-ca)";
        return vec![Finding::problem(CHECK, error, fix)];
    }
    let mut findings = Vec::new();
    let url = format!("{}/.well-known/openid-configuration", profile.issuer.trim_end_matches('/'));
    let asked = HttpClient::new(profile.issuer_ca.as_deref(), REQUEST, REQUEST).and_then(|http| {
        let answer =
            http.send(http.request(Method::GET, &url)).map_err(|problem| Error::Failed(problem.to_string()))?;
        Ok((serde_json::from_slice::<Value>(answer.body()).unwrap_or_default(), http.date()))
    });
    match asked {
        Err(error) => findings.push(Finding::problem(CHECK, error, "see whether it answers every time")),
        Ok((metadata, date)) => {
            let uses_device = profile.flow == Flow::Device || profile.step_up.flow == Flow::Device;
            if uses_device && metadata["device_authorization_endpoint"].is_null() {
                findings.push(Finding::problem(
                    CHECK,
                    format!("{} offers no device sign-in", profile.issuer),
                    format!("kubectl stepup setup --profile {} --flow browser --step-up-flow browser", profile.name),
                ));
            } else {
                findings.push(Finding::ok(CHECK, format!("{} answers", profile.issuer)));
            }
            findings.extend(date.and_then(|date| clocks("the identity provider's", api::skew(date, clock()))));
        }
    }
    findings
}

fn clocks(whose: &str, skew: i64) -> Option<Finding> {
    let direction = if skew > 0 { "ahead of" } else { "behind" };
    (skew.abs() >= SKEW).then(|| {
        let says = format!("this machine's is {} s {direction} {whose}", skew.abs());
        Finding::problem("clock", says, "set both by a time server (NTP)")
    })
}

/// Whether it is there, is ready, knows us, and agrees about the time.
fn stepup_server(profile: &Profile, clock: Clock) -> Vec<Finding> {
    const CHECK: &str = "stepup-server";
    let Some(settings) = &profile.server else { return Vec::new() };
    let url = settings.url.trim_end_matches('/');
    let mut findings = Vec::new();
    let readiness = HttpClient::new(settings.ca.as_deref(), REQUEST, REQUEST).and_then(|http| {
        let request = http.request(Method::GET, &format!("{url}/readyz"));
        http.send(request).map_err(|problem| Error::Server { url: url.to_owned(), problem: problem.to_string() })
    });
    match readiness {
        Err(error) => {
            let fix = "check URL, network, HTTPS_PROXY and NO_PROXY, and the CA (setup --server, --server-ca)";
            return vec![Finding::problem(CHECK, error, fix)];
        }
        Ok(answer) => match serde_json::from_slice::<Value>(answer.body()) {
            Ok(report) if report["ready"] == true => findings.push(match faults(&report) {
                faults if faults.is_empty() => Finding::ok(CHECK, format!("{url} is ready")),
                faults => Finding::problem(CHECK, format!("{url}: {faults}"), "tell the cluster's administrator"),
            }),
            Ok(report) if report["ready"] == false => findings.push(Finding::problem(
                CHECK,
                format!("{url} is not ready: {}", faults(&report)),
                "tell the cluster's administrator",
            )),
            _ => findings.push(Finding::unknown(
                CHECK,
                format!("{url} answers, and does not say whether it is ready ({})", answer.status().as_u16()),
                "ask where /readyz can be reached",
            )),
        },
    }
    match session::current(profile, clock).and_then(|session| Server::new(profile, &session.base_token)?.challenges()) {
        Ok(list) => {
            findings.push(Finding::ok("your account", format!("stepup-server knows you as {}", list.user)));
            let skew = api::skew(list.server_time, clock());
            findings
                .push(clocks("stepup-server's", skew).unwrap_or_else(|| {
                    Finding::ok("clock", format!("within {} s of stepup-server's", skew.abs() + 1))
                }));
        }
        Err(Error::Refused(refusal)) => findings.push(Finding::problem(
            "your account",
            format!("stepup-server does not accept your token: {}", refusal.error_description),
            "sign in again (kubectl stepup login --force); otherwise its identityProviders do not fit this profile",
        )),
        // Said by the session's own line.
        Err(Error::NotSignedIn { .. } | Error::Provider { .. }) => findings.push(Finding::unknown(
            "your account",
            "whether stepup-server knows you cannot be told without a session",
            "kubectl stepup login",
        )),
        Err(error) => findings.push(Finding::problem("your account", error, "tell the cluster's administrator")),
    }
    findings
}

/// What the report of `/readyz` says is wrong.
fn faults(report: &Value) -> String {
    let mut faults = Vec::new();
    let mut add = |name: &str, part: &Value| {
        if part["ok"] == false {
            faults.push(format!("{name}: {}", part["error"].as_str().unwrap_or("does not work")));
        }
    };
    for (name, part) in report.as_object().into_iter().flatten() {
        add(name, part);
    }
    for provider in report["identityProviders"].as_array().into_iter().flatten() {
        add(&format!("identity provider {}", provider["name"].as_str().unwrap_or_default()), provider);
    }
    faults.join("; ")
}

fn preflight(profile: &Profile, now: DateTime<Utc>) -> Finding {
    const CHECK: &str = "preflight";
    if !profile.has_preflight() {
        let turn_on = format!("kubectl stepup setup --profile {} --preflight on", profile.name);
        return Finding::ok(CHECK, format!("off: reads and exec are refused before you elevate ({turn_on})"));
    }
    let renew = "any of: kubectl stepup status, kubectl stepup login --force";
    match Kept::read(&profile.files).and_then(|kept| kept.about()) {
        None => Finding::problem(CHECK, "on, and this machine has no digest of what is protected yet", renew),
        Some(about) if about.expires_at <= now.timestamp() => {
            let age = left(now.timestamp() - about.issued_at);
            Finding::problem(CHECK, format!("on; the digest of what is protected is {age} old, and expired"), renew)
        }
        Some(about) => {
            let age = left(now.timestamp() - about.issued_at);
            Finding::ok(CHECK, format!("on; the digest is {age} old, for {}, {} patterns", about.user, about.patterns))
        }
    }
}

/// kubectl, with the context that counts; its plugin is the one under examination, and asks nobody.
struct Kubectl {
    target: Target,
}

impl Kubectl {
    fn run(&self, arguments: &[&str], stdin: Option<&str>) -> Result<String, String> {
        let mut words: Vec<OsString> = Vec::new();
        if let Some(context) = &self.target.context {
            words.extend(["--context".into(), context.into()]);
        }
        if let Some(file) = &self.target.kubeconfig {
            words.extend(["--kubeconfig".into(), file.into()]);
        }
        let mut command = Command::new("kubectl");
        command.args(words).args(arguments).arg("--request-timeout=8s").env(prompt::WHEN, "never");
        bounded(&mut command, stdin, REQUEST)
    }
}

/// What a program printed, or in which words it failed, within `limit`.
fn bounded(command: &mut Command, stdin: Option<&str>, limit: Duration) -> Result<String, String> {
    command.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    let name = command.get_program().display().to_string();
    let spawned = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|error| format!("{name} cannot be run: {error}"))?;
    if let (Some(mut to), Some(text)) = (child.stdin.take(), stdin) {
        let _ = to.write_all(text.as_bytes());
    }
    let pid = child.id();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    match receiver.recv_timeout(limit) {
        Ok(Ok(output)) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(Ok(output)) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => {
            kill(pid);
            Err(format!("{name} gave no answer in {} s", limit.as_secs()))
        }
    }
}

#[cfg(unix)]
fn kill(pid: u32) {
    use rustix::process::{Pid, Signal, kill_process};
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

#[cfg(not(unix))]
fn kill(_pid: u32) {}

/// Whether the API server takes our tokens and asks stepup-server, as far as this person can tell.
fn api_server(profile: &Profile, kubectl: &Kubectl, clock: Clock) -> Vec<Finding> {
    const CHECK: &str = "API server";
    if on_path("kubectl").is_none() {
        let says = "whether it knows you cannot be told: there is no kubectl on your PATH";
        return vec![Finding::unknown(CHECK, says, "install kubectl")];
    }
    // A SelfSubjectReview: everybody may ask who they are.
    let who = kubectl.run(&["auth", "whoami", "-o", "json"], None);
    let who: Value = match who.map(|text| serde_json::from_str(&text)) {
        Ok(Ok(who)) => who,
        Ok(Err(_)) => return vec![Finding::unknown(CHECK, "kubectl auth whoami answers no JSON", "update kubectl")],
        Err(said) if said.contains("Unauthorized") || said.contains("must be logged in") => {
            return vec![Finding::problem(
                CHECK,
                "it does not accept your base token: it does not trust this issuer and client",
                "an administrator: stepup-server render, and --authentication-config with what it printed",
            )];
        }
        Err(said) => {
            let first = said.lines().last().unwrap_or_default().to_owned();
            return vec![Finding::problem(CHECK, first, "try: kubectl auth whoami")];
        }
    };
    let user = &who["status"]["userInfo"];
    let name = user["username"].as_str().unwrap_or_default();
    let mut findings = vec![Finding::ok(CHECK, format!("accepts your token, and knows you as {name}"))];
    let Ok(session) = session::current(profile, clock) else { return findings };
    let Ok(server) = Server::new(profile, &session.base_token) else { return findings };
    if let Ok(list) = server.challenges()
        && list.user != name
    {
        findings.push(Finding::problem(
            "your account",
            format!("stepup-server knows you as {}, the API server as {name}", list.user),
            "an administrator: username and groups of identityProviders must be mapped as the API server maps them",
        ));
    }
    findings.push(second_issuer(user));
    let webhooks = server.step_up_terms().ok().and_then(|terms| terms.webhooks);
    findings.push(match left_out(AUTHORIZATION, webhooks) {
        Some(finding) => finding,
        None => authorization(kubectl, &server, clock),
    });
    findings.push(match left_out(ADMISSION, webhooks) {
        Some(finding) => finding,
        None => admission(profile, kubectl),
    });
    findings
}

const AUTHORIZATION: &str = "authorization webhook";
const ADMISSION: &str = "admission webhook";

/// What there is to say of a webhook that stepup-server is configured to go without.
fn left_out(check: &'static str, webhooks: Option<WebhookTerms>) -> Option<Finding> {
    let says = match webhooks? {
        WebhookTerms { admission: false, authorization: false } => {
            "none, and none is needed: groups alone open what is protected"
        }
        WebhookTerms { authorization: false, .. } if check == AUTHORIZATION => {
            "none, by stepup-server's configuration: reads are not protected on this cluster"
        }
        _ => return None,
    };
    Some(Finding::ok(check, says))
}

/// Whether the API server trusts stepup-server's tokens: told by the token that we just came with.
fn second_issuer(user: &Value) -> Finding {
    const CHECK: &str = "elevated tokens";
    let credential = user["extra"]["authentication.kubernetes.io/credential-id"][0].as_str().unwrap_or_default();
    if credential.starts_with("JTI=gr-") {
        return Finding::ok(CHECK, "the API server accepts those of stepup-server: you came with one");
    }
    Finding::unknown(
        CHECK,
        "whether the API server accepts those of stepup-server cannot be told without one",
        "kubectl stepup elevate --for …, then doctor again in the same terminal",
    )
}

/// Reads that the guardrails and most policies protect, as the authorization webhook sees them.
fn probes() -> Vec<Action> {
    let action = |verb: &str, group: &str, resource: &str, name: Option<&str>| Action {
        verb: verb.to_owned(),
        group: group.to_owned(),
        resource: resource.to_owned(),
        subresource: None,
        namespace: None,
        name: name.map(ToOwned::to_owned),
        path: None,
    };
    vec![
        action("update", "admissionregistration.k8s.io", "validatingwebhookconfigurations", Some("kubectl-stepup")),
        action("impersonate", "", "users", Some("system:admin")),
        action("list", "", "secrets", None),
    ]
}

/// Whether the API server asks stepup-server about what admission never sees.
fn authorization(kubectl: &Kubectl, server: &Server, clock: Clock) -> Finding {
    const CHECK: &str = AUTHORIZATION;
    let probe = match server.explain(&probes()) {
        Ok(told) => told.actions.into_iter().find(|explained| explained.protection.is_some()),
        Err(error) => {
            let says = format!("stepup-server does not say what is protected: {error}");
            return Finding::unknown(CHECK, says, "update stepup-server");
        }
    };
    let Some(probe) = probe.map(|explained| explained.action) else {
        return Finding::unknown(
            CHECK,
            "it cannot be told without a read that is protected from you, and none of the usual ones is",
            "try one that is, and see whether it is refused",
        );
    };
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": probe.verb, "group": probe.group, "resource": probe.resource,
            "name": probe.name.clone().unwrap_or_default()}},
    });
    let asked_at = clock();
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let answer = kubectl.run(&["create", "--raw", path, "-f", "-"], Some(&review.to_string()));
    forget_probe(server, &probe, asked_at);
    let status = match answer.map(|text| serde_json::from_str::<Value>(&text).unwrap_or_default()["status"].clone()) {
        Ok(status) => status,
        Err(said) => {
            let says = said.lines().last().unwrap_or_default().to_owned();
            return Finding::problem(CHECK, says, "an administrator: can the API server reach stepup-server?");
        }
    };
    let reason = status["reason"].as_str().unwrap_or_default();
    let fault = status["evaluationError"].as_str().unwrap_or_default();
    if reason.contains("step-up") || reason.contains("step up") {
        Finding::ok(CHECK, "the API server asks stepup-server, which answers")
    } else if !fault.is_empty() {
        let fix = "an administrator: can every API server reach stepup-server, with its client certificate?";
        Finding::problem(CHECK, format!("the API server cannot ask stepup-server: {fault}"), fix)
    } else if status["allowed"] == true {
        let fix = "an administrator: --authorization-config with what stepup-server render printed, stepup before RBAC";
        Finding::problem(CHECK, format!("a protected request ({probe}) is let through unasked"), fix)
    } else {
        Finding::unknown(
            CHECK,
            format!(
                "the API server refuses {probe} by itself: either groups alone enforce the rules, or it does not ask"
            ),
            "an administrator: is stepup before RBAC among the authorizers?",
        )
    }
}

/// The challenge that a probe has raised is nothing that anybody waits for.
fn forget_probe(server: &Server, probe: &Action, asked_at: DateTime<Utc>) {
    let Ok(pending) = server.challenges() else { return };
    let skew = pending.server_time - Utc::now();
    for challenge in pending.challenges {
        let is_new = challenge.created_at >= asked_at + skew - chrono::TimeDelta::seconds(2);
        if is_new && challenge.actions == [probe.clone()] {
            let _ = server.decline(&challenge.id, DeclineCause::Declined);
        }
    }
}

/// Whether the API server asks stepup-server about writes. Only who may read the webhook's configuration can tell.
fn admission(profile: &Profile, kubectl: &Kubectl) -> Finding {
    const CHECK: &str = ADMISSION;
    let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    let list: Value = match kubectl.run(&["get", "--raw", path], None) {
        Ok(text) => serde_json::from_str(&text).unwrap_or_default(),
        Err(_) => {
            return Finding::unknown(
                CHECK,
                "it cannot be told without the right to read validatingwebhookconfigurations",
                "an administrator's doctor; or a protected write with --dry-run=server, which must be answered 429 or 403",
            );
        }
    };
    let webhooks = list["items"].as_array().into_iter().flatten().filter_map(|item| item["webhooks"].as_array());
    let Some(ours) = webhooks.flatten().find(|webhook| webhook["name"] == "admit.kubectl-stepup.io") else {
        return Finding::problem(
            CHECK,
            "the cluster has none called admit.kubectl-stepup.io: protected writes pass unasked",
            "an administrator: kubectl apply -f validating-webhook.yaml of stepup-server render",
        );
    };
    let url = ours["clientConfig"]["url"].as_str().unwrap_or_default();
    match current_digest(profile) {
        Some(digest) if !url.ends_with(&digest) => Finding::problem(
            CHECK,
            "the cluster asks by the rules of another policy than the one in force",
            "an administrator: stepup-server render, and apply the result",
        ),
        Some(_) => Finding::ok(CHECK, "the cluster has it"),
        None => {
            Finding::ok(CHECK, "the cluster has it; by which policy cannot be told without stepup-server's /readyz")
        }
    }
}

fn current_digest(profile: &Profile) -> Option<String> {
    let settings = profile.server.as_ref()?;
    let http = HttpClient::new(settings.ca.as_deref(), REQUEST, REQUEST).ok()?;
    let url = format!("{}/readyz", settings.url.trim_end_matches('/'));
    let answer = http.send(http.request(Method::GET, &url)).ok()?;
    let report: Value = serde_json::from_slice(answer.body()).ok()?;
    report["policy"]["matchDigests"]["admission"].as_str().map(ToOwned::to_owned)
}

/// Where this runs, as far as it matters to a prompt.
fn surroundings() -> Finding {
    let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    let mut said = Vec::new();
    if is_set("SSH_CONNECTION") || is_set("SSH_TTY") {
        said.push("over SSH (a QR code in the prompt where there is room for it)");
    }
    if is_set("TMUX") {
        said.push("in tmux");
    }
    if is_set("WSL_DISTRO_NAME") {
        said.push("in WSL");
    }
    if Path::new("/.dockerenv").exists() || is_set("KUBERNETES_SERVICE_HOST") {
        said.push("in a container");
    }
    said.push(match env::var(prompt::WHEN).as_deref() {
        Ok("never") => "KUBECTL_STEPUP_PROMPT=never: nobody is asked",
        Ok("always") => "KUBECTL_STEPUP_PROMPT=always: asked even where nobody is seen",
        _ if prompt::person_is_there() => "a terminal, so you can be asked",
        _ => "no terminal: nobody is asked here",
    });
    Finding::ok("surroundings", said.join("; "))
}

/// A trial step-up, for who wants one.
fn step_up(profile: &Profile, clock: Clock) -> Finding {
    const CHECK: &str = "step-up";
    if !prompt::person_is_there() {
        return Finding::unknown(
            CHECK,
            "a trial signs you in, and nobody is here",
            "run doctor --step-up in a terminal",
        );
    }
    let wanted = match Wanted::find(profile, clock) {
        Ok(wanted) => wanted,
        Err(error) => return Finding::problem(CHECK, error, "see the lines above"),
    };
    let mut findings = Vec::new();
    for settings in trial::candidates(profile, None, None) {
        let candidate = Profile { step_up: settings, ..profile.clone() };
        match trial::run(&candidate, &wanted, &Screen::open(), clock) {
            // The profile's own way comes first.
            Ok(trial) if trial.works() && findings.is_empty() => return Finding::ok(CHECK, &trial),
            Ok(trial) if trial.works() => {
                let fix =
                    format!("kubectl stepup setup --profile {} --try, which keeps the way that works", profile.name);
                return Finding::problem(CHECK, format!("{}; {trial}", findings.join("; ")), fix);
            }
            Ok(trial) => findings.push(trial.to_string()),
            Err(error) => findings.push(format!("{}: {error}", candidate.step_up)),
        }
        if Interrupt::listen().happened() {
            break;
        }
    }
    let fix = "another scope (setup --step-up-scope) or client (--step-up-client-id) to which the provider binds a stronger \
               sign-in";
    Finding::problem(CHECK, findings.join("; "), fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_hangs_is_a_problem_and_keeps_nobody_waiting() {
        let (_held, never) = mpsc::channel::<()>();
        let check = Check::begin("keyring", Duration::from_millis(20), move || {
            let _ = never.recv();
            Vec::new()
        });
        let findings = check.findings();
        assert_eq!((findings[0].check, findings[0].state), ("keyring", State::Problem));
        assert!(findings[0].says.contains("it hangs"), "{findings:?}");
    }

    #[test]
    fn a_webhook_that_is_not_meant_to_be_there_is_not_missed() {
        let told = |admission, authorization| {
            let webhooks = Some(WebhookTerms { admission, authorization });
            [AUTHORIZATION, ADMISSION]
                .map(|check| left_out(check, webhooks).map(|finding| (finding.state, finding.says)))
        };
        assert_eq!(told(true, true), [None, None]);
        let [reads, writes] = told(true, false);
        assert!(reads.is_some_and(|(state, says)| state == State::Ok && says.contains("reads are not protected")));
        assert_eq!(writes, None);
        for finding in told(false, false) {
            assert!(finding.is_some_and(|(state, says)| state == State::Ok && says.contains("groups alone")));
        }
        // An older server does not say: then it is looked for as ever.
        assert_eq!(left_out(ADMISSION, None), None);
    }

    #[test]
    fn what_is_wrong_with_the_server_is_said_in_its_words() {
        let report = json!({"ready": false, "store": {"ok": false, "error": "disk full"}, "audit": {"ok": true},
            "identityProviders": [{"name": "corp", "ok": false, "error": "no answer"}]});
        let said = faults(&report);
        assert!(said.contains("store: disk full") && said.contains("identity provider corp: no answer"), "{said}");
    }

    #[test]
    fn each_line_says_what_and_what_to_do() {
        let finding = Finding::problem("clock", "this machine's is 90 s ahead", "set it");
        assert_eq!(
            finding.lines(),
            [
                "problem  clock                  this machine's is 90 s ahead",
                "                                to fix it: set it"
            ]
        );
        assert!(clocks("x", SKEW - 1).is_none() && clocks("x", -SKEW).is_some());
    }
}
