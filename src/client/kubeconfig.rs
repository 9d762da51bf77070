//! The kubeconfig: which files it is, what the current context says, and how a user gets into it.
//!
//! [`plan`] works out the change and proves that nothing else changes; [`Edit::diff`] shows it; [`Edit::write`] makes
//! it. Comments, order and formatting of everything else stay, byte for byte.

mod edit;
mod mask;
mod route;
mod tree;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::client::paths;

pub use self::route::{Cluster, Route, Sibling};
use self::tree::{Document, Node, Value};

/// Name of our executable, as kubeconfigs call it.
const COMMAND: &str = "kubectl-stepup";
const INSTALL_HINT: &str = "kubectl-stepup is not on your PATH: ask your cluster's administrator where to get it";
/// No kubeconfig is that large; something else was named.
const MAX_BYTES: u64 = 16 << 20;
/// Keys of a user that hold credentials, `exec` apart. client-go takes the first that it likes, so they must not stay
/// beside `exec` ("exec plugin credentials may not be combined with …").
const CREDENTIALS: [&str; 9] = [
    "client-certificate",
    "client-certificate-data",
    "client-key",
    "client-key-data",
    "token",
    "tokenFile",
    "username",
    "password",
    "auth-provider",
];

/// Why a kubeconfig cannot be read or changed. The file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// The file system said no.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// Verb.
        what: &'static str,
        /// File.
        path: PathBuf,
        /// Its words.
        source: io::Error,
    },
    /// It is not YAML.
    #[error("{path}:{line}: not a valid kubeconfig: {what}")]
    Malformed {
        /// File.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong there.
        what: String,
    },
    /// It is YAML, and nothing that can be changed safely.
    #[error("{path}: {what}; the file was left as it is")]
    Refused {
        /// File.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// The user has credentials of another kind.
    #[error(
        "{path}: user {user:?} already signs in with {credentials}; to replace that, say --overwrite, or choose another \
         name with --user"
    )]
    OtherCredentials {
        /// File.
        path: PathBuf,
        /// User.
        user: String,
        /// Which.
        credentials: String,
    },
    /// There is no such context.
    #[error("there is no context {context:?} in {path}; name its cluster with --cluster to make one")]
    NoContext {
        /// File.
        path: PathBuf,
        /// Context.
        context: String,
    },
    /// The context exists and is for another cluster.
    #[error("{path}: context {context:?} is for cluster {found:?}; leave --cluster out, or choose another --context")]
    OtherCluster {
        /// File.
        path: PathBuf,
        /// Context.
        context: String,
        /// Its cluster.
        found: String,
    },
    /// Somebody holds kubectl's lock.
    #[error("{0} exists: another program is changing the kubeconfig (if none is, remove that file)")]
    Locked(PathBuf),
    /// The file changed between reading and writing.
    #[error("{0} was changed by another program meanwhile; run the same command again")]
    ChangedMeanwhile(PathBuf),
}

use KubeconfigError as Error;

/// Version of the exec credential protocol to ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ExecApiVersion {
    /// `client.authentication.k8s.io/v1`, kubectl 1.22 and later.
    #[default]
    V1,
    /// `client.authentication.k8s.io/v1beta1`, for older clients.
    V1beta1,
}

/// What the kubeconfig shall say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Name of the user entry.
    pub user: String,
    /// Our profile that it signs in with.
    pub profile: String,
    /// Version of the protocol.
    pub api_version: ExecApiVersion,
    /// Context that shall use it.
    pub context: Option<String>,
    /// Cluster of that context, where the context is to be made.
    pub cluster: Option<String>,
    /// Whether credentials of another kind may be dropped.
    pub overwrite: bool,
    /// Whether the plugin is to be told which API server the token is for.
    pub cluster_info: bool,
}

/// The files that make up the kubeconfig, in kubectl's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    paths: Vec<PathBuf>,
    default: PathBuf,
}

