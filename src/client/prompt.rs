//! What a person is shown and asked: on stderr and the terminal, never on stdout, never from stdin.

mod past;
mod qr;

use std::env;
use std::fs::{File, OpenOptions};
#[cfg(unix)]
use std::io::Read;
use std::io::{self, IsTerminal, Write};
#[cfg(not(unix))]
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
#[cfg(not(unix))]
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use url::Url;

use crate::client::Clock;
use crate::client::error::Error;
use crate::client::idp::{BrowserSignIn, DeviceSignIn};
use crate::client::output;
use crate::client::parent::Asker;
use crate::client::preflight::Hint;
use crate::client::profile::Profile;
use crate::client::words::{duration, plain, uses, wrapped};
use crate::wire::challenge::{Challenge, DeclineCause, ReasonRule};
use crate::wire::exec_credential::ExecInfo;

pub use past::{Wish, may_prompt, remember};

/// Environment variable that says when to prompt: `auto`, `always` or `never`.
pub const WHEN: &str = "KUBECTL_STEPUP_PROMPT";
/// Longest wait for a person.
pub const PATIENCE: Duration = Duration::from_mins(5);

/// The command that opens a URL in the browser, and nothing else. For [`open_browser`] alone: nobody types it.
pub const OPEN_BROWSER: &str = "__open-browser";

const TTY: &str = if cfg!(windows) { "CONIN$" } else { "/dev/tty" };
/// How often a wait looks at the clock and for Ctrl-C.
const TICK: Duration = Duration::from_millis(100);

/// Whether a person is there to be asked (invariant 8).
pub fn person_is_there() -> bool {
    let when = env::var(WHEN);
    // Shells complete command lines by running kubectl in the terminal: nobody asked for anything yet.
    if when.as_deref() == Ok("never") || Asker::find().is_some_and(|asker| asker.is_completing()) {
        return false;
    }
    when.as_deref() == Ok("always") || io::stderr().is_terminal() || terminal_in_foreground().is_some()
}

/// The controlling terminal, if we are in its foreground: a program that hides our stderr may still have a person
/// before it.
#[cfg(unix)]
fn terminal_in_foreground() -> Option<File> {
    if crate::client::parent::is_in_foreground() != Some(true) {
        return None;
    }
    OpenOptions::new().read(true).write(true).open(TTY).ok()
}

#[cfg(not(unix))]
fn terminal_in_foreground() -> Option<File> {
    None
}

/// The terminal to read an answer from. Whoever reads from the background is stopped (`SIGTTIN`), and with it
/// everything that waits for us.
fn terminal_to_ask_on() -> Option<File> {
    if cfg!(unix) { terminal_in_foreground() } else { OpenOptions::new().read(true).open(TTY).ok() }
}

/// Where a person sees us: stderr, and the terminal besides when stderr goes elsewhere.
#[derive(Debug)]
pub struct Screen {
    terminal: Option<File>,
    is_rich: bool,
    /// Columns and rows, where stderr is a terminal that tells.
    size: Option<(usize, usize)>,
}

/// Columns of the names on the left, with the margin before them.
const LABEL: usize = 10;
/// A terminal that says that it is narrower than this is not believed.
const NARROWEST: usize = 30;
/// Rows besides the QR code that a prompt should leave on the screen.
const OTHER_ROWS: usize = 8;

impl Screen {
    /// Looks where the person is.
    pub fn open() -> Self {
        let is_terminal = io::stderr().is_terminal();
        let terminal = if is_terminal { None } else { terminal_in_foreground() };
        let size = is_terminal.then(|| output::size().unwrap_or((80, 24)));
        Self { terminal, is_rich: output::is_rich(), size }
    }

    /// Shows one line, in as many as it takes on a narrow terminal. What drives a terminal is left out of it: it may come
    /// from elsewhere.
    pub fn say(&self, line: &str) {
        self.say_indented(line, 2);
    }

    /// Shows a line `  NAME    text`.
    fn say_about(&self, name: &str, text: &str) {
        self.say_indented(&format!("  {name:<width$}{text}", width = LABEL - 2), LABEL);
    }

