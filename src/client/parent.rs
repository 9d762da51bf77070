//! Who is asking: the parent process, its terminal, and what its arguments hint at.
//!
//! Linux tells all of it in `/proc`. Other unixes tell a process number and a session without start times; Windows
//! tells nothing here, and then no elevated token is kept for later calls unless the person shares it.

use std::fmt;

use crate::action::Action;

/// A process, told from a later one with the same number by when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process number.
    pub pid: u32,
    /// When it started, in the kernel's own units since boot; 0 where the platform does not tell.
    pub started: u64,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.pid, self.started)
    }
}

/// For whom an elevated token is (invariant 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One process: the command that asked.
    Process(Process),
    /// One login session: a terminal window, or what a service manager or script runner started as one.
    Terminal {
        /// The session's leader.
        leader: Process,
        /// The terminal's device number; 0 for a session without one.
        tty: u64,
    },
    /// Every process of this user: the person said so (`--share`).
    Anyone,
}

impl Scope {
    /// Name of this scope's file.
    pub fn file_name(&self) -> String {
        match self {
            Self::Process(process) => format!("process-{process}.json"),
            Self::Terminal { leader, tty } => format!("terminal-{leader}-{tty}.json"),
            Self::Anyone => "anyone.json".to_owned(),
        }
    }
}

/// The process that started us, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Our parent.
    pub process: Process,
    /// Its own parent, where the platform tells.
    pub grandparent: Option<Process>,
    /// The session that we run in, with its terminal if it has one.
    pub terminal: Option<Scope>,
}

impl Asker {
    /// Finds out; `None` where the platform does not tell.
    pub fn find() -> Option<Self> {
        platform::asker()
    }

    /// The scope of `kubectl stepup elevate`: the terminal's session, or the script that runs it.
    pub fn terminal_or_parent(&self) -> Scope {
        self.terminal.unwrap_or(Scope::Process(self.process))
    }

    /// Scopes, besides the asking process itself, whose elevated tokens it may use: narrowest first.
    pub fn surroundings(&self) -> impl Iterator<Item = Scope> {
        // Without a session `elevate` binds to the process that started it (a script); kubectl is a child of that one.
        self.terminal.or(self.grandparent.map(Scope::Process)).into_iter().chain([Scope::Anyone])
    }

    /// Whether the parent's arguments name the object of `action`: a hint.
    pub fn names(&self, action: &Action) -> bool {
        names(&platform::arguments(self.process), action)
    }

    /// What the parent's arguments hint at.
    pub fn intent(&self) -> Intent {
        Intent::of(&platform::arguments(self.process))
    }
}

/// Whether one of the arguments is the action's object: `prod`, `ns/prod`.
fn names(arguments: &[String], action: &Action) -> bool {
    let Some(name) = action.name.as_deref() else { return false };
    let is_name = |word: &String| word == name || word.rsplit_once('/').is_some_and(|(_, last)| last == name);
    arguments.iter().skip(1).any(is_name)
}

/// What a process is about to do, going by its arguments: a hint, never trusted. A wrong one costs a prompt or a 403.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// kubectl, completing a command line for the shell.
    Completion,
    /// kubectl, reading.
    Read,
    /// kubectl, changing something with requests of these verbs.
    Write(&'static [&'static str]),
    /// Something else: anything.
    Unknown,
}

/// Flags of kubectl that take their value as the next argument and may stand before the command.
const VALUE_FLAGS: [&str; 27] = [
    "-n",
    "--namespace",
    "--context",
    "--cluster",
    "--user",
    "--kubeconfig",
    "-s",
    "--server",
    "--token",
    "--as",
    "--as-group",
    "--as-uid",
    "--as-user-extra",
    "--request-timeout",
    "--certificate-authority",
    "--client-certificate",
    "--client-key",
    "--tls-server-name",
    "--cache-dir",
    "--profile",
    "--profile-output",
    "--username",
    "--password",
    "-v",
    "--v",
    "--vmodule",
    "--kuberc",
];

