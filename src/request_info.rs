//! From an HTTP request to the [`Action`] that it is: what the API server's own `RequestInfoFactory` does
//! (k8s.io/apiserver, `pkg/endpoints/request/requestinfo.go`). No I/O.

use url::form_urlencoded;

use crate::action::Action;

/// What `method` on `path` (as it stands in the request line, percent-encoded) with `query` does to the cluster, in the
/// words of a `SubjectAccessReview`, [normalized](Action::normalized).
///
/// `None`: the API server itself cannot make a resource of it and refuses it.
pub fn action(method: &str, path: &str, query: Option<&str>) -> Option<Action> {
    let path = percent_decoded(path);
    let non_resource = || Action { path: Some(path.clone()), ..blank(&method.to_ascii_lowercase()) };
    let whole: Vec<&str> = match path.trim_matches('/') {
        "" => Vec::new(),
        trimmed => trimmed.split('/').collect(),
    };
    let (group, mut parts) = match whole.as_slice() {
        ["api", _version, parts @ ..] if !parts.is_empty() => ("", parts),
        ["apis", group, _version, parts @ ..] if !parts.is_empty() => (*group, parts),
        _ => return Some(non_resource()),
    };
    // `/api/v1/watch/…` and `/api/v1/proxy/…`: forms of long ago that the API server still authorizes as such.
    let special = parts.first().copied().filter(|first| matches!(*first, "watch" | "proxy"));
    if special.is_some() {
        parts = &parts[1..];
    }
    let verb = match (special, method) {
        (Some(special), _) => special,
        (None, "POST") => "create",
        (None, "GET" | "HEAD") => "get",
        (None, "PUT") => "update",
        (None, "PATCH") => "patch",
        (None, "DELETE") => "delete",
        (None, _) => "",
    };
    let mut namespace = None;
    if let ["namespaces", name, rest @ ..] = parts {
        namespace = Some((*name).to_owned());
        // Anything else behind the namespace's name is a resource in it.
        if !matches!(rest, [] | ["status" | "finalize", ..]) {
            parts = rest;
        }
    }
    let resource = (*parts.first()?).to_owned();
    let mut name = parts.get(1).copied().filter(|name| !name.is_empty()).map(ToOwned::to_owned);
    let subresource = parts.get(2).copied().filter(|_| special != Some("proxy")).map(ToOwned::to_owned);
    let mut verb = verb.to_owned();
    if name.is_none() {
        match verb.as_str() {
            "get" => {
                let query = query.unwrap_or_default();
                if wants_watch(query) { "watch" } else { "list" }.clone_into(&mut verb);
                name = selected_name(query);
            }
            "delete" => "deletecollection".clone_into(&mut verb),
            _ => {}
        }
    }
    Some(Action { group: group.to_owned(), resource, subresource, namespace, name, ..blank(&verb) }.normalized())
}

fn blank(verb: &str) -> Action {
    Action {
        verb: verb.to_owned(),
        group: String::new(),
        resource: String::new(),
        subresource: None,
        namespace: None,
        name: None,
        path: None,
    }
}

/// Whether `watch` is set: to anything but `false` and `0`, as the API server reads booleans of a query.
fn wants_watch(query: &str) -> bool {
    let value = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "watch").map(|(_, value)| value);
    value.is_some_and(|value| !value.eq_ignore_ascii_case("false") && value != "0")
}

/// The one name that `fieldSelector=metadata.name=NAME` asks for.
fn selected_name(query: &str) -> Option<String> {
    let (_, selector) = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "fieldSelector")?;
    let term = |term: &str| {
        let (field, value) = term.split_once('=')?;
        let value = value.strip_prefix('=').unwrap_or(value);
        (field == "metadata.name" && is_path_segment(value)).then(|| value.to_owned())
    };
    selector.split(',').find_map(term)
}

/// As `IsValidPathSegmentName` has it; such names stand in paths.
fn is_path_segment(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '%', '\\'])
}