    fn say_indented(&self, line: &str, indent: usize) {
        let line = plain(line);
        let lines = match self.columns() {
            Some(columns) => wrapped(&line, columns, indent),
            None => vec![line],
        };
        for line in lines {
            self.write(&format!("{line}\n"));
        }
    }

    /// Shows something to read, type or copy: on a line of its own, bold, and never cut or broken by us.
    fn say_large(&self, text: &str) {
        let text = plain(text);
        let margin = if self.columns().is_some_and(|columns| text.chars().count() + 4 > columns) { "" } else { "    " };
        let (bold, normal) = self.bold();
        self.write(&format!("\n{margin}{bold}{text}{normal}\n\n"));
    }

    fn bold(&self) -> (&'static str, &'static str) {
        if self.is_rich { ("\x1b[1m", "\x1b[0m") } else { ("", "") }
    }

    fn columns(&self) -> Option<usize> {
        self.size.map(|(columns, _)| columns.max(NARROWEST))
    }

    /// Rewrites the last line, on a terminal; elsewhere it would only fill a log.
    fn status(&self, line: &str) {
        if self.is_rich {
            // Of a line that goes on in the next row only that row would be rewritten.
            let room = self.columns().unwrap_or(80) - 1;
            let line: String = plain(line).chars().take(room).collect();
            output::raw(&format!("\r\x1b[2K{line}"));
        }
    }

    fn end_status(&self) {
        if self.is_rich {
            output::raw("\r\x1b[2K");
        }
    }

    fn write(&self, text: &str) {
        output::raw(text);
        if let Some(mut terminal) = self.terminal.as_ref() {
            let _ = terminal.write_all(text.as_bytes());
        }
    }

    /// Asks for one line, from the terminal and never from stdin (kubernetes#70261: stdin is somebody's manifest).
    /// `Ok(None)`: there is no terminal to ask on.
    fn ask(&self, question: &str, interrupt: &Interrupt) -> Result<Option<String>, Error> {
        let Some(terminal) = terminal_to_ask_on() else { return Ok(None) };
        let _open = Open::now();
        self.write(&format!("{} ", plain(question)));
        let mut keyboard = Keyboard::new(terminal);
        let ticks = PATIENCE.as_millis() / TICK.as_millis();
        for _ in 0..ticks {
            if interrupt.happened() {
                return Err(declined_here());
            }
            match keyboard.line() {
                Ok(Typed::Line(line)) => return Ok(Some(line.trim().to_owned())),
                Ok(Typed::End) => return Err(declined_here()),
                Ok(Typed::NothingYet) => {}
                Err(_) => return Ok(None),
            }
        }
        Err(timed_out())
    }
}

/// What has been typed so far.
enum Typed {
    Line(String),
    /// Ctrl-D.
    End,
    NothingYet,
}

/// A terminal that is read only when there is something to read: a read that waits could not be called off, and would eat
/// what is typed for the program that comes after us.
#[cfg(unix)]
struct Keyboard {
    terminal: File,
    typed: Vec<u8>,
}

#[cfg(unix)]
impl Keyboard {
    fn new(terminal: File) -> Self {
        use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
        // It was opened by us, so that nobody else's reads change with it. (macOS polls no terminal: a read that does not
        // wait is what works everywhere.)
        if let Ok(flags) = fcntl_getfl(&terminal) {
            let _ = fcntl_setfl(&terminal, flags | OFlags::NONBLOCK);
        }
        Self { terminal, typed: Vec::new() }
    }

    /// Takes what is there, or waits for a moment.
    fn line(&mut self) -> io::Result<Typed> {
        // Whoever reads from the background is stopped, and may have been put there meanwhile.
        let is_ours = crate::client::parent::is_in_foreground() == Some(true);
        let mut piece = [0; 1024];
        let read = if is_ours { self.terminal.read(&mut piece) } else { Err(io::ErrorKind::WouldBlock.into()) };
        match read {
            Ok(0) => return Ok(Typed::End),
            Ok(length) => self.typed.extend_from_slice(&piece[..length]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                thread::sleep(TICK);
            }
            Err(error) => return Err(error),
        }
        // A program may have left the terminal in a mode in which Return is a carriage return.
        let Some(end) = self.typed.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
            return Ok(Typed::NothingYet);
        };
        Ok(Typed::Line(String::from_utf8_lossy(&self.typed[..end]).into_owned()))
    }
}

