//! YAML documents, read so that every problem in them can be told, each with its line and column.
//!
//! A derived `Deserialize` stops at the first problem; a person who wrote ten lines wrong wants to hear of all ten. So
//! a file becomes a tree of [`Node`]s that know where they stand, and [`Fields`] takes it apart key by key.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use serde_saphyr::options::DuplicateKeyPolicy;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it starts.
    pub at: Place,
    /// What it is.
    pub value: Value,
}

/// Line and column, from 1; 0 when unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    line: u32,
    column: u32,
}

/// A YAML value of the core schema.
#[derive(Clone, Debug)]
pub enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Float(f64),
    /// Everything else that is one value.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping and where it stands.
#[derive(Clone, Debug)]
pub struct Key {
    at: Place,
    name: String,
}

/// The largest file that is read. 100,000 rules of a policy take about a third of it.
const MAX_FILE_BYTES: u64 = 128 << 20;
/// What aliases may add: enough to share a list between rules, too little to make a bomb.
const MAX_ALIASED_NODES: usize = 100_000;
/// More problems than this are only counted.
const MAX_PROBLEMS: usize = 100;

/// Reads a text file of a sane size. The error is a line for people.
pub fn read(file: &Path) -> Result<String, String> {
    let cannot = |error: std::io::Error| format!("{}: cannot be read: {error}", file.display());
    let size = std::fs::metadata(file).map_err(cannot)?.len();
    if size > MAX_FILE_BYTES {
        return Err(format!("{}: {size} bytes are too many, {MAX_FILE_BYTES} is the most", file.display()));
    }
    std::fs::read_to_string(file).map_err(cannot)
}

/// Parses `text`. What is wrong with it as YAML is reported to `problems`.
pub fn parse(text: &str, problems: &Problems) -> Option<Node> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 50_000_000,
            max_nodes: 50_000_000,
            max_total_scalar_bytes: 1 << 30,
            max_documents: 1,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_ALIASED_NODES,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        strict_booleans: true,
    };
    match serde_saphyr::from_str_with_options::<Node>(text, options) {
        Ok(node) => Some(node),
        Err(error) => {
            let at = error.location().map_or_else(Place::default, Place::from);
            let message = error.without_snippet().to_string();
            // The location is in front of the line already.
            let message = message.split(" at line ").next().unwrap_or(&message);
            problems.report(at, message.trim());
            None
        }
    }
}

/// What is wrong with one file.
#[derive(Debug)]
pub struct Problems {
    file: String,
    list: RefCell<Vec<(Place, String)>>,
}

impl Problems {
    /// Nothing is wrong with `file` so far.
    pub fn new(file: impl Into<String>) -> Self {
        Self { file: file.into(), list: RefCell::default() }
    }

    /// Something is.
    pub fn report(&self, at: Place, message: impl Into<String>) {
        self.list.borrow_mut().push((at, message.into()));
    }

    /// Whether nothing was reported.
    pub fn is_empty(&self) -> bool {
        self.list.borrow().is_empty()
    }
}

/// A line each: `file:line:column: message`.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = self.list.borrow().clone();
        list.sort_by_key(|(at, _)| (at.line, at.column));
        for (index, (at, message)) in list.iter().take(MAX_PROBLEMS).enumerate() {
            let line_end = if index == 0 { "" } else { "\n" };
            match at.line {
                0 => write!(f, "{line_end}{}: {message}", self.file)?,
                line => write!(f, "{line_end}{}:{line}:{}: {message}", self.file, at.column)?,
            }
        }
        match list.len().saturating_sub(MAX_PROBLEMS) {
            0 => Ok(()),
            more => write!(f, "\n{}: and {more} more", self.file),
        }
    }
}

