//! What a person is shown and asked: on stderr and the terminal, never on stdout, never from stdin.

use std::env;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::client::Clock;
use crate::client::cache;
use crate::client::error::Error;
use crate::client::idp::{BrowserSignIn, DeviceSignIn};
use crate::client::output;
use crate::client::parent::{Asker, Intent};
use crate::client::profile::Profile;
use crate::wire::challenge::{Challenge, DeclineCause, ReasonRule};

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
    match env::var(WHEN).as_deref() {
        Ok("always") => true,
        Ok("never") => false,
        _ => {
            // Shells complete command lines by running kubectl in the terminal: nobody asked for anything yet.
            Asker::find().is_none_or(|asker| asker.intent() != Intent::Completion)
                && (io::stderr().is_terminal() || terminal_in_foreground().is_some())
        }
    }
}

/// The controlling terminal, if we are in its foreground: a program that hides our stderr may still have a person
/// before it.
#[cfg(unix)]
fn terminal_in_foreground() -> Option<File> {
    let terminal = OpenOptions::new().read(true).write(true).open(TTY).ok()?;
    (rustix::termios::tcgetpgrp(&terminal).ok()? == rustix::process::getpgrp()).then_some(terminal)
}

#[cfg(not(unix))]
fn terminal_in_foreground() -> Option<File> {
    None
}

/// Where a person sees us: stderr, and the terminal besides when stderr goes elsewhere.
#[derive(Debug)]
pub struct Screen {
    terminal: Option<File>,
    is_rich: bool,
}

impl Screen {
    /// Looks where the person is.
    pub fn open() -> Self {
        let terminal = if io::stderr().is_terminal() { None } else { terminal_in_foreground() };
        Self { terminal, is_rich: output::is_rich() }
    }

    /// Shows one line. Control characters in it, which may come from elsewhere, are left out.
    pub fn say(&self, line: &str) {
        let mut text = plain(line);
        text.push('\n');
        self.write(&text);
    }

    /// Rewrites the last line, on a terminal; elsewhere it would only fill a log.
    fn status(&self, line: &str) {
        if self.is_rich {
            output::raw(&format!("\r\x1b[2K{}", plain(line)));
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
        let Ok(terminal) = OpenOptions::new().read(true).open(TTY) else { return Ok(None) };
        self.write(&format!("{} ", plain(question)));
        // A read cannot be called off; a thread can be left behind.
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(terminal).read_line(&mut line);
            let _ = sender.send(read.map(|length| (length > 0).then_some(line)));
        });
        let ticks = PATIENCE.as_millis() / TICK.as_millis();
        for _ in 0..ticks {
            if interrupt.happened() {
                return Err(declined_here());
            }
            match receiver.recv_timeout(TICK) {
                Ok(Ok(Some(line))) => return Ok(Some(line.trim().to_owned())),
                Ok(Ok(None)) => return Err(declined_here()),
                Ok(Err(_)) | Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(None),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
        }
        Err(timed_out())
    }
}

/// Without control characters: what comes from a server must not drive the terminal.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

fn declined_here() -> Error {
    Error::Declined { cause: DeclineCause::Declined, what: "declined".to_owned() }
}

fn timed_out() -> Error {
    Error::Declined { cause: DeclineCause::TimedOut, what: "nobody completed the sign-in in time".to_owned() }
}

/// Ctrl-C, as a flag. A second one ends the program at once.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from now on, for as long as the program runs.
    pub fn listen() -> Self {
        static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
        let flag = FLAG.get_or_init(|| {
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

    /// Whether it was pressed.
    pub fn happened(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
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
                    "Waiting for the sign-in, {}:{:02} left (Ctrl-C to decline)",
                    seconds / 60,
                    seconds % 60
                ));
            }
            let step = left.min(TICK);
            thread::sleep(step);
            left -= step;
        }
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

/// Shows what a step-up is for: what was tried, by which rule it is protected, what the grant will be.
pub fn show_challenges(screen: &Screen, challenges: &[Challenge], reason: Option<&str>) {
    for challenge in challenges {
        let actions: Vec<String> = challenge.actions.iter().map(ToString::to_string).collect();
        screen.say(&format!("Step-up required: {}", actions.join(", ")));
        let description = challenge.description.trim();
        let separator = if description.is_empty() { "" } else { ": " };
        screen.say(&format!("  rule    {}{separator}{description}", challenge.rule));
        let uses = match challenge.grant.uses {
            None => "any number of uses".to_owned(),
            Some(1) => "one use".to_owned(),
            Some(uses) => format!("{uses} uses"),
        };
        screen.say(&format!(
            "  grant   {}, {uses}: {}",
            duration(challenge.grant.ttl),
            challenge.grant.covers.join(", ")
        ));
        if !challenge.grant.groups.is_empty() {
            screen.say(&format!("  adds    {}", challenge.grant.groups.join(", ")));
        }
    }
    if let Some(reason) = reason {
        screen.say(&format!("  reason  {reason}"));
    }
}