impl Files {
    /// From `--kubeconfig`, else `$KUBECONFIG`, else `~/.kube/config`.
    pub fn find(flag: Option<&Path>, env: Option<&OsStr>, home: Option<&Path>) -> Option<Self> {
        if let Some(path) = flag {
            return Some(Self { paths: vec![path.to_owned()], default: path.to_owned() });
        }
        let mut paths: Vec<PathBuf> = Vec::new();
        for path in env.into_iter().flat_map(std::env::split_paths) {
            if !path.as_os_str().is_empty() && !paths.contains(&path) {
                paths.push(path);
            }
        }
        if paths.is_empty() {
            paths.push(home?.join(".kube").join("config"));
        }
        // As client-go's PathOptions.GetDefaultFilename: the first that exists, else the last.
        let default = paths.iter().find(|path| path.exists()).or(paths.last())?.clone();
        Some(Self { paths, default })
    }

    /// What the current context, or the one called `context`, says; `None` where there is none.
    ///
    /// Files that do not exist are skipped, and the first that names something wins, as in kubectl.
    pub fn current(&self, context: Option<&str>) -> Result<Option<Current>, Error> {
        let mut documents = Vec::new();
        for path in &self.paths {
            if let Some(text) = read(path)? {
                documents.push(parse(path, &text)?);
            }
        }
        let named = |list: &str, name: &str| documents.iter().find_map(|document| entry(document, list, name));
        let chosen = match context {
            Some(context) => Some(context.to_owned()),
            None => documents
                .iter()
                .filter_map(|document| document.root.as_ref()?.get("current-context")?.text())
                .map(ToOwned::to_owned)
                .next(),
        };
        let Some(context) = chosen else { return Ok(None) };
        let Some(found) = named("contexts", &context).and_then(|entry| entry.get("context")) else { return Ok(None) };
        let text = |key: &str| found.get(key).and_then(Node::scalar).filter(|text| !text.is_empty()).map(String::from);
        let user = text("user");
        let exec = user.as_deref().and_then(|user| named("users", user)?.get("user")?.get("exec"));
        Ok(Some(Current {
            profile: exec.filter(|exec| is_ours(exec)).and_then(profile_argument),
            namespace: text("namespace"),
            cluster: text("cluster"),
            user,
            context,
        }))
    }
}

impl Files {
    /// URL of the API server of a cluster.
    pub fn server(&self, cluster: &str) -> Option<String> {
        self.paths.iter().find_map(|path| {
            let document = parse(path, &read(path).ok()??).ok()?;
            Some(entry(&document, "clusters", cluster)?.get("cluster")?.get("server")?.scalar()?.to_owned())
        })
    }

    /// How a user signs in, where that is by an exec plugin.
    pub fn plugin(&self, user: &str) -> Option<Plugin> {
        self.paths.iter().find_map(|path| {
            let document = parse(path, &read(path).ok()??).ok()?;
            let exec = entry(&document, "users", user)?.get("user")?.get("exec")?;
            let text = |key: &str| exec.get(key).and_then(Node::scalar).filter(|text| !text.is_empty());
            Some(Plugin {
                command: text("command")?.to_owned(),
                is_ours: is_ours(exec),
                api_version: text("apiVersion").map(ToOwned::to_owned),
                interactive_mode: text("interactiveMode").map(ToOwned::to_owned),
            })
        })
    }
}

/// A user's exec plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// What is run.
    pub command: String,
    /// Whether that is us.
    pub is_ours: bool,
    /// Version of the protocol.
    pub api_version: Option<String>,
    /// Whether the plugin gets kubectl's stdin.
    pub interactive_mode: Option<String>,
}

/// The context that kubectl would use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Current {
    /// Its name.
    pub context: String,
    /// Its cluster.
    pub cluster: Option<String>,
    /// Its user.
    pub user: Option<String>,
    /// Its namespace.
    pub namespace: Option<String>,
    /// Our profile that its user signs in with, where it is ours.
    pub profile: Option<String>,
}

/// One file's change.
#[derive(Debug)]
pub struct Edit {
    /// The file, as it was named.
    pub path: PathBuf,
    /// What was replaced, in words, for the person.
    pub replaced: Vec<String>,
    before: Option<String>,
    after: String,
}

impl Edit {
    /// Whether the file already says all of it.
    pub fn is_empty(&self) -> bool {
        self.before.as_deref() == Some(&self.after)
    }

    /// The change as a unified diff, with every secret in it hidden.
    pub fn diff(&self) -> String {
        diff(&self.path, self.before.as_deref(), &self.after)
    }

