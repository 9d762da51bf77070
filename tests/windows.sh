#!/usr/bin/env bash
# Compiles the client and its unit tests for Windows, without warnings, and runs these under Wine where there is one. What CI
# does not do: it takes more than a toolchain for this machine.
# Needs the target's standard library, or its source to build it from, and MinGW-w64's C compiler; asks nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null
target=x86_64-pc-windows-gnu
cargo=${CARGO:-cargo}
client=(--locked --target "$target" --no-default-features --features client)

sysroot=$(rustc --print sysroot)
if compgen -G "$sysroot/lib/rustlib/$target/lib/libstd-*.rlib" >/dev/null; then
    :
elif [ -f "$sysroot/lib/rustlib/src/rust/library/Cargo.lock" ]; then
    # As where Rust comes from a distribution: its compiler builds its own library.
    export RUSTC_BOOTSTRAP=1
    client+=("-Zbuild-std=std,panic_unwind,test")
else
    echo "tests/windows.sh: Rust's standard library for $target is not here: rustup target add $target" >&2
    missing=yes
fi
for tool in x86_64-w64-mingw32-gcc x86_64-w64-mingw32-dlltool; do
    command -v "$tool" >/dev/null || { echo "tests/windows.sh: $tool is not here: install MinGW-w64" >&2; missing=yes; }
done
[ -z "${missing:-}" ] || exit 1

if "$cargo" clippy --version >/dev/null 2>&1; then
    "$cargo" clippy "${client[@]}" --lib --bins -- -D warnings
    "$cargo" clippy "${client[@]}" --lib --profile test -- -D warnings
else
    echo "tests/windows.sh: clippy is not here: compiled without it" >&2
    RUSTFLAGS="${RUSTFLAGS:-} -D warnings" "$cargo" check "${client[@]}" --lib --bins
fi

if command -v wine >/dev/null; then
    mkdir -p target
    export WINEPREFIX="$PWD/target/wine" WINEDEBUG="${WINEDEBUG:--all}" CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER=wine
    # Wine tells another process's command line only in the way of Windows before 8.1, in which sysinfo then asks.
    wine winecfg -v win7
    "$cargo" test "${client[@]}" --lib --bins
else
    "$cargo" test "${client[@]}" --lib --bins --no-run
    echo "tests/windows.sh: there is no Wine here: the tests were compiled and not run" >&2
fi
