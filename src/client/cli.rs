//! The command line. `kubectl stepup …` is kubectl running `kubectl-stepup …`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use chrono::Utc;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::client::commands;
use crate::client::error::Error;
use crate::client::kubeconfig::ExecApiVersion;
use crate::client::profile::{Flow, Method, Name};
use crate::client::{get_token, output, prompt};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  the command line makes no sense
  3  not signed in
  4  the step-up was declined, or nobody completed it in time
  5  stepup-server refused
  6  the identity provider could not be reached, or failed
  7  stepup-server could not be reached, or failed

Environment:
  KUBECTL_STEPUP_PROFILE  profile to use
  KUBECTL_STEPUP_REASON   why protected actions are needed, for rules that want a reason
  KUBECTL_STEPUP_PROMPT   auto (default: ask when somebody is at the terminal, five times a minute at most), always, or
                          never
  KUBECTL_STEPUP_SECRETS  where refresh tokens are kept: keyring (default, where there is one) or file
  KUBECTL_STEPUP_HOME     directory for everything that is kept: HOME/config, HOME/cache, HOME/state
  BROWSER                 program that opens the sign-in page
  NO_COLOR                plain prompts";

/// Step-up authentication for kubectl: a stronger sign-in for the commands that need it, when they need it
///
/// kubectl runs this program for the token of every request ("kubectl stepup setup" puts it into the kubeconfig). When the
/// cluster says that a command needs more than the ordinary sign-in, the program takes you through it, and the
/// command goes on.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-stepup",
    bin_name = "kubectl stepup",
    version,
    after_long_help = EXIT_CODES,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write the profile, and put the credential plugin into the kubeconfig
    ///
    /// In the kubeconfig it writes one user entry and, with --context, makes that context use the user. Every other byte
    /// stays: comments, order and formatting. Run again, it changes only what you name, and says so if nothing changes.
    Setup(Setup),
    /// Sign in
    Login(Login),
    /// Sign out: drop grants, revoke the session, forget all tokens
    Logout(Logout),
    /// Show who is signed in, live grants, and what is waiting for a step-up
    Status(Status),
    /// Step up now, for what was just refused or for what you are about to do
    Elevate(Elevate),
    /// Say what would be asked for an action, and what would be granted; asks and changes nothing
    Explain(Explain),
    /// Show your step-ups and refusals of the last weeks
    History(History),
    /// Find out what does not work here, and how to fix it
    Doctor(Doctor),
    /// Run a program that steps up whenever the cluster asks for it: helm, k9s, terraform, a script, kubectl itself
    Run(Run),
    /// Serve programs that step up whenever the cluster asks for it, until Ctrl-C
    Proxy(Proxy),
    /// Give grants up before they expire
    Drop(Drop),
    /// Print the completion script for a shell
    Completion(Completion),
    /// Print a token for the API server (kubectl runs this; people do not)
    GetToken(get_token::Args),
    /// Complete a command line for kubectl's own completion
    #[command(name = "__complete", hide = true)]
    Complete(Complete),
}

/// Which profile, and where to find out.
#[derive(Clone, Debug, Default, Args)]
pub struct Target {
    /// Profile to use [default: $KUBECTL_STEPUP_PROFILE, else that of the kubeconfig's current context, else "default", else
    /// the only one]
    #[arg(long, value_name = "NAME")]
    pub profile: Option<Name>,
    /// Context of the kubeconfig to take profile and namespace from [default: the current one]
    #[arg(long, value_name = "CONTEXT")]
    pub context: Option<String>,
    /// Kubeconfig to look in [default: $KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

const SETUP_EXAMPLES: &str = "\
Examples:
  # A cluster with stepup-server; see what would change first
  kubectl stepup setup --issuer https://idp.example.com --client-id kubernetes \\
    --server https://stepup.example.com --context prod --dry-run

