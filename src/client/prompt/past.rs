//! When not to prompt.

use std::env;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::client::cache;
use crate::client::error::Error;
use crate::client::lock::Lock;
use crate::client::profile::Profile;
use crate::client::prompt::WHEN;
use crate::wire::challenge::DeclineCause;

/// What became of earlier prompts: one decline answers for everybody who waited, and prompts that nobody answers become
/// rare (int128/kubelogin#904: idle tools opened hundreds of browser tabs overnight).
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Past {
    /// When the last prompt ended without a sign-in.
    ended_at: Option<DateTime<Utc>>,
    /// How many in a row nobody answered.
    unanswered: u32,
}

const PAST: &str = "prompts.json";
/// When prompts began in the last minute, whatever their profile. (No profile's name begins with a dot.)
const BUDGET: &str = ".prompts.json";
const BUDGET_LOCK: &str = ".prompts.lock";
/// More prompts than this in a minute are a storm, however many clusters and programs it comes from.
const PROMPTS_A_MINUTE: usize = 5;
/// Nobody holds the lock for longer than it takes to write a line.
const LOCK_LIMIT: Duration = Duration::from_secs(2);
const MINUTE: TimeDelta = TimeDelta::minutes(1);

/// Who wants to prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A person who typed just that (`elevate`): no storm, and proof that somebody is there.
    Person,
    /// A program that met a need.
    Program,
}

/// Whether to prompt now, for somebody who has waited for their turn since `since`. If so, the prompt counts.
pub fn may_prompt(profile: &Profile, wish: Wish, since: DateTime<Utc>, now: DateTime<Utc>) -> Result<(), Error> {
    let past: Past = cache::read(&profile.files.state(PAST)).unwrap_or_default();
    past.permits(wish, since, now)?;
    if wish == Wish::Person || env::var(WHEN).as_deref() == Ok("always") {
        return Ok(());
    }
    let file = profile.files.shared_state(BUDGET);
    // Unlocked, a prompt or two of a storm would not be counted.
    let _lock = Lock::take(&profile.files.shared_state(BUDGET_LOCK), LOCK_LIMIT, None);
    let began = spend(cache::read(&file).unwrap_or_default(), now)?;
    let _ = cache::write(&file, &began);
    Ok(())
}

/// Counts one more prompt, if the last minute has room for it.
fn spend(mut began: Vec<DateTime<Utc>>, now: DateTime<Utc>) -> Result<Vec<DateTime<Utc>>, Error> {
    // What is in the future was counted by a clock that has been put back.
    began.retain(|at| *at <= now && now - *at < MINUTE);
    if let (true, Some(first)) = (began.len() >= PROMPTS_A_MINUTE, began.first()) {
        let left = (*first + MINUTE - now).num_seconds() + 1;
        return Err(Error::Declined {
            cause: DeclineCause::TimedOut,
            what: format!(
                "there were {PROMPTS_A_MINUTE} prompts in the last minute, so there is none for {left} s: kubectl stepup \
                 login or elevate asks at once"
            ),
        });
    }
    began.push(now);
    Ok(began)
}

/// Remembers how a prompt ended.
pub fn remember<T>(profile: &Profile, outcome: &Result<T, Error>, now: DateTime<Utc>) {
    let file = profile.files.state(PAST);
    let past: Past = cache::read(&file).unwrap_or_default();
    let past = match outcome {
        Err(Error::Declined { cause: DeclineCause::TimedOut, .. }) => {
            Past { ended_at: Some(now), unanswered: past.unanswered.saturating_add(1) }
        }
        Err(_) => Past { ended_at: Some(now), unanswered: 0 },
        Ok(_) if past == Past::default() => return,
        Ok(_) => Past::default(),
    };
    let _ = cache::write(&file, &past);
}

impl Past {
    fn permits(&self, wish: Wish, since: DateTime<Utc>, now: DateTime<Utc>) -> Result<(), Error> {
        let Some(ended_at) = self.ended_at else { return Ok(()) };
        // In the future it was written by a clock that has been put back.
        if ended_at >= since && ended_at <= now {
            return Err(Error::Declined {
                cause: DeclineCause::Declined,
                what: "another command has asked meanwhile, and the sign-in was not made".to_owned(),
            });
        }
        if wish == Wish::Person {
            return Ok(());
        }
        let quiet = TimeDelta::minutes(match self.unanswered {
            0 => 0,
            1 => 1,
            2 => 5,
            3 => 15,
            _ => 60,
        });
        if ended_at <= now && now < ended_at + quiet {
            return Err(Error::Declined {
                cause: DeclineCause::TimedOut,
                what: format!(
                    "nobody answered the last {} prompts, so there is none for {} min: kubectl stepup login or elevate asks at once",
                    self.unanswered,
                    quiet.num_minutes()
                ),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn a_decline_answers_for_everybody_who_waited_and_for_nobody_later() {
        let past = Past { ended_at: Some(at(10)), unanswered: 0 };
        assert!(past.permits(Wish::Program, at(5), at(11)).is_err());
        assert!(past.permits(Wish::Program, at(11), at(11)).is_ok());
    }

    #[test]
    fn a_minute_has_room_for_a_few_prompts() {
        let mut began = Vec::new();
        for second in 0..5 {
            began = spend(began, at(second)).unwrap();
        }
        let refused = spend(began.clone(), at(10)).unwrap_err();
        assert!(refused.to_string().contains("none for 51 s"), "{refused}");
        assert!(spend(began.clone(), at(59)).is_err());
        assert_eq!(spend(began.clone(), at(61)).unwrap().len(), 4, "the first two are forgotten");
        assert!(spend(began, at(-100)).is_ok(), "a clock that was put back does not silence us");
    }

    #[test]
    fn who_typed_it_is_asked_at_once() {
        let past = Past { ended_at: Some(at(0)), unanswered: 3 };
        assert!(past.permits(Wish::Program, at(5), at(5)).is_err());
        assert!(past.permits(Wish::Person, at(5), at(5)).is_ok());
    }

    #[test]
    fn prompts_that_nobody_answers_become_rare() {
        let mut past = Past { ended_at: Some(at(0)), unanswered: 1 };
        assert!(past.permits(Wish::Program, at(59), at(59)).is_err());
        assert!(past.permits(Wish::Program, at(60), at(60)).is_ok());
        past.unanswered = 9;
        assert!(past.permits(Wish::Program, at(3599), at(3599)).is_err());
        assert!(past.permits(Wish::Program, at(3600), at(3600)).is_ok());
        assert!(
            past.permits(Wish::Program, at(-5000), at(-5000)).is_ok(),
            "a clock that was put back does not silence us"
        );
        assert!(Past::default().permits(Wish::Program, at(0), at(0)).is_ok());
    }
}
