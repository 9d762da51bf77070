//! The objects that a manifest on this machine names: kind, namespace and name, and nothing else of it.
//!
//! kubectl reads the file itself; this is a hint about what it will find. Only regular files are opened: to read a pipe
//! would take the manifest away from kubectl (kubernetes#70261).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use saphyr_parser::{Event, Parser};

/// Most that is read of all files together. kubectl itself takes seconds for more.
const MOST_BYTES: u64 = 1 << 20;
/// Most files.
const MOST_FILES: usize = 200;
/// How deep directories are searched.
const DEEPEST: usize = 8;

/// One object of a manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object {
    /// API group.
    pub group: String,
    /// Kind, such as `Secret`.
    pub kind: String,
    /// Namespace, where the manifest says one.
    pub namespace: Option<String>,
    /// Name; `None` where the server makes one up.
    pub name: Option<String>,
}

/// The objects in these files; `None` when some of it cannot be seen from here.
pub fn objects<'a>(paths: impl Iterator<Item = &'a str>, recursive: bool) -> Option<Vec<Object>> {
    let mut reader = Reader { objects: Vec::new(), bytes: MOST_BYTES, files: MOST_FILES, recursive };
    for path in paths {
        reader.named(path)?;
    }
    Some(reader.objects)
}

struct Reader {
    objects: Vec<Object>,
    /// What may still be read.
    bytes: u64,
    files: usize,
    recursive: bool,
}

impl Reader {
    fn named(&mut self, path: &str) -> Option<()> {
        // `-` is stdin, which is kubectl's; URLs are for kubectl to fetch.
        if path == "-" || path.contains("://") {
            return None;
        }
        let path = Path::new(path);
        let data = fs::metadata(path).ok()?;
        if data.is_dir() { self.directory(path, 0) } else { self.file(path) }
    }

    fn directory(&mut self, path: &Path, depth: usize) -> Option<()> {
        let mut entries: Vec<_> = fs::read_dir(path).ok()?.flatten().map(|entry| entry.path()).collect();
        entries.sort();
        for path in entries {
            // kubectl walks without following links to directories, and takes files by their extension.
            if fs::symlink_metadata(&path).ok()?.is_dir() {
                if self.recursive {
                    (depth < DEEPEST).then_some(())?;
                    self.directory(&path, depth + 1)?;
                }
            } else if path.extension().is_some_and(|kind| kind == "json" || kind == "yaml" || kind == "yml") {
                self.file(&path)?;
            }
        }
        Some(())
    }

    fn file(&mut self, path: &Path) -> Option<()> {
        // Looked at before it is opened, which may already wait for a writer; and after, for what was opened counts.
        fs::metadata(path).ok()?.is_file().then_some(())?;
        let file = File::open(path).ok()?;
        file.metadata().ok()?.is_file().then_some(())?;
        self.files = self.files.checked_sub(1)?;
        let mut text = String::new();
        file.take(self.bytes + 1).read_to_string(&mut text).ok()?;
        self.bytes = self.bytes.checked_sub(text.len() as u64)?;
        self.objects.extend(read(&text)?);
        Some(())
    }
}

/// The objects of one text; YAML with several documents, or JSON.
pub fn read(text: &str) -> Option<Vec<Object>> {
    let mut objects = Vec::new();
    // What each document, and each item of a list, says at the places that we look at.
    let mut said: BTreeMap<Option<usize>, Said> = BTreeMap::new();
    let mut open: Vec<Open> = Vec::new();
    for event in Parser::new_from_str(text.trim_start_matches('\u{feff}')) {
        match event.ok()?.0 {
            Event::DocumentStart(_) => said.clear(),
            Event::DocumentEnd => objects.extend(std::mem::take(&mut said).into_values().filter_map(Said::object)),
            Event::MappingStart(..) => {
                Open::step(&mut open);
                open.push(Open::Mapping { key: None, is_value: true });
            }
            Event::SequenceStart(..) => {
                Open::step(&mut open);
                open.push(Open::Sequence(None));
            }
            Event::MappingEnd | Event::SequenceEnd => {
                open.pop();
            }
            Event::Scalar(value, ..) => {
                if Open::step(&mut open) {
                    if let Some((item, place)) = place(&open) {
                        said.entry(item).or_default().take(place, &value);
                    }
                } else if let Some(Open::Mapping { key, .. }) = open.last_mut() {
                    *key = Some(value.into_owned());
                }
            }
            Event::Alias(_) => {
                Open::step(&mut open);
            }
            _ => {}
        }
    }
    Some(objects)
}

/// A collection that the parser is in.
enum Open {
    Mapping { key: Option<String>, is_value: bool },
    Sequence(Option<usize>),
}

