//! Sessions: clients that number their requests, so that each is counted once.
//!
//! An epoch is committed before anybody may send under it, so a stream that was fenced stays fenced,
//! also after a crash.

use super::{Engine, Error};
use crate::state::{At, Barred, Hello, Ticket};
use crate::storage::{Durability, Incarnation};
use model::check_name;
use std::time::Duration;
use tokio::time::Instant;

/// The highest epoch and sequence: what the storage can hold.
const MOST: u64 = i64::MAX as u64;

/// How long the service has lived, in all its lives. No step of the wall clock moves it.
#[derive(Clone, Debug)]
pub(super) struct Life {
    before: Duration,
    since: Instant,
}

impl Life {
    pub(super) fn new(before: Duration) -> Self {
        Self { before, since: Instant::now() }
    }

    pub(super) fn lived(&self) -> Duration {
        self.before + self.since.elapsed()
    }

    pub(super) fn since_start(&self) -> Duration {
        self.since.elapsed()
    }
}

/// An open session.
#[derive(Debug)]
pub struct Opened {
    /// The right to send.
    pub ticket: Ticket,
    /// Which life of the data this is.
    pub incarnation: Incarnation,
    /// The last request that is folded.
    pub accepted: u64,
    /// The last one that is durable.
    pub durable: u64,
    /// The requests that are lost: the client does not have them any more, and they were never folded
    /// into what is stored now. The first and the last.
    pub lost: Option<(u64, u64)>,
    /// How long the session is kept.
    pub ttl: Duration,
    /// The flush that must be committed before the session is used.
    pub flush: Option<u64>,
    /// The flush that makes durable what is accepted, if it is not.
    pub pending: Option<u64>,
}

/// How far a session is.
#[derive(Clone, Debug)]
pub struct SessionDetails {
    /// Its epoch.
    pub epoch: u64,
    /// The last request that is folded.
    pub accepted: u64,
    /// The last one that is durable.
    pub durable: u64,
    /// How long nothing came of it, while the service was running.
    pub silent: Duration,
    /// How many streams it has.
    pub streams: usize,
    /// How long it is kept.
    pub ttl: Duration,
    /// Which life of the data this is.
    pub incarnation: Incarnation,
}

impl Engine {
    /// Opens a session; from now on what other streams of the client send is refused. It may be used
    /// when [`Opened::flush`] is committed, which is asked for here.
    pub fn open_session(&self, hello: Hello<'_>, is_stream: bool) -> Result<Opened, Error> {
        check(hello)?;
        let client = hello.client;
        let most = self.config.max_sessions.get();
        let opened = self.state.open_session(hello, is_stream, most, self.at());
        let opened = opened.map_err(|barred| self.barred(client, 0, barred))?;
        if opened.flush.is_some() {
            self.flush.wake();
        }
        if let Some((first, last)) = opened.lost {
            tracing::error!(
                client,
                first,
                last,
                "requests are lost: the client dropped them as durable, and this database does not \
                 have them; was it restored?"
            );
        }
        let pending = opened.ticket.repeats(opened.accepted).ok().flatten().flatten();
        Ok(Opened {
            ticket: opened.ticket,
            incarnation: self.incarnation,
            accepted: opened.accepted,
            durable: match self.durability() {
                Durability::Synced => opened.durable,
                Durability::None => opened.accepted,
            },
            lost: opened.lost,
            ttl: self.config.session_ttl,
            flush: opened.flush,
            pending,
        })
    }

    /// Whether the session, if there is one, is still its stream's.
    pub fn still_open(&self, ticket: Option<&Ticket>) -> Result<(), Error> {
        let Some(ticket) = ticket else { return Ok(()) };
        // Whatever the number, it is refused first if the session is not the stream's.
        ticket.repeats(0).map(drop).map_err(|why| self.barred(ticket.client(), 0, why))
    }

    /// How far a session is.
    pub fn session(&self, client: &str) -> Result<SessionDetails, Error> {
        let info = self.state.session(client).ok_or_else(|| {
            Error::NotFound(format!("client {client:?} has no session; a hello begins one"))
        })?;
        Ok(SessionDetails {
            epoch: info.epoch,
            accepted: info.accepted,
            durable: match self.durability() {
                Durability::Synced => info.durable,
                Durability::None => info.accepted,
            },
            silent: self.life.lived().saturating_sub(info.seen),
            streams: info.streams,
            ttl: self.config.session_ttl,
            incarnation: self.incarnation,
        })
    }

    pub(super) fn at(&self) -> At {
        At { now: self.clock.now(), lived: self.life.lived() }
    }

    pub(super) fn barred(&self, client: &str, sent: u64, barred: Barred) -> Error {
        let (client, incarnation) = (client.to_owned(), self.incarnation);
        match barred {
            Barred::Fenced(epoch) => Error::Fenced { client, epoch },
            Barred::Gap(expected) => Error::SequenceGap { expected, sent },
            Barred::Unknown => Error::SessionUnknown { client, incarnation },
            Barred::Forgotten => {
                let ttl = self.config.session_ttl;
                Error::SessionForgotten { client, incarnation, ttl }
            }
            Barred::TooMany(most) => Error::TooManySessions(most),
            Barred::Denied(denied) => self.denied(denied),
        }
    }
}

/// Checks a request's number.
pub(super) fn check_number(sequence: u64) -> Result<(), Error> {
    if sequence <= MOST {
        return Ok(());
    }
    let message = format!("{sequence} is above {MOST}; begin anew, under another client_id");
    Err(Error::Invalid { field: "sequence", message })
}

fn check(hello: Hello<'_>) -> Result<(), Error> {
    let Hello { client, epoch, last_sent, first_retained } = hello;
    let wrong = |field, message: String| Err(Error::Invalid { field, message });
    if let Err(error) = check_name(client) {
        return wrong("client_id", format!("{client:?} {error}"));
    }
    for (field, number) in [("epoch", epoch), ("last_sent", last_sent)] {
        if number > MOST {
            return wrong(field, format!("{number} is above {MOST}"));
        }
    }
    if first_retained > last_sent + 1 {
        let message = format!(
            "{first_retained} is after {}, the one that follows last_sent {last_sent}",
            last_sent + 1
        );
        return wrong("first_retained", message);
    }
    Ok(())
}
