//! Runs the program that its arguments say, and prints the peak of that program's resident memory in KiB.
//!
//! A program of its own, which the bench builds with plain rustc: the kernel counts what a process has between `fork` and
//! `exec` as its own, so whoever starts the program must itself be as small as the smallest that is measured. And the
//! standard library has no `getrusage`.

use std::process::{Command, Stdio};

/// `struct rusage` of 64-bit Linux: two `timeval`s, then fourteen longs of which the peak (`ru_maxrss`) is the first.
type Usage = [i64; 18];
const PEAK: usize = 4;
const CHILDREN: i32 = -1;

unsafe extern "C" {
    fn getrusage(who: i32, usage: *mut Usage) -> i32;
}

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let program = arguments.next().expect("a program to run");
    let status = Command::new(program).args(arguments).stdout(Stdio::null()).status().expect("it can be run");
    assert!(status.success(), "{status}");
    let mut usage: Usage = [0; 18];
    // SAFETY: `usage` is as large as the structure that the call fills in.
    let outcome = unsafe { getrusage(CHILDREN, &raw mut usage) };
    assert_eq!(outcome, 0);
    println!("{}", usage[PEAK]);
}