    /// Makes the change: in one step, through symbolic links, with the file's mode, and only if the file still is as
    /// it was read. Like kubectl, it holds `<file>.lock` meanwhile.
    pub fn write(&self) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        let target = follow_links(&self.path)?;
        let failed = |what: &'static str| {
            let path = target.clone();
            move |source| Error::Io { what, path, source }
        };
        let directory = match target.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory.to_owned(),
            _ => PathBuf::from("."),
        };
        make_directory(&directory).map_err(failed("make the directory of"))?;
        let _lock = KubectlLock::take(&target)?;
        if read(&target)? != self.before {
            return Err(Error::ChangedMeanwhile(self.path.clone()));
        }
        let mut temporary = target.clone().into_os_string();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let written = write_new(&temporary, &self.after, fs::metadata(&target).ok().as_ref())
            .and_then(|()| paths::replace(&temporary, &target));
        if written.is_err() {
            // Best effort: the error that matters is the first.
            let _ = fs::remove_file(&temporary);
        }
        written.map_err(failed("write"))?;
        // The rename itself shall survive a crash; not every file system can sync a directory.
        let _ = File::open(&directory).and_then(|directory| directory.sync_all());
        Ok(())
    }
}

/// A change of YAML or JSON as a unified diff, with every secret in it hidden; empty where there is none.
pub fn diff(path: &Path, before: Option<&str>, after: &str) -> String {
    let (old, new) = (mask::masked(before.unwrap_or_default()), mask::masked(after));
    let path = path.display().to_string();
    similar::TextDiff::from_lines(old.as_str(), new.as_str())
        .unified_diff()
        .context_radius(3)
        .header(if before.is_some() { &path } else { "/dev/null" }, &path)
        .to_string()
}

/// Works out what has to change so that the kubeconfig says what is wanted. Nothing is written.
///
/// The file that already has the user is changed, else the one that kubectl would put it in; the same goes for the context.
pub fn plan(files: &Files, wanted: &Wanted) -> Result<Vec<Edit>, Error> {
    let mut texts = Vec::new();
    for path in &files.paths {
        let before = read(path)?;
        let document = parse(path, before.as_deref().unwrap_or_default())?;
        texts.push((path, before, document));
    }
    let home_of = |list: &str, name: &str| {
        let has = texts.iter().find(|(_, _, document)| entry(document, list, name).is_some());
        has.map_or(&files.default, |(path, _, _)| *path)
    };
    let user_file = home_of("users", &wanted.user);
    let context_file = wanted.context.as_deref().map(|context| home_of("contexts", context));
    let mut edits = Vec::new();
    for (path, before, _) in &texts {
        let is_users = *path == user_file;
        let context = wanted.context.as_deref().filter(|_| context_file == Some(*path));
        if !is_users && context.is_none() {
            continue;
        }
        let mut change = Change { path, text: before.clone().unwrap_or_default(), replaced: Vec::new() };
        // A byte order mark is no part of the YAML that positions refer to.
        let mark = if change.text.starts_with('\u{feff}') { change.text.remove(0).to_string() } else { String::new() };
        if is_users {
            change.user(wanted)?;
        }
        if let Some(context) = context {
            change.context(context, wanted)?;
        }
        let edit = Edit {
            path: (*path).clone(),
            replaced: change.replaced,
            before: before.clone(),
            after: format!("{mark}{}", change.text),
        };
        if !edit.is_empty() {
            edits.push(edit);
        }
    }
    Ok(edits)
}

/// A text on its way from before to after, one verified step at a time.
struct Change<'a> {
    path: &'a Path,
    text: String,
    replaced: Vec<String>,
}

