//! What the documents name is there: tests under the name and in the file that SECURITY.md gives for them, and whatever a
//! link leads to.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn tests_that_security_names_are_there() {
    let named = tests_named_in(&read("SECURITY.md"));
    assert!(named.len() > 50, "SECURITY.md names its tests in another way than is read here: {named:?}");
    let missing: Vec<String> = named
        .into_iter()
        .filter(|(name, file)| !fs::read_to_string(root().join(file)).is_ok_and(|text| has_test(&text, name)))
        .map(|(name, file)| format!("{file}: {name}"))
        .collect();
    assert!(missing.is_empty(), "SECURITY.md names tests that are not there:\n{}", missing.join("\n"));
}

#[test]
fn links_lead_somewhere() {
    let documents = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let documents = documents.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let named = ["README.md", "ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md", "tests/lab/README.md"];
    let mut broken = Vec::new();
    for document in named.into_iter().map(|name| root().join(name)).chain(documents) {
        let text = fs::read_to_string(&document).unwrap();
        let links = links(&text);
        broken.extend(links.iter().filter(|link| !leads_somewhere(&document, link)).map(|link| {
            let document = document.strip_prefix(root()).unwrap();
            format!("{}: {link}", document.display())
        }));
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

/// Names of tests and their files, from paragraphs like ``Tests: `one`, `other` (`a/file.rs`); `third` (stories).``
fn tests_named_in(document: &str) -> Vec<(String, String)> {
    let mut named = Vec::new();
    for paragraph in document.split("\n\n").filter(|paragraph| paragraph.starts_with("Tests:")) {
        let mut without_file: Vec<String> = Vec::new();
        for part in paragraph.split_inclusive(['(', ')']) {
            let words = || part.split('`').skip(1).step_by(2);
            if part.ends_with(')') {
                let file = words().find(|word| Path::new(word).extension().is_some_and(|extension| extension == "rs"));
                let file = file.or_else(|| part.starts_with("stories").then_some("server/stories.rs"));
                let Some(file) = file else { continue };
                let file = if file.starts_with("tests/") { file.to_owned() } else { format!("src/{file}") };
                named.extend(without_file.drain(..).map(|name| (name, file.clone())));
            } else {
                // Claims and settings have one underscore at most.
                without_file.extend(words().filter(|word| word.matches('_').count() > 1).map(str::to_owned));
            }
        }
        assert!(without_file.is_empty(), "no file is named for {without_file:?}");
    }
    named
}

/// Whether a file has a test of this name: a function under `#[test]`, or one that `lab::tests!` lists.
fn has_test(file: &str, name: &str) -> bool {
    let is_it = |line: &str| {
        let line = line.trim_start();
        let line = line.strip_prefix("async ").unwrap_or(line);
        line.strip_prefix("fn ").and_then(|line| line.strip_prefix(name)).is_some_and(|rest| rest.starts_with('('))
    };
    let lines: Vec<&str> = file.lines().collect();
    let Some(at) = lines.iter().position(|line| is_it(line)) else { return false };
    let attributes = lines[..at].iter().rev().take_while(|line| line.trim_start().starts_with(['#', '/']));
    let is_marked = attributes.into_iter().any(|line| line.contains("#[test]") || line.contains("#[tokio::test"));
    let list = file.split_once("lab::tests![").and_then(|(_, rest)| rest.split_once(']'));
    is_marked || list.is_some_and(|(list, _)| list.split(',').any(|listed| listed.trim() == name))
}

/// Targets of the links to files and headings of ours.
fn links(document: &str) -> Vec<String> {
    let text = lines_of_text(document).collect::<Vec<_>>().join("\n");
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    targets.filter(|target| !target.contains("://")).map(str::to_owned).collect()
}

fn leads_somewhere(document: &Path, link: &str) -> bool {
    let (path, heading) = link.split_once('#').map_or((link, None), |(path, heading)| (path, Some(heading)));
    let target = if path.is_empty() { document.to_owned() } else { document.parent().unwrap().join(path) };
    match heading {
        None => target.exists(),
        Some(heading) => fs::read_to_string(target).is_ok_and(|text| headings(&text).iter().any(|it| it == heading)),
    }
}

/// The headings of a document, as links name them: in lower case, with `-` for spaces and without punctuation.
fn headings(document: &str) -> Vec<String> {
    let titles = lines_of_text(document).filter(|line| line.starts_with('#'));
    let letters = |title: &str| -> String {
        let kept = title.chars().filter(|char| char.is_alphanumeric() || [' ', '-', '_'].contains(char));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    titles.map(|line| letters(line.trim_start_matches('#').trim())).collect()
}

/// Without what stands between fences.
fn lines_of_text(document: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    document.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
