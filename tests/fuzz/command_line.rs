//! Fuzz target: any command line of kubectl becomes a hint within bounds, and nothing panics (`make fuzz`).
#![no_main]

mod hint;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

static WORLD: LazyLock<(TempDir, hint::World)> = LazyLock::new(|| {
    let home = tempfile::tempdir().expect("a temporary directory");
    let world = hint::World::new(home.path());
    (home, world)
});

fuzz_target!(|data: &[u8]| WORLD.1.check(data));