impl Intent {
    /// Reads a command line.
    pub fn of(arguments: &[String]) -> Self {
        let Some((program, rest)) = arguments.split_first() else { return Self::Unknown };
        let program = program.rsplit(['/', '\\']).next().unwrap_or_default();
        // `kubectl.1.30` and `kubectl.exe` are kubectl; `kubectl-foo` is a plugin, which does as it pleases.
        if program != "kubectl" && !program.starts_with("kubectl.") {
            return Self::Unknown;
        }
        let mut words = rest.iter().map(String::as_str);
        let mut next_word = || {
            while let Some(word) = words.next() {
                if !word.starts_with('-') {
                    return Some(word);
                }
                if VALUE_FLAGS.contains(&word) {
                    words.next();
                }
            }
            None
        };
        let verb = next_word();
        match verb.unwrap_or("help") {
            "__complete" | "__completeNoDesc" | "completion" => Self::Completion,
            "get" | "describe" | "logs" | "top" | "version" | "explain" | "api-resources" | "api-versions"
            | "cluster-info" | "events" | "wait" | "config" | "options" | "help" | "kustomize" => Self::Read,
            "rollout" => match next_word() {
                Some("status" | "history") => Self::Read,
                _ => Self::Write(&["patch", "update"]),
            },
            "delete" => Self::Write(&["delete", "deletecollection"]),
            "create" | "expose" | "autoscale" => Self::Write(&["create"]),
            "run" => Self::Write(&["create", "delete"]),
            "apply" | "replace" => Self::Write(&["create", "patch", "update", "delete", "deletecollection"]),
            "patch" | "edit" | "scale" | "label" | "annotate" | "set" | "taint" | "cordon" | "uncordon"
            | "certificate" => Self::Write(&["patch", "update"]),
            "drain" => Self::Write(&["patch", "update", "create", "delete"]),
            _ => Self::Unknown,
        }
    }

    /// Whether a denial can be one that the command repeats: reads are denied by authorization, with a 403 that nobody
    /// repeats.
    pub fn can_be_repeated(self) -> bool {
        !matches!(self, Self::Completion | Self::Read)
    }

    /// Whether a denial of `action` can be one that this command met and will repeat.
    pub fn may(self, action: &Action) -> bool {
        match self {
            Self::Completion | Self::Read => false,
            Self::Write(verbs) => verbs.contains(&action.verb.as_str()),
            Self::Unknown => true,
        }
    }
}

#[cfg(target_os = "linux")]
mod platform {
    use std::fs::{self, File};
    use std::io::Read;

    use super::{Asker, Process, Scope};

    /// The fields of `/proc/PID/stat` that we use (proc_pid_stat(5)).
    struct Stat {
        parent: u32,
        session: u32,
        tty: u64,
        started: u64,
    }

    pub(super) fn asker() -> Option<Asker> {
        let me = stat("self")?;
        let parent = stat(me.parent)?;
        let process = Process { pid: me.parent, started: parent.started };
        // The leader may have ended (a daemon's): then its number may become another session's, and tells nothing.
        let terminal = stat(me.session).map(|leader| Scope::Terminal {
            leader: Process { pid: me.session, started: leader.started },
            tty: me.tty,
        });
        let grandparent = match terminal {
            Some(_) => None,
            None => stat(parent.parent).map(|stat| Process { pid: parent.parent, started: stat.started }),
        };
        Some(Asker { process, grandparent, terminal })
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
            session: u32::try_from(field(6)?).ok()?,
            tty: u64::try_from(field(7)?).ok()?,
            started: u64::try_from(field(22)?).ok()?,
        })
    }

    pub(super) fn arguments(process: Process) -> Vec<String> {
        let Ok(text) = fs::read(format!("/proc/{}/cmdline", process.pid)) else { return Vec::new() };
        let text = text.strip_suffix(b"\0").unwrap_or(&text);
        text.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    }

    pub(super) fn is_running(process: Process) -> bool {
        stat(process.pid).is_some_and(|stat| stat.started == process.started)
    }

    #[cfg(test)]
    mod tests {
        #[test]
        fn reads_a_stat_line_whose_program_name_is_hostile() {
            let line = b"42 (a) R 1 (x) S 7 42 41 34816 42 4194304 1 0 0 0 0 0 0 0 20 0 1 0 123456 1 2 3\n";
            let stat = super::parse(line).unwrap();
            assert_eq!((stat.parent, stat.session, stat.tty, stat.started), (7, 41, 34816, 123_456));
            assert!(super::parse(b"").is_none());
            assert!(super::parse(b"1 (x) S 1").is_none());
        }
    }
}

#[cfg(all(unix, not(target_os = "linux")))]
mod platform {
    use rustix::process::{Pid, getsid, test_kill_process};