/// A read cannot be called off there; a thread can be left behind.
#[cfg(not(unix))]
struct Keyboard(mpsc::Receiver<io::Result<Option<String>>>);

#[cfg(not(unix))]
impl Keyboard {
    fn new(terminal: File) -> Self {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            // A console gives what is typed in its code page, which is seldom UTF-8.
            let mut line = Vec::new();
            let read = BufReader::new(terminal).read_until(b'\n', &mut line);
            let line = String::from_utf8_lossy(&line).into_owned();
            let _ = sender.send(read.map(|length| (length > 0).then_some(line)));
        });
        Self(receiver)
    }

    fn line(&mut self) -> io::Result<Typed> {
        match self.0.recv_timeout(TICK) {
            Ok(read) => read.map(|line| line.map_or(Typed::End, Typed::Line)),
            Err(mpsc::RecvTimeoutError::Timeout) => Ok(Typed::NothingYet),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

/// Prompts that are before a person now.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// A prompt that is before a person, from when it is shown until this is dropped.
#[derive(Debug)]
pub struct Open(());

impl Open {
    /// From now on.
    pub fn now() -> Self {
        OPEN.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether a person is being asked right now, so that Ctrl-C is an answer.
pub fn is_open() -> bool {
    OPEN.load(Ordering::Relaxed) > 0
}

/// By Ctrl-C.
pub fn declined_here() -> Error {
    Error::Declined { cause: DeclineCause::Declined, what: "declined".to_owned() }
}

fn timed_out() -> Error {
    Error::Declined { cause: DeclineCause::TimedOut, what: "nobody completed the sign-in in time".to_owned() }
}

/// Ctrl-C, as a flag. A second one ends the program at once, unless it [outlives](Self::outlive) its prompts.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

/// Whether we go on after our prompts, because of what we run or serve.
static OUTLIVES: AtomicBool = AtomicBool::new(false);
static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

impl Interrupt {
    /// Listens from now on, for as long as the program runs.
    pub fn listen() -> Self {
        let flag = INTERRUPTED.get_or_init(|| {
            let flag = Arc::new(AtomicBool::new(false));
            for signal in SIGNALS {
                // Registered in this order, the first signal finds the flag down and only raises it.
                let _ = signal_hook::flag::register_conditional_shutdown(*signal, 130, Arc::clone(&flag));
                let _ = signal_hook::flag::register(*signal, Arc::clone(&flag));
            }
            flag
        });
        Self(Arc::clone(flag))
    }

    /// For a program that goes on after its prompts, and handles signals itself: nothing raises the flag but
    /// [`Self::raise`]. To be called before anything listens.
    pub fn outlive() -> Self {
        OUTLIVES.store(true, Ordering::Relaxed);
        Self(Arc::clone(INTERRUPTED.get_or_init(Arc::default)))
    }

    /// Calls off whatever waits for a person.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// What was pressed before does not count for what comes; at a prompt that is still open it does.
    pub fn lower(&self) {
        if !is_open() {
            self.0.store(false, Ordering::Relaxed);
        }
    }

    /// Whether it was pressed, for whoever may have come before anything listens.
    pub fn has_happened() -> bool {
        INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    /// Whether it was pressed.
    pub fn happened(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Does what must not be left half done: Ctrl-C and the like end us after it. A second one does at once.
pub fn uninterrupted<T>(work: impl FnOnce() -> T) -> T {
    // It was heeded by whoever asked the person then.
    let is_old = Interrupt::has_happened();
    let interrupt = Interrupt::listen();
    let outcome = work();
    if interrupt.happened() && !is_old && !OUTLIVES.load(Ordering::Relaxed) {
        std::process::exit(130);
    }
    outcome
}

#[cfg(unix)]
const SIGNALS: &[i32] = {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    &[SIGINT, SIGTERM, SIGHUP]
};
#[cfg(not(unix))]
const SIGNALS: &[i32] = &[signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM];

/// A wait for a person: it ends by Ctrl-C or when the time is up, and shows the time left.
#[derive(Debug)]
pub struct Waiting<'a> {
    screen: &'a Screen,
    interrupt: Interrupt,
    until: DateTime<Utc>,
    clock: Clock,
    /// Seconds left, as the screen shows them.
    shown: AtomicI64,
}

impl<'a> Waiting<'a> {
    /// Begins to wait, for `limit` at most.
    pub fn begin(screen: &'a Screen, interrupt: Interrupt, limit: Duration, clock: Clock) -> Self {
        let limit = TimeDelta::from_std(limit.min(PATIENCE)).unwrap_or(TimeDelta::MAX);
        Self { screen, interrupt, until: clock() + limit, clock, shown: AtomicI64::new(-1) }
    }

    /// The time.
    pub fn now(&self) -> DateTime<Utc> {
        (self.clock)()
    }

    /// Whether there is no point in waiting on.
    pub fn is_over(&self) -> bool {
        self.interrupt.happened() || self.now() >= self.until
    }

    /// Sleeps for `time`, or less when the wait is over.
    pub fn pause(&self, time: Duration) {
        let mut left = time;
        while !left.is_zero() && !self.is_over() {
            let seconds = (self.until - self.now()).num_seconds().max(0);
            if self.shown.swap(seconds, Ordering::Relaxed) != seconds {
                self.screen.status(&format!(
                    "  Waiting for the sign-in, {}:{:02} left (Ctrl-C to decline)",
                    seconds / 60,
                    seconds % 60
                ));
            }
            let step = left.min(TICK);
            thread::sleep(step);
            left -= step;
        }
    }

    /// Whether Ctrl-C ended it.
    pub fn was_interrupted(&self) -> bool {
        self.interrupt.happened()
    }

    /// Why the wait is over.
    pub fn ending(&self) -> Error {
        if self.interrupt.happened() { declined_here() } else { timed_out() }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.screen.end_status();
    }
}

/// Shows what a step-up is for: what was tried, where, by which rule it is protected, what the grant will be.
pub fn show_challenges(screen: &Screen, profile: &Profile, challenges: &[Challenge], reason: Option<&str>) {
    for (number, challenge) in challenges.iter().take(MOST_SHOWN).enumerate() {
        let (bold, normal) = screen.bold();
        let actions: Vec<String> = challenge.actions.iter().map(|action| plain(&action.to_string())).collect();
        let title = format!("Step-up required: {}", actions.join(", "));
        match screen.columns() {
            Some(columns) => wrapped(&title, columns, 2),
            None => vec![title],
        }
        .iter()
        .for_each(|line| screen.write(&format!("{bold}{line}{normal}\n")));
        if number == 0 {
            screen.say_about("where", &place(profile));
        }
        let description = challenge.description.trim();
        let separator = if description.is_empty() { "" } else { ": " };
        screen.say_about("rule", &format!("{}{separator}{description}", challenge.rule));
        let terms = format!("{}, {}", duration(challenge.grant.ttl), uses(challenge.grant.uses));
        screen.say_about("grant", &format!("{terms}: {}", challenge.grant.covers.join(", ")));
        if !challenge.grant.groups.is_empty() {
            screen.say_about("adds", &challenge.grant.groups.join(", "));
        }
    }
    if let Some(more @ 1..) = challenges.len().checked_sub(MOST_SHOWN) {
        screen.say(&format!("and {more} more, with the same sign-in"));
    }
    if let Some(reason) = reason {
        screen.say_about("reason", reason);
    }
}

/// Nobody reads more than this many challenges before a sign-in.
const MOST_SHOWN: usize = 6;

/// Which cluster it is, as well as we know. client-go tells with `provideClusterInfo`; else a kubectl's arguments and
/// kubeconfig do. Of other programs only stepup-server is known, which is for one cluster.
fn place(profile: &Profile) -> String {
    let info = env::var("KUBERNETES_EXEC_INFO").ok().and_then(|text| serde_json::from_str::<ExecInfo>(&text).ok());
    let told = info.and_then(|info| info.spec.cluster).map(|cluster| cluster.server).filter(|url| !url.is_empty());
    let hint = Hint::about(Asker::find().as_ref());
    let found = hint.place();
    let context = found.as_ref().and_then(|(_, context)| *context).map(|context| format!("context {context}"));
    let of_server = || profile.server.as_ref().map(|server| server.url.clone());
    let url = told.or_else(|| found.as_ref().map(|(url, _)| url.clone())).or_else(of_server);
    let parts = [url.as_deref().map(host), context, Some(format!("profile {}", profile.name))];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Host and port of a URL, or all of it where it has none.
fn host(url: &str) -> String {
    match Url::parse(url) {
        Ok(parsed) if parsed.has_host() => {
            let port = parsed.port().map_or(String::new(), |port| format!(":{port}"));
            format!("{}{port}", parsed.host_str().unwrap_or_default())
        }
        _ => url.to_owned(),
    }
}

/// Shows URL and code, and then tries the browser: where it fails (int128/kubelogin#717) the person has read them.
pub fn show_device(screen: &Screen, sign_in: &DeviceSignIn, open: bool) {
    let limit = sign_in.expires_in().min(PATIENCE);
    if screen.size.is_some() {
        screen.write("\n");
        screen.say("  Sign in at");
        screen.say_large(sign_in.url());
        screen.say("  with code");
        screen.say_large(sign_in.code());
        show_qr(screen, sign_in.url());
        if !screen.is_rich {
            screen.say(&format!("  within {} (Ctrl-C to decline)", duration(limit.as_secs())));
        }
    } else {
        screen.say(&format!("Sign in at  {}", sign_in.url()));
        screen.say(&format!("with code   {}", sign_in.code()));
        screen.say(&format!("within      {} (Ctrl-C to decline)", duration(limit.as_secs())));
    }
    if open {
        open_browser(sign_in.url());
    }
}

/// Shows the URL of a sign-in on this machine, and opens it.
pub fn show_browser(screen: &Screen, sign_in: &BrowserSignIn, open: bool) {
    let limit = duration(PATIENCE.as_secs());
    if screen.size.is_some() {
        screen.write("\n");
        screen.say("  Sign in, in a browser on this machine, at");
        screen.say_large(sign_in.url());
        if !screen.is_rich {
            screen.say(&format!("  within {limit} (Ctrl-C to decline)"));
        }
    } else {
        screen.say(&format!("Sign in at  {}", sign_in.url()));
        screen.say(&format!("within      {limit} (Ctrl-C to decline), in a browser on this machine"));
    }
    if is_remote()
        && let Some(port) = callback_port(sign_in.url())
    {
        screen.say(&format!(
            "  This machine is remote: the browser must reach port {port} here (ssh -L {port}:127.0.0.1:{port} …). \
             A device sign-in needs no such thing: kubectl stepup setup --flow device --step-up-flow device"
        ));
    }
    if open {
        open_browser(sign_in.url());
    }
}

/// Whether the person sits at another machine.
pub(super) fn is_remote() -> bool {
    ["SSH_CONNECTION", "SSH_TTY"].iter().any(|name| env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// A QR code for the phone, where no browser of this machine can be before the person and there is room for it.
fn show_qr(screen: &Screen, url: &str) {
    let Some((columns, rows)) = screen.size.filter(|_| screen.is_rich && is_remote()) else { return };
    let Some(lines) = qr::lines(url, columns.saturating_sub(4), rows.saturating_sub(OTHER_ROWS)) else { return };
    for line in lines {
        screen.write(&format!("    {line}\n"));
    }
    screen.write("\n");
}

/// The loopback port that the browser will come back to.
fn callback_port(url: &str) -> Option<u16> {
    let url = Url::parse(url).ok()?;
    let (_, redirect) = url.query_pairs().find(|(name, _)| name == "redirect_uri")?;
    Url::parse(&redirect).ok()?.port()
}

/// Asks for the reason that a rule demands. `again`: the server did not accept the one before.
pub fn ask_reason(
    screen: &Screen,
    interrupt: &Interrupt,
    rule: &ReasonRule,
    again: Option<&str>,
) -> Result<String, Error> {
    if let Some(refusal) = again {
        screen.say(refusal);
    }
    let hint = match (&rule.hint, &rule.pattern) {
        (Some(hint), _) => format!(" ({hint})"),
        (None, Some(pattern)) => format!(" (must match {pattern})"),
        (None, None) => String::new(),
    };
    for _ in 0..3 {
        match screen.ask(&format!("Reason{hint}:"), interrupt)? {
            Some(reason) if !reason.is_empty() => return Ok(reason),
            Some(_) => {}
            None => return Err(no_reason(rule)),
        }
    }
    Err(declined_here())
}

/// A rule demands a reason, and there is nobody to ask.
pub fn no_reason(rule: &ReasonRule) -> Error {
    let hint = rule.hint.as_ref().map_or(String::new(), |hint| format!(" ({hint})"));
    Error::Declined {
        cause: DeclineCause::NoReason,
        what: format!(
            "the rule asks for a reason{hint}: set KUBECTL_STEPUP_REASON, or run kubectl stepup elevate --reason TEXT first"
        ),
    }
}

/// Starts the browser, from a process of its own: some browsers are programs of the terminal that would take over our
/// stdin and stdout and be waited for, and looking for one may take a while.
fn open_browser(url: &str) {
    let has = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    if is_remote() && !["BROWSER", "DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| has(name)) {
        // What would open is a browser of text that nobody sees.
        return;
    }
    if !is_attended(IDLE) {
        // The prompt stands there for whoever comes; a tab would only be in somebody's way (int128/kubelogin#904).
        return;
    }
    let Ok(program) = env::current_exe() else { return };
    let mut command = Command::new(program);
    command.args([OPEN_BROWSER, url]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Ctrl-C here is not for the browser.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    if let Ok(mut opener) = command.spawn() {
        // Whoever stays (`run`, `proxy`) would gather what has ended.
        thread::spawn(move || opener.wait());
    }
}

/// Whether somebody uses the terminal right now.
pub fn person_is_typing() -> bool {
    is_attended(LATELY)
}

/// Whether somebody is likely to look: we are in the foreground of a terminal on which something was typed within `time`.
#[cfg(unix)]
fn is_attended(time: TimeDelta) -> bool {
    if env::var(WHEN).is_ok_and(|when| when == "always") {
        return true;
    }
    let stderr = io::stderr();
    if !stderr.is_terminal() {
        return terminal_in_foreground().is_some();
    }
    let in_foreground = crate::client::parent::is_in_foreground().unwrap_or(true);
    // As `w` finds out how long somebody has been idle: reading from a terminal touches it.
    let typed_at = rustix::fs::fstat(&stderr).ok().and_then(|data| DateTime::from_timestamp(data.st_atime, 0));
    // A shell that we run takes the foreground for its jobs; whoever types there is ours all the same.
    (in_foreground || OUTLIVES.load(Ordering::Relaxed)) && typed_at.is_none_or(|at| Utc::now() - at < time)
}

#[cfg(not(unix))]
fn is_attended(_: TimeDelta) -> bool {
    true
}

/// Who has typed nothing for so long may have gone.
const IDLE: TimeDelta = TimeDelta::minutes(15);
/// Who uses a program that stays types more often.
const LATELY: TimeDelta = TimeDelta::minutes(1);

/// The process that [`open_browser`] starts.
pub fn be_browser_opener(url: &str) -> ExitCode {
    let is_web = url.starts_with("https://") || url.starts_with("http://");
    if is_web && webbrowser::open(url).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