impl Open {
    /// The next node begins; whether it is a value, and not a mapping's key.
    fn step(open: &mut [Self]) -> bool {
        match open.last_mut() {
            Some(Self::Mapping { key, is_value }) => {
                *is_value = !*is_value;
                if !*is_value {
                    *key = None;
                }
                *is_value
            }
            Some(Self::Sequence(index)) => {
                *index = Some(index.map_or(0, |index| index + 1));
                true
            }
            None => true,
        }
    }
}

/// Where in the document a scalar stands, if it is one that we look at: in which item of a `List`, and what it is.
fn place(open: &[Open]) -> Option<(Option<usize>, &'static str)> {
    let key = |open: &Open| match open {
        Open::Mapping { key: Some(key), .. } => match key.as_str() {
            "apiVersion" => Some("apiVersion"),
            "kind" => Some("kind"),
            "metadata" => Some("metadata"),
            "name" => Some("name"),
            "namespace" => Some("namespace"),
            "items" => Some("items"),
            _ => None,
        },
        _ => None,
    };
    let (item, rest) = match open {
        [list, Open::Sequence(index), rest @ ..] if key(list) == Some("items") => (*index, rest),
        rest => (None, rest),
    };
    match rest {
        [top] => key(top).filter(|key| matches!(*key, "apiVersion" | "kind")).map(|key| (item, key)),
        [top, inner] if key(top) == Some("metadata") => {
            key(inner).filter(|key| matches!(*key, "name" | "namespace")).map(|key| (item, key))
        }
        _ => None,
    }
}

#[derive(Default)]
struct Said {
    api_version: String,
    kind: String,
    namespace: Option<String>,
    name: Option<String>,
}

impl Said {
    fn take(&mut self, place: &str, value: &str) {
        match place {
            "apiVersion" => value.clone_into(&mut self.api_version),
            "kind" => value.clone_into(&mut self.kind),
            "name" => self.name = Some(value.to_owned()),
            _ => self.namespace = Some(value.to_owned()),
        }
    }

    fn object(self) -> Option<Object> {
        if self.kind.is_empty() || (self.kind == "List" && self.api_version == "v1") {
            return None;
        }
        let group = self.api_version.split_once('/').map_or("", |(group, _)| group).to_owned();
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        Some(Object { group, kind: self.kind, namespace: filled(self.namespace), name: filled(self.name) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let describe = |object: Object| {
            let part = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            format!("{}/{} {} {}", object.group, object.kind, part(&object.namespace), part(&object.name))
        };
        read(text).unwrap().into_iter().map(describe).collect()
    }

    #[test]
    fn documents_lists_and_json_name_their_objects() {
        let yaml = "# a comment\napiVersion: v1\nkind: Secret\nmetadata:\n  name: db\n  namespace: prod\n  labels: {name: x}\n\
                    stringData:\n  kind: Trap\n  metadata: {name: trap}\n---\n---\napiVersion: apps/v1\nkind: Deployment\n\
                    metadata: {name: web}\nspec:\n  template:\n    kind: Pod\n    metadata: {name: no}\n";
        assert_eq!(found(yaml), ["/Secret prod db", "apps/Deployment - web"]);
        let json = r#"{"apiVersion":"v1","kind":"List","items":[
            {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"x"},"data":{"items":"[]"}},
            {"apiVersion":"batch/v1","kind":"Job","metadata":{"generateName":"b-"}}]}"#;
        assert_eq!(found(json), ["/ConfigMap x a", "batch/Job - -"]);
        assert_eq!(found(""), [""; 0]);
        assert_eq!(found("just: text"), [""; 0]);
        assert_eq!(found("&a {kind: X, apiVersion: v1, metadata: &b {? [1] : 2, name: n}}"), ["/X - n"]);
    }

    #[test]
    fn what_is_no_yaml_is_nothing() {
        for text in ["{", "a: [", "\u{0}", "kind: X\n\tname: y"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn only_regular_files_of_this_machine_are_read_and_not_too_much() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
        let write = |name: &str, text: &str| fs::write(path(name), text).unwrap();
        let count = |name: &str, recursive| objects([name].into_iter(), recursive).map(|objects| objects.len());
        fs::create_dir_all(path("d/sub")).unwrap();
        for name in ["d/a.yaml", "d/b.json", "d/c.txt", "d/sub/e.yml"] {
            write(name, "{\"kind\": \"X\", \"apiVersion\": \"v1\"}");
        }
        assert_eq!((count(&path("d"), false), count(&path("d"), true)), (Some(2), Some(3)));
        assert_eq!(count(&path("d/c.txt"), false), Some(1));
        for name in ["-", "https://example.com/x.yaml", "/dev/zero", "/dev/stdin", &path("none"), ""] {
            assert_eq!(count(name, true), None, "{name}");
        }
        write("large.yaml", &"# x\n".repeat(300_000));
        assert_eq!(count(&path("large.yaml"), false), None);
        fs::write(path("d/odd.yaml"), b"\xff\xfe").unwrap();
        assert_eq!(count(&path("d"), false), None);
    }
}
