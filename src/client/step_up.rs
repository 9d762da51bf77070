//! From challenges to an elevated token.

use crate::client::Clock;
use crate::client::cache::Elevated;
use crate::client::error::Error;
use crate::client::profile::Profile;
use crate::wire::challenge::Challenge;

/// How to take challenges up.
#[derive(Clone, Debug)]
pub struct StepUpOptions {
    /// Why, if it was said beforehand.
    pub reason: Option<String>,
    /// Wanted life of the grant in seconds; the rule's own is the most.
    pub ttl: Option<u64>,
    /// Who may use the elevated token.
    pub bind: Bind,
    /// Whether a person is there to be asked.
    pub interactive: bool,
}

/// Who may use an elevated token (invariant 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bind {
    /// The process that started us.
    Parent,
    /// This terminal; where there is none, the process that started us.
    Terminal,
    /// Every process of this user.
    Anyone,
}

/// Takes `challenges` up: with a sign-in that is still fresh enough, else with one prompt; one elevated token for all
/// of them, cached for whom `options.bind` says. Declines them at the server when the person does, or time runs out.
pub fn take_up(
    profile: &Profile,
    challenges: &[Challenge],
    options: &StepUpOptions,
    clock: Clock,
) -> Result<Elevated, Error> {
    let _ = (profile, challenges, options, clock);
    Err(Error::Failed("not built yet".to_owned()))
}
