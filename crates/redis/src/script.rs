//! The scripts, and the requests that they execute.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use backstop::store::{Held, Hold, Reply, StoreError, StoreTime, Take, Taken, Tally, Vote};
use redis::{Cmd, Script, Value};

/// The scripts, with their hashes.
pub(crate) struct Scripts {
    take: Body,
    hold: Body,
    vote: Body,
}

struct Body {
    text: &'static str,
    hash: String,
}

impl Body {
    fn new(text: &'static str) -> Self {
        Self {
            text,
            hash: Script::new(text).get_hash().to_owned(),
        }
    }
}

impl Scripts {
    pub(crate) fn new() -> Self {
        Self {
            take: Body::new(include_str!("take.lua")),
            hold: Body::new(include_str!("hold.lua")),
            vote: Body::new(include_str!("vote.lua")),
        }
    }
}

/// A request of a limit, with the reply for its answer.
pub(crate) enum Request {
    Take(Vec<Take>, Reply<Vec<Taken>>),
    Hold(Hold, Reply<Held>),
    Vote(Vote, Reply<Tally>),
}

impl Request {
    /// Returns the command that executes the request: by the hash of its script, or with the script itself, which the
    /// server then caches.
    pub(crate) fn command(&self, scripts: &Scripts, prefix: &str, by_hash: bool) -> Cmd {
        let body = match self {
            Self::Take(..) => &scripts.take,
            Self::Hold(..) => &scripts.hold,
            Self::Vote(..) => &scripts.vote,
        };
        let mut command = match by_hash {
            true => redis::cmd("EVALSHA"),
            false => redis::cmd("EVAL"),
        };
        match by_hash {
            true => command.arg(&body.hash),
            false => command.arg(body.text),
        };
        match self {
            Self::Take(takes, _) => {
                command.arg(takes.len());
                for take in takes {
                    command.arg(format!("{prefix}rate:{}", take.key));
                }
                for take in takes {
                    let quota = &take.quota;
                    let token = quota.period().as_nanos() as f64 / 1e3 / quota.tokens() as f64;
                    let (back, granted) = take.give_back.unwrap_or_default();
                    command
                        .arg(format!("{token:e}"))
                        .arg(quota.limit())
                        .arg(take.ask)
                        .arg(take.at_least)
                        .arg(take.spent)
                        .arg(back)
                        .arg(granted.as_micros());
                }
            }
            Self::Hold(hold, _) => {
                command
                    .arg(1)
                    .arg(format!("{prefix}permits:{}", hold.key))
                    .arg(&*hold.instance)
                    .arg(hold.limit)
                    .arg(hold.permits)
                    .arg(hold.in_use)
                    .arg(millis(hold.ttl))
                    .arg(hold.number);
            }
            Self::Vote(vote, _) => {
                command
                    .arg(1)
                    .arg(format!("{prefix}votes:{}", vote.key))
                    .arg(&*vote.instance)
                    .arg(u8::from(vote.open))
                    .arg(u8::from(vote.counts))
                    .arg(millis(vote.ttl));
            }
        }
        command
    }

    /// Sends the answer.
    pub(crate) fn answer(self, value: &Value) {
        match self {
            Self::Take(takes, reply) => send(reply, taken(value, takes.len())),
            Self::Hold(_, reply) => send(
                reply,
                integers::<3>(value).map(|[permits, free, all]| Held::new(permits, free, all)),
            ),
            Self::Vote(_, reply) => send(
                reply,
                integers::<2>(value).map(|[voters, open]| Tally::new(voters, open)),
            ),
        }
    }

    /// Sends an error.
    pub(crate) fn fail(self, error: StoreError) {
        match self {
            Self::Take(_, reply) => send(reply, Err(error)),
            Self::Hold(_, reply) => send(reply, Err(error)),
            Self::Vote(_, reply) => send(reply, Err(error)),
        }
    }
}

/// Sends a reply, which runs wakers and observers of users. A panic in one must not end the task of all requests; the
/// panic hook has reported it.
fn send<T>(reply: Reply<T>, answer: Result<T, StoreError>) {
    drop(catch_unwind(AssertUnwindSafe(|| reply.send(answer))));
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX)
        .max(1)
}

fn all_integers(value: &Value) -> Result<Vec<u64>, StoreError> {
    let Value::Array(values) = value else {
        return Err(StoreError::new(format_args!(
            "not the answer of the script: {value:?}"
        )));
    };
    let integer = |value: &Value| match value {
        Value::Int(integer) => u64::try_from(*integer).ok(),
        _ => None,
    };
    let integers: Option<Vec<u64>> = values.iter().map(integer).collect();
    integers.ok_or_else(|| StoreError::new(format_args!("not the answer of the script: {value:?}")))
}

fn integers<const N: usize>(value: &Value) -> Result<[u64; N], StoreError> {
    let integers = all_integers(value)?;
    let wrong = |_| StoreError::new("the script returned an unexpected number of values");
    integers.try_into().map_err(wrong)
}

fn taken(value: &Value, takes: usize) -> Result<Vec<Taken>, StoreError> {
    let integers = all_integers(value)?;
    if integers.len() != 5 * takes + 1 {
        return Err(StoreError::new(
            "the script returned an unexpected number of values",
        ));
    }
    let now = StoreTime::from_micros(integers[5 * takes]);
    let answers = integers.chunks_exact(5).map(|answer| {
        let mut taken = Taken::new(answer[0], answer[1], now);
        taken.retry_after = Duration::from_micros(answer[2]);
        taken.reset_after = Duration::from_micros(answer[3]);
        taken.total = answer[4];
        taken
    });
    Ok(answers.collect())
}
