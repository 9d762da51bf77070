//! The API server, asked in the person's own name: what a token may do, and the list of what is protected there.
//!
//! Only where there is no stepup-server to ask. It hears the token from kubectl anyway.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::action::Action;
use crate::client::error::Error;
use crate::client::http::{HttpClient, Problem, describe};
use crate::client::kubeconfig::{Cluster, Files};
use crate::client::profile::Profile;
use crate::secret::Secret;
use crate::wire::exec_credential::ExecInfo;

const CONNECT: Duration = Duration::from_secs(2);
const TOTAL: Duration = Duration::from_secs(8);

/// The API server, in the name of one token. Impatient: a command waits for it.
#[derive(Debug)]
pub struct ApiServer<'t> {
    http: HttpClient,
    url: String,
    token: &'t Secret,
}

impl<'t> ApiServer<'t> {
    /// Fails where the kubeconfig wants it reached in a way that we cannot.
    pub fn new(cluster: &Cluster, token: &'t Secret) -> Result<Self, Error> {
        let http = HttpClient::to_cluster(cluster, CONNECT, TOTAL)?;
        Ok(Self { http, url: cluster.server.trim_end_matches('/').to_owned(), token })
    }

    /// Whether the authorizers let the token do `action` (`SelfSubjectAccessReview`). Admission may still refuse it.
    pub fn may(&self, action: &Action) -> Result<bool, Error> {
        #[derive(Deserialize)]
        struct Review {
            status: Status,
        }
        #[derive(Deserialize)]
        struct Status {
            allowed: bool,
        }
        // A connection is authorized as the method that opens it.
        let verb = if action.verb == "connect" { "create" } else { &action.verb };
        let spec = match &action.path {
            Some(path) => json!({"nonResourceAttributes": {"verb": verb, "path": path}}),
            None => json!({"resourceAttributes": {
                "verb": verb,
                "group": action.group,
                "resource": action.resource,
                "subresource": action.subresource.as_deref().unwrap_or_default(),
                "namespace": action.namespace.as_deref().unwrap_or_default(),
                "name": action.name.as_deref().unwrap_or_default(),
            }}),
        };
        let body = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec});
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let review: Review = self.ask(Method::POST, path, Some(&body))?;
        Ok(review.status.allowed)
    }

    /// The texts of a ConfigMap.
    pub fn config_map(&self, namespace: &str, name: &str) -> Result<BTreeMap<String, String>, Error> {
        #[derive(Deserialize)]
        struct ConfigMap {
            #[serde(default)]
            data: BTreeMap<String, String>,
        }
        let path = format!("/api/v1/namespaces/{namespace}/configmaps/{name}");
        self.ask(Method::GET, &path, None).map(|ConfigMap { data }| data)
    }

    fn ask<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, Error> {
        let failed = |problem: String| Error::Failed(format!("the API server {} cannot be asked: {problem}", self.url));
        let mut request = self
            .http
            .request(method, &format!("{}{path}", self.url))
            .bearer_auth(self.token.expose())
            .header("accept", "application/json");
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = self.http.send(request).map_err(|Problem(problem)| failed(problem))?;
        if !answer.status().is_success() {
            return Err(failed(describe(&answer)));
        }
        serde_json::from_slice(answer.body()).map_err(|_| failed(format!("{}, not as expected", describe(&answer))))
    }
}

/// The cluster that a token of `profile` is for: that of this call of the plugin, where client-go says it; else that of
/// the kubeconfig's current context, where its user has this profile.
pub fn cluster_of(profile: &Profile) -> Option<Cluster> {
    if let Some(text) = std::env::var("KUBERNETES_EXEC_INFO").ok().filter(|text| !text.trim().is_empty()) {
        return serde_json::from_str(&text).ok().and_then(of_call);
    }
    let home = directories::BaseDirs::new().map(|dirs| dirs.home_dir().to_owned());
    let files = Files::find(None, std::env::var_os("KUBECONFIG").as_deref(), home.as_deref())?;
    let route = files.route(None).ok().flatten()?;
    (route.current.profile.as_deref() == Some(profile.name.as_str())).then_some(route.cluster)
}

fn of_call(info: ExecInfo) -> Option<Cluster> {
    let told = info.spec.cluster.filter(|cluster| !cluster.server.is_empty())?;
    let some = |text: String| (!text.is_empty()).then_some(text);
    let authorities = match some(told.certificate_authority_data) {
        Some(data) => Some(BASE64_STANDARD.decode(data).ok()?),
        None => None,
    };
    Some(Cluster {
        name: String::new(),
        server: told.server,
        authorities,
        tls_server_name: some(told.tls_server_name),
        insecure: told.insecure_skip_tls_verify,
        proxy_url: some(told.proxy_url),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_says_which_cluster_it_is_for() {
        let call = |cluster: Value| {
            let text = json!({"apiVersion": "client.authentication.k8s.io/v1", "spec": {"cluster": cluster}});
            of_call(serde_json::from_value(text).unwrap())
        };
        assert_eq!(call(json!(null)), None);
        assert_eq!(call(json!({"server": ""})), None);
        assert_eq!(call(json!({"server": "https://a", "certificate-authority-data": "?"})), None);
        let plain = call(json!({"server": "https://a", "certificate-authority-data": "UEVN", "config": null})).unwrap();
        assert_eq!((plain.server.as_str(), plain.authorities.as_deref()), ("https://a", Some(&b"PEM"[..])));
        assert_eq!((plain.insecure, plain.proxy_url, plain.tls_server_name), (false, None, None));
    }
}
