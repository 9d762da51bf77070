//! The samples in `packaging/provider-only`, with what a lab has in place of what they have for an example.

use anyhow::{Result, ensure};

const AUTHENTICATION: &str = include_str!("../../../packaging/provider-only/authentication.yaml");
/// What is to be applied: they are as they are.
const OBJECTS: [&str; 3] = [
    include_str!("../../../packaging/provider-only/rbac.yaml"),
    include_str!("../../../packaging/provider-only/validating-admission-policy.yaml"),
    include_str!("../../../packaging/provider-only/protected.yaml"),
];

/// For `--authentication-config`.
pub(crate) fn authentication(issuer: &str, client_id: &str, ca: &str) -> Result<String> {
    let ca = ca
        .trim_end()
        .lines()
        .fold("    certificateAuthority: |-".to_owned(), |text, line| format!("{text}\n      {line}"));
    let comment = AUTHENTICATION.lines().find(|line| line.contains("# certificateAuthority:")).unwrap_or_default();
    let changes = [
        ("https://login.example.com", issuer),
        ("audiences: [kubernetes]", &format!("audiences: [{client_id}]")),
        ("urn:example:mfa", "urn:stepup:mfa"),
        (comment, &ca),
    ];
    changes.into_iter().try_fold(AUTHENTICATION.to_owned(), |text, (from, to)| {
        ensure!(!from.is_empty() && text.contains(from), "the sample has no {from:?} any more");
        Ok(text.replace(from, to))
    })
}

/// For `kubectl apply`.
pub(crate) fn objects() -> String {
    OBJECTS.join("\n---\n")
}
