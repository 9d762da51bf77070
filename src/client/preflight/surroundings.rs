//! What a kubectl's arguments leave to its kubeconfig and to its cache of what the cluster knows. Looked up when it is
//! needed, which for most commands is never.

use std::cell::OnceCell;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value as Json;

use super::command_line::CommandLine;
use super::plan::{Impersonation, Kind};
use crate::client::kubeconfig::{Current, Files};
use crate::client::resource::{Resource, name_and_group};

/// Largest file of the cache that is read.
const LARGEST: u64 = 4 << 20;
/// Most API groups and versions that are read of it.
const MOST_FILES: usize = 500;

/// Looks a variable up, by its name.
pub type Variable = Box<dyn Fn(&str) -> Option<OsString>>;

/// Of one kubectl.
pub struct Surroundings {
    line: CommandLine,
    variable: Variable,
    files: OnceCell<Option<Files>>,
    current: OnceCell<Option<Current>>,
    known: OnceCell<Vec<Known>>,
}

/// A resource that the cluster has, with its names.
struct Known {
    resource: Resource,
    kind: String,
    names: Vec<String>,
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").field("line", &self.line).finish_non_exhaustive()
    }
}

impl Surroundings {
    /// Of the kubectl with this command line and environment.
    pub fn new(line: CommandLine, variable: Variable) -> Self {
        let (files, current, known) = (OnceCell::new(), OnceCell::new(), OnceCell::new());
        Self { line, variable, files, current, known }
    }

    /// The namespace that the command is about, where it names none.
    pub fn namespace(&self) -> String {
        let stated = self.line.flag("namespace").map(ToOwned::to_owned);
        let of_context = || self.current()?.namespace.clone();
        stated.or_else(of_context).unwrap_or_else(|| "default".to_owned())
    }

    /// What the cluster knows by that name.
    pub fn resource(&self, kind: &Kind) -> Option<Resource> {
        let mut known = self.known.get_or_init(|| self.discovered().unwrap_or_default()).iter();
        match kind {
            Kind::Is(resource) => Some(resource.clone()),
            Kind::Path(_) => None,
            Kind::OfKind { kind, group } => known
                .find(|known| known.kind == *kind && known.resource.group == *group)
                .map(|known| known.resource.clone()),
            Kind::Called(typed) => {
                let (name, group) = name_and_group(typed);
                let is_called = |known: &&Known| {
                    known.names.contains(&name) && group.as_ref().is_none_or(|group| *group == known.resource.group)
                };
                known.find(is_called).map(|known| known.resource.clone()).or_else(|| Resource::custom(typed))
            }
        }
    }