  # A cluster that recognizes strong tokens of the provider by itself, without stepup-server
  kubectl stepup setup --issuer https://idp.example.com --client-id kubernetes --context prod \\
    --step-up-acr urn:example:mfa --protect 'delete namespaces' --protect 'get secrets -n prod'

  # Only sign in with OpenID Connect, without step-up
  kubectl stepup setup --profile lab --issuer https://idp.example.com --client-id kubernetes

  # Change one thing of a profile that exists
  kubectl stepup setup --flow browser

  # Sign in once for each way to step up, until one works; scope and client were made for this at the provider
  kubectl stepup setup --step-up-scope stepup-mfa --step-up-client-id kubernetes-step-up --try";

/// `setup`.
// Flags are booleans; that is what they are.
#[allow(clippy::struct_excessive_bools)]
#[derive(Debug, Args)]
#[command(after_help = SETUP_EXAMPLES)]
pub struct Setup {
    /// Profile to write
    #[arg(
        long,
        value_name = "NAME",
        env = "KUBECTL_STEPUP_PROFILE",
        hide_env_values = true,
        default_value = "default"
    )]
    pub profile: Name,
    /// Issuer URL of the identity provider (needed for a new profile)
    #[arg(long, value_name = "URL")]
    pub issuer: Option<String>,
    /// OAuth client to sign in as (needed for a new profile)
    #[arg(long, value_name = "ID")]
    pub client_id: Option<String>,
    /// File with the client's secret, if the provider insists on one
    #[arg(long, value_name = "FILE")]
    pub client_secret_file: Option<PathBuf>,
    /// PEM file of the CA behind the provider's certificate [default: the system's]
    #[arg(long, value_name = "FILE")]
    pub issuer_ca: Option<PathBuf>,
    /// Scope to ask for, repeatable [default: openid offline_access profile email]
    #[arg(long, value_name = "SCOPE")]
    pub scope: Vec<String>,
    /// URL of stepup-server; without it, and without --step-up-acr, there is no step-up
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// PEM file of the CA behind stepup-server's certificate [default: the system's]
    #[arg(long, value_name = "FILE")]
    pub server_ca: Option<PathBuf>,
    /// How to sign in [default: device]
    #[arg(long)]
    pub flow: Option<Flow>,
    /// How to step up [default: device]
    #[arg(long, value_name = "FLOW")]
    pub step_up_flow: Option<Flow>,
    /// Whether to look at kubectl's command line and step up before its first request, for what is not repeated: reads and
    /// connections, and also writes in groups mode and without stepup-server [default: on]
    #[arg(long, value_name = "WHETHER")]
    pub preflight: Option<Switch>,
    /// How the provider is told to ask for more [default: acr-values]. Forgets the settings of another method
    #[arg(long, value_name = "METHOD")]
    pub step_up_method: Option<Method>,
    /// Scope to ask for in step-ups, beside the ordinary ones, repeatable
    #[arg(long, value_name = "SCOPE")]
    pub step_up_scope: Vec<String>,
    /// OAuth client to step up as [default: the ordinary one]
    #[arg(long, value_name = "ID")]
    pub step_up_client_id: Option<String>,
    /// File with that client's secret, if the provider insists on one
    #[arg(long, value_name = "FILE")]
    pub step_up_client_secret_file: Option<PathBuf>,
    /// Without stepup-server: an acr value that the cluster accepts as a strong sign-in, repeatable
    #[arg(long, value_name = "VALUE", conflicts_with = "server")]
    pub step_up_acr: Vec<String>,
    /// Without stepup-server: how long ago the strong sign-in may have been [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = seconds, conflicts_with = "server")]
    pub step_up_max_age: Option<u64>,
    /// Without stepup-server: how long a stronger token is used [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = seconds, conflicts_with = "server")]
    pub step_up_ttl: Option<u64>,
    /// Without stepup-server: what to step up for beforehand, in kubectl's words, such as "delete namespaces" or "get
    /// secrets -n prod,prod-*"; repeatable
    #[arg(long, value_name = "WHAT", conflicts_with = "server")]
    pub protect: Vec<String>,
    /// File with such lines
    #[arg(long, value_name = "FILE", conflicts_with = "server")]
    pub protect_file: Option<PathBuf>,
    /// ConfigMap with such lines under the key "protected"
    #[arg(long, value_name = "NAMESPACE/NAME", conflicts_with = "server")]
    pub digest_configmap: Option<String>,
    /// Find out by signing in which way to step up works: looks at what comes back, and keeps the first that works
    #[arg(long = "try", conflicts_with_all = ["dry_run", "offline"])]
    pub try_step_up: bool,
    /// Username to suggest to the provider
    #[arg(long, value_name = "USER")]
    pub login_hint: Option<String>,
    /// Only print URLs, never open a browser
    #[arg(long)]
    pub no_browser: bool,
    /// Name of the kubeconfig's user entry [default: the profile's name]
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Context of the kubeconfig that will use the user; in place of the user that it has now
    #[arg(long, value_name = "CONTEXT")]
    pub context: Option<String>,
    /// Cluster for --context, if that context is to be made
    #[arg(long, value_name = "CLUSTER", requires = "context")]
    pub cluster: Option<String>,
    /// Kubeconfig to change [default: $KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Version of the credential plugin protocol
    #[arg(long, value_name = "VERSION", default_value = "v1")]
    pub exec_api_version: ExecApiVersion,
    /// Remove other credentials (certificates, tokens) from the user entry
    #[arg(long)]
    pub overwrite: bool,
    /// Do not ask provider and server whether they are what they should be
    #[arg(long)]
    pub offline: bool,
    /// Show what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// On
    On,
    /// Off
    Off,
}