impl Change<'_> {
    fn user(&mut self, wanted: &Wanted) -> Result<(), Error> {
        let exec = exec_value(wanted);
        let document = self.parse()?;
        let Some(entry) = self.own_entry(&document, "users", &wanted.user)? else {
            let item = Value::from_pairs([
                ("name", Value::from_text(&wanted.user)),
                ("user", Value::from_pairs([("exec", exec)])),
            ]);
            return self.append("users", &item);
        };
        let Some(user) = entry.get("user").filter(|user| !user.is_null()) else {
            let user = Value::from_pairs([("exec", exec)]);
            return self.set(&["users", &wanted.user], "user", &user);
        };
        if !user.is_mapping() {
            return Err(self.refused(format!("user {:?} is not a mapping", wanted.user)));
        }
        let others: Vec<&str> = CREDENTIALS.into_iter().filter(|key| has_credential(user, key)).collect();
        if !others.is_empty() && !wanted.overwrite {
            return Err(Error::OtherCredentials {
                path: self.path.to_owned(),
                user: wanted.user.clone(),
                credentials: others.join(", "),
            });
        }
        // Empty ones (`token: ""`) say nothing and stay.
        let mut replaced = Vec::new();
        let path = ["users", &wanted.user, "user"];
        match user.get("exec").filter(|exec| !exec.is_null()) {
            Some(old) if is_ours(old) => {
                let Value::Map(pairs) = exec else { return Ok(()) };
                let path = ["users", &wanted.user, "user", "exec"];
                for (key, value) in pairs {
                    let Value::Text(key) = key else { continue };
                    // Where the program is was somebody's choice (an absolute path, say).
                    if key != "command" {
                        self.set(&path, &key, &value)?;
                    }
                }
            }
            old => {
                if let Some(old) = old {
                    replaced.push(format!("the credential plugin of user {:?}: {}", wanted.user, command_line(old)));
                }
                self.set(&path, "exec", &exec)?;
            }
        }
        for key in others {
            self.remove(&path, key)?;
            replaced.push(format!("{key} of user {:?}", wanted.user));
        }
        self.replaced.extend(replaced);
        Ok(())
    }

    fn context(&mut self, context: &str, wanted: &Wanted) -> Result<(), Error> {
        let document = self.parse()?;
        let user = Value::from_text(&wanted.user);
        let Some(entry) = self.own_entry(&document, "contexts", context)? else {
            let Some(cluster) = &wanted.cluster else {
                return Err(Error::NoContext { path: self.path.to_owned(), context: context.to_owned() });
            };
            let item = Value::from_pairs([
                ("context", Value::from_pairs([("cluster", Value::from_text(cluster)), ("user", user)])),
                ("name", Value::from_text(context)),
            ]);
            return self.append("contexts", &item);
        };
        let inner = entry.get("context").filter(|inner| inner.is_mapping());
        let Some(inner) = inner else {
            return Err(self.refused(format!("context {context:?} says nothing")));
        };
        let found = inner.get("cluster").and_then(Node::scalar).unwrap_or_default();
        if wanted.cluster.as_deref().is_some_and(|cluster| cluster != found) {
            return Err(Error::OtherCluster {
                path: self.path.to_owned(),
                context: context.to_owned(),
                found: found.to_owned(),
            });
        }
        if let Some(old) = inner.get("user").and_then(Node::text).filter(|old| *old != wanted.user) {
            self.replaced.push(format!("user {old:?} of context {context:?}"));
        }
        self.set(&["contexts", context, "context"], "user", &user)
    }

    /// The entry called `name`, if it is there and can be changed.
    fn own_entry<'d>(&self, document: &'d Document, list: &str, name: &str) -> Result<Option<&'d Node>, Error> {
        let Some(root) = &document.root else { return Ok(None) };
        if !root.is_mapping() {
            return Err(self.refused("it is not a kubeconfig (no mapping at the top)".to_owned()));
        }
        if let Some(kind) = root.get("kind").and_then(Node::scalar).filter(|kind| *kind != "Config" && !kind.is_empty())
        {
            return Err(self.refused(format!("it is not a kubeconfig (kind: {kind})")));
        }
        if root.has_twice(list) {
            return Err(self.refused(format!("it has {list:?} twice")));
        }
        let Some(entries) = root.get(list) else { return Ok(None) };
        if !(entries.is_sequence() || entries.is_null()) {
            return Err(self.refused(format!("{list:?} is not a list")));
        }
        let is_named = |item: &&Node| {
            let item = document.resolve(item).unwrap_or(item);
            item.get("name").and_then(|found| document.resolve(found)).and_then(Node::scalar) == Some(name)
        };
        let what = list.trim_end_matches('s');
        let mut found = entries.items().iter().filter(is_named);
        let Some(item) = found.next() else { return Ok(None) };
        if found.next().is_some() {
            return Err(self.refused(format!("it has two {list} called {name:?}: remove one, or choose another name")));
        }
        let inner = item.get(what);
        let exec = inner.and_then(|inner| inner.get("exec"));
        for node in [Some(item), inner, exec].into_iter().flatten() {
            if !matches!(node.value(), Value::Map(_)) && !node.is_null() && !node.is_mapping() {
                return Err(self.refused(format!("{what} {name:?} is written as a YAML alias: write it out first")));
            }
            if document.is_shared(node) {
                return Err(self.refused(format!("{what} {name:?} is shared by a YAML anchor: write it out first")));
            }
            if node.get("<<").is_some() {
                return Err(self.refused(format!("{what} {name:?} is merged in by a YAML alias: write it out first")));
            }
        }
        for node in [Some(item), inner, exec].into_iter().flatten() {
            if let Some((key, _)) =
                node.entries().iter().find(|(key, _)| node.has_twice(key.scalar().unwrap_or_default()))
            {
                let key = key.scalar().unwrap_or_default();
                return Err(self.refused(format!("{what} {name:?} has {key:?} twice")));
            }
        }
        Ok(Some(item))
    }

    /// Adds `item` to the list at the top called `list`.
    fn append(&mut self, list: &str, item: &Value) -> Result<(), Error> {
        let document = self.parse()?;
        let items = Value::List(vec![item.clone()]);
        let text = match &document.root {
            None => self.skeleton(list, &items)?,
            Some(root) => match root.entries().iter().position(|(key, _)| key.scalar() == Some(list)) {
                None => self.usual(edit::insert(&self.text, root, list, &items))?,
                Some(index) => {
                    let old = &root.entries()[index].1;
                    let becomes_block = !root.is_flow() && old.is_empty_collection();
                    if old.is_null() || becomes_block {
                        self.usual(edit::replace(&self.text, root, index, &items))?
                    } else {
                        self.usual(edit::append(&self.text, old, item))?
                    }
                }
            },
        };
        self.accept(text, |root| {
            let list = slot(root, list);
            match list {
                Value::List(items) => items.push(item.clone()),
                other => *other = Value::List(vec![item.clone()]),
            }
        })
    }

    /// A kubeconfig with nothing else in it, below whatever comments there are.
    fn skeleton(&self, list: &str, items: &Value) -> Result<String, Error> {
        let mut text = self.text.clone();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str("apiVersion: v1\nkind: Config\n");
        let document = Document::parse(&text).map_err(|malformed| self.malformed(malformed))?;
        match &document.root {
            Some(root) => self.usual(edit::insert(&text, root, list, items)),
            None => Err(self.refused("its layout is unusual".to_owned())),
        }
    }

    /// Makes `key` of the mapping at `path` (a list, a name in it, then keys) be `value`.
    fn set(&mut self, path: &[&str], key: &str, value: &Value) -> Result<(), Error> {
        let document = self.parse()?;
        let Some(map) = node_at(&document, path) else { return Err(self.refused("its layout is unusual".to_owned())) };
        let text = match map.entries().iter().position(|(k, _)| k.scalar() == Some(key)) {
            Some(index) if map.entries()[index].1.value() == *value => return Ok(()),
            Some(index) => self.usual(edit::replace(&self.text, map, index, value))?,
            // `{}` in a block becomes a block.
            None if map.is_empty_collection() && path.len() > 2 => {
                let (last, parent) = path.split_last().unwrap_or((&"", &[]));
                let parent = node_at(&document, parent).filter(|parent| !parent.is_flow());
                let position = |parent: &Node| parent.entries().iter().position(|(k, _)| k.scalar() == Some(last));
                match parent.and_then(|parent| Some((parent, position(parent)?))) {
                    Some((parent, index)) => {
                        let value = Value::from_pairs([(key, value.clone())]);
                        self.usual(edit::replace(&self.text, parent, index, &value))?
                    }
                    None => self.usual(edit::insert(&self.text, map, key, value))?,
                }
            }
            None => self.usual(edit::insert(&self.text, map, key, value))?,
        };
        self.accept(text, |root| {
            if let Some(map) = value_at(root, path) {
                *slot(map, key) = value.clone();
            }
        })
    }

    fn remove(&mut self, path: &[&str], key: &str) -> Result<(), Error> {
        let document = self.parse()?;
        let map = node_at(&document, path);
        let index = map.and_then(|map| map.entries().iter().position(|(k, _)| k.scalar() == Some(key)));
        let (Some(map), Some(index)) = (map, index) else { return Ok(()) };
        let text = self.usual(edit::remove(&self.text, map, index))?;
        self.accept(text, |root| {
            if let Some(Value::Map(entries)) = value_at(root, path) {
                entries.retain(|(k, _)| *k != Value::from_text(key));
            }
        })
    }

    /// Takes `text` as the new text if it means what the old one did with `intended` done to it, and nothing else.
    fn accept(&mut self, text: String, intended: impl FnOnce(&mut Value)) -> Result<(), Error> {
        let mut expected = self.parse()?.root.map_or_else(
            || Value::from_pairs([("apiVersion", Value::from_text("v1")), ("kind", Value::from_text("Config"))]),
            |root| root.value(),
        );
        intended(&mut expected);
        let found = Document::parse(&text).ok().and_then(|document| document.root).map(|root| root.value());
        if found.as_ref() != Some(&expected) {
            return Err(self.refused("its layout is unusual, and the change would not have been clean".to_owned()));
        }
        self.text = text;
        Ok(())
    }

    fn usual(&self, result: Result<String, edit::Unusual>) -> Result<String, Error> {
        result.map_err(|edit::Unusual(what)| self.refused(format!("its layout is unusual ({what})")))
    }

    fn parse(&self) -> Result<Document, Error> {
        Document::parse(&self.text).map_err(|malformed| self.malformed(malformed))
    }

    fn malformed(&self, malformed: tree::Malformed) -> Error {
        Error::Malformed { path: self.path.to_owned(), line: malformed.line, what: malformed.what }
    }

    fn refused(&self, what: String) -> Error {
        Error::Refused { path: self.path.to_owned(), what }
    }
}