    /// Whom the kubeconfig has the command act as.
    pub fn impersonation(&self) -> Impersonation {
        let of_context = || self.current()?.user.clone();
        let user = self.line.flag("user").map(ToOwned::to_owned).or_else(of_context);
        let said = user.and_then(|user| Some(self.files()?.impersonation(&user))).unwrap_or_default();
        let text = |key: &str| said.get(key).and_then(Json::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
        let texts = |json: &Json| -> Vec<String> {
            json.as_array().into_iter().flatten().filter_map(|text| Some(text.as_str()?.to_owned())).collect()
        };
        let extra = said.get("as-user-extra").and_then(Json::as_object).into_iter().flatten();
        Impersonation {
            user: text("as"),
            groups: said.get("as-groups").map(texts).unwrap_or_default(),
            uid: text("as-uid"),
            extra: extra.flat_map(|(key, all)| texts(all).into_iter().map(|value| (key.clone(), value))).collect(),
        }
    }

    /// URL of the API server that the command talks to.
    pub fn api_server(&self) -> Option<String> {
        let of_kubeconfig = || {
            let of_context = || self.current()?.cluster.clone();
            let cluster = self.line.flag("cluster").map(ToOwned::to_owned).or_else(of_context)?;
            self.files()?.server(&cluster)
        };
        self.line.flag("server").map(ToOwned::to_owned).or_else(of_kubeconfig)
    }

    /// The context that says where that is and who asks.
    pub fn context(&self) -> Option<&str> {
        self.current().map(|current| current.context.as_str())
    }

    fn files(&self) -> Option<&Files> {
        let found = self.files.get_or_init(|| {
            let (flag, env) = (self.line.flag("kubeconfig").map(Path::new), (self.variable)("KUBECONFIG"));
            Files::find(flag, env.as_deref(), self.home().as_deref())
        });
        found.as_ref()
    }

    fn current(&self) -> Option<&Current> {
        // One that makes no sense is kubectl's to complain about.
        let read = || self.files()?.current(self.line.flag("context")).ok().flatten();
        self.current.get_or_init(read).as_ref()
    }

    fn home(&self) -> Option<PathBuf> {
        let home = (self.variable)("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        home.or_else(|| directories::BaseDirs::new().map(|dirs| dirs.home_dir().to_owned()))
    }

    /// What kubectl has cached of its last discovery, if it was of this cluster.
    fn discovered(&self) -> Option<Vec<Known>> {
        let server = self.api_server()?;
        let cache = match (self.line.flag("cache-dir"), (self.variable)("KUBECACHEDIR")) {
            (Some(flag), _) => PathBuf::from(flag),
            (None, Some(variable)) if !variable.is_empty() => PathBuf::from(variable),
            _ => self.home()?.join(".kube/cache"),
        };
        Some(read_cache(&cache.join("discovery").join(directory_of(&server))))
    }
}

/// As `computeDiscoverCacheDir` of k8s.io/cli-runtime names it.
fn directory_of(server: &str) -> String {
    let host = server.replacen("https://", "", 1).replacen("http://", "", 1);
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "_/.()".contains(c);
    host.chars().map(|c| if is_safe(c) { c } else { '_' }).collect()
}

/// `GROUP/VERSION/serverresources.json`, or `VERSION/…` for the core group; APIResourceLists all of them.
fn read_cache(directory: &Path) -> Vec<Known> {
    let mut lists: Vec<PathBuf> = Vec::new();
    for group in directories(directory) {
        for version in directories(&group) {
            lists.push(version.join("serverresources.json"));
        }
    }
    lists.sort();
    lists.iter().take(MOST_FILES).flat_map(|path| read_list(path).unwrap_or_default()).collect()
}

fn directories(of: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(of).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

fn read_list(path: &Path) -> Option<Vec<Known>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct List {
        group_version: String,
        resources: Vec<Entry>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Entry {
        name: String,
        #[serde(default)]
        singular_name: String,
        #[serde(default)]
        namespaced: bool,
        kind: String,
        #[serde(default)]
        short_names: Vec<String>,
    }
    let data = fs::metadata(path).ok()?;
    (data.is_file() && data.len() <= LARGEST).then_some(())?;
    let list: List = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let group = list.group_version.split_once('/').map_or("", |(group, _)| group).to_owned();
    let resources = list.resources.into_iter().filter(|entry| !entry.name.contains('/'));
    let known = resources.map(|entry| {
        let mut names = vec![entry.name.clone(), entry.kind.to_ascii_lowercase(), entry.singular_name];
        names.extend(entry.short_names);
        let resource = Resource { group: group.clone(), resource: entry.name, namespaced: entry.namespaced };
        Known { resource, kind: entry.kind, names }
    });
    Some(known.collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn line(text: &str) -> CommandLine {
        CommandLine::parse(&text.split(' ').map(str::to_owned).collect::<Vec<_>>()).unwrap()
    }

    fn kubeconfig(home: &Path) -> PathBuf {
        let path = home.join("config");
        fs::write(
            &path,
            "clusters:\n- name: c\n  cluster: {server: 'https://api.example.com:6443'}\n\
             contexts:\n- name: a\n  context: {cluster: c, user: u, namespace: shop}\n\
             - name: b\n  context: {cluster: c, user: u}\ncurrent-context: a\n",
        )
        .unwrap();
        path
    }

    #[test]
    fn the_namespace_is_the_flags_else_the_contexts() {
        let home = tempfile::tempdir().unwrap();
        let path = kubeconfig(home.path());
        let variables = || -> Variable {
            let path = path.clone();
            Box::new(move |name| (name == "KUBECONFIG").then(|| path.clone().into_os_string()))
        };
        let nowhere = || -> Variable { Box::new(|_| Some(OsString::from("/nonexistent"))) };
        let namespace = |text: &str| Surroundings::new(line(text), variables()).namespace();
        assert_eq!(namespace("kubectl get pods -n prod"), "prod");
        assert_eq!(namespace("kubectl get pods"), "shop");
        assert_eq!(namespace("kubectl get pods --context b"), "default");
        assert_eq!(namespace("kubectl get pods --context none"), "default");
        assert_eq!(namespace("kubectl get pods -n="), "shop");
        let flag = format!("kubectl --kubeconfig {} get pods", path.display());
        assert_eq!(Surroundings::new(line(&flag), nowhere()).namespace(), "shop");
        assert_eq!(Surroundings::new(line("kubectl get pods"), nowhere()).namespace(), "default");
        fs::write(&path, "{").unwrap();
        assert_eq!(namespace("kubectl get pods"), "default");
    }

    #[test]
    fn custom_resources_are_looked_up_in_kubectls_own_cache() {
        let home = tempfile::tempdir().unwrap();
        let path = kubeconfig(home.path());
        let list = home.path().join("cache/discovery/api.example.com_6443/example.com/v1/serverresources.json");
        fs::create_dir_all(list.parent().unwrap()).unwrap();
        let resources = json!({"groupVersion": "example.com/v1", "resources": [
            {"name": "widgets", "singularName": "widget", "namespaced": true, "kind": "Widget", "shortNames": ["wd"]},
            {"name": "widgets/status", "singularName": "", "namespaced": true, "kind": "Widget"},
            {"name": "planets", "singularName": "planet", "namespaced": false, "kind": "Planet"}]});
        fs::write(&list, resources.to_string()).unwrap();
        let broken = home.path().join("cache/discovery/api.example.com_6443/broken/v1");
        fs::create_dir_all(&broken).unwrap();
        fs::write(broken.join("serverresources.json"), "{").unwrap();
        let cache = home.path().join("cache");
        let variable: Variable = Box::new(move |name| match name {
            "KUBECONFIG" => Some(path.clone().into_os_string()),
            "KUBECACHEDIR" => Some(cache.clone().into_os_string()),
            _ => None,
        });
        let surroundings = Surroundings::new(line("kubectl get x"), variable);
        let found = |typed: &str| {
            let resource = surroundings.resource(&Kind::Called(typed.to_owned()));
            resource.map(|resource| (resource.resource, resource.group, resource.namespaced))
        };
        let widgets = Some(("widgets".to_owned(), "example.com".to_owned(), true));
        for typed in ["wd", "widget", "Widget", "widgets", "widgets.example.com", "wd.v1.example.com"] {
            assert_eq!(found(typed), widgets, "{typed}");
        }
        assert_eq!(found("planet"), Some(("planets".to_owned(), "example.com".to_owned(), false)));
        assert_eq!(found("wd.other.com"), Some(("wd".to_owned(), "other.com".to_owned(), true)), "as it is written");
        assert_eq!(found("unknown"), None);
        let of_kind = Kind::OfKind { kind: "Planet".to_owned(), group: "example.com".to_owned() };
        assert_eq!(surroundings.resource(&of_kind).map(|found| found.resource), Some("planets".to_owned()));
    }

    #[test]
    fn the_cache_is_where_kubectl_puts_it() {
        assert_eq!(directory_of("https://127.0.0.1:6443"), "127.0.0.1_6443");
        assert_eq!(directory_of("https://x-y.example.com/k8s/a:b"), "x_y.example.com/k8s/a_b");
        assert_eq!(directory_of("http://[::1]:8080"), "___1__8080");
    }
}
