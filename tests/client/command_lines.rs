//! Command lines of every kind, made from real ones and a fixed seed: what `make fuzz` tries at length, in brief.

use std::fs;
use std::path::Path;

use crate::hint::World;

/// How many are tried.
const ROUNDS: usize = 20_000;

#[test]
fn any_command_line_becomes_a_hint_within_bounds() {
    let home = tempfile::tempdir().unwrap();
    let world = World::new(home.path());
    let seeds = seeds();
    assert!(seeds.len() > 30, "the seeds are gone");
    for seed in &seeds {
        world.check(seed.as_bytes());
    }
    let words: Vec<&str> = seeds.iter().flat_map(|seed| seed.split('\n')).collect();
    let mut random = Random(0x5eed);
    for _ in 0..ROUNDS {
        let mut line: Vec<String> = (0..random.below(9)).map(|_| words[random.below(words.len())].to_owned()).collect();
        if !line.is_empty() && random.below(2) == 0 {
            let at = random.below(line.len());
            line[at] = random.spoiled(&line[at]);
        }
        world.check(line.join("\n").as_bytes());
    }
}

/// The command lines that the fuzzer starts from, one a file; words are separated by line breaks.
fn seeds() -> Vec<String> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds");
    let lines = fs::read_to_string(directory.join("command_lines.txt")).unwrap();
    lines.lines().map(|line| line.replace(' ', "\n")).collect()
}

/// A generator that is the same each time (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % limit
    }

    /// The word with something left out, doubled or put in.
    fn spoiled(&mut self, word: &str) -> String {
        const ODD: [&str; 12] = ["-", "--", "=", "/", ",", ":", ".", "\0", "é", "-n", "\u{1f}\t", "*"];
        let mut characters: Vec<char> = word.chars().collect();
        let at = self.below(characters.len() + 1);
        match self.below(3) {
            0 if at < characters.len() => {
                characters.remove(at);
            }
            1 => {
                let tail = characters[at..].to_vec();
                characters.extend(tail);
            }
            _ => {
                let odd = ODD[self.below(ODD.len())];
                characters.splice(at..at, odd.chars());
            }
        }
        characters.into_iter().collect()
    }
}
