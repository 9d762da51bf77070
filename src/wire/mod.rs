//! The JSON and forms of the protocols, as types. No logic, no I/O; both programs use them.

pub mod challenge;
pub mod digest;
pub mod exec_credential;
pub mod explain;
pub mod history;
pub mod review;
pub mod token;
