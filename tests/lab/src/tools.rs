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

/// Fails with one line for each tool that is missing or too old.
pub fn check() -> Result<()> {
    let problems: Vec<String> = TOOLS.iter().filter_map(Tool::problem).collect();
    if problems.is_empty() {
        return Ok(());
    }
    bail!("the lab needs tools that are not here:\n  {}", problems.join("\n  "))
}

/// Output of a short command, trimmed.
pub fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
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

/// Major and minor number of `go1.26.8`, `v20.20.2`, `12`; `None` for a version that no number is in.
fn parse_version(text: &str) -> Option<(u32, u32)> {
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
        assert_eq!(parse_version("devel"), None);
    }
}