const LOGIN_EXAMPLES: &str = "\
Examples:
  kubectl stepup login
  kubectl stepup login --flow browser
  kubectl stepup login --no-browser        # on a machine without one: open the URL elsewhere";

/// `login`.
#[derive(Debug, Args)]
#[command(after_help = LOGIN_EXAMPLES)]
pub struct Login {
    /// Which profile
    #[command(flatten)]
    pub target: Target,
    /// How to sign in [default: the profile's]
    #[arg(long)]
    pub flow: Option<Flow>,
    /// Only print the URL, do not open a browser
    #[arg(long)]
    pub no_browser: bool,
    /// Sign in again, even if you are signed in
    #[arg(long)]
    pub force: bool,
}

/// `logout`.
#[derive(Debug, Args)]
pub struct Logout {
    /// Which profile
    #[command(flatten)]
    pub target: Target,
}

const STATUS_HELP: &str = "\
With -o json, one object (no secret is ever in it; times are RFC 3339):
  profile, issuer, clientId, server (URL or null), providerOnly, signedIn, user,
  baseToken     {expiresAt, live} or null
  refreshToken  \"keyring\", \"file\" or null
  stepUp        {enabled, reachable, problem, clockSkewSeconds}
  grants        [{id, user, rule, covers, reason, acr, createdAt, expiresAt, usesLeft (null: any number),
                irrevocable, held}]
                irrevocable: its token is good until then, whatever becomes of the grant
                held: whether this machine has the token, and for whom
  challenges    [{id, rule, description, actions, createdAt, deniedAt, expiresAt, coveredBy}]

Exit code 3 when nobody is signed in; 0 otherwise, even if stepup-server cannot be reached (except with --all, which
needs it).";

/// `status`.
#[derive(Debug, Args)]
#[command(after_long_help = STATUS_HELP)]
pub struct Status {
    /// Which profile
    #[command(flatten)]
    pub target: Target,
    /// Everybody's grants: for administrators
    #[arg(long)]
    pub all: bool,
    /// Output format
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: Format,
}

/// Output formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

