//! The commands that people type: each one a function that reads as its story.

pub mod completion;
pub mod doctor;
pub mod drop;
pub mod elevate;
pub mod explain;
pub mod history;
pub mod login;
pub mod logout;
pub mod proxy;
pub mod run;
pub mod setup;
pub mod status;

use crate::action::Action;
use crate::client::Clock;
use crate::client::cache::Session;
use crate::client::cli::Target;
use crate::client::error::Error;
use crate::client::kubeconfig::{Current, Files, KubeconfigError};
use crate::client::paths::Paths;
use crate::client::profile::{Name, Profile};
use crate::client::resource::{self, Scope};
use crate::client::{api, session};

/// Environment variable with the profile to use.
const PROFILE: &str = "KUBECTL_STEPUP_PROFILE";
/// Environment variable that tells what `run` runs which profile is meant where the kubeconfig names none: its own does not.
const RUN_PROFILE: &str = "KUBECTL_STEPUP_RUN_PROFILE";

/// The profile that is meant, and what the kubeconfig says about it.
struct Chosen {
    profile: Profile,
    current: Option<Current>,
}

impl Chosen {
    fn find(target: &Target) -> Result<Self, Error> {
        let paths = Paths::find();
        let current = current_context(target);
        // A kubeconfig that cannot be read matters only if it was to decide.
        let named = target.profile.clone().map_or_else(profile_of_environment, |name| Ok(Some(name)))?;
        let (name, current) = if let Some(name) = named {
            (name, current.ok().flatten())
        } else {
            let current = current?;
            let from_context = current.as_ref().and_then(|current| current.profile.as_deref()?.parse().ok());
            let of_run = || std::env::var(RUN_PROFILE).ok()?.parse().ok();
            (from_context.or_else(of_run).map_or_else(|| only_profile(&paths), Ok)?, current)
        };
        Ok(Self { profile: Profile::load(&paths, &name)?, current })
    }
}

fn profile_of_environment() -> Result<Option<Name>, Error> {
    let Some(name) = std::env::var_os(PROFILE).filter(|name| !name.is_empty()) else { return Ok(None) };
    let name = name.to_string_lossy();
    name.parse().map(Some).map_err(|problem| Error::Usage(format!("{PROFILE}={name:?}: {problem}")))
}

fn current_context(target: &Target) -> Result<Option<Current>, Error> {
    let Some(files) = kubeconfig_files(target.kubeconfig.as_deref()) else { return Ok(None) };
    let current = files.current(target.context.as_deref())?;
    if let (Some(context), None) = (&target.context, &current) {
        return Err(Error::Usage(format!("there is no context {context:?} in the kubeconfig")));
    }
    Ok(current)
}

fn kubeconfig_files(flag: Option<&std::path::Path>) -> Option<Files> {
    let home = directories::BaseDirs::new().map(|dirs| dirs.home_dir().to_owned());
    Files::find(flag, std::env::var_os("KUBECONFIG").as_deref(), home.as_deref())
}

/// "default" if there is one, else the only profile.
fn only_profile(paths: &Paths) -> Result<Name, Error> {
    let mut names = Profile::names(paths);
    if let Some(index) = names.iter().position(|name| name.as_str() == "default") {
        return Ok(names.swap_remove(index));
    }
    match names.len() {
        0 => Err(Error::NoProfile { name: "default".to_owned() }),
        1 => Ok(names.remove(0)),
        _ => {
            let names: Vec<&str> = names.iter().map(Name::as_str).collect();
            Err(Error::Usage(format!(
                "the current context does not use kubectl-stepup; say which profile with --profile: {}",
                names.join(", ")
            )))
        }
    }
}

impl From<KubeconfigError> for Error {
    fn from(error: KubeconfigError) -> Self {
        match error {
            KubeconfigError::OtherCredentials { .. }
            | KubeconfigError::NoContext { .. }
            | KubeconfigError::OtherCluster { .. } => Self::Usage(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// Refuses where stepup-server alone could answer and the profile does without, on purpose: to name one would end that.
fn needs_server(profile: &Profile, instead: &str) -> Result<(), Error> {
    if profile.provider_only.is_none() {
        return Ok(());
    }
    Err(Error::Failed(format!(
        "profile {} steps up at the identity provider, without stepup-server, so nobody here can tell: {instead}",
        profile.name
    )))
}

/// stepup-server, in the name of who is signed in.
fn server(profile: &Profile, clock: Clock) -> Result<(Session, api::Server), Error> {
    let session = session::current(profile, clock)?;
    let server = api::Server::new(profile, &session.base_token)?;
    Ok((session, server))
}

/// Actions as people name them: a verb, a resource and names, as kubectl has them.
struct Named<'a> {
    words: &'a [String],
    subresource: Option<&'a str>,
    namespace: Option<&'a str>,
    all_namespaces: bool,
    cluster_scoped: bool,
}

impl Named<'_> {
    /// The actions that are meant, in the context's namespace if none was named.
    fn actions(&self, chosen: &Chosen) -> Result<Vec<Action>, Error> {
        let of_context = chosen.current.as_ref().and_then(|current| current.namespace.as_deref());
        let scope = if self.all_namespaces {
            Scope::AllNamespaces
        } else if self.cluster_scoped {
            Scope::Cluster
        } else {
            Scope::Namespace(self.namespace.or(of_context).unwrap_or("default"))
        };
        let actions = resource::actions(self.words, self.subresource, scope);
        let checked = |action: Action| action.checked().map_err(|error| Error::Usage(error.to_string()));
        actions.map_err(|error| Error::Usage(error.to_string()))?.into_iter().map(checked).collect()
    }
}
