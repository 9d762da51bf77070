//! kubectl's command line, taken apart as cobra and pflag do it.
//!
//! What this rests on: flags may stand anywhere before `--`; `-nprod`, `-n=prod`, `-n prod` and `-itn prod` are alike;
//! a flag of a boolean never takes the next word; a long flag is never abbreviated, and `_` in it is `-`. Which flags
//! take a value was printed from kubectl 1.37; older ones have fewer.

/// Words and flags of one kubectl.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// Words that are no flags, the command's name first.
    pub words: Vec<String>,
    /// How many of the words stood before `--`, where there was one.
    pub dash: Option<usize>,
    /// Long names and values, in order.
    flags: Vec<(String, String)>,
}

/// Flags that take the next word as their value, unless it is given with `=`. In order, for the search.
#[rustfmt::skip]
const WITH_VALUE: &[&str] = &[
    "accept-hosts", "accept-paths", "address", "aggregation-rule", "allowlist-entry", "annotation", "annotations",
    "api-group", "api-prefix", "api-version", "appendarg", "as", "as-group", "as-uid", "as-user-extra", "audience",
    "auth-provider", "auth-provider-arg", "bound-object-kind", "bound-object-name", "bound-object-uid", "cache-dir",
    "categories", "cert", "certificate-authority", "chunk-size", "class", "client-certificate", "client-key", "cluster",
    "cluster-ip", "clusterip", "clusterrole", "command", "concurrency", "container", "container-port", "containers",
    "context", "copy-to", "cpu", "cpu-percent", "current-replicas", "custom", "default-backend", "description",
    "detach-keys", "docker-email", "docker-password", "docker-server", "docker-username", "duration", "env",
    "exec-api-version", "exec-arg", "exec-command", "exec-env", "exec-interactive-mode", "external-ip", "external-name",
    "field-manager", "field-selector", "filename", "for", "from", "from-env-file", "from-file", "from-literal",
    "generator", "grace-period", "group", "hard", "helm-api-versions", "helm-command", "helm-kube-version", "hostport",
    "image", "image-pull-policy", "keepalive", "key", "keys", "kubeconfig", "kuberc", "kustomize", "label-columns",
    "labels", "limit-bytes", "limits", "load-balancer-ip", "load-restrictor", "log-flush-frequency", "max", "max-depth",
    "max-log-requests", "max-unavailable", "memory", "min", "min-available", "mount", "name", "namespace", "namespaces",
    "network-name", "node-port", "non-resource-url", "option", "output", "output-directory", "override-type",
    "overrides", "password", "patch", "patch-file", "pod-running-timeout", "pod-selector", "policy", "port",
    "preemption-policy", "prefix", "prependarg", "profile", "profile-output", "protocol", "proxy-url",
    "prune-allowlist", "prune-whitelist", "raw", "reject-methods", "reject-paths", "reorder", "replicas",
    "request-timeout", "requests", "resource", "resource-name", "resource-version", "restart", "retries", "revision",
    "role", "rule", "schedule", "scopes", "section", "selector", "server", "serviceaccount", "session-affinity",
    "set-image", "since", "since-time", "skip-wait-for-delete-timeout", "sort-by", "subresource", "tail", "target",
    "target-port", "tcp", "template", "timeout", "tls-server-name", "to-revision", "token", "type", "types",
    "unix-socket", "user", "username", "v", "value", "verb", "verbs", "vmodule", "www", "www-prefix",
];

