//! The lab: a real API server, etcd, controller manager, OpenID provider and stepup-server, on free ports of the
//! loopback interface.
//!
//! - [`Lab::start`] runs one for a test binary; all of it ends with the value, and with the process.
//! - [`standing::up`] and [`standing::down`] are `make lab` and `make lab-down`.
//! - [`demo::run`] is `make demo`, [`picture::run`] is `make pictures`.
//! - [`clients`] are the programs of others that people use a cluster with.
//! - [`trouble`] is what a server can be in: a wrong clock, a full disk.
//! - [`Session`] is a person at a computer, [`terminal::Terminal`] the screen in front of them, [`window::Window`] a
//!   shell on that screen.
//!
//! A `main` that uses the lab begins with [`role::play`].

mod binaries;
mod browser;
pub mod clients;
mod cluster;
pub mod demo;
pub mod http;
pub mod keycloak;
mod kubelet;
mod lab;
pub mod person;
pub mod picture;
pub mod pki;
mod plan;
pub mod process;
mod provider_only;
pub mod role;
mod services;
mod session;
pub mod standing;
pub mod suite;
pub mod terminal;
mod tools;
mod totp;
pub mod trouble;
pub mod window;

/// Builds what the lab needs from other projects, once; later calls find it in the user's cache.
pub fn prepare() -> anyhow::Result<()> {
    binaries::control_plane()?;
    binaries::kubelet()?;
    binaries::provider()?;
    clients::prepare()?;
    suite::has_keycloak().map(drop)
}

pub use lab::Lab;
pub use plan::{CLIENT_ID, Lock, Options, Programs};
pub use session::{Outcome, Session};
pub use suite::Test;