/// `exec` of a user, keys in kubectl's own order.
fn exec_value(wanted: &Wanted) -> Value {
    let version = match wanted.api_version {
        ExecApiVersion::V1 => "client.authentication.k8s.io/v1",
        ExecApiVersion::V1beta1 => "client.authentication.k8s.io/v1beta1",
    };
    let args = ["get-token", "--profile", &wanted.profile].map(Value::from_text).to_vec();
    Value::from_pairs([
        ("apiVersion", Value::from_text(version)),
        ("args", Value::List(args)),
        ("command", Value::from_text(COMMAND)),
        ("installHint", Value::from_text(INSTALL_HINT)),
        ("interactiveMode", Value::from_text("IfAvailable")),
        ("provideClusterInfo", Value::Other(wanted.cluster_info.to_string())),
    ])
}

fn is_ours(exec: &Node) -> bool {
    let name = exec.get("command").and_then(Node::scalar).and_then(|command| Path::new(command).file_stem());
    name == Some(OsStr::new(COMMAND))
}

fn profile_argument(exec: &Node) -> Option<String> {
    let mut args = exec.get("args")?.items().iter().filter_map(Node::scalar);
    while let Some(arg) = args.next() {
        match arg.strip_prefix("--profile") {
            Some("") => return args.next().map(ToOwned::to_owned),
            Some(rest) => return rest.strip_prefix('=').map(ToOwned::to_owned),
            None => {}
        }
    }
    None
}

