//! YAML as a tree whose nodes know where they stand in the text.

use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle};

/// Deeper than any kubeconfig, shallow enough for recursion.
const MAX_DEPTH: usize = 64;

/// A parsed text with one document in it.
#[derive(Debug)]
pub struct Document {
    /// The document's root; `None` where there is only white space and comments.
    pub root: Option<Node>,
}

/// Why a text is not such a document.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub what: String,
}

/// One node.
#[derive(Debug)]
pub struct Node {
    /// Bytes of its content. That of a block collection ends where its last child does, so that no comment after it
    /// belongs to it.
    pub span: Range<usize>,
    /// What it is.
    pub kind: Kind,
    /// Identifier of its anchor; 0 for none.
    anchor: usize,
}

/// Kinds of nodes.
#[derive(Debug)]
pub enum Kind {
    /// Text.
    Scalar {
        /// Its value, unquoted.
        text: String,
        /// How it is written.
        style: ScalarStyle,
    },
    /// List.
    Sequence {
        /// Elements.
        items: Vec<Node>,
        /// Whether it is written with brackets.
        flow: bool,
    },
    /// Mapping.
    Mapping {
        /// Keys and values.
        entries: Vec<(Node, Node)>,
        /// Whether it is written with braces.
        flow: bool,
    },
    /// `*name`, a reference to an anchored node.
    Alias(usize),
}

/// What a node means, wherever and however it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A string.
    Text(String),
    /// A number, boolean or null, as written.
    Other(String),
    /// List.
    List(Vec<Value>),
    /// Mapping.
    Map(Vec<(Value, Value)>),
    /// Reference to an anchored node.
    Alias(usize),
}

impl Document {
    /// Parses `text`, which must not begin with a byte order mark.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let offsets = Offsets::new(text);
        let mut open: Vec<Open> = Vec::new();
        let mut root = None;
        let mut documents = 0;
        for event in Parser::new_from_str(text) {
            let (event, span) =
                event.map_err(|error| Malformed { line: error.marker().line(), what: error.info().to_owned() })?;
            let line = span.start.line();
            let at = offsets.byte(span.start.index())..offsets.byte(span.end.index());
            let done = match event {
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        return Err(Malformed { line, what: "a second YAML document starts here".to_owned() });
                    }
                    continue;
                }
                Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _) => {
                    if open.len() == MAX_DEPTH {
                        return Err(Malformed { line, what: "it is nested too deeply".to_owned() });
                    }
                    open.push(Open {
                        sequence: matches!(event, Event::SequenceStart(..)),
                        flow: text[at.clone()].ends_with(['{', '[']),
                        start: at.start,
                        anchor,
                        children: Vec::new(),
                    });
                    continue;
                }
                Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                    // The scanner counts a comment behind the bracket as part of it.
                    Some(collection) => collection.close(at.start + 1),
                    None => continue,
                },
                Event::Scalar(value, style, anchor, _) => {
                    let span = if matches!(style, ScalarStyle::Literal | ScalarStyle::Folded) {
                        at.start..end_of_block_scalar(text, &at)
                    } else {
                        at
                    };
                    Node { span, anchor, kind: Kind::Scalar { text: value.into_owned(), style } }
                }
                Event::Alias(anchor) => Node { span: at, anchor: 0, kind: Kind::Alias(anchor) },
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => continue,
            };
            match open.last_mut() {
                Some(collection) => collection.children.push(done),
                None => root = Some(done),
            }
        }
        // `---` and nothing else, or `null`.
        Ok(Self { root: root.filter(|root| !root.is_null()) })
    }

    /// Whether some alias refers to `node`, so that a change of it would change other places too.
    pub fn is_shared(&self, node: &Node) -> bool {
        fn refers(node: &Node, anchor: usize) -> bool {
            match &node.kind {
                Kind::Alias(id) => *id == anchor,
                Kind::Scalar { .. } => false,
                Kind::Sequence { items, .. } => items.iter().any(|item| refers(item, anchor)),
                Kind::Mapping { entries, .. } => {
                    entries.iter().any(|(key, value)| refers(key, anchor) || refers(value, anchor))
                }
            }
        }
        node.anchor != 0 && self.root.as_ref().is_some_and(|root| refers(root, node.anchor))
    }

    /// The node that an alias refers to; `node` itself where it is none.
    pub fn resolve<'a>(&'a self, node: &'a Node) -> Option<&'a Node> {
        fn find(node: &Node, anchor: usize) -> Option<&Node> {
            if node.anchor == anchor {
                return Some(node);
            }
            match &node.kind {
                Kind::Sequence { items, .. } => items.iter().find_map(|item| find(item, anchor)),
                Kind::Mapping { entries, .. } => entries.iter().find_map(|(_, value)| find(value, anchor)),
                Kind::Scalar { .. } | Kind::Alias(_) => None,
            }
        }
        match node.kind {
            Kind::Alias(anchor) => self.root.as_ref().and_then(|root| find(root, anchor)),
            _ => Some(node),
        }
    }
}

