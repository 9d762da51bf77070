//! One sign-in of a person at the identity provider, from showing where to the tokens.

use crate::client::Clock;
use crate::client::error::Error;
use crate::client::idp::{Ask, Provider, Tokens};
use crate::client::profile::Flow;
use crate::client::prompt::{self, Interrupt, PATIENCE, Screen, Waiting};

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
