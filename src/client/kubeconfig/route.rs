//! How to reach the API server of a context, and what else a context says: for a proxy in between.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value as Json};

use super::tree::{Document, Kind, Node, Value};
use super::{Current, Error, Files, entry, parse, read};

/// Keys of a user that say whom to act as, not who it is.
const IMPERSONATION: [&str; 4] = ["as", "as-uid", "as-groups", "as-user-extra"];

/// One context and the way to its API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The context.
    pub current: Current,
    /// Contexts of the same cluster and user, the chosen one among them: they differ in their namespace.
    pub siblings: Vec<Sibling>,
    /// Where its API server is.
    pub cluster: Cluster,
    /// Whom its user acts as: the kubeconfig's `as`, `as-groups`, … as they are.
    pub impersonation: Map<String, Json>,
}

/// A context of the same cluster and user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sibling {
    /// Its name.
    pub context: String,
    /// Its namespace.
    pub namespace: Option<String>,
}

/// An API server, as a kubeconfig has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Name in the kubeconfig.
    pub name: String,
    /// URL.
    pub server: String,
    /// Its certificate authorities (PEM); `None`: the system's.
    pub authorities: Option<Vec<u8>>,
    /// Name that its certificate is for, where it is not the URL's host.
    pub tls_server_name: Option<String>,
    /// Whether its certificate is not to be verified.
    pub insecure: bool,
    /// Proxy to reach it through.
    pub proxy_url: Option<String>,
}

impl Files {
    /// The way to the API server of the current context, or the one called `context`; `None` where there is none.
    pub fn route(&self, context: Option<&str>) -> Result<Option<Route>, Error> {
        let Some(current) = self.current(context)? else { return Ok(None) };
        let mut documents = Vec::new();
        for path in &self.paths {
            if let Some(text) = read(path)? {
                documents.push((path.as_path(), parse(path, &text)?));
            }
        }
        let refused = |what: String| Error::Refused { path: self.default.clone(), what };
        let Some(name) = current.cluster.clone() else {
            return Err(refused(format!("context {:?} names no cluster", current.context)));
        };
        let found = documents
            .iter()
            .find_map(|(path, document)| Some((*path, document, inner(document, "clusters", &name, "cluster")?)));
        let Some((path, document, node)) = found else {
            return Err(refused(format!("there is no cluster {name:?}, which context {:?} names", current.context)));
        };
        let cluster = cluster(&name, path, document, node)?;
        let impersonation = current.user.as_deref().map(|user| impersonation(documents.iter().map(|(_, d)| d), user));
        let siblings = siblings(&documents, &current);
        Ok(Some(Route { siblings, cluster, impersonation: impersonation.unwrap_or_default(), current }))
    }

    /// Whom a user acts as; nobody where that cannot be read.
    pub fn impersonation(&self, user: &str) -> Map<String, Json> {
        let documents: Vec<Document> =
            self.paths.iter().filter_map(|path| parse(path, &read(path).ok()??).ok()).collect();
        impersonation(documents.iter(), user)
    }
}

fn impersonation<'d>(mut documents: impl Iterator<Item = &'d Document>, user: &str) -> Map<String, Json> {
    let found = documents.find_map(|document| {
        let user = inner(document, "users", user, "user")?;
        let pair = |key: &&str| Some(((*key).to_owned(), json(document, user.get(key)?)));
        Some(IMPERSONATION.iter().filter_map(pair).collect())
    });
    found.unwrap_or_default()
}

fn siblings(documents: &[(&Path, Document)], current: &Current) -> Vec<Sibling> {
    let mut siblings: Vec<Sibling> = Vec::new();
    for (_, document) in documents {
        let items = document.root.as_ref().and_then(|root| root.get("contexts")).map(Node::items).unwrap_or_default();
        for item in items {
            let text = |node: &Node, key: &str| {
                let text = document.resolve(node.get(key)?)?.scalar()?;
                (!text.is_empty()).then(|| text.to_owned())
            };
            let Some(item) = document.resolve(item) else { continue };
            let (Some(context), Some(node)) = (text(item, "name"), item.get("context")) else { continue };
            let Some(node) = document.resolve(node) else { continue };
            let is_same = text(node, "cluster") == current.cluster && text(node, "user") == current.user;
            // The first file that has a name decides what it means.
            let is_new = siblings.iter().all(|known| known.context != context);
            if context == current.context || is_same && is_new && is_first(documents, document, &context) {
                let sibling = Sibling { namespace: text(node, "namespace"), context };
                if is_new {
                    siblings.push(sibling);
                }
            }
        }
    }
    siblings
}

/// Whether `document` is the first that has a context of this name.
fn is_first(documents: &[(&Path, Document)], document: &Document, context: &str) -> bool {
    let first = documents.iter().find(|(_, document)| entry(document, "contexts", context).is_some());
    first.is_some_and(|(_, first)| std::ptr::eq(first, document))
}

fn inner<'d>(document: &'d Document, list: &str, name: &str, key: &str) -> Option<&'d Node> {
    let item = document.resolve(entry(document, list, name)?)?;
    document.resolve(item.get(key)?)
}