impl Node {
    /// Its value, where it is text, a number, …
    pub fn scalar(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// Its value, where it is a non-empty string.
    pub fn text(&self) -> Option<&str> {
        match self.value() {
            Value::Text(text) if !text.is_empty() => self.scalar(),
            _ => None,
        }
    }

    /// Its elements; none where it is no list.
    pub fn items(&self) -> &[Node] {
        match &self.kind {
            Kind::Sequence { items, .. } => items,
            _ => &[],
        }
    }

    /// Its keys and values; none where it is no mapping.
    pub fn entries(&self) -> &[(Node, Node)] {
        match &self.kind {
            Kind::Mapping { entries, .. } => entries,
            _ => &[],
        }
    }

    /// The value at `key`. The first, where a file has it twice: see [`Node::has_twice`].
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|(k, _)| k.scalar() == Some(key)).map(|(_, value)| value)
    }

    /// Whether `key` is there more than once.
    pub fn has_twice(&self, key: &str) -> bool {
        self.entries().iter().filter(|(k, _)| k.scalar() == Some(key)).count() > 1
    }

    /// Whether it is nothing: empty, `null` or `~`.
    pub fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar { text, style: ScalarStyle::Plain } if is_null(text))
    }

    /// Whether it is a list or mapping in brackets or braces.
    pub fn is_flow(&self) -> bool {
        matches!(self.kind, Kind::Sequence { flow: true, .. } | Kind::Mapping { flow: true, .. })
    }

    /// Whether it is a mapping.
    pub fn is_mapping(&self) -> bool {
        matches!(self.kind, Kind::Mapping { .. })
    }

    /// Whether it is a list.
    pub fn is_sequence(&self) -> bool {
        matches!(self.kind, Kind::Sequence { .. })
    }

    /// Whether it is a list or mapping with nothing in it.
    pub fn is_empty_collection(&self) -> bool {
        (self.is_sequence() || self.is_mapping()) && self.items().is_empty() && self.entries().is_empty()
    }

    /// What it means.
    pub fn value(&self) -> Value {
        match &self.kind {
            Kind::Scalar { text, style: ScalarStyle::Plain } if !is_string(text) => Value::Other(text.clone()),
            Kind::Scalar { text, .. } => Value::Text(text.clone()),
            Kind::Sequence { items, .. } => Value::List(items.iter().map(Node::value).collect()),
            Kind::Mapping { entries, .. } => {
                Value::Map(entries.iter().map(|(key, value)| (key.value(), value.value())).collect())
            }
            Kind::Alias(anchor) => Value::Alias(*anchor),
        }
    }
}

impl Value {
    /// A string.
    pub fn from_text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    /// A mapping with string keys.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, Value)>) -> Self {
        Self::Map(pairs.into_iter().map(|(key, value)| (Self::from_text(key), value)).collect())
    }
}

