//! Processes of Linux, from `/proc`: a few short reads, so that the hot path stays one.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;

use super::{Asker, Process, Scope, Untold};

/// Longest command line and environment that are read, in bytes.
const LONGEST: u64 = 1 << 20;

/// The fields of `/proc/PID/stat` that we use (proc_pid_stat(5)).
struct Stat {
    parent: u32,
    /// Process group; 0, like the session, where it is of another PID namespace.
    group: u32,
    session: u32,
    tty: u64,
    /// Process group in the foreground of the terminal; -1 where there is no terminal.
    foreground: i64,
    started: u64,
}

pub(super) fn asker() -> Option<Asker> {
    let me = stat("self")?;
    let parent = stat(me.parent)?;
    let process = Process { pid: me.parent, started: parent.started };
    // The leader may have ended (a daemon's): then its number may become another session's, and tells nothing.
    let terminal = stat(me.session)
        .map(|leader| Scope::Terminal { leader: Process { pid: me.session, started: leader.started }, tty: me.tty });
    let grandparent = match terminal {
        Some(_) => None,
        None => self::process(parent.parent),
    };
    Some(Asker { process, grandparent, terminal })
}

/// By the numbers in `/proc`, which are all of one PID namespace: in a container that has the terminal of the shell it was
/// started from, that shell's group is 0, and ours with it. (`getpgrp` of rustix takes 0 for impossible.)
pub(super) fn is_in_foreground() -> Option<bool> {
    let me = stat("self").filter(|me| me.tty != 0)?;
    Some(i64::from(me.group) == me.foreground)
}

pub(super) fn process(pid: u32) -> Option<Process> {
    stat(pid).map(|stat| Process { pid, started: stat.started })
}

fn stat(pid: impl std::fmt::Display) -> Option<Stat> {
    // One line that the kernel writes in one piece; `fs::read` would feel its way with many small reads.
    let mut line = [0; 1024];
    let length = File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut line)).ok()?;
    parse(&line[..length])
}

fn parse(text: &[u8]) -> Option<Stat> {
    // The second field is the program's name in parentheses, and may itself hold spaces and parentheses.
    let after_name = text.iter().rposition(|byte| *byte == b')')? + 1;
    let fields: Vec<&str> = std::str::from_utf8(&text[after_name..]).ok()?.split_ascii_whitespace().collect();
    // Field N of the manual page is at N - 3 here.
    let field = |number: usize| fields.get(number - 3)?.parse::<i64>().ok();
    Some(Stat {
        parent: u32::try_from(field(4)?).ok()?,
        group: u32::try_from(field(5)?).ok()?,
        session: u32::try_from(field(6)?).ok()?,
        tty: u64::try_from(field(7)?).ok()?,
        foreground: field(8)?,
        started: u64::try_from(field(22)?).ok()?,
    })
}

pub(super) fn arguments(process: Process) -> Vec<String> {
    let Some(text) = read(process, "cmdline") else { return Vec::new() };
    let text = text.strip_suffix(b"\0").unwrap_or(&text);
    text.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

pub(super) fn variable(process: Process, name: &str) -> Result<Option<OsString>, Untold> {
    read(process, "environ").map(|environment| value_of(&environment, name)).ok_or(Untold)
}

/// The value of `name` in an environment, its variables separated by NUL.
fn value_of(environment: &[u8], name: &str) -> Option<OsString> {
    let mut variables = environment.split(|byte| *byte == 0);
    let value = variables.find_map(|variable| variable.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    value.map(|value| OsString::from_vec(value.to_vec()))
}

/// A file of the process; `None` where it is longer than what can be meant.
fn read(process: Process, name: &str) -> Option<Vec<u8>> {
    // Few reads: an ordinary command line fits into the first.
    let mut text = Vec::with_capacity(4096);
    let file = File::open(format!("/proc/{}/{name}", process.pid)).ok()?;
    file.take(LONGEST + 1).read_to_end(&mut text).ok()?;
    (text.len() as u64 <= LONGEST).then_some(text)
}

pub(super) fn is_running(process: Process) -> bool {
    self::process(process.pid) == Some(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_stat_line_whose_program_name_is_hostile() {
        let line = b"42 (a) R 1 (x) S 7 42 41 34816 42 4194304 1 0 0 0 0 0 0 0 20 0 1 0 123456 1 2 3\n";
        let stat = parse(line).unwrap();
        assert_eq!((stat.parent, stat.group, stat.session), (7, 42, 41));
        assert_eq!((stat.tty, stat.foreground, stat.started), (34816, 42, 123_456));
        assert!(parse(b"").is_none());
        assert!(parse(b"1 (x) S 1").is_none());
    }

    #[test]
    fn a_variable_is_found_by_its_whole_name() {
        let environment = b"KUBECONFIGS=a\0KUBECONFIG=/x:/y=z\0EMPTY=\0KUBECONFIG=later\0";
        assert_eq!(value_of(environment, "KUBECONFIG"), Some("/x:/y=z".into()));
        assert_eq!(value_of(environment, "EMPTY"), Some("".into()));
        assert_eq!(value_of(environment, "KUBECON"), None);
    }
}