fn has_credential(user: &Node, key: &str) -> bool {
    user.get(key).is_some_and(|value| !value.is_null() && value.scalar() != Some("") && !value.is_empty_collection())
}

/// A credential plugin as a person would type it, without what may be secret in it.
fn command_line(exec: &Node) -> String {
    let command = exec.get("command").and_then(Node::scalar).unwrap_or("(no command)");
    let mut line = command.to_owned();
    let mut hidden = false;
    for arg in exec.get("args").map(Node::items).unwrap_or_default().iter().filter_map(Node::scalar) {
        line.push(' ');
        let shown = mask::masked_argument(arg);
        line.push_str(if hidden { "***" } else { &shown });
        hidden = mask::is_secret_flag(arg);
    }
    line
}

fn node_at<'d>(document: &'d Document, path: &[&str]) -> Option<&'d Node> {
    let (list, rest) = path.split_first()?;
    let (name, keys) = rest.split_first()?;
    keys.iter().try_fold(entry(document, list, name)?, |node, key| node.get(key))
}

fn value_at<'v>(root: &'v mut Value, path: &[&str]) -> Option<&'v mut Value> {
    fn get<'v>(map: &'v mut Value, key: &str) -> Option<&'v mut Value> {
        match map {
            Value::Map(entries) => entries.iter_mut().find(|(k, _)| is_key(k, key)).map(|(_, value)| value),
            _ => None,
        }
    }
    let (list, rest) = path.split_first()?;
    let (name, keys) = rest.split_first()?;
    let Some(Value::List(items)) = get(root, list) else { return None };
    let named = |item: &mut Value| get(item, "name").is_some_and(|found| is_key(found, name));
    let mut found = items.iter_mut().find_map(|item| named(item).then_some(item))?;
    for key in keys {
        found = get(found, key)?;
    }
    Some(found)
}

