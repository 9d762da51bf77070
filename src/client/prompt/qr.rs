//! A QR code of half blocks, for whoever sits at another machine than this one: a phone reads it off the screen.

use qrcode::{Color, EcLevel, QrCode};

/// Light modules around the code. The standard wants four; readers do with two, and the screen is small.
const QUIET: usize = 2;
/// Black on white, whatever the terminal's own colours: many readers do not know a code that is turned inside out.
const COLOURS: &str = "\x1b[30;107m";
const PLAIN: &str = "\x1b[0m";

/// The lines of a code for `text`, with their colours, if it fits into `columns` and `rows`.
pub fn lines(text: &str, columns: usize, rows: usize) -> Option<Vec<String>> {
    // A screen gets no scratches: the lowest level makes the smallest code.
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let width = code.width();
    let side = width + 2 * QUIET;
    if side > columns || side.div_ceil(2) > rows {
        return None;
    }
    let modules = code.to_colors();
    let is_dark = |x: usize, y: usize| {
        let (Some(x), Some(y)) = (x.checked_sub(QUIET), y.checked_sub(QUIET)) else { return false };
        x < width && y < width && modules[y * width + x] == Color::Dark
    };
    let line = |y: usize| {
        let blocks: String = (0..side)
            .map(|x| match (is_dark(x, y), is_dark(x, y + 1)) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            })
            .collect();
        format!("{COLOURS}{blocks}{PLAIN}")
    };
    Some((0..side).step_by(2).map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://login.example.com/device?user_code=ABCD-EFGH";

    /// What a reader would see: one row of modules for each half of a line.
    fn modules(lines: &[String]) -> Vec<Vec<bool>> {
        let mut rows = Vec::new();
        for line in lines {
            let blocks: Vec<char> = line.strip_prefix(COLOURS).unwrap().strip_suffix(PLAIN).unwrap().chars().collect();
            rows.push(blocks.iter().map(|block| matches!(block, '█' | '▀')).collect());
            rows.push(blocks.iter().map(|block| matches!(block, '█' | '▄')).collect());
        }
        rows
    }

    #[test]
    fn every_module_is_where_the_code_has_it() {
        let seen = modules(&lines(URL, 80, 40).unwrap());
        let code = QrCode::with_error_correction_level(URL, EcLevel::L).unwrap();
        for y in 0..code.width() {
            for x in 0..code.width() {
                assert_eq!(seen[y + QUIET][x + QUIET], code[(x, y)] == Color::Dark);
            }
        }
        assert!(seen[..QUIET].iter().flatten().all(|dark| !dark), "a light margin");
    }

    #[test]
    fn a_terminal_that_is_too_small_gets_none() {
        let code = lines(URL, 80, 40).unwrap();
        assert!(lines(URL, 80, code.len() - 1).is_none());
        assert!(lines(URL, 20, 40).is_none());
        assert!(lines(&"x".repeat(5000), 500, 500).is_none(), "more than any code holds");
    }
}