impl CommandLine {
    /// Reads the arguments of a process; `None` when it is not kubectl.
    pub fn parse(arguments: &[String]) -> Option<Self> {
        let (program, rest) = arguments.split_first()?;
        let program = program.rsplit(['/', '\\']).next().unwrap_or_default();
        // `kubectl.1.30` and `kubectl.exe` are kubectl; `kubectl-foo` is a plugin, which does as it pleases.
        if program != "kubectl" && !program.starts_with("kubectl.") {
            return None;
        }
        let mut line = Self::default();
        let mut rest = rest.iter();
        while let Some(argument) = rest.next() {
            if argument == "--" {
                line.dash = Some(line.words.len());
                line.words.extend(rest.by_ref().cloned());
            } else if let Some(flag) = argument.strip_prefix("--") {
                let (name, value) = match flag.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (flag, None),
                };
                let name = name.replace('_', "-");
                let takes_next = value.is_none() && line.takes_value(&name);
                let value = if takes_next { rest.next().cloned() } else { value };
                line.flags.push((name, value.unwrap_or_else(|| "true".to_owned())));
            } else if argument.len() > 1 && argument.starts_with('-') {
                line.short_flags(&argument[1..], &mut rest);
            } else {
                line.words.push(argument.clone());
            }
        }
        Some(line)
    }

    /// `A`, `nprod`, `n=prod`, `it`, `itn`: the last may take the next word.
    fn short_flags<'a>(&mut self, mut letters: &str, rest: &mut impl Iterator<Item = &'a String>) {
        while let Some(letter) = letters.chars().next() {
            letters = &letters[letter.len_utf8()..];
            let name = self.long_name(letter);
            if let Some(value) = letters.strip_prefix('=') {
                self.flags.push((name.to_owned(), value.to_owned()));
                return;
            }
            if self.takes_value(name) {
                let value = if letters.is_empty() { rest.next().cloned() } else { Some(letters.to_owned()) };
                self.flags.push((name.to_owned(), value.unwrap_or_default()));
                return;
            }
            self.flags.push((name.to_owned(), "true".to_owned()));
        }
    }

    /// Flags before the command's name are kubectl's own and mean the same for every command.
    fn long_name(&self, letter: char) -> &'static str {
        match (letter, self.command()) {
            ('n', _) => "namespace",
            ('s', _) => "server",
            ('v', _) => "v",
            ('A', _) => "all-namespaces",
            ('f', "logs") => "follow",
            ('f', _) => "filename",
            ('k', _) => "kustomize",
            ('l', "run" | "expose") => "labels",
            ('l', _) => "selector",
            ('L', _) => "label-columns",
            ('o', _) => "output",
            ('p', "logs") => "previous",
            ('p', "proxy") => "port",
            ('p', _) => "patch",
            ('P', _) => "www-prefix",
            ('r', _) => "replicas",
            ('R', _) => "recursive",
            ('w', "proxy") => "www",
            ('w', _) => "watch",
            ('u', _) => "unix-socket",
            ('c', _) => "container",
            ('e', _) => "env",
            ('i', "delete") => "interactive",
            ('i', _) => "stdin",
            ('t', _) => "tty",
            ('q', _) => "quiet",
            _ => "",
        }
    }

    fn takes_value(&self, name: &str) -> bool {
        match (name, self.command()) {
            ("raw", "config") | ("prefix", "logs") | ("containers", "top") | ("command", "run") => false,
            _ => WITH_VALUE.binary_search(&name).is_ok(),
        }
    }

    /// The first word: what to do.
    pub fn command(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// Whether a shell asks for words to go on with.
    pub fn is_completing(&self) -> bool {
        matches!(self.command(), "__complete" | "__completeNoDesc" | "completion")
    }

    /// The words after the command's name, without the first `skip` of them, and those after `--` where they are a
    /// program's.
    pub fn arguments(&self, skip: usize) -> &[String] {
        self.words.get(1 + skip..).unwrap_or_default()
    }

    /// The same, up to `--`.
    pub fn arguments_before_dash(&self, skip: usize) -> &[String] {
        let end = self.dash.unwrap_or(self.words.len());
        self.words.get(1 + skip..end).unwrap_or_default()
    }

    /// The value of a flag: the last one given, where it is not empty.
    pub fn flag(&self, name: &str) -> Option<&str> {
        let value = self.flags.iter().rfind(|(flag, _)| flag == name)?.1.as_str();
        (!value.is_empty()).then_some(value)
    }

    /// Every value of a flag that takes several, with commas between them or given again.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.flags.iter().filter(move |(flag, _)| flag == name).flat_map(|(_, value)| value.split(','))
    }

    /// Whether a boolean flag is set (`strconv.ParseBool`).
    pub fn has(&self, name: &str) -> bool {
        self.flag(name).is_some_and(|value| !matches!(value, "false" | "0" | "f" | "F" | "FALSE" | "False"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> CommandLine {
        let arguments: Vec<String> = text.split(' ').map(str::to_owned).collect();
        CommandLine::parse(&arguments).unwrap()
    }

    #[test]
    fn flags_are_written_in_many_ways() {
        for text in [
            "kubectl get pods -n prod",
            "kubectl get pods -nprod",
            "kubectl get pods -n=prod",
            "kubectl -n prod get pods",
            "kubectl --namespace=prod get pods",
            "kubectl get --namespace prod pods",
            "kubectl get pods -wn prod",
            "kubectl get pods -wnprod",
            "/opt/bin/kubectl.1.30 get pods -n x -n prod",
            r"C:\bin\kubectl.exe get pods -v6 -n prod",
            "kubectl -v 6 -s https://x get -o wide pods -n prod",
            "kubectl get pods --show_labels -n prod",
        ] {
            let line = line(text);
            assert_eq!(line.words, ["get", "pods"], "{text}");
            assert_eq!(line.flag("namespace"), Some("prod"), "{text}");
        }
    }

    #[test]
    fn one_letter_means_what_its_command_means_by_it() {
        assert_eq!(line("kubectl logs -f api-0").words, ["logs", "api-0"]);
        assert_eq!(line("kubectl apply -f api-0").words, ["apply"]);
        assert_eq!(line("kubectl logs -p api-0").words, ["logs", "api-0"]);
        assert_eq!(line("kubectl patch pod x -p {}").words, ["patch", "pod", "x"]);
        assert_eq!(line("kubectl exec -itn prod api-0 -- ls -l -n x").words, ["exec", "api-0", "ls", "-l", "-n", "x"]);
        assert_eq!(line("kubectl config view --raw x").words, ["config", "view", "x"]);
        assert_eq!(line("kubectl get --raw /x").flag("raw"), Some("/x"));
    }

    #[test]
    fn after_two_dashes_everything_is_a_word() {
        let line = line("kubectl delete pod -- --all -n prod");
        assert_eq!((line.dash, line.has("all"), line.flag("namespace")), (Some(2), false, None));
        assert_eq!(line.arguments(0), ["pod", "--all", "-n", "prod"]);
        assert_eq!(line.arguments_before_dash(0), ["pod"]);
    }

    #[test]
    fn booleans_can_be_off_and_lists_can_have_commas() {
        assert!(!line("kubectl get pods -A=false").has("all-namespaces"));
        assert!(line("kubectl get pods --all-namespaces=T").has("all-namespaces"));
        let line = line("kubectl apply -f a,b --filename=c");
        assert_eq!(line.values("filename").collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    #[test]
    fn other_programs_are_not_kubectl() {
        for program in ["kubectl-neat", "helm", "kubectl_", "kubectlx", "/usr/bin/python3", ""] {
            assert_eq!(CommandLine::parse(&[program.to_owned(), "get".to_owned()]), None, "{program}");
        }
        assert_eq!(CommandLine::parse(&[]), None);
    }

    #[test]
    fn what_ends_too_early_is_read_as_far_as_it_goes() {
        for text in ["kubectl get pods -n", "kubectl get pods --namespace", "kubectl get pods -", "kubectl get pods -="]
        {
            assert_eq!(line(text).words[..2], ["get", "pods"], "{text}");
        }
    }

    #[test]
    fn the_list_of_flags_is_in_order() {
        assert!(WITH_VALUE.is_sorted());
    }
}
