//! The tools that building the lab takes, and what to say when one is missing.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A tool that the machine has to bring along.
struct Tool {
    program: &'static str,
    version_arguments: &'static [&'static str],
    needed: (u32, u32),
    install: &'static str,
}

const TOOLS: [Tool; 4] = [
    Tool {
        program: "go",
        version_arguments: &["env", "GOVERSION"],
        needed: (1, 26),
        install: "install Go from https://go.dev/dl (builds the control plane)",
    },
    Tool {
        program: "node",
        version_arguments: &["--version"],
        needed: (20, 10),
        install: "install Node.js from https://nodejs.org (runs the identity provider)",
    },
    Tool {
        program: "npm",
        version_arguments: &["--version"],
        needed: (9, 0),
        install: "npm comes with Node.js; Debian and Ubuntu have it in the package npm",
    },
    Tool {
        program: "cc",
        version_arguments: &["-dumpversion"],
        needed: (1, 0),
        install: "install a C compiler: the package build-essential, gcc or clang (builds SQLite and the cryptography)",
    },
];

/// What Keycloak takes, beside [`TOOLS`].
const JAVA_TOOLS: [Tool; 3] = [
    Tool {
        program: "java",
        version_arguments: &["-version"],
        needed: (17, 0),
        install: "install a JDK, as in the package openjdk-17-jdk-headless (runs Keycloak)",
    },
    Tool {
        program: "jar",
        version_arguments: &["--version"],
        needed: (17, 0),
        install: "comes with a JDK, not with a JRE (unpacks Keycloak)",
    },
    Tool {
        program: "mvn",
        version_arguments: &["-version"],
        needed: (3, 6),
        install: "install Maven, as in the package maven (fetches Keycloak)",
    },
];

/// What the Python client takes, beside [`TOOLS`].
const PYTHON_TOOLS: [Tool; 1] = [Tool {
    program: "python3",
    // Debian and Ubuntu have Python without ensurepip, which `venv` cannot do without.
    version_arguments: &["-c", "import ensurepip, platform; print(platform.python_version())"],
    needed: (3, 10),
    install: "install Python with its module venv, as in the packages python3 and python3-venv (runs the Python client)",
}];

/// Fails with one line for each tool that is missing or too old.
pub fn check() -> Result<()> {
    check_all(&TOOLS, "the lab")
}

/// The same, for Keycloak.
pub fn check_java() -> Result<()> {
    check_all(&JAVA_TOOLS, "Keycloak")
}

/// The same, for the Python client.
pub fn check_python() -> Result<()> {
    check_all(&PYTHON_TOOLS, "the Python client")
}

fn check_all(tools: &[Tool], what: &str) -> Result<()> {
    let problems: Vec<String> = tools.iter().filter_map(Tool::problem).collect();
    if problems.is_empty() {
        return Ok(());
    }
    bail!("{what} needs tools that are not here:\n  {}", problems.join("\n  "))
}

/// Output of a short command, trimmed.
pub fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    // Java tells its version on standard error.
    let said = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    Ok(String::from_utf8(said)?.trim().to_owned())
}

/// Where things that outlive a source tree are kept.
pub fn cache_directory() -> Result<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()) {
        Some(cache) => PathBuf::from(cache),
        None => {
            PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?).join(".cache")
        }
    };
    Ok(cache.join("kubectl-stepup/lab"))
}

impl Tool {
    fn problem(&self) -> Option<String> {
        let (major, minor) = self.needed;
        let Ok(version) = output(self.program, self.version_arguments) else {
            return Some(format!("{} {major}.{minor} or newer: {}", self.program, self.install));
        };
        let found = parse_version(&version)?;
        (found < self.needed)
            .then(|| format!("{} {major}.{minor} or newer (here: {version}): {}", self.program, self.install))
    }
}

/// Major and minor number of `go1.26.8`, `v20.20.2`, `Apache Maven 3.8.7`, `12`; `None` for a version that no number is in.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    // Maven puts colours before it.
    let text = text.trim_start_matches("\u{1b}[0m").trim_start_matches("\u{1b}[1m");
    let mut numbers = text.trim_start_matches(|c: char| !c.is_ascii_digit()).split(|c: char| !c.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    Some((major, numbers.next().and_then(|minor| minor.parse().ok()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_the_tools_print_them() {
        assert_eq!(parse_version("go1.26.8"), Some((1, 26)));
        assert_eq!(parse_version("v20.20.2"), Some((20, 20)));
        assert_eq!(parse_version("12"), Some((12, 0)));
        assert_eq!(parse_version("openjdk version \"17.0.15\" 2025-04-15"), Some((17, 0)));
        assert_eq!(parse_version("\u{1b}[1mApache Maven 3.8.7\u{1b}[m"), Some((3, 8)));
        assert_eq!(parse_version("devel"), None);
    }
}
