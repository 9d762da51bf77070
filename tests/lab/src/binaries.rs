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

/// A Go module, of the lab's own or one whose `go.mod` pins programs, and the programs.
struct GoModule {
    directory: &'static str,
    version: &'static str,
    files: Files,
    programs: &'static [(&'static str, &'static str)],
    /// What the linker is told, the version among it: a build from the module cache has none otherwise.
    link: &'static str,
}

const CONTROL_PLANE: GoModule = GoModule {
    directory: "control-plane",
    version: "v1.37.2",
    files: &[
        ("go.mod", include_str!("../control-plane/go.mod")),
        ("go.sum", include_str!("../control-plane/go.sum")),
        ("tools.go", include_str!("../control-plane/tools.go")),
    ],
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
    files: &[
        ("go.mod", include_str!("../helm/go.mod")),
        ("go.sum", include_str!("../helm/go.sum")),
        ("tools.go", include_str!("../helm/tools.go")),
    ],
    programs: &[("helm", "helm.sh/helm/v3/cmd/helm")],
    link: "-s -w -X helm.sh/helm/v3/internal/version.version=v3.22.0",
};

const HELM_4: GoModule = GoModule {
    directory: "helm-4",
    version: "v4.3.1",
    files: &[
        ("go.mod", include_str!("../helm-4/go.mod")),
        ("go.sum", include_str!("../helm-4/go.sum")),
        ("tools.go", include_str!("../helm-4/tools.go")),
    ],
    programs: &[("helm", "helm.sh/helm/v4/cmd/helm")],
    link: "-s -w -X helm.sh/helm/v4/internal/version.version=v4.3.1",
};

/// A small program made with client-go, whose version it has.
const GO_CLIENT: GoModule = GoModule {
    directory: "client-go",
    version: "v0.37.2",
    files: &[
        ("go.mod", include_str!("../clients/go/go.mod")),
        ("go.sum", include_str!("../clients/go/go.sum")),
        ("main.go", include_str!("../clients/go/main.go")),
    ],
    programs: &[("client", ".")],
    link: "-s -w",
};

/// In place of nodes. Its version is that of the streaming code in it.
const KUBELET: GoModule = GoModule {
    directory: "kubelet",
    version: "v1.37.2",
    files: &[
        ("go.mod", include_str!("../kubelet/go.mod")),
        ("go.sum", include_str!("../kubelet/go.sum")),
        ("main.go", include_str!("../kubelet/main.go")),
        ("container.go", include_str!("../kubelet/container.go")),
        ("pods.go", include_str!("../kubelet/pods.go")),
    ],
    programs: &[("kubelet", ".")],
    link: "-s -w",
};

/// Files of a directory, by name: what `npm ci` and `pip` need, and what runs then.
type Files = &'static [(&'static str, &'static str)];