fn cluster(name: &str, path: &Path, document: &Document, node: &Node) -> Result<Cluster, Error> {
    let refused = |what: String| Error::Refused { path: path.to_owned(), what };
    let text = |key: &str| {
        let text = node.get(key).and_then(|node| document.resolve(node)).and_then(Node::scalar);
        text.filter(|text| !text.is_empty())
    };
    let Some(server) = text("server") else { return Err(refused(format!("cluster {name:?} names no server"))) };
    let authorities = match (text("certificate-authority-data"), text("certificate-authority")) {
        (Some(data), _) => {
            let compact: String = data.split_ascii_whitespace().collect();
            let decoded = STANDARD.decode(compact);
            Some(
                decoded
                    .map_err(|_| refused(format!("certificate-authority-data of cluster {name:?} is not base64")))?,
            )
        }
        (None, Some(file)) => {
            // Relative to the file that names it, as in kubectl.
            let file = path.parent().unwrap_or(Path::new(".")).join(PathBuf::from(file));
            Some(std::fs::read(&file).map_err(|source| Error::Io { what: "read", path: file, source })?)
        }
        (None, None) => None,
    };
    Ok(Cluster {
        name: name.to_owned(),
        server: server.to_owned(),
        authorities,
        tls_server_name: text("tls-server-name").map(ToOwned::to_owned),
        insecure: text("insecure-skip-tls-verify") == Some("true"),
        proxy_url: text("proxy-url").map(ToOwned::to_owned),
    })
}

fn json(document: &Document, node: &Node) -> Json {
    let Some(node) = document.resolve(node) else { return Json::Null };
    match &node.kind {
        Kind::Sequence { items, .. } => items.iter().map(|item| json(document, item)).collect(),
        Kind::Mapping { entries, .. } => entries
            .iter()
            .filter_map(|(key, value)| Some((key.scalar()?.to_owned(), json(document, value))))
            .collect::<Map<_, _>>()
            .into(),
        _ => match node.value() {
            Value::Other(text) if node.is_null() || text.is_empty() => Json::Null,
            // Names: `1234` is one too.
            Value::Text(text) | Value::Other(text) => Json::String(text),
            _ => Json::Null,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn route(files: &[&str], context: Option<&str>) -> Result<Option<Route>, Error> {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("ca.pem"), "PEM").unwrap();
        let paths: Vec<PathBuf> = files
            .iter()
            .enumerate()
            .map(|(number, text)| {
                let path = home.path().join(number.to_string());
                fs::write(&path, text).unwrap();
                path
            })
            .collect();
        Files { default: paths[0].clone(), paths }.route(context)
    }

    const KUBECONFIG: &str = "
current-context: prod
contexts:
- {name: prod, context: {cluster: one, user: me, namespace: shop}}
- {name: prod-system, context: {cluster: one, user: me}}
- {name: prod-admin, context: {cluster: one, user: admin}}
- {name: dev, context: {cluster: two, user: me}}
clusters:
- name: one
  cluster: &one {server: 'https://10.0.0.1:6443/k8s', certificate-authority: ca.pem, tls-server-name: api, proxy-url: 'http://p:1'}
- name: two
  cluster: {server: https://two, certificate-authority-data: UEVN, insecure-skip-tls-verify: true}
- name: three
  cluster: *one
users:
- {name: me, user: {as: bob, as-groups: [a, 1], as-user-extra: {x: [y]}, exec: {command: kubectl-stepup, args: [get-token, --profile, p]}}}
- {name: admin, user: {token: t}}
";

    #[test]
    fn a_context_leads_to_its_api_server() {
        let route = route(&[KUBECONFIG], None).unwrap().unwrap();
        assert_eq!(
            route.cluster,
            Cluster {
                name: "one".into(),
                server: "https://10.0.0.1:6443/k8s".into(),
                authorities: Some(b"PEM".to_vec()),
                tls_server_name: Some("api".into()),
                insecure: false,
                proxy_url: Some("http://p:1".into()),
            }
        );
        let contexts: Vec<_> = route.siblings.iter().map(|s| (s.context.as_str(), s.namespace.as_deref())).collect();
        assert_eq!(contexts, [("prod", Some("shop")), ("prod-system", None)]);
        assert_eq!(route.current.profile.as_deref(), Some("p"));
        let expected = json!({"as": "bob", "as-groups": ["a", "1"], "as-user-extra": {"x": ["y"]}});
        assert_eq!(Json::from(route.impersonation), expected);
    }

    #[test]
    fn another_context_another_server() {
        let route = route(&[KUBECONFIG], Some("dev")).unwrap().unwrap();
        assert_eq!((route.cluster.name.as_str(), route.cluster.insecure), ("two", true));
        assert_eq!(route.cluster.authorities.as_deref(), Some(&b"PEM"[..]));
        assert_eq!(route.siblings.len(), 1);
    }

    #[test]
    fn the_first_file_that_has_a_name_decides() {
        let first = "contexts:\n- {name: prod-system, context: {cluster: two, user: me}}\n";
        let route = route(&[first, KUBECONFIG], None).unwrap().unwrap();
        assert_eq!(route.siblings.iter().map(|s| s.context.as_str()).collect::<Vec<_>>(), ["prod"]);
    }

    #[test]
    fn what_is_missing_is_said() {
        assert_eq!(route(&[""], None).unwrap(), None);
        assert_eq!(route(&[KUBECONFIG], Some("nope")).unwrap(), None);
        for (text, what) in [
            ("contexts: [{name: a, context: {cluster: c}}]", "no cluster \"c\""),
            ("contexts: [{name: a, context: {user: c}}]", "names no cluster"),
            ("contexts: [{name: a, context: {cluster: c}}]\nclusters: [{name: c, cluster: {server: ''}}]", "no server"),
            (
                "contexts: [{name: a, context: {cluster: c}}]\nclusters: [{name: c, cluster: {server: x, certificate-authority: no}}]",
                "cannot read",
            ),
            (
                "contexts: [{name: a, context: {cluster: c}}]\nclusters: [{name: c, cluster: {server: x, certificate-authority-data: '?'}}]",
                "not base64",
            ),
        ] {
            let error = route(&[text], Some("a")).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
