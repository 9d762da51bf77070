//! Words for people: durations, numbers of uses, and text from elsewhere made fit for a terminal.

use chrono::{DateTime, Utc};

/// Text from a server, made fit for a terminal: without control characters, and without those that are not seen but turn
/// the text around them about (bidirectional overrides) or hide in it.
pub fn plain(text: &str) -> String {
    text.chars().filter_map(harmless).collect()
}

/// The same for text of several lines.
pub fn plain_lines(text: &str) -> String {
    text.chars().filter_map(|c| if c == '\n' { Some(c) } else { harmless(c) }).collect()
}

fn harmless(c: char) -> Option<char> {
    match c {
        // What separates words or lines still does.
        '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => Some(' '),
        '\u{61c}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{e0000}'..='\u{e007f}' => None,
        c if c.is_control() => None,
        c => Some(c),
    }
}

/// A duration as it was set: `90 s`, `5 min`, `5 min 30 s`, `2 h`, `3 d 4 h`.
pub fn duration(seconds: u64) -> String {
    let part = |large: u64, unit: &str, small: u64, small_unit: &str| {
        if small == 0 { format!("{large} {unit}") } else { format!("{large} {unit} {small} {small_unit}") }
    };
    match seconds {
        s @ 0..120 if s != 60 => format!("{s} s"),
        s @ 0..3600 => part(s / 60, "min", s % 60, "s"),
        s @ 3600..86400 => part(s / 3600, "h", s % 3600 / 60, "min"),
        s => part(s / 86400, "d", s % 86400 / 3600, "h"),
    }
}

/// A time that is left, as exactly as anybody wants to know: nobody is told of a five-minute grant that 4 min 59 s are
/// left of it.
pub fn left(seconds: i64) -> String {
    let seconds = u64::try_from(seconds).unwrap_or(0);
    let step = match seconds {
        0..60 => 1,
        60..600 => 5,
        _ => 60,
    };
    duration((seconds + step / 2) / step * step)
}

/// How long from `now` to `then`.
pub fn until(then: DateTime<Utc>, now: DateTime<Utc>) -> String {
    // Whole seconds, the nearest.
    left(((then - now).num_milliseconds() + 500).div_euclid(1000))
}

/// `any number of uses`, `one use`, `3 uses`.
pub fn uses(number: Option<u32>) -> String {
    match number {
        None => "any number of uses".to_owned(),
        Some(1) => "one use".to_owned(),
        Some(number) => format!("{number} uses"),
    }
}

/// `any number of uses`, `one use left`, `3 uses left`.
pub fn uses_left(number: Option<u32>) -> String {
    match number {
        None => uses(None),
        some => format!("{} left", uses(some)),
    }
}

/// The lines of `text`, each of at most `width` characters where it can be broken between words. Lines after the first
/// begin with `indent` spaces. A word that is too long (a URL) stays whole: a terminal breaks it without hurting it.
pub fn wrapped(text: &str, width: usize, indent: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    // What stands before the first word stays.
    let lead = text.len() - text.trim_start_matches(' ').len();
    line.push_str(&text[..lead]);
    let mut is_empty = true;
    let mut length = lead;
    for word in split_keeping_gaps(&text[lead..]) {
        let (gap, word) = word;
        let needed = if is_empty { 0 } else { gap } + word.chars().count();
        if !is_empty && length + needed > width {
            lines.push(std::mem::take(&mut line));
            line = " ".repeat(indent);
            length = indent;
            is_empty = true;
        }
        if !is_empty {
            line.push_str(&" ".repeat(gap));
            length += gap;
        }
        line.push_str(word);
        length += word.chars().count();
        is_empty = false;
    }
    lines.push(line);
    lines
}

/// Words, each with the number of spaces before it.
fn split_keeping_gaps(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let trimmed = rest.trim_start_matches(' ');
        let gap = rest.len() - trimmed.len();
        if trimmed.is_empty() {
            return None;
        }
        let end = trimmed.find(' ').unwrap_or(trimmed.len());
        let (word, after) = trimmed.split_at(end);
        rest = after;
        Some((gap, word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_can_drive_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\r\nc\u{9b}d"), "a[2Jb  cd");
        assert_eq!(plain("safe\u{202e}gpj.exe\u{200b}\u{2028}x"), "safegpj.exe x");
        assert_eq!(plain_lines("a\x07\n\x1b]0;title\x07b"), "a\n]0;titleb");
        assert_eq!(plain("Zürich, 東京"), "Zürich, 東京");
    }

    #[test]
    fn durations_read_well() {
        for (seconds, text) in [
            (5, "5 s"),
            (60, "1 min"),
            (90, "90 s"),
            (300, "5 min"),
            (330, "5 min 30 s"),
            (7200, "2 h"),
            (7500, "2 h 5 min"),
            (273_600, "3 d 4 h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn what_is_left_is_not_told_to_the_second() {
        for (seconds, text) in [
            (-5, "0 s"),
            (59, "59 s"),
            (61, "1 min"),
            (299, "5 min"),
            (298, "5 min"),
            (292, "4 min 50 s"),
            (891, "15 min"),
            (3599, "1 h"),
        ] {
            assert_eq!(left(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn lines_break_between_words_and_urls_stay_whole() {
        assert_eq!(wrapped("  rule    one two three", 15, 10), ["  rule    one", "          two", "          three"]);
        let url = "https://login.example.com/device?user_code=ABCD-EFGH&something=else";
        assert_eq!(wrapped(url, 20, 2), [url]);
        assert_eq!(wrapped("", 20, 2), [""]);
    }
}
