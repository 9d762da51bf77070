//! Where everything of one lab is: files, ports, programs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::pki::Pki;
use crate::process::free_ports;
use crate::{binaries, role};

/// The OAuth client that kubectl-stepup is at the provider, and the audience of its tokens.
pub const CLIENT_ID: &str = "kubernetes";

/// The two programs under test.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `kubectl-stepup`.
    pub kubectl_stepup: PathBuf,
    /// `stepup-server`.
    pub stepup_server: PathBuf,
}

/// Who holds protected requests up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lock {
    /// stepup-server's webhooks, in addition to RBAC.
    #[default]
    Webhooks,
    /// RBAC alone, by groups in the tokens that stepup-server makes (`mode: groups`).
    Groups,
    /// RBAC and an admission policy, by a group that the provider's stronger token is mapped to. There is no stepup-server:
    /// the cluster is set up by the samples in `packaging/provider-only`.
    Provider,
}

/// What differs from the ordinary lab.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Who holds protected requests up.
    pub lock: Lock,
    /// The policy, instead of the sample (`tests/lab/policy.yaml`).
    pub policy: Option<String>,
    /// How the provider's tokens become people, instead of by their `sub`: lines of its entry in stepup-server's configuration,
    /// indented as they are there.
    pub people: Option<String>,
    /// Variables for the identity provider: `LAB_TTL_ID_TOKEN`, `LAB_TTL_REFRESH_TOKEN`, `LAB_TTL_DEVICE_CODE`,
    /// `LAB_DEVICE_INTERVAL` (all in seconds); `LAB_PROVIDER_SECRETS` (a file).
    pub provider_environment: Vec<(String, String)>,
    /// Lines added to stepup-server's configuration.
    pub extra_config: String,
    /// Whether there is Keycloak too, beside the ordinary provider.
    pub keycloak: bool,
}

/// The ports of one lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ports {
    pub etcd: u16,
    pub etcd_peer: u16,
    pub api_server: u16,
    pub provider: u16,
    pub stepup_server: u16,
    #[serde(default)]
    pub keycloak: u16,
}

impl Ports {
    pub(crate) fn free() -> Result<Self> {
        let [etcd, etcd_peer, api_server, provider, stepup_server, keycloak] = free_ports()?;
        Ok(Self { etcd, etcd_peer, api_server, provider, stepup_server, keycloak })
    }
}

/// A lab, laid out: nothing runs yet.
#[derive(Debug)]
pub(crate) struct Plan {
    pub directory: PathBuf,
    pub ports: Ports,
    pub pki: Pki,
    pub control_plane: PathBuf,
    pub kubelet: PathBuf,
    pub provider: PathBuf,
    pub keycloak: Option<PathBuf>,
    pub programs: Programs,
    pub options: Options,
}

impl Plan {
    /// Builds what is missing in the cache, and lays the lab out in `directory`.
    pub(crate) fn prepare(directory: &Path, ports: Ports, programs: &Programs, options: Options) -> Result<Self> {
        let control_plane = binaries::control_plane()?;
        let kubelet = binaries::kubelet()?;
        let provider = binaries::provider()?;
        let keycloak = if options.keycloak { Some(binaries::keycloak()?) } else { None };
        for sub in ["bin", "log", "kubeconfig", "home", "stepup", "rendered", "kubelet"] {
            fs::create_dir_all(directory.join(sub))?;
        }
        let directory = directory.canonicalize()?;
        let pki = Pki::open(&directory.join("pki"))?;
        let plan = Self {
            ports,
            pki,
            control_plane,
            kubelet,
            provider,
            keycloak,
            programs: programs.clone(),
            options,
            directory,
        };
        plan.fill_bin()?;
        Ok(plan)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(crate) fn log_directory(&self) -> PathBuf {
        self.file("log")
    }

    /// A program of the lab's `bin`.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.directory.join("bin").join(name)
    }

    pub(crate) fn issuer(&self) -> String {
        format!("https://127.0.0.1:{}", self.ports.provider)
    }

    pub(crate) fn server_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.ports.stepup_server)
    }

    pub(crate) fn api_server_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.ports.api_server)
    }

    pub(crate) fn admin_kubeconfig(&self) -> PathBuf {
        self.file("kubeconfig/admin.yaml")
    }

    /// Changes when the program called `name` has to be started again to be up to date.
    pub(crate) fn made_of(&self, name: &str) -> Result<String> {
        Ok(match name {
            "oidc-provider" => self.provider.display().to_string(),
            "kubelet" => self.kubelet.display().to_string(),
            "kube-apiserver" => format!("{} with nodes", self.control_plane.display()),
            "stepup-server" => {
                // The copy in `bin` is replaced only by a different one.
                let copied = fs::metadata(self.program(name))?.modified()?;
                format!("{copied:?} {}", fs::read_to_string(self.config_file())?)
            }
            _ => self.control_plane.display().to_string(),
        })
    }

    /// Puts helm beside kubectl.
    pub(crate) fn install_helm(&self) -> Result<()> {
        link(&binaries::helm()?.join("helm"), &self.program("helm"))
    }

    /// The people's `PATH`: kubectl finds its plugin there.
    fn fill_bin(&self) -> Result<()> {
        for name in ["etcd", "kube-apiserver", "kube-controller-manager", "kubectl"] {
            link(&self.control_plane.join(name), &self.program(name))?;
        }
        link(&self.kubelet, &self.program("kubelet"))?;
        // Copies, so that a later build changes nothing under a running lab.
        copy(&self.programs.kubectl_stepup, &self.program("kubectl-stepup"))?;
        copy(&self.programs.stepup_server, &self.program("stepup-server"))?;
        let browser = format!(
            "#!/bin/sh\n\
             # Signs in at the lab's providers; see the lab's browser.rs for what LAB_BROWSER can be.\n\
             export LAB_CA='{}' LAB_BROWSER_LOG=\"${{LAB_BROWSER_LOG:-{}}}\"\n\
             {}\n",
            self.pki.ca.display(),
            self.file("log/browser.log").display(),
            role::browser_command_line()?,
        );
        write_executable(&self.program("lab-browser"), &browser)
    }
}

/// Writes `text` so that whoever reads the file meanwhile sees either the old or the new whole.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    let temporary = path.with_extension("new");
    fs::write(&temporary, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(fs::rename(&temporary, path)?)
}

pub(crate) fn write_executable(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

pub(crate) fn link(target: &Path, link: &Path) -> Result<()> {
    if fs::read_link(link).is_ok_and(|current| current == target) {
        return Ok(());
    }
    let _ = fs::remove_file(link);
    std::os::unix::fs::symlink(target, link).with_context(|| format!("cannot link {}", link.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("{} is not built", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    // A running program cannot be written to, but its name can be given to another file.
    let temporary = to.with_extension("new");
    fs::copy(from, &temporary)?;
    Ok(fs::rename(&temporary, to)?)
}