/// A name such as `123` is a number to YAML and a name to us.
fn is_key(value: &Value, key: &str) -> bool {
    matches!(value, Value::Text(text) | Value::Other(text) if text == key)
}

/// The value at `key` of a mapping, made where it is missing.
fn slot<'v>(map: &'v mut Value, key: &str) -> &'v mut Value {
    if !matches!(map, Value::Map(_)) {
        *map = Value::Map(Vec::new());
    }
    let Value::Map(entries) = map else { unreachable!("made a mapping above") };
    let index = entries.iter().position(|(k, _)| is_key(k, key)).unwrap_or_else(|| {
        entries.push((Value::from_text(key), Value::Other("null".to_owned())));
        entries.len() - 1
    });
    &mut entries[index].1
}

/// The first entry called `name` in the list called `list`.
fn entry<'d>(document: &'d Document, list: &str, name: &str) -> Option<&'d Node> {
    let items = document.root.as_ref()?.get(list)?.items();
    items.iter().find(|item| {
        let item = document.resolve(item).unwrap_or(item);
        item.get("name").and_then(|found| document.resolve(found)).and_then(Node::scalar) == Some(name)
    })
}

fn parse(path: &Path, text: &str) -> Result<Document, Error> {
    Document::parse(text.strip_prefix('\u{feff}').unwrap_or(text)).map_err(|malformed| Error::Malformed {
        path: path.to_owned(),
        line: malformed.line,
        what: malformed.what,
    })
}

/// The file's text; `None` where there is no file.
fn read(path: &Path) -> Result<Option<String>, Error> {
    let failed = |source| Error::Io { what: "read", path: path.to_owned(), source };
    let length = match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Err(failed(io::Error::from(io::ErrorKind::IsADirectory))),
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let malformed = |what: &str| Error::Malformed { path: path.to_owned(), line: 1, what: what.to_owned() };
    if length > MAX_BYTES {
        return Err(malformed("it is larger than 16 MiB"));
    }
    let bytes = fs::read(path).map_err(failed)?;
    String::from_utf8(bytes).map(Some).map_err(|_| malformed("it is not UTF-8 text"))
}

/// The file behind any symbolic links, whether or not it exists yet.
fn follow_links(path: &Path) -> Result<PathBuf, Error> {
    let mut target = path.to_owned();
    // As many as Linux follows.
    for _ in 0..40 {
        match fs::read_link(&target) {
            Ok(next) => target = target.parent().unwrap_or(Path::new("")).join(next),
            Err(_) => return Ok(target),
        }
    }
    Err(Error::Refused { path: path.to_owned(), what: "too many symbolic links".to_owned() })
}

/// Makes a directory, for this user alone, if it is not there.
fn make_directory(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Writes a new file, for this user alone or with owner and mode of the one that it shall replace.
fn write_new(path: &Path, text: &str, like: Option<&fs::Metadata>) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    if let Some(like) = like {
        #[cfg(unix)]
        {
            use std::os::unix::fs::{MetadataExt, fchown};
            let own = file.metadata()?;
            if (own.uid(), own.gid()) != (like.uid(), like.gid()) {
                fchown(&file, Some(like.uid()), Some(like.gid()))?;
            }
        }
        file.set_permissions(like.permissions())?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// kubectl's own lock on a kubeconfig: a file beside it that only one program can create.
struct KubectlLock(PathBuf);

impl KubectlLock {
    fn take(target: &Path) -> Result<Self, Error> {
        let mut path = target.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        for _ in 0..20 {
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(_) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => thread::sleep(Duration::from_millis(50)),
                Err(source) => return Err(Error::Io { what: "lock", path: target.to_owned(), source }),
            }
        }
        Err(Error::Locked(path))
    }
}

impl Drop for KubectlLock {
    fn drop(&mut self) {
        // Nothing can be done about it here; the next program names the file.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests;
