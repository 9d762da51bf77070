//! What a person is shown and asked: on stderr and the terminal, never on stdout, never from stdin.

/// Whether a person is there to be asked (invariant 8).
pub fn person_is_there() -> bool {
    false
}
