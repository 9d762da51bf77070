//! Keeps tokens and keys in memory out of the reach of others.

/// From now on a crash of this process leaves no core dump, whatever the system does with core dumps, and other
/// processes of the same user cannot read its memory. Costs two system calls.
///
/// Programs that this one starts are not affected: the kernel forgets the flag with the memory, and the limit is one that
/// they may raise again.
pub fn keep_memory_private() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        // Neither can fail in a way that matters: where there is no such thing, there is nothing to keep out of.
        #[cfg(target_os = "linux")]
        let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
        let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), ..getrlimit(Resource::Core) });
    }
}