const PROVIDER: Files = &[
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

const JAVASCRIPT_CLIENT: Files = &[
    (".npmrc", include_str!("../clients/javascript/.npmrc")),
    ("package.json", include_str!("../clients/javascript/package.json")),
    ("package-lock.json", include_str!("../clients/javascript/package-lock.json")),
    ("client.mjs", include_str!("../clients/javascript/client.mjs")),
];

const PYTHON_CLIENT: Files = &[
    ("requirements.txt", include_str!("../clients/python/requirements.txt")),
    ("client.py", include_str!("../clients/python/client.py")),
];

/// Keycloak's distribution, and what it is to be: Maven checks no more than SHA-1.
const KEYCLOAK: (&str, &str) = ("26.7.3", "27a6535553c3cdcd083872ba40629efafb3475e3b758e0c6f691395561dd0f1f");
const MAVEN_COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy";

/// Directory with etcd, kube-apiserver, kube-controller-manager and kubectl, built now if they are not there.
pub fn control_plane() -> Result<PathBuf> {
    CONTROL_PLANE.build()
}

/// The lab's kubelet, built now if it is not there.
pub fn kubelet() -> Result<PathBuf> {
    Ok(KUBELET.build()?.join("kubelet"))
}

/// Directory with helm, built now if it is not there.
pub fn helm() -> Result<PathBuf> {
    HELM.build()
}

/// Directory with helm 4, built now if it is not there.
pub fn helm_4() -> Result<PathBuf> {
    HELM_4.build()
}

/// Directory with the program `client`, built now if it is not there.
pub fn go_client() -> Result<PathBuf> {
    GO_CLIENT.build()
}

/// Directory with the identity provider, installed now if it is not there.
pub fn provider() -> Result<PathBuf> {
    npm_package("oidc-provider", "the identity provider", PROVIDER)
}

/// Directory with `client.mjs` and what it needs, installed now if it is not there.
pub fn javascript_client() -> Result<PathBuf> {
    npm_package("client-javascript", "the JavaScript client", JAVASCRIPT_CLIENT)
}

fn npm_package(name: &str, what: &str, files: Files) -> Result<PathBuf> {
    let node = tools::output("node", &["--version"])?;
    let parts = files.iter().flat_map(|(name, text)| [*name, *text]).chain([node.as_str()]);
    cached(name, parts, |directory| {
        let step = Step::begin(&format!("installing {what}"));
        write_all(files, directory)?;
        let mut npm = Command::new("npm");
        npm.args(["ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(directory);
        step.run(&mut npm)
    })
}

/// Directory with `client.py`, and in `venv` the Python that has what it needs, installed now if it is not there.
pub fn python_client() -> Result<PathBuf> {
    tools::check_python()?;
    // The environment is bound to the interpreter that made it.
    let python = tools::output("python3", &["-c", "import sys; print(sys.version, sys.base_prefix)"])?;
    let parts = PYTHON_CLIENT.iter().flat_map(|(name, text)| [*name, *text]).chain([python.as_str()]);
    cached("client-python", parts, |directory| {
        write_all(PYTHON_CLIENT, directory)?;
        let step = Step::begin("making an environment for the Python client");
        step.run(Command::new("python3").args(["-m", "venv", "venv"]).current_dir(directory))?;
        let step = Step::begin("installing the Python client");
        let mut pip = Command::new(directory.join("venv/bin/python"));
        pip.args(["-m", "pip", "install", "--no-deps", "--require-hashes", "--only-binary=:all:", "--no-input"]);
        pip.args(["--disable-pip-version-check", "--requirement", "requirements.txt"]).current_dir(directory);
        step.run(&mut pip)
    })
}

/// The versions of the clients, as the matrix has them.
pub mod versions {
    use super::{CONTROL_PLANE, GO_CLIENT, GoModule, HELM, HELM_4, JAVASCRIPT_CLIENT, PYTHON_CLIENT};

    fn of(module: &GoModule) -> &'static str {
        module.version.trim_start_matches('v')
    }

    /// Of kubectl, as all of the control plane.
    pub fn kubectl() -> &'static str {
        of(&CONTROL_PLANE)
    }

    /// Of helm 3.
    pub fn helm() -> &'static str {
        of(&HELM)
    }

    /// Of helm 4.
    pub fn helm_4() -> &'static str {
        of(&HELM_4)
    }

    /// Of client-go.
    pub fn go_client() -> &'static str {
        of(&GO_CLIENT)
    }

    /// Of the JavaScript client.
    pub fn javascript_client() -> &'static str {
        pinned(JAVASCRIPT_CLIENT, "\"@kubernetes/client-node\": \"")
    }

    /// Of the Python client.
    pub fn python_client() -> &'static str {
        pinned(PYTHON_CLIENT, "\nkubernetes==")
    }

    /// What comes after `name` in the first of the files that has it, up to the end of the version.
    fn pinned(files: super::Files, name: &str) -> &'static str {
        let rest = files.iter().find_map(|(_, text)| Some(text.split_once(name)?.1)).unwrap_or_default();
        rest.split(|c: char| c != '.' && !c.is_ascii_digit()).next().unwrap_or_default()
    }

    #[cfg(test)]
    mod tests {
        #[test]
        fn what_is_pinned_has_a_version() {
            for version in [super::javascript_client(), super::python_client()] {
                assert_eq!(version.split('.').filter(|part| !part.is_empty()).count(), 3, "{version}");
            }
        }
    }
}

/// Directory with Keycloak, fetched and built now if it is not there.
pub fn keycloak() -> Result<PathBuf> {
    // It takes Java to run it, too.
    tools::check_java()?;
    let (version, sha256) = KEYCLOAK;
    let options = ["--db=dev-mem"];
    let name = format!("keycloak-{version}");
    let parts = [version, sha256, MAVEN_COPY].into_iter().chain(options);
    let directory = cached(&name, parts, |directory| {
        let step = Step::begin("fetching Keycloak");
        let mut maven = Command::new("mvn");
        maven.args(["--batch-mode", "--no-transfer-progress", MAVEN_COPY]);
        maven.arg(format!("-Dartifact=org.keycloak:keycloak-quarkus-dist:{version}:zip"));
        maven.arg("-DoutputDirectory=.").current_dir(directory);
        step.run(&mut maven)?;
        let archive = directory.join(format!("keycloak-quarkus-dist-{version}.zip"));
        check_sum(&archive, sha256)?;

        let step = Step::begin("unpacking Keycloak");
        step.run(Command::new("jar").arg("xf").arg(&archive).current_dir(directory))?;
        fs::remove_file(&archive)?;

        let step = Step::begin("building Keycloak");
        // It starts in half the time when what does not change any more is settled beforehand.
        let mut build = Command::new("sh");
        build.arg("bin/kc.sh").arg("build").args(options).env("JAVA_OPTS_KC_HEAP", "-Xmx512m");
        step.run(build.current_dir(directory.join(&name)))
    })?;
    Ok(directory.join(name))
}

fn write_all(files: Files, directory: &Path) -> Result<()> {
    for (name, text) in files {
        fs::write(directory.join(name), text)?;
    }
    Ok(())
}

fn check_sum(file: &Path, expected: &str) -> Result<()> {
    let mut hash = Sha256::new();
    std::io::copy(&mut File::open(file)?, &mut hash)?;
    let found = format!("{:x}", hash.finalize());
    if found != expected {
        bail!("{} is not what it should be: its SHA-256 is {found}", file.display());
    }
    Ok(())
}

impl GoModule {
    fn build(&self) -> Result<PathBuf> {
        let go = tools::output("go", &["env", "GOVERSION", "GOOS", "GOARCH", "CGO_ENABLED"])?;
        let parts = self.files.iter().map(|(_, text)| *text).chain([self.link, go.as_str()]);
        let name = format!("{}-{}", self.directory, self.version);
        cached(&name, parts, |directory| {
            let module = directory.join("module");
            fs::create_dir(&module)?;
            write_all(self.files, &module)?;
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
