//! Changes to YAML text that leave every other byte as it is.
//!
//! Each function makes one change and returns the new text; a caller with several parses in between. What they rest on
//! is checked afterwards by parsing the result and comparing meanings, so a layout they get wrong ends in a refusal and
//! never in a damaged file.

use super::tree::{Node, Value, is_string};

/// The layout is one that these functions cannot change.
#[derive(Debug, PartialEq, Eq)]
pub struct Unusual(pub &'static str);

/// Gives `map` (a mapping) a new entry, after its last.
pub fn insert(text: &str, map: &Node, key: &str, value: &Value) -> Result<String, Unusual> {
    if map.is_flow() {
        let last = map.entries().last().map(|(key, value)| key.span.start..value.span.end);
        return Ok(insert_flow(text, map, last, |layout| format!("{}: {}", quoted(key), flow(value, layout))));
    }
    let Some((first, _)) = map.entries().first() else {
        return Err(Unusual("an empty block mapping"));
    };
    let indent = column(text, first.span.start);
    let mut lines = String::new();
    block_entry(&mut lines, &Value::from_text(key), value, indent);
    Ok(splice_lines(text, line_end(text, map.span.end), &lines))
}

/// Replaces the value of the entry at `index` of `map`.
pub fn replace(text: &str, map: &Node, index: usize, new: &Value) -> Result<String, Unusual> {
    let (key, old) = &map.entries()[index];
    if map.is_flow() {
        let layout = text[old.span.clone()].contains('\n').then(|| (line_indent(text, key.span.start), unit(text)));
        return Ok(splice(text, old.span.start, old.span.end, &flow(new, layout)));
    }
    let colon = key.span.end + text[key.span.end..].find(|c| c != ' ').unwrap_or(0);
    if !text[colon..].starts_with(':') {
        return Err(Unusual("a key that is not followed by a colon"));
    }
    let after_colon = colon + 1;
    let inline = match new {
        Value::Text(_) | Value::Other(_) | Value::Alias(_) => Some(scalar(new)),
        Value::List(items) if items.is_empty() => Some("[]".to_owned()),
        Value::Map(entries) if entries.is_empty() => Some("{}".to_owned()),
        Value::List(_) | Value::Map(_) => None,
    };
    let same_line = !text[after_colon..old.span.start.max(after_colon)].contains('\n');
    if let Some(inline) = inline {
        if same_line {
            return Ok(splice(text, after_colon, old.span.end.max(after_colon), &format!(" {inline}")));
        }
        let removed = splice(text, line_start(text, old.span.start), line_end(text, old.span.end), "");
        return Ok(splice(&removed, after_colon, after_colon, &format!(" {inline}")));
    }
    let mut lines = String::new();
    block(&mut lines, new, below(new, column(text, key.span.start)));
    if same_line {
        // What follows the old value on its line, a comment, stays with the key.
        let end = old.span.end.max(after_colon);
        let with_lines = splice_lines(text, line_end(text, end), &lines);
        Ok(splice(&with_lines, after_colon, end, ""))
    } else {
        Ok(splice(text, line_start(text, old.span.start), line_end(text, old.span.end), &in_newlines_of(text, &lines)))
    }
}

/// Takes the entry at `index` out of `map`.
pub fn remove(text: &str, map: &Node, index: usize) -> Result<String, Unusual> {
    let entries = map.entries();
    let (key, value) = &entries[index];
    if map.is_flow() {
        return Ok(match (index.checked_sub(1), entries.get(index + 1)) {
            (Some(previous), _) => splice(text, entries[previous].1.span.end, value.span.end, ""),
            (None, Some((next, _))) => splice(text, key.span.start, next.span.start, ""),
            (None, None) => splice(text, key.span.start, value.span.end, ""),
        });
    }
    let start = line_start(text, key.span.start);
    if !text[start..key.span.start].trim().is_empty() {
        return Err(Unusual("a key that shares its line"));
    }
    Ok(splice(text, start, line_end(text, value.span.end.max(key.span.end)), ""))
}

/// Adds `item` to `list` (a list with something in it, or in brackets), after its last.
pub fn append(text: &str, list: &Node, item: &Value) -> Result<String, Unusual> {
    if list.is_flow() {
        let end = list.items().last().map(|item| item.span.clone());
        return Ok(insert_flow(text, list, end, |layout| flow(item, layout)));
    }
    let Some(first) = list.items().first() else {
        return Err(Unusual("an empty block list"));
    };
    let indent = dash_column(text, first.span.start).ok_or(Unusual("a list whose dashes stand alone"))?;
    let mut lines = String::new();
    block(&mut lines, &Value::List(vec![item.clone()]), indent);
    Ok(splice_lines(text, line_end(text, list.span.end), &lines))
}

/// `value`, a collection, as lines whose keys or dashes stand at `indent`.
fn block(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::List(items) => {
            for item in items {
                match item {
                    Value::Map(entries) if !entries.is_empty() => {
                        // The first entry stands behind the dash.
                        let dash = out.len() + indent;
                        block(out, item, indent + 2);
                        out.replace_range(dash..dash + 2, "- ");
                    }
                    _ => {
                        pad(out, indent);
                        out.push_str("- ");
                        out.push_str(&scalar(item));
                        out.push('\n');
                    }
                }
            }
        }
        Value::Map(entries) => {
            for (key, value) in entries {
                block_entry(out, key, value, indent);
            }
        }
        Value::Text(_) | Value::Other(_) | Value::Alias(_) => {}
    }
}