const ELEVATE_EXAMPLES: &str = "\
Examples:
  # For what the cluster has just refused
  kubectl stepup elevate

  # For what you are about to do
  kubectl stepup elevate --for delete namespace prod
  kubectl stepup elevate --for get secrets -n payments --ttl 2m
  kubectl stepup elevate --for get secrets -A --reason OPS-123
  kubectl stepup elevate --for exec api-0 -n payments
  kubectl stepup elevate --for scale deploy/web
  kubectl stepup elevate --for delete widgets.example.com w1
  kubectl stepup elevate --for assume clusterrole cluster-admin

The grant is for this terminal: other terminals keep their ordinary rights, unless you say --share.";

/// `elevate`.
#[derive(Debug, Args)]
#[command(after_help = ELEVATE_EXAMPLES)]
pub struct Elevate {
    /// What for, in kubectl's words: a verb, a resource and names [default: the newest refused request]
    #[arg(long = "for", value_names = ["VERB", "RESOURCE", "NAME"], num_args = 1..)]
    pub what: Vec<String>,
    /// Subresource of the resource, such as status
    #[arg(long, value_name = "SUBRESOURCE", requires = "what")]
    pub subresource: Option<String>,
    /// Namespace [default: that of the kubeconfig's context, else "default"]
    #[arg(short, long, value_name = "NAMESPACE", requires = "what")]
    pub namespace: Option<String>,
    /// In all namespaces
    #[arg(short = 'A', long, requires = "what", conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// The custom resource has no namespaces
    #[arg(long, requires = "what", conflicts_with_all = ["namespace", "all_namespaces"])]
    pub cluster_scoped: bool,
    /// The reason, for the audit log
    #[arg(long, value_name = "TEXT", env = "KUBECTL_STEPUP_REASON", hide_env_values = true)]
    pub reason: Option<String>,
    /// How long, such as 90s or 5m; never longer than the rule allows
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub ttl: Option<u64>,
    /// For all of your processes, not only for this terminal
    #[arg(long)]
    pub share: bool,
    /// Which profile
    #[command(flatten)]
    pub target: Target,
}

const HISTORY_HELP: &str = "\
Examples:
  kubectl stepup history
  kubectl stepup history --limit 200 -o json
  kubectl stepup history --user bob       # administrators

stepup-server keeps it for 30 days, and at most 1000 entries for a person; its audit log is the full record.