/// Seconds, for people: `5 min`, `90 s`.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 if seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        120..7200 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Shows URL and code, and then tries the browser: where it fails (int128/kubelogin#717) the person has read them.
pub fn show_device(screen: &Screen, sign_in: &DeviceSignIn, open: bool) {
    screen.say(&format!("Sign in at  {}", sign_in.url()));
    screen.say(&format!("with code   {}", sign_in.code()));
    let left = sign_in.expires_in().min(PATIENCE).as_secs();
    screen.say(&format!("within      {} (Ctrl-C to decline)", duration(left)));
    if open {
        open_browser(sign_in.url());
    }
}

/// Shows the URL of a sign-in on this machine, and opens it.
pub fn show_browser(screen: &Screen, sign_in: &BrowserSignIn, open: bool) {
    screen.say(&format!("Sign in at  {}", sign_in.url()));
    screen.say(&format!(
        "within      {} (Ctrl-C to decline), in a browser on this machine",
        duration(PATIENCE.as_secs())
    ));
    if open {
        open_browser(sign_in.url());
    }
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
    let Ok(program) = env::current_exe() else { return };
    let mut command = Command::new(program);
    command.args([OPEN_BROWSER, url]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Ctrl-C here is not for the browser.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let _ = command.spawn();
}

/// The process that [`open_browser`] starts.
pub fn be_browser_opener(url: &str) -> ExitCode {
    let is_web = url.starts_with("https://") || url.starts_with("http://");
    if is_web && webbrowser::open(url).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What became of earlier prompts: one decline answers for everybody who waited, and prompts that nobody answers become
/// rare (int128/kubelogin#904: idle tools opened hundreds of browser tabs overnight).
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Past {
    /// When the last prompt ended without a sign-in.
    ended_at: Option<DateTime<Utc>>,
    /// How many in a row nobody answered.
    unanswered: u32,
}

const PAST: &str = "prompts.json";

/// Whether to prompt now, for somebody who has waited for their turn since `since`.
pub fn may_prompt(profile: &Profile, since: DateTime<Utc>, now: DateTime<Utc>) -> Result<(), Error> {
    let past: Past = cache::read(&profile.files.state(PAST)).unwrap_or_default();
    past.permits(since, now)
}

/// Remembers how a prompt ended.
pub fn remember<T>(profile: &Profile, outcome: &Result<T, Error>, now: DateTime<Utc>) {
    let file = profile.files.state(PAST);
    let past: Past = cache::read(&file).unwrap_or_default();
    let past = match outcome {
        Err(Error::Declined { cause: DeclineCause::TimedOut, .. }) => {
            Past { ended_at: Some(now), unanswered: past.unanswered.saturating_add(1) }
        }
        Err(_) => Past { ended_at: Some(now), unanswered: 0 },
        Ok(_) if past == Past::default() => return,
        Ok(_) => Past::default(),
    };
    let _ = cache::write(&file, &past);
}

impl Past {
    fn permits(&self, since: DateTime<Utc>, now: DateTime<Utc>) -> Result<(), Error> {
        let Some(ended_at) = self.ended_at else { return Ok(()) };
        if ended_at >= since {
            return Err(Error::Declined {
                cause: DeclineCause::Declined,
                what: "another command has asked meanwhile, and the sign-in was not made".to_owned(),
            });
        }
        let quiet = TimeDelta::minutes(match self.unanswered {
            0 => 0,
            1 => 1,
            2 => 5,
            3 => 15,
            _ => 60,
        });
        if ended_at <= now && now < ended_at + quiet {
            return Err(Error::Declined {
                cause: DeclineCause::TimedOut,
                what: format!(
                    "nobody answered the last {} prompts, so there is none for {} min: kubectl stepup login or elevate asks at once",
                    self.unanswered,
                    quiet.num_minutes()
                ),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn a_decline_answers_for_everybody_who_waited_and_for_nobody_later() {
        let past = Past { ended_at: Some(at(10)), unanswered: 0 };
        assert!(past.permits(at(5), at(11)).is_err());
        assert!(past.permits(at(11), at(11)).is_ok());
    }

    #[test]
    fn prompts_that_nobody_answers_become_rare() {
        let mut past = Past { ended_at: Some(at(0)), unanswered: 1 };
        assert!(past.permits(at(59), at(59)).is_err());
        assert!(past.permits(at(60), at(60)).is_ok());
        past.unanswered = 9;
        assert!(past.permits(at(3599), at(3599)).is_err());
        assert!(past.permits(at(3600), at(3600)).is_ok());
        // A clock that was put back does not silence us for good.
        assert!(past.permits(at(-5000), at(-5000)).is_err(), "who waited since before the end is answered by it");
        assert!(Past::default().permits(at(0), at(0)).is_ok());
    }

    #[test]
    fn servers_cannot_drive_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\r\nc\u{9b}d"), "a[2Jbcd");
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(
            [5, 90, 300, 330, 7200].map(duration),
            ["5 s", "90 s", "5 min", "5 min 30 s", "2 h 0 min"].map(str::to_owned)
        );
    }
}
