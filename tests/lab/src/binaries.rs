//! What the lab builds from other projects: once, in the user's cache directory, named by a hash of everything it depends on.

use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::tools;

/// A Go module whose `go.mod` pins programs, and the programs.
struct GoModule {
    directory: &'static str,
    version: &'static str,
    go_mod: &'static str,
    go_sum: &'static str,
    tools_go: &'static str,
    programs: &'static [(&'static str, &'static str)],
    /// What the linker is told, the version among it: a build from the module cache has none otherwise.
    link: &'static str,
}

const CONTROL_PLANE: GoModule = GoModule {
    directory: "control-plane",
    version: "v1.37.2",
    go_mod: include_str!("../control-plane/go.mod"),
    go_sum: include_str!("../control-plane/go.sum"),
    tools_go: include_str!("../control-plane/tools.go"),
    // The quick ones first: a broken toolchain shows at once.
    programs: &[
        ("etcd", "go.etcd.io/etcd/server/v3"),
        ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
        ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
        ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    ],
    link: "-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2 -X k8s.io/component-base/version.gitMajor=1 \
           -X k8s.io/component-base/version.gitMinor=37",
};

const HELM: GoModule = GoModule {
    directory: "helm",
    version: "v3.22.0",
    go_mod: include_str!("../helm/go.mod"),
    go_sum: include_str!("../helm/go.sum"),
    tools_go: include_str!("../helm/tools.go"),
    programs: &[("helm", "helm.sh/helm/v3/cmd/helm")],
    link: "-s -w -X helm.sh/helm/v3/internal/version.version=v3.22.0",
};

/// The provider's files, as `npm ci` needs them.
const PROVIDER: [(&str, &str); 9] = [
    (".npmrc", include_str!("../oidc-provider/.npmrc")),
    ("package.json", include_str!("../oidc-provider/package.json")),
    ("package-lock.json", include_str!("../oidc-provider/package-lock.json")),
    ("interactions.mjs", include_str!("../oidc-provider/interactions.mjs")),
    ("pages.mjs", include_str!("../oidc-provider/pages.mjs")),
    ("people.json", include_str!("../oidc-provider/people.json")),
    ("people.mjs", include_str!("../oidc-provider/people.mjs")),
    ("server.mjs", include_str!("../oidc-provider/server.mjs")),
    ("totp.mjs", include_str!("../oidc-provider/totp.mjs")),
];

/// Directory with etcd, kube-apiserver, kube-controller-manager and kubectl, built now if they are not there.
pub fn control_plane() -> Result<PathBuf> {
    CONTROL_PLANE.build()
}

/// Directory with helm, built now if it is not there.
pub fn helm() -> Result<PathBuf> {
    HELM.build()
}

/// Directory with the identity provider, installed now if it is not there.
pub fn provider() -> Result<PathBuf> {
    let node = tools::output("node", &["--version"])?;
    let parts = PROVIDER.iter().flat_map(|(name, text)| [*name, *text]).chain([node.as_str()]);
    cached("oidc-provider", parts, |directory| {
        let step = Step::begin("installing the identity provider");
        for (name, text) in PROVIDER {
            fs::write(directory.join(name), text)?;
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(directory);
        step.run(&mut npm)
    })
}

impl GoModule {
    fn build(&self) -> Result<PathBuf> {
        let go = tools::output("go", &["env", "GOVERSION", "GOOS", "GOARCH", "CGO_ENABLED"])?;
        let parts = [self.go_mod, self.go_sum, self.tools_go, self.link, go.as_str()];
        let name = format!("{}-{}", self.directory, self.version);
        cached(&name, parts.into_iter(), |directory| {
            let module = directory.join("module");
            fs::create_dir(&module)?;
            fs::write(module.join("go.mod"), self.go_mod)?;
            fs::write(module.join("go.sum"), self.go_sum)?;
            fs::write(module.join("tools.go"), self.tools_go)?;
            for (index, (program, package)) in self.programs.iter().enumerate() {
                let step = Step::begin(&format!("building {program} ({} of {})", index + 1, self.programs.len()));
                let mut go = Command::new("go");
                go.args(["build", "-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags", self.link, "-o"])
                    .arg(directory.join(program))
                    .arg(package)
                    .current_dir(&module);
                step.run(&mut go)?;
            }
            Ok(())
        })
    }
}

/// Directory `NAME-HASH` of the cache, where HASH is of `parts`. `make` fills it, once: under a lock, in a directory beside it
/// that takes the name when it is complete.
fn cached<'a>(
    name: &str,
    parts: impl Iterator<Item = &'a str>,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    let hash = hash.finalize();
    let (beginning, _) = hash.split_first_chunk().context("SHA-256 has 32 bytes")?;
    let hash = format!("{:016x}", u64::from_be_bytes(*beginning));
    let cache = tools::cache_directory()?;
    let complete = cache.join(format!("{name}-{hash}"));
    if complete.exists() {
        return Ok(complete);
    }

    tools::check()?;
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let lock = File::create(cache.join(format!("{name}.lock")))?;
    if lock.try_lock().is_err() {
        eprintln!("lab: waiting for another build of {name}");
        lock.lock()?;
    }
    if !complete.exists() {
        let incomplete = cache.join(format!("{name}-{hash}.incomplete"));
        if incomplete.exists() {
            fs::remove_dir_all(&incomplete)?;
        }
        fs::create_dir_all(&incomplete)?;
        make(&incomplete).with_context(|| format!("cannot build {name}"))?;
        fs::rename(&incomplete, &complete)?;
    }
    Ok(complete)
}

/// One step of a build, shown while it takes its time.
struct Step {
    what: String,
    begun: Instant,
}

impl Step {
    fn begin(what: &str) -> Self {
        eprint!("lab: {what} …");
        if !std::io::stderr().is_terminal() {
            eprintln!();
        }
        Self { what: what.to_owned(), begun: Instant::now() }
    }

    fn run(&self, command: &mut Command) -> Result<()> {
        let terminal = std::io::stderr().is_terminal();
        let mut log = tempfile(&self.what)?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log.file.try_clone()?)
            .stderr(log.file.try_clone()?)
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().display()))?;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if terminal {
                eprint!("\rlab: {} … {} s", self.what, self.begun.elapsed().as_secs());
            }
            sleep(Duration::from_millis(200));
        };
        let seconds = self.begun.elapsed().as_secs();
        if !status.success() {
            eprintln!();
            bail!("{} failed after {seconds} s ({status}):\n{}", self.what, log.text());
        }
        if terminal {
            eprintln!("\rlab: {} … done in {seconds} s", self.what);
        } else {
            eprintln!("lab: {} … done in {seconds} s", self.what);
        }
        Ok(())
    }
}

/// Output of a build step, kept for the case that it fails.
struct Log {
    file: File,
    path: PathBuf,
}

fn tempfile(what: &str) -> Result<Log> {
    let name: String = what.chars().filter(char::is_ascii_alphanumeric).collect();
    let path = tools::cache_directory()?.join(format!("{name}.{}.log", std::process::id()));
    Ok(Log { file: File::create(&path)?, path })
}

impl Log {
    fn text(&mut self) -> String {
        let _ = self.file.flush();
        fs::read_to_string(&self.path).unwrap_or_default()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