With -o json, one object (times are RFC 3339):
  user, serverTime, keptDays
  entries   [{id, time, what (\"asked\", \"granted\", \"used\", \"declined\", \"refused\", \"given-up\"), actions, rules, acr,
              reason, grant, code, message, source, by}], newest first; what does not apply is absent";

/// `history`.
#[derive(Debug, Args)]
#[command(after_help = HISTORY_HELP)]
pub struct History {
    /// How many entries
    #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub limit: u32,
    /// Somebody else's, as the cluster knows them: for administrators
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Output format
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: Format,
    /// Which profile
    #[command(flatten)]
    pub target: Target,
}

const DOCTOR_HELP: &str = "\
Each line is \"ok\", \"problem\" (with what to do about it) or \"unknown\" (with what it would take to tell). Nothing is
changed, and nobody is asked to sign in, unless you say --step-up. To see whether the API server asks stepup-server,
doctor asks it for a protected read (a SelfSubjectAccessReview): the audit log shows that challenge, declined at once.

With -o json, one object:
  healthy   whether there is no problem
  checks    [{check, state (\"ok\", \"problem\", \"unknown\"), says, fix (or null)}]

Exit code 1 when there is a problem.";

/// `doctor`.
#[derive(Debug, Args)]
#[command(after_help = DOCTOR_HELP)]
pub struct Doctor {
    /// Try a step-up too: signs you in once, keeps nothing and grants nothing
    #[arg(long)]
    pub step_up: bool,
    /// Output format
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: Format,
    /// Which profile
    #[command(flatten)]
    pub target: Target,
}

const EXPLAIN_HELP: &str = "\
Examples:
  kubectl stepup explain delete namespace prod
  kubectl stepup explain get secret db -n payments
  kubectl stepup explain list secrets -A
  kubectl stepup explain exec api-0 -n payments

With -o json, one object (times are RFC 3339):
  user, serverTime, canStepUp
  actions   [{action, recordedBy, protection (null: nothing is asked)
              {rules [{name, description}], acrValues, maxAge (seconds), reason {pattern, hint},
               grant {ttl (seconds), uses (absent: any number), covers, groups}, notCovered, coveredBy}}]

Exit code 0 whether the action is protected or not.";

/// `explain`.
#[derive(Debug, Args)]
#[command(after_help = EXPLAIN_HELP)]
pub struct Explain {
    /// What you would do, in kubectl's words: a verb, a resource and names
    #[arg(required = true, value_names = ["VERB", "RESOURCE", "NAME"], num_args = 1..)]
    pub what: Vec<String>,
    /// Subresource of the resource, such as status
    #[arg(long, value_name = "SUBRESOURCE")]
    pub subresource: Option<String>,
    /// Namespace [default: that of the kubeconfig's context, else "default"]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// In all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// The custom resource has no namespaces
    #[arg(long, conflicts_with_all = ["namespace", "all_namespaces"])]
    pub cluster_scoped: bool,
    /// Output format
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: Format,
    /// Which profile
    #[command(flatten)]
    pub target: Target,
}

const RUN_HELP: &str = "\
The program gets a kubeconfig of its own (KUBECONFIG, KUBE_CONFIG_PATH) that leads through a proxy on this machine. When the
cluster says that a request needs a step-up, the proxy takes you through it once and repeats just that request; the grant
is for this run alone. Reads, watches, exec, port-forward: all of it works, in one command. One kind of answer is changed:
a program that asks whether it may do something (SelfSubjectAccessReview) is told yes if a step-up would help. The
kubeconfig has the contexts of the same cluster and user, and no others.

The exit code is the program's: 128 and the signal's number if a signal ended it, 127 if it is not there, 126 if it cannot
be run.

Examples:
  kubectl stepup run -- kubectl get secret db -n prod -o yaml
  kubectl stepup run -- kubectl exec -it api-0 -n payments -- sh
  kubectl stepup run -- helm upgrade shop ./chart
  kubectl stepup run --context prod -- terraform apply
  kubectl stepup run --reason OPS-123 -- ansible-playbook site.yaml
  kubectl stepup run -- python3 report.py
  kubectl stepup run -- bash          # everything in this shell";

/// What `run` and `proxy` have in common.
#[derive(Debug, Args)]
pub struct Through {
    /// Why protected actions are needed, for rules that want a reason
    #[arg(long, value_name = "TEXT", env = "KUBECTL_STEPUP_REASON", hide_env_values = true)]
    pub reason: Option<String>,
    /// How much of a request to keep, to be able to repeat it after a step-up, such as 512Ki or 64Mi [default: 4Mi]
    #[arg(long, value_name = "SIZE", value_parser = bytes, default_value = "4Mi", hide_default_value = true)]
    pub replay_limit: usize,
    /// Which profile
    #[command(flatten)]
    pub target: Target,
}

/// `run`.
#[derive(Debug, Args)]
#[command(after_help = RUN_HELP)]
pub struct Run {
    /// In common with `proxy`
    #[command(flatten)]
    pub through: Through,
    /// The program and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
}

const PROXY_HELP: &str = "\
Prints the path of a kubeconfig. Programs that use it step up as under \"kubectl stepup run\"; the prompts appear here. It ends
with Ctrl-C, SIGTERM, or --for, and removes the kubeconfig.

Examples:
  kubectl stepup proxy --context prod                     # then, in another window: KUBECONFIG=(what it printed) k9s
  kubectl stepup proxy --kubeconfig-out ~/.kube/stepup-prod --for 8h   # for a desktop tool";

/// `proxy`.
#[derive(Debug, Args)]
#[command(after_help = PROXY_HELP)]
pub struct Proxy {
    /// Where to write the kubeconfig [default: a file of its own in a private directory]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig_out: Option<PathBuf>,
    /// How long to serve, such as 90s, 30m or 8h [default: until Ctrl-C]
    #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
    pub lifetime: Option<u64>,
    /// In common with `run`
    #[command(flatten)]
    pub through: Through,
}

const DROP_EXAMPLES: &str = "\
Examples:
  kubectl stepup drop                                 # what this terminal holds
  kubectl stepup drop gr-57pouspf5ynivgkdqzvddcdi5e   # one grant; \"kubectl stepup status\" shows the whole id
                                                      # (administrators: status --all)
  kubectl stepup drop --all                           # every grant you have, everywhere";

/// `drop`.
#[derive(Debug, Args)]
#[command(after_help = DROP_EXAMPLES)]
pub struct Drop {
    /// Grants to give up [default: those of this terminal]
    #[arg(value_name = "GRANT")]
    pub grants: Vec<String>,
    /// Every grant that you have, on every machine
    #[arg(long, conflicts_with = "grants")]
    pub all: bool,
    /// Which profile
    #[command(flatten)]
    pub target: Target,
}

const COMPLETION_HELP: &str = "\
Examples:
  source <(kubectl-stepup completion bash)                                         # bash, now
  kubectl-stepup completion zsh > \"${fpath[1]}/_kubectl-stepup\"                    # zsh
  kubectl-stepup completion fish > ~/.config/fish/completions/kubectl-stepup.fish  # fish

For \"kubectl stepup <TAB>\", kubectl wants a program called kubectl_complete-stepup on the PATH, beside kubectl-stepup. It
is packaging/completion/kubectl_complete-stepup in the source, two lines of shell:
  #!/bin/sh
  exec kubectl-stepup __complete -- \"$@\"";

/// `completion`.
#[derive(Debug, Args)]
#[command(after_help = COMPLETION_HELP)]
pub struct Completion {
    /// Shell
    pub shell: clap_complete::Shell,
}

/// `__complete`.
#[derive(Debug, Args)]
pub struct Complete {
    /// Words after "kubectl stepup", the last of them unfinished
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<String>,
}

/// Runs the program with the process's own arguments.
pub fn main() -> ExitCode {
    crate::no_core::keep_memory_private();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // The hot path: no other command's arguments are even described.
    if arguments.get(1).is_some_and(|command| command == "get-token") {
        let command =
            get_token::Args::augment_args(clap::Command::new("get-token")).bin_name("kubectl-stepup get-token");
        let parsed = command.try_get_matches_from(&arguments[1..]);
        return match parsed.and_then(|matches| get_token::Args::from_arg_matches(&matches)) {
            Ok(args) => get_token::run(&args),
            Err(error) => usage(&error),
        };
    }
    if let [_, command, url] = arguments.as_slice()
        && command == prompt::OPEN_BROWSER
    {
        return prompt::be_browser_opener(&url.to_string_lossy());
    }
    match Cli::try_parse_from(arguments) {
        Ok(cli) => run(&cli.command).unwrap_or_else(|error| output::failure(&error)),
        Err(error) => usage(&error),
    }
}

fn run(command: &Command) -> Result<ExitCode, Error> {
    match command {
        Command::Setup(args) => commands::setup::run(args),
        Command::Login(args) => commands::login::run(args, Utc::now),
        Command::Logout(args) => commands::logout::run(args, Utc::now),
        Command::Status(args) => commands::status::run(args, Utc::now),
        Command::Elevate(args) => commands::elevate::run(args, Utc::now),
        Command::History(args) => commands::history::run(args, Utc::now),
        Command::Doctor(args) => commands::doctor::run(args, Utc::now),
        Command::Explain(args) => commands::explain::run(args, Utc::now),
        Command::Run(args) => commands::run::run(args, Utc::now),
        Command::Proxy(args) => commands::proxy::run(args, Utc::now),
        Command::Drop(args) => commands::drop::run(args, Utc::now),
        Command::Completion(args) => {
            commands::completion::script(args.shell);
            Ok(ExitCode::SUCCESS)
        }
        Command::GetToken(args) => Ok(get_token::run(args)),
        Command::Complete(args) => {
            commands::completion::complete(&args.words);
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Help goes to stdout with 0, a usage error to stderr with 2; clap knows which.
fn usage(error: &clap::Error) -> ExitCode {
    // Nothing can be done about a reader that went away.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// The whole command tree, for completions and man pages.
pub fn command() -> clap::Command {
    Cli::command()
}

/// `90`, `90s`, `5m`, `1h`, `1h30m`.
fn seconds(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a time such as 90s, 5m or 1h");
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        let (unit, after) = match rest[digits..].chars().next() {
            None => (1, 0),
            Some('s') => (1, 1),
            Some('m') => (60, 1),
            Some('h') => (3600, 1),
            Some(_) => return Err(bad()),
        };
        total = number.checked_mul(unit).and_then(|part| total.checked_add(part)).ok_or_else(bad)?;
        rest = &rest[digits + after..];
    }
    if total == 0 { Err(bad()) } else { Ok(total) }
}

/// `1048576`, `512Ki`, `4Mi`, `1Gi`; 0: nothing.
fn bytes(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor = match &text[digits.len()..] {
        "" => Some(1),
        "Ki" => Some(1 << 10),
        "Mi" => Some(1 << 20),
        "Gi" => Some(1 << 30),
        _ => None,
    };
    let size = digits.parse::<usize>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    size.ok_or_else(|| format!("{text:?} is not a size such as 512Ki, 4Mi or 1Gi"))
}

#[cfg(test)]
mod tests {

    use super::*;

    fn parsed(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command)
    }

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn for_takes_words_until_the_next_flag() {
        let Command::Elevate(args) = parsed("x elevate --for delete ns a b -n prod --ttl 5m").unwrap() else {
            panic!()
        };
        assert_eq!(args.what, ["delete", "ns", "a", "b"]);
        assert_eq!(args.namespace.as_deref(), Some("prod"));
        assert_eq!(args.ttl, Some(300));
    }

    #[test]
    fn senseless_combinations_are_usage_errors() {
        for line in [
            "x elevate -n prod",
            "x elevate --for get secrets -n prod -A",
            "x drop gr-1 --all",
            "x setup --cluster c",
            "x status -o yaml",
            "x setup --profile ../etc",
            "x nonsense",
        ] {
            assert_eq!(parsed(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn a_program_keeps_its_own_flags() {
        for line in ["x run --context c -- helm list -n a --context d", "x run --context c helm list -n a --context d"]
        {
            let Command::Run(args) = parsed(line).unwrap() else { panic!() };
            assert_eq!(args.command, ["helm", "list", "-n", "a", "--context", "d"], "{line}");
            assert_eq!(args.through.target.context.as_deref(), Some("c"));
            assert_eq!(args.through.replay_limit, crate::client::proxy::REPLAY_LIMIT);
        }
        assert_eq!(parsed("x run").unwrap_err().exit_code(), 2);
    }

    #[test]
    fn sizes_are_numbers_with_units() {
        for (text, expected) in [("0", 0), ("1024", 1024), ("512Ki", 512 << 10), ("4Mi", 4 << 20), ("1Gi", 1 << 30)] {
            assert_eq!(bytes(text), Ok(expected));
        }
        for text in ["", "Mi", "4M", "-1", "4 Mi", "1.5Mi", "99999999999Gi", "é"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_numbers_with_units() {
        for (text, expected) in [("90", 90), ("90s", 90), ("5m", 300), ("1h30m", 5400)] {
            assert_eq!(seconds(text), Ok(expected));
        }
        for text in ["", "0", "m", "5d", "-1", "5m5x", "99999999999999999999h"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
