//! Hides secrets in text that is about to be shown.

use std::ops::Range;

use super::tree::{Document, Kind, Node};

/// What stands where a secret was.
const MASK: &str = "***";

/// `text`, a kubeconfig, with every secret in it replaced. Text that cannot be parsed is hidden as a whole.
pub fn masked(text: &str) -> String {
    let Ok(document) = Document::parse(text) else {
        return format!("{MASK}\n");
    };
    let mut secrets = Vec::new();
    if let Some(root) = &document.root {
        collect(root, "", &mut secrets);
    }
    secrets.sort_by_key(|span| span.start);
    let mut out = String::with_capacity(text.len());
    let mut shown = 0;
    for span in secrets {
        if span.start < shown {
            continue;
        }
        out.push_str(&text[shown..span.start]);
        out.push_str(MASK);
        if text[span.clone()].ends_with('\n') {
            out.push('\n');
        }
        shown = span.end;
    }
    out.push_str(&text[shown..]);
    out.split_inclusive('\n').map(comment_masked).collect()
}

/// An argument of a credential plugin with the secret that it may carry hidden: `--client-secret=…`.
pub fn masked_argument(argument: &str) -> String {
    match argument.split_once('=') {
        Some((flag, _)) if is_secret(flag) => format!("{flag}={MASK}"),
        _ => argument.to_owned(),
    }
}

/// Whether the argument after this one is a secret: `--client-secret`.
pub fn is_secret_flag(argument: &str) -> bool {
    argument.starts_with('-') && !argument.contains('=') && is_secret(argument)
}

fn collect(node: &Node, key: &str, secrets: &mut Vec<Range<usize>>) {
    match &node.kind {
        Kind::Mapping { entries, .. } => {
            for (name, value) in entries {
                let name = name.scalar().unwrap_or_default();
                // Anything may be in the environment of a credential plugin: proxies with passwords, for one.
                if key == "env" && name == "value" || is_secret(name) {
                    hide(value, secrets);
                } else {
                    collect(value, name, secrets);
                }
            }
        }
        Kind::Sequence { items, .. } => {
            let mut after_flag = false;
            for item in items {
                match item.scalar() {
                    Some(text) if key == "args" => {
                        if after_flag || text.split_once('=').is_some_and(|(flag, _)| is_secret(flag)) {
                            hide(item, secrets);
                        }
                        after_flag = is_secret_flag(text);
                    }
                    _ => collect(item, key, secrets),
                }
            }
        }
        Kind::Scalar { .. } | Kind::Alias(_) => {}
    }
}

fn hide(node: &Node, secrets: &mut Vec<Range<usize>>) {
    if !node.is_null() && !matches!(node.kind, Kind::Alias(_)) {
        secrets.push(node.span.clone());
    }
}

/// Whether a key of this name holds a secret. `tokenFile` and `client-key` name files.
fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase().replace(['_', '.'], "-");
    let names_file = key.ends_with("file") || key.ends_with("path") || key.ends_with("url");
    !names_file
        && ["token", "password", "passwd", "secret", "key-data", "private", "credential"]
            .iter()
            .any(|word| key.contains(word))
}

/// Somebody may have commented a credential out.
fn comment_masked(line: &str) -> String {
    let Some(hash) = line.find('#') else {
        return line.to_owned();
    };
    let comment = &line[hash..];
    match comment.find([':', '=']) {
        Some(at) if is_secret(&comment[..at]) => {
            let end = if line.ends_with('\n') { "\n" } else { "" };
            format!("{}{}{MASK}{end}", &line[..=hash + at], if comment.as_bytes()[at] == b':' { " " } else { "" })
        }
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_in_every_style_and_the_rest_stays() {
        let text = "users:\n- name: a\n  user:\n    token: s3cret\n    tokenFile: /f\n    client-key-data: |\n      s3cret\n      s3cret\n    client-key: /k\n- {name: b, user: {password: \"s3cret\", username: u}}\n- name: c\n  user:\n    auth-provider: {config: {id-token: s3cret, client-secret: 's3cret'}}\n    # token: s3cret\n    exec:\n      args: [--client-secret=s3cret, --token, s3cret, plain]\n      env: [{name: HTTPS_PROXY, value: \"http://u:s3cret@p\"}]\n";
        let shown = masked(text);
        assert!(!shown.contains("s3cret"), "{shown}");
        for kept in ["tokenFile: /f", "client-key: /k", "username: u", "plain", "name: HTTPS_PROXY"] {
            assert!(shown.contains(kept), "{kept}\n{shown}");
        }
    }

    #[test]
    fn arguments_with_secrets_are_shown_by_name_only() {
        assert_eq!(masked_argument("--oidc-client-secret=x"), "--oidc-client-secret=***");
        assert_eq!(masked_argument("--oidc-issuer-url=https://x"), "--oidc-issuer-url=https://x");
    }
}
