//! What must hold of everything that is made of a command line, whatever it is. Shared by the fuzz target beside it and by
//! the tests of `tests/client`, which try a fixed lot of command lines each time.

use std::ffi::OsString;
use std::path::Path;

use stepup::action::{Action, ActionPattern};
use stepup::client::paths::Paths;
use stepup::client::preflight::command_line::CommandLine;
use stepup::client::preflight::digest::{self, Kept};
use stepup::client::preflight::{Hint, Repeats, manifest};
use stepup::wire::digest::{Digest, Protected};

/// Most that a hint asks the server about.
const MOST: usize = 100;

/// What is protected while command lines are tried.
#[derive(Debug)]
pub struct World {
    paths: Paths,
}

impl World {
    /// Makes a list of what is protected, in `home`.
    pub fn new(home: &Path) -> Self {
        let words = |text: &str| text.split(' ').map(ToOwned::to_owned).collect::<Vec<_>>();
        let pattern = |verbs: &str, groups: &str, resources: &str, namespaces: &str, names: &str| ActionPattern {
            verbs: words(verbs),
            api_groups: groups.split(' ').map(|group| if group == "core" { "" } else { group }.to_owned()).collect(),
            resources: words(resources),
            namespaces: words(namespaces),
            names: words(names),
            non_resource_urls: Vec::new(),
        };
        let paths = ActionPattern {
            api_groups: Vec::new(),
            resources: Vec::new(),
            non_resource_urls: words("/debug/* /metrics"),
            ..pattern("get", "core", "x", "*", "*")
        };
        let actions = vec![
            pattern("get", "core", "secrets", "prod prod-*", "*"),
            pattern("connect", "core", "pods/exec pods/attach pods/portforward", "*", "api-*"),
            pattern("delete update", "* core", "*", "prod", "*"),
            pattern("impersonate", "core", "users groups", "*", "*"),
            pattern("get", "example.com", "widgets", "*", "*"),
            paths,
        ];
        let digest = Digest {
            iss: "https://stepup.example.com".to_owned(),
            sub: "alice".to_owned(),
            iat: 0,
            exp: i64::MAX,
            policy: String::new(),
            denials_are_final: false,
            protected: vec![Protected { rule: "r".to_owned(), actions }],
        };
        let paths = Paths::under(home);
        digest::keep(&paths.of("fuzz"), &digest).expect("the list can be written");
        Self { paths }
    }

    /// Tries one command line: its words are separated by line breaks, and `kubectl` is put before them.
    ///
    /// Panics where something does not hold.
    pub fn check(&self, data: &[u8]) {
        let text = String::from_utf8_lossy(data);
        let _ = manifest::read(&text);
        let words = text.split('\n').map(ToOwned::to_owned);
        let arguments: Vec<String> = std::iter::once("kubectl".to_owned()).chain(words).collect();
        let line = CommandLine::parse(&arguments).expect("it is kubectl");
        assert_words_are_its_own(&line, &arguments[1..]);
        // What happens to lie on this machine is not to decide.
        if ["filename", "kubeconfig", "cache-dir"]
            .iter()
            .any(|flag| line.values(flag).any(|path| Path::new(path).exists()))
        {
            return;
        }

        let hint = Hint::of(arguments, |_: &str| Some(OsString::from("/nonexistent")));
        let files = self.paths.of("fuzz");
        let kept = || Kept::read(&files);
        let known = kept().expect("the list is there");
        let all = hint.protected(Repeats::Nothing, kept);
        for repeats in [Repeats::Writes, Repeats::Nothing] {
            let protected = hint.protected(repeats, kept);
            assert!(protected.len() <= MOST, "{} actions to ask about", protected.len());
            for action in &protected {
                assert!(known.protects(action), "nothing protects {action:?}");
                assert!(all.contains(action), "where writes are repeated there is more to ask about: {action:?}");
                assert_eq!(action.clone().normalized(), *action, "asked about in words that the cluster does not use");
            }
        }
        if line.is_completing() {
            assert_eq!(all, [], "a shell that completes is asked about");
        }
        for action in all.iter().chain([&some_action()]) {
            let _ = (hint.may(action), hint.names(action));
        }
    }
}

/// Words come from the arguments, in their order; all that stands after `--` is among them.
fn assert_words_are_its_own(line: &CommandLine, arguments: &[String]) {
    let mut rest = arguments.iter();
    for word in &line.words {
        assert!(rest.any(|argument| argument == word), "{word:?} is out of order in {arguments:?}");
    }
    if let Some(dash) = line.dash {
        let after = &line.words[dash..];
        assert!(arguments.ends_with(after), "{after:?} is not the end of {arguments:?}");
        let end = arguments.len() - after.len();
        assert_eq!(arguments[..end].last().map(String::as_str), Some("--"), "{arguments:?}");
    }
}

fn some_action() -> Action {
    Action {
        verb: "delete".to_owned(),
        group: String::new(),
        resource: "namespaces".to_owned(),
        subresource: None,
        namespace: None,
        name: Some("prod".to_owned()),
        path: None,
    }
}