/// `%2F` and the like decoded, as Go's `URL.Path` has it; what is no escape stays as it is.
fn percent_decoded(path: &str) -> String {
    if !path.contains('%') {
        return path.to_owned();
    }
    let digit =
        |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16)).and_then(|d| u8::try_from(d).ok());
    let (bytes, mut decoded, mut at) = (path.as_bytes(), Vec::with_capacity(path.len()), 0);
    while at < bytes.len() {
        match (bytes[at], digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(high * 16 + low);
                at += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(request: &str) -> String {
        let (method, target) = request.split_once(' ').unwrap();
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        action(method, path, query).map_or("-".to_owned(), |action| action.to_string())
    }

    /// Most of the rows are of the API server's own test (`requestinfo_test.go`).
    #[test]
    fn requests_are_what_the_api_server_takes_them_for() {
        for (request, expected) in [
            ("GET /api/v1/namespaces", "list namespaces"),
            ("GET /api/v1/namespaces/other", "get namespaces/other"),
            ("GET /api/v1/namespaces/other/pods", "list pods -n other"),
            ("GET /api/v1/namespaces/other/pods/foo", "get pods/foo -n other"),
            ("HEAD /api/v1/namespaces/other/pods/foo", "get pods/foo -n other"),
            ("GET /api/v1/pods", "list pods -A"),
            ("HEAD /api/v1/pods", "list pods -A"),
            ("GET /api/v1/namespaces/other/pods?watch=true", "watch pods -n other"),
            ("GET /api/v1/namespaces/other/pods?watch=1", "watch pods -n other"),
            ("GET /api/v1/namespaces/other/pods?watch=0", "list pods -n other"),
            ("GET /api/v1/namespaces/other/pods?watch=False", "list pods -n other"),
            ("GET /api/v1/namespaces/other/pods/foo?watch=true", "get pods/foo -n other"),
            ("GET /api/v1/watch/namespaces/other/pods", "watch pods -n other"),
            ("GET /api/v1/watch/pods", "watch pods -A"),
            ("GET /api/v1/proxy/namespaces/other/pods/foo/x", "proxy pods/foo -n other"),
            ("GET /api/v1/namespaces/other/pods?fieldSelector=metadata.name%3Ddb", "list pods/db -n other"),
            ("GET /api/v1/namespaces/other/pods?fieldSelector=a%3Db,metadata.name%3D%3Ddb", "list pods/db -n other"),
            ("GET /api/v1/namespaces/other/pods?fieldSelector=metadata.name!=db", "list pods -n other"),
            ("GET /api/v1/namespaces/other/pods?fieldSelector=metadata.name=a%2Fb", "list pods -n other"),
            ("POST /api/v1/namespaces", "create namespaces"),
            ("POST /api/v1/namespaces/other/pods", "create pods -n other"),
            ("PUT /api/v1/namespaces/other/pods/foo", "update pods/foo -n other"),
            ("PATCH /api/v1/namespaces/other/pods/foo", "patch pods/foo -n other"),
            ("DELETE /api/v1/namespaces/other/pods/foo", "delete pods/foo -n other"),
            ("DELETE /api/v1/namespaces/other/pods", "deletecollection pods -n other"),
            ("DELETE /api/v1/namespaces/prod", "delete namespaces/prod"),
            ("PUT /api/v1/namespaces/prod/finalize", "update namespaces/finalize prod"),
            ("PATCH /api/v1/namespaces/prod/status", "patch namespaces/status prod"),
            ("PATCH /apis/apps/v1/namespaces/p/deployments/web/scale", "patch deployments.apps/scale web -n p"),
            (
                "GET /apis/rbac.authorization.k8s.io/v1/clusterroles/admin",
                "get clusterroles.rbac.authorization.k8s.io/admin",
            ),
            ("POST /api/v1/namespaces/pay/pods/api-0/exec?command=sh", "connect pods/exec api-0 -n pay"),
            ("GET /api/v1/namespaces/pay/pods/api-0/exec?command=sh", "connect pods/exec api-0 -n pay"),
            ("GET /api/v1/namespaces/pay/services/web:80/proxy/a/b", "connect services/proxy web:80 -n pay"),
            ("GET /api/v1/namespaces/p/pods/x/log?follow=true", "get pods/log x -n p"),
            ("POST /api/v1/namespaces/p/pods/x/eviction", "create pods/eviction x -n p"),
            ("GET /api/v1/nodes/n1", "get nodes/n1"),
            ("OPTIONS /api/v1/nodes/n1", " nodes/n1"),
            ("GET /", "get /"),
            ("GET /version", "get /version"),
            ("GET /api", "get /api"),
            ("GET /api/v1", "get /api/v1"),
            ("GET /api/v1/", "get /api/v1/"),
            ("GET /apis/apps/v1", "get /apis/apps/v1"),
            ("GET /openapi/v3/apis/apps/v1", "get /openapi/v3/apis/apps/v1"),
            ("POST /healthz/etcd", "post /healthz/etcd"),
            ("GET /api/v1/watch", "-"),
        ] {
            assert_eq!(read(request), expected, "{request}");
        }
    }

    #[test]
    fn escapes_are_decoded_before_the_path_is_taken_apart() {
        assert_eq!(read("GET /api/v1/namespaces/p/secrets%2Fdb"), "get secrets/db -n p");
        assert_eq!(
            read("GET /apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode"),
            "get clusterroles.rbac.authorization.k8s.io/system:node"
        );
        assert_eq!(read("GET /metrics%"), "get /metrics%");
        assert_eq!(read("GET /a%zz%4"), "get /a%zz%4");
    }

    #[test]
    fn nothing_that_a_client_may_send_makes_it_fall_over() {
        for path in [
            "",
            "//",
            "/api//v1//pods",
            "/apis///",
            "/api/v1/namespaces/",
            "/api/v1/namespaces//pods",
            "/%",
            "/api/v1/%2f%2F",
        ] {
            let _ = action("GET", path, Some("watch&watch=%&fieldSelector=,=,=="));
            let _ = action("", path, None);
        }
    }
}