/// Whether a plain scalar is a string for certain: nothing that YAML 1.1 or 1.2 take for null, a boolean, a number or
/// a date. Go's YAML follows the older rules in part (`yes`, `on`, `1_000`, `0b1`), so both count.
pub fn is_string(plain: &str) -> bool {
    const WORDS: [&str; 11] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf"];
    // A flag, such as `--profile`, is a string too.
    plain.strip_prefix("--").unwrap_or(plain).starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '/')
        && !WORDS.iter().any(|word| plain.eq_ignore_ascii_case(word))
}

fn is_null(plain: &str) -> bool {
    matches!(plain, "" | "~" | "null" | "Null" | "NULL")
}

/// A collection whose end is still to come.
struct Open {
    sequence: bool,
    flow: bool,
    start: usize,
    anchor: usize,
    children: Vec<Node>,
}

impl Open {
    fn close(self, end: usize) -> Node {
        let end = match self.children.last() {
            Some(last) if !self.flow => last.span.end,
            _ => end,
        };
        let kind = if self.sequence {
            Kind::Sequence { items: self.children, flow: self.flow }
        } else {
            let mut entries = Vec::with_capacity(self.children.len() / 2);
            let mut children = self.children.into_iter();
            while let (Some(key), Some(value)) = (children.next(), children.next()) {
                entries.push((key, value));
            }
            Kind::Mapping { entries, flow: self.flow }
        };
        Node { span: self.start..end, kind, anchor: self.anchor }
    }
}

/// The scanner has read the next line's indentation when it knows that a block scalar is over.
fn end_of_block_scalar(text: &str, span: &Range<usize>) -> usize {
    let written = &text[span.clone()];
    match written.rfind('\n') {
        Some(at) if written[at..].trim().is_empty() => span.start + at + 1,
        _ => span.end,
    }
}

/// Byte offsets of characters: the scanner counts characters.
struct Offsets {
    starts: Vec<usize>,
    len: usize,
}

impl Offsets {
    fn new(text: &str) -> Self {
        Self { starts: text.char_indices().map(|(at, _)| at).collect(), len: text.len() }
    }

    fn byte(&self, character: usize) -> usize {
        self.starts.get(character).copied().unwrap_or(self.len)
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn at<'a>(text: &'a str, path: &[&str]) -> &'a str {
        let document = Document::parse(text).unwrap();
        let mut node = document.root.as_ref().unwrap();
        for step in path {
            node = match step.parse::<usize>() {
                Ok(index) => &node.items()[index],
                Err(_) => node.get(step).unwrap(),
            };
        }
        &text[node.span.clone()]
    }

    #[test]
    fn nodes_know_their_bytes_whatever_stands_around_them() {
        let text = "# é\r\nusers:\r\n- name: zoë # ü\r\n  user: {token: \"ß\"} # x\r\n# tail\r\nlast: |\r\n  a\r\n\r\nz: 1\r\n";
        assert_eq!(at(text, &["users", "0", "name"]), "zoë");
        assert_eq!(at(text, &["users", "0", "user"]), "{token: \"ß\"}");
        assert_eq!(at(text, &["users"]), "name: zoë # ü\r\n  user: {token: \"ß\"}");
        assert_eq!(at(text, &["z"]), "1");
    }

    #[test]
    fn a_block_scalar_ends_before_the_next_line() {
        assert!(at("a:\n  b: |\n    text\n  c: 1\n", &["a", "b"]).ends_with("text\n"));
    }

    #[test]
    fn deep_nesting_is_an_error_not_a_crash() {
        for depth in [MAX_DEPTH + 1, 100_000] {
            assert!(Document::parse(&"[".repeat(depth)).is_err());
            assert!(Document::parse(&"- ".repeat(depth)).is_err());
        }
    }

    #[test]
    fn plain_words_that_are_not_strings_are_kept_apart() {
        for word in ["true", "No", "12", "0x1f", "~", "null", "2026-01-01", ".inf", "-1"] {
            assert!(!is_string(word), "{word}");
        }
        for word in ["kubectl-stepup", "/usr/bin/x", "IfAvailable", "client.authentication.k8s.io/v1"] {
            assert!(is_string(word), "{word}");
        }
    }
}