fn block_entry(out: &mut String, key: &Value, value: &Value, indent: usize) {
    pad(out, indent);
    out.push_str(&scalar(key));
    out.push(':');
    match value {
        Value::List(items) if !items.is_empty() => {
            out.push('\n');
            block(out, value, below(value, indent));
        }
        Value::Map(entries) if !entries.is_empty() => {
            out.push('\n');
            block(out, value, below(value, indent));
        }
        _ => {
            out.push(' ');
            out.push_str(&scalar(value));
            out.push('\n');
        }
    }
}

/// Where the lines of `value` stand below a key at `indent`. As kubectl writes them: dashes are not indented.
fn below(value: &Value, indent: usize) -> usize {
    if matches!(value, Value::List(_)) { indent } else { indent + 2 }
}

/// `value` in JSON, over several lines where `layout` gives the indentation of its line and the step.
fn flow(value: &Value, layout: Option<(usize, usize)>) -> String {
    let inner = layout.map(|(indent, unit)| (indent + unit, unit));
    let (open, close, parts) = match value {
        Value::Text(text) => return quoted(text),
        Value::Other(_) | Value::Alias(_) => return scalar(value),
        Value::List(items) => ('[', ']', items.iter().map(|item| flow(item, inner)).collect::<Vec<_>>()),
        Value::Map(entries) => {
            let part = |(key, value): &(Value, Value)| format!("{}: {}", flow(key, None), flow(value, inner));
            ('{', '}', entries.iter().map(part).collect())
        }
    };
    match layout {
        Some((indent, unit)) if !parts.is_empty() => {
            let (inside, outside) = (" ".repeat(indent + unit), " ".repeat(indent));
            format!("{open}\n{inside}{}\n{outside}{close}", parts.join(&format!(",\n{inside}")))
        }
        _ => format!("{open}{}{close}", parts.join(", ")),
    }
}

/// `value` on one line of a block.
fn scalar(value: &Value) -> String {
    match value {
        Value::Text(text) => {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '@');
            // A colon is safe when no space follows, which none can.
            let safe = |text: &str| text.split(':').all(|part| !part.is_empty() && part.chars().all(plain));
            let is_flag = text.starts_with("--") && text.len() > 2 && safe(text);
            if (is_string(text) && safe(text)) || is_flag { text.clone() } else { quoted(text) }
        }
        Value::Other(text) => text.clone(),
        Value::Alias(_) | Value::List(_) | Value::Map(_) => flow(value, None),
    }
}

/// JSON's quoting is YAML's double-quoted style.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn insert_flow(
    text: &str,
    collection: &Node,
    last: Option<std::ops::Range<usize>>,
    render: impl Fn(Option<(usize, usize)>) -> String,
) -> String {
    let span = &collection.span;
    let new = if let Some(last) = last {
        let before = &text[line_start(text, last.start)..last.start];
        let new = if before.trim().is_empty() {
            format!(",\n{before}{}", render(Some((before.len(), unit(text)))))
        } else {
            format!(", {}", render(None))
        };
        return splice(text, last.end, last.end, &new);
    } else if text.trim_end().contains('\n') && text[..span.start].contains(['{', '[']) {
        // A file laid out over lines gets its new element over lines too.
        let (indent, unit) = (line_indent(text, span.start), unit(text));
        let inside = indent + unit;
        format!("\n{}{}\n{}", " ".repeat(inside), render(Some((inside, unit))), " ".repeat(indent))
    } else {
        render(None)
    };
    let open = span.start + text[span.clone()].find(['{', '[']).unwrap_or(0) + 1;
    splice(text, open, open, &new)
}

/// Column of the dash before the list element at `start`.
fn dash_column(text: &str, start: usize) -> Option<usize> {
    let mut end = start;
    loop {
        let line = line_start(text, end);
        let before = &text[line..end];
        let trimmed = before.trim_start();
        if let Some(rest) = trimmed.strip_prefix('-') {
            let rest = rest.trim_start();
            return (rest.is_empty() || rest.starts_with(['#', '&', '!'])).then_some(before.len() - trimmed.len());
        }
        if !(trimmed.is_empty() || trimmed.starts_with('#')) || line == 0 {
            return None;
        }
        end = line - 1;
    }
}

/// Indentation step of a JSON file: that of its first indented line.
fn unit(text: &str) -> usize {
    text.lines()
        .map(|line| line.len() - line.trim_start_matches(' ').len())
        .find(|indent| *indent > 0)
        .unwrap_or(2)
        .min(8)
}

/// Puts whole lines at `at`, which is the start of a line or the end of the text.
fn splice_lines(text: &str, at: usize, lines: &str) -> String {
    let lines = in_newlines_of(text, lines);
    if at > 0 && !text[..at].ends_with('\n') {
        return splice(text, at, at, &format!("{}{lines}", newline(text)));
    }
    splice(text, at, at, &lines)
}

fn splice(text: &str, start: usize, end: usize, new: &str) -> String {
    let new = in_newlines_of(text, new);
    [&text[..start], &new, &text[end..]].concat()
}

fn newline(text: &str) -> &'static str {
    match text.find('\n') {
        Some(at) if text[..at].ends_with('\r') => "\r\n",
        _ => "\n",
    }
}

fn in_newlines_of(text: &str, new: &str) -> String {
    let unix = new.replace("\r\n", "\n");
    if newline(text) == "\n" { unix } else { unix.replace('\n', "\r\n") }
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

/// Start of the line after the one that ends at or contains `at`.
fn line_end(text: &str, at: usize) -> usize {
    if text[..at].ends_with('\n') {
        return at;
    }
    text[at..].find('\n').map_or(text.len(), |newline| at + newline + 1)
}

fn column(text: &str, at: usize) -> usize {
    text[line_start(text, at)..at].chars().count()
}

fn line_indent(text: &str, at: usize) -> usize {
    let line = &text[line_start(text, at)..];
    line.len() - line.trim_start_matches(' ').len()
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}