    use super::{Asker, Process, Scope};

    pub(super) fn asker() -> Option<Asker> {
        let process = Process { pid: std::os::unix::process::parent_id(), started: 0 };
        let has_terminal = std::fs::File::open("/dev/tty").is_ok();
        let terminal = getsid(None).ok().filter(|_| has_terminal).map(|session| Scope::Terminal {
            leader: Process { pid: session.as_raw_nonzero().get().cast_unsigned(), started: 0 },
            tty: 0,
        });
        Some(Asker { process, grandparent: None, terminal })
    }

    pub(super) fn arguments(_: Process) -> Vec<String> {
        Vec::new()
    }

    pub(super) fn is_running(process: Process) -> bool {
        Pid::from_raw(process.pid.cast_signed()).is_some_and(|pid| test_kill_process(pid).is_ok())
    }
}

#[cfg(not(unix))]
mod platform {
    use super::{Asker, Process};

    pub(super) fn asker() -> Option<Asker> {
        None
    }

    pub(super) fn arguments(_: Process) -> Vec<String> {
        Vec::new()
    }

    pub(super) fn is_running(_: Process) -> bool {
        true
    }
}

/// Whether the process that a file name was made for (see [`Process`]'s `Display`) still runs; `None` when `text` is no
/// such name.
pub fn still_runs(text: &str) -> Option<bool> {
    let (pid, started) = text.split_once('-')?;
    Some(platform::is_running(Process { pid: pid.parse().ok()?, started: started.parse().ok()? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent(line: &str) -> Intent {
        Intent::of(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    fn action(verb: &str) -> Action {
        Action {
            verb: verb.to_owned(),
            group: String::new(),
            resource: "namespaces".to_owned(),
            subresource: None,
            namespace: None,
            name: Some("prod".to_owned()),
            path: None,
        }
    }

    #[test]
    fn reading_commands_take_up_nothing() {
        for line in [
            "kubectl get pods -w",
            "/usr/bin/kubectl -n prod get delete",
            "kubectl --context prod --v=6 describe ns prod",
            "kubectl.1.30 logs -f x",
            "kubectl rollout status deploy/x",
            "kubectl",
            "kubectl -v 6 version",
        ] {
            assert_eq!(intent(line), Intent::Read, "{line}");
            assert!(!intent(line).may(&action("delete")));
        }
    }

    #[test]
    fn writing_commands_take_up_what_they_can_have_met() {
        for (line, verb) in [
            ("kubectl delete namespace prod", "delete"),
            ("kubectl -n x delete pods --all", "deletecollection"),
            ("kubectl apply -f -", "patch"),
            ("kubectl scale deploy/x --replicas 2", "patch"),
            ("kubectl rollout restart deploy/x", "patch"),
            ("kubectl.exe create ns prod", "create"),
        ] {
            assert!(intent(line).may(&action(verb)), "{line}");
        }
        assert!(!intent("kubectl delete namespace prod").may(&action("patch")));
    }

    #[test]
    fn other_programs_may_do_anything() {
        for line in ["helm uninstall x", "kubectl-neat get", "kubectl tree x", "python3 get.py"] {
            assert_eq!(intent(line), Intent::Unknown, "{line}");
        }
        assert_eq!(Intent::of(&[]), Intent::Unknown);
        assert!(Intent::Unknown.may(&action("delete")));
    }

    #[test]
    fn arguments_name_objects() {
        let named = |line: &str| names(&line.split(' ').map(str::to_owned).collect::<Vec<_>>(), &action("delete"));
        assert!(named("kubectl delete ns prod") && named("kubectl delete ns/prod"));
        assert!(!named("kubectl delete ns production") && !named("prod"));
    }

    #[test]
    fn completion_is_told_from_reading() {
        assert_eq!(intent("kubectl __complete get pods "), Intent::Completion);
        assert_eq!(intent("kubectl completion bash"), Intent::Completion);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_asker_is_our_parent_and_runs() {
        let asker = Asker::find().unwrap();
        assert_eq!(asker.process.pid, std::os::unix::process::parent_id());
        assert_eq!(still_runs(&asker.process.to_string()), Some(true));
        assert_eq!(still_runs(&format!("{}-1", asker.process.pid)), Some(false));
        assert_eq!(still_runs("rubbish"), None);
    }
}