/// A mapping, taken apart key by key. What is left at [`Fields::finish`] is unknown.
#[derive(Debug)]
pub struct Fields<'n> {
    /// Where the mapping starts.
    pub at: Place,
    problems: &'n Problems,
    path: String,
    entries: &'n [(Key, Node)],
    known: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    /// The mapping in `node`; `path` is how messages call it, empty for the whole file.
    pub fn of(node: &'n Node, path: impl Into<String>, problems: &'n Problems) -> Option<Self> {
        let path = path.into();
        match &node.value {
            Value::Map(entries) => Some(Self { at: node.at, problems, path, entries, known: Vec::new() }),
            other => {
                let what = if path.is_empty() { "the file".to_owned() } else { format!("`{path}`") };
                problems.report(node.at, format!("{what} must be a mapping of keys to values, not {other}"));
                None
            }
        }
    }

    /// How messages call this mapping from here on.
    pub fn rename(&mut self, path: impl Into<String>) {
        self.path = path.into();
    }

    /// The value of `key`, unless it is absent or null.
    pub fn node(&mut self, key: &'static str) -> Option<&'n Node> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        let (_, node) = self.entries.iter().find(|(entry, _)| entry.name == key)?;
        (!matches!(node.value, Value::Null)).then_some(node)
    }

    /// Where `key` stands, or the mapping when it is absent.
    pub fn place(&self, key: &str) -> Place {
        self.entries.iter().find(|(entry, _)| entry.name == key).map_or(self.at, |(entry, _)| entry.at)
    }

    /// Whether `key` is there at all.
    pub fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|(entry, _)| entry.name == key)
    }

    /// The value of `key`, if it is there.
    pub fn optional<T: FromNode>(&mut self, key: &'static str) -> Option<T> {
        let node = self.node(key)?;
        match T::from_node(node) {
            Ok(value) => Some(value),
            Err(Mistake { at, message }) => {
                self.problems.report(at.unwrap_or(node.at), format!("`{}`: {message}", self.name(key)));
                None
            }
        }
    }

    /// The value of `key`, which must be there. Without it a problem is reported and the default stands in.
    pub fn required<T: FromNode + Default>(&mut self, key: &'static str) -> T {
        if self.node(key).is_none() {
            self.missing(key);
            return T::default();
        }
        self.optional(key).unwrap_or_default()
    }

    /// The mapping under `key`, if it is there.
    pub fn fields(&mut self, key: &'static str) -> Option<Fields<'n>> {
        let node = self.node(key)?;
        Fields::of(node, self.name(key), self.problems)
    }

    /// The mapping under `key`, which must be there.
    pub fn required_fields(&mut self, key: &'static str) -> Option<Fields<'n>> {
        if self.node(key).is_none() {
            self.missing(key);
            return None;
        }
        self.fields(key)
    }

    /// The sequence under `key`; empty when it is not there.
    pub fn list(&mut self, key: &'static str) -> &'n [Node] {
        match self.node(key) {
            Some(Node { value: Value::List(list), .. }) => list,
            Some(node) => {
                self.problems.report(node.at, format!("`{}` must be a list, not {}", self.name(key), node.value));
                &[]
            }
            None => &[],
        }
    }

    /// The mappings in the sequence under `key`; what is no mapping is reported and left out.
    pub fn maps(&mut self, key: &'static str) -> Vec<Fields<'n>> {
        let name = self.name(key);
        let list = self.list(key).iter().enumerate();
        list.filter_map(|(index, node)| Fields::of(node, format!("{name}[{index}]"), self.problems)).collect()
    }

    /// Something is wrong with the value of `key`.
    pub fn report(&self, key: &str, message: impl fmt::Display) {
        let at = self.entries.iter().find(|(entry, _)| entry.name == key).map_or(self.at, |(_, node)| node.at);
        self.problems.report(at, format!("`{}`: {message}", self.name(key)));
    }

    /// `key` must be there and is not.
    pub fn missing(&self, key: &str) {
        self.problems.report(self.at, format!("`{}` is missing", self.name(key)));
    }

    /// Reports the keys that nobody asked for.
    pub fn finish(self) {
        for (key, _) in self.entries.iter().filter(|(key, _)| !self.known.contains(&key.name.as_str())) {
            let within = if self.path.is_empty() { String::new() } else { format!(" in `{}`", self.path) };
            let hint = match nearest(&key.name, self.known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the keys here are {}", self.known.join(", ")),
            };
            self.problems.report(key.at, format!("unknown key `{}`{within}: {hint}", key.name));
        }
    }

    /// The full name of `key`.
    pub fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

/// The candidate that `text` is most likely a slip of.
pub fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.replace(['_', '-'], "").to_lowercase();
    let wanted = plain(text);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&wanted, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count() / 3).clamp(1, 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Why a node is not what it should be, and where, when that is inside of it.
#[derive(Debug)]
pub struct Mistake {
    at: Option<Place>,
    message: String,
}

impl Mistake {
    fn expected(what: &str, node: &Node) -> Self {
        Self { at: None, message: format!("expected {what}, not {}", node.value) }
    }
}

impl From<String> for Mistake {
    fn from(message: String) -> Self {
        Self { at: None, message }
    }
}

/// What can be made of a node.
pub trait FromNode: Sized {
    /// Makes it.
    fn from_node(node: &Node) -> Result<Self, Mistake>;
}

impl FromNode for String {
    fn from_node(node: &Node) -> Result<Self, Mistake> {
        match &node.value {
            Value::Text(text) => Ok(text.clone()),
            Value::Bool(_) | Value::Integer(_) | Value::Float(_) => {
                Err(Mistake::from(format!("expected text, not {}; put it in quotes", node.value)))
            }
            _ => Err(Mistake::expected("text", node)),
        }
    }
}

impl FromNode for PathBuf {
    fn from_node(node: &Node) -> Result<Self, Mistake> {
        match &node.value {
            Value::Text(text) if !text.is_empty() => Ok(Self::from(text)),
            _ => Err(Mistake::expected("a path", node)),
        }
    }
}

impl FromNode for bool {
    fn from_node(node: &Node) -> Result<Self, Mistake> {
        match node.value {
            Value::Bool(value) => Ok(value),
            _ => Err(Mistake::expected("true or false", node)),
        }
    }
}

impl FromNode for u32 {
    fn from_node(node: &Node) -> Result<Self, Mistake> {
        match node.value {
            Value::Integer(value) => u32::try_from(value).ok(),
            _ => None,
        }
        .ok_or_else(|| Mistake::expected("a whole number, not negative", node))
    }
}

/// A number of bytes: `65536` or `4MiB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size(pub usize);

impl FromNode for Size {
    fn from_node(node: &Node) -> Result<Self, Mistake> {
        match &node.value {
            Value::Integer(value) => usize::try_from(*value).ok(),
            Value::Text(text) => parse_size(text),
            _ => None,
        }
        .map(Size)
        .ok_or_else(|| Mistake::expected("a size such as 65536, 512KiB or 4MiB", node))
    }
}

impl FromNode for Duration {
    fn from_node(node: &Node) -> Result<Self, Mistake> {
        match &node.value {
            Value::Text(text) => parse_duration(text),
            _ => None,
        }
        .ok_or_else(|| Mistake::expected("a time such as 90s, 5m or 1h30m", node))
    }
}

/// A glob as [`crate::action::glob_matches`] reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Glob(pub String);

impl FromNode for Glob {
    fn from_node(node: &Node) -> Result<Self, Mistake> {
        let text = String::from_node(node)?;
        if text.is_empty() || text == "=" {
            return Err(Mistake::from("an empty pattern matches nothing; use `*` for everything".to_owned()));
        }
        if !text.starts_with('=') && text.contains(['[', ']', '{', '}']) {
            return Err(Mistake::from(format!(
                "`{text}`: only `*` and `?` are special in a pattern; list the alternatives one by one, or put `=` in \
                 front to take it to the letter"
            )));
        }
        if text.chars().any(char::is_whitespace) {
            return Err(Mistake::from(format!("`{text}`: there is a space in the pattern")));
        }
        Ok(Self(text))
    }
}

/// Takes the strings out.
pub fn globs(list: Vec<Glob>) -> Vec<String> {
    list.into_iter().map(|Glob(text)| text).collect()
}

impl<T: FromNode> FromNode for Vec<T> {
    fn from_node(node: &Node) -> Result<Self, Mistake> {
        let Value::List(list) = &node.value else { return Err(Mistake::expected("a list", node)) };
        list.iter()
            .map(|item| {
                T::from_node(item)
                    .map_err(|mistake| Mistake { at: mistake.at.or(Some(item.at)), message: mistake.message })
            })
            .collect()
    }
}

fn parse_size(text: &str) -> Option<usize> {
    let digits = text.find(|char: char| !char.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(unit)
}

/// `90s`, `5m`, `1h30m`, `500ms`, `7d`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|char: char| !char.is_ascii_digit())?);
        let (unit, tail) = tail.split_at(tail.find(|char: char| char.is_ascii_digit()).unwrap_or(tail.len()));
        let number = number.parse::<u64>().ok()?;
        let seconds = |each: u64| number.checked_mul(each).map(Duration::from_secs);
        let part = match unit {
            "ms" => Duration::from_millis(number),
            "s" => seconds(1)?,
            "m" => seconds(60)?,
            "h" => seconds(60 * 60)?,
            "d" => seconds(24 * 60 * 60)?,
            _ => return None,
        };
        total = total.checked_add(part)?;
        rest = tail;
    }
    Some(total)
}

/// As [`parse_duration`] reads it.
pub fn show_duration(duration: Duration) -> String {
    let mut seconds = duration.as_secs();
    let mut text = String::new();
    for (unit, name) in [(24 * 60 * 60, 'd'), (60 * 60, 'h'), (60, 'm'), (1, 's')] {
        if seconds >= unit {
            text += &(seconds / unit).to_string();
            text.push(name);
            seconds %= unit;
        }
    }
    match duration.subsec_millis() {
        0 if text.is_empty() => "0s".to_owned(),
        0 => text,
        millis => format!("{text}{millis}ms"),
    }
}

/// For messages: "a list", "`5`".
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("nothing"),
            Self::Bool(value) => write!(f, "`{value}`"),
            Self::Integer(value) => write!(f, "`{value}`"),
            Self::Float(value) => write!(f, "`{value}`"),
            Self::Text(text) if text.chars().count() <= 60 => write!(f, "`{}`", text.escape_debug()),
            Self::Text(_) => f.write_str("a long text"),
            Self::List(_) => f.write_str("a list"),
            Self::Map(_) => f.write_str("a mapping"),
        }
    }
}

