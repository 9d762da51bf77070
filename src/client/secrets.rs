//! Where the refresh token is kept: the OS keyring, or a 0600 file where there is none.

use std::fmt;

use crate::client::profile::Profile;

/// Where a secret is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// The OS keyring: Secret Service, Keychain or Credential Manager.
    Keyring,
    /// A file that only this user can read.
    File,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keyring => "OS keyring",
            Self::File => "file (0600)",
        })
    }
}

/// Where this profile's refresh token is kept, as far as we remember; touches no keyring.
pub fn place(profile: &Profile) -> Option<Place> {
    let _ = profile;
    None
}
