//! One sign-in of a person at the identity provider, from showing where to the tokens.

use crate::client::Clock;
use crate::client::error::Error;
use crate::client::idp::{Ask, Provider, Tokens};
use crate::client::profile::{Flow, Profile};
use crate::client::prompt::{self, Interrupt, Open, PATIENCE, Screen, Waiting};
use crate::wire::challenge::DeclineCause;

/// Shows the person where to sign in, and waits until they have: or have refused, or the time is up.
pub fn sign_in(
    provider: &Provider,
    ask: &Ask,
    flow: Flow,
    open_browser: bool,
    screen: &Screen,
    clock: Clock,
) -> Result<Tokens, Error> {
    let interrupt = Interrupt::listen();
    let _open = Open::now();
    match flow {
        Flow::Device => {
            let pending = provider.start_device(ask)?;
            prompt::show_device(screen, &pending, open_browser);
            let waiting = Waiting::begin(screen, interrupt, pending.expires_in(), clock);
            provider.finish_device(pending, &waiting)
        }
        Flow::Browser => {
            let pending = provider.start_browser(ask)?;
            prompt::show_browser(screen, &pending, open_browser);
            let waiting = Waiting::begin(screen, interrupt, PATIENCE, clock);
            provider.finish_browser(pending, &waiting)
        }
    }
}

/// The same for a step-up, by the profile's flow for that.
pub fn stronger_sign_in(
    provider: &Provider,
    ask: &Ask,
    profile: &Profile,
    screen: &Screen,
    clock: Clock,
) -> Result<Tokens, Error> {
    sign_in(provider, ask, profile.step_up.flow, profile.open_browser, screen, clock).map_err(|error| match error {
        // Whoever has no second factor gets a page to enrol one on, and the provider goes on saying "pending": we
        // cannot tell this from somebody who has gone to lunch.
        Error::Declined { cause: DeclineCause::TimedOut, what } => Error::Declined {
            cause: DeclineCause::TimedOut,
            what: format!("{what} (a provider that knows no second factor of yours asks for one to be set up first)"),
        },
        error => error,
    })
}