impl From<serde_saphyr::Location> for Place {
    fn from(location: serde_saphyr::Location) -> Self {
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Self { line: small(location.line()), column: small(location.column()) }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { at: spanned.referenced.into(), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(i64::try_from(value).unwrap_or(i64::MAX)))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = access.next_element::<Node>()? {
            list.push(node);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            map.push((Key { at: key.referenced.into(), name: key.value }, access.next_value::<Node>()?));
        }
        Ok(Value::Map(map))
    }

    fn visit_bytes<E: de::Error>(self, _: &[u8]) -> Result<Value, E> {
        Err(E::custom("binary values are not used here"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::format_push_string)]
mod tests {
    use super::*;

    fn problems_of(text: &str, take: impl FnOnce(&mut Fields<'_>)) -> String {
        let problems = Problems::new("file.yaml");
        if let Some(node) = parse(text, &problems)
            && let Some(mut fields) = Fields::of(&node, "", &problems)
        {
            take(&mut fields);
            fields.finish();
        }
        problems.to_string()
    }

    #[test]
    fn every_problem_is_told_with_its_place_and_the_nearest_key() {
        let text = "listen: 5\nmax_age: 5m\ncolour: red\nttl: 5 minutes\nusers: [a, 7]\n";
        let told = problems_of(text, |fields| {
            fields.required::<String>("listen");
            fields.optional::<Duration>("maxAge");
            fields.required::<Duration>("ttl");
            fields.required::<Vec<String>>("users");
            fields.required::<String>("policy");
        });
        let lines: Vec<_> = told.lines().collect();
        assert_eq!(
            lines,
            [
                "file.yaml:1:1: `policy` is missing",
                "file.yaml:1:9: `listen`: expected text, not `5`; put it in quotes",
                "file.yaml:2:1: unknown key `max_age`: did you mean `maxAge`?",
                "file.yaml:3:1: unknown key `colour`: the keys here are listen, maxAge, ttl, users, policy",
                "file.yaml:4:6: `ttl`: expected a time such as 90s, 5m or 1h30m, not `5 minutes`",
                "file.yaml:5:12: `users`: expected text, not `7`; put it in quotes",
            ]
        );
    }

    #[test]
    fn broken_yaml_names_its_line() {
        for text in ["a: [1\nb: 2", "a: 1\na: 2", "\"", "a:\n\t- b", "- x\ny: 1", "a: *nobody", "a: 1\n---\nb: 2"] {
            let told = problems_of(text, |fields| {
                fields.node("a");
            });
            assert!(told.starts_with("file.yaml:"), "{text:?}: {told}");
            assert_eq!(told.lines().count(), 1, "{text:?}: {told}");
        }
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (this, next) in ('a'..'k').zip('b'..='k') {
            text += &format!("{next}: &{next} [{}]\n", vec![format!("*{this}"); 10].join(", "));
        }
        // Spelled out, it would fill the memory of any machine.
        let told = problems_of(&text, |_| {});
        assert!(told.contains("alias"), "{told}");
        let deep = "[".repeat(100_000);
        assert!(!problems_of(&deep, |_| {}).is_empty());
    }

    #[test]
    fn durations_and_sizes() {
        for (text, seconds) in [("90s", 90), ("5m", 300), ("1h30m", 5400), ("7d", 604_800), ("1m1s", 61)] {
            assert_eq!(parse_duration(text), Some(Duration::from_secs(seconds)), "{text}");
            assert_eq!(
                parse_duration(&show_duration(Duration::from_secs(seconds))),
                Some(Duration::from_secs(seconds))
            );
        }
        assert_eq!(parse_duration("1500ms"), Some(Duration::from_millis(1500)));
        for text in ["", "5", "m", "5 m", "-5m", "5.5m", "5x", "99999999999999999999s", "9999999999999999999d"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        assert_eq!(parse_size("4MiB"), Some(4 << 20));
        for text in ["4M", "MiB", "", "-1KiB", "99999999999999999999KiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        assert_eq!(nearest("max_age", ["maxAge", "acr"]), Some("maxAge"));
        assert_eq!(nearest("verb", ["verbs", "names"]), Some("verbs"));
        assert_eq!(nearest("nonResourceUrls", ["nonResourceURLs"]), Some("nonResourceURLs"));
        assert_eq!(nearest("colour", ["ttl", "uses"]), None);
    }
}
