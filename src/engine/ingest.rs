//! Samples in: each is checked by itself, and the good ones of a request fold in one generation.
//!
//! Nothing here waits: not for the storage, and for other writers only as long as they fold. A bad
//! sample is refused with its reason and harms no other.

use super::dictionary::{Declared, Dictionary};
use super::names::{Name, Names};
use super::packed::{self, Packed};
use super::plain::{Plain, PlainTargets, Sample};
use super::rejection::{Problem, Reason, Rejection, Rejections};
use super::retention::Reach;
use super::{Engine, Error};
use crate::state::{Admission, Batch, Hello, Outcome, Place, State, Ticket};
use crate::storage::Durability;
use model::Timestamp;
use std::time::Duration;

/// The most samples of one request: what is folded under one cut.
pub const MAX_SAMPLES: usize = 65_536;
/// How far ahead of the server's clock a sample may be.
const MAX_AHEAD: Duration = Duration::from_mins(10);

/// One sender's stream of requests: what it has declared, and vectors that are used again.
pub struct Stream {
    dictionary: Dictionary,
    plain: Batch,
    packed: Batch,
    names: Names<Place>,
    labels: String,
}

impl Stream {
    /// The series that this stream has named in these bytes before.
    pub fn find(&self, identity: &[u8]) -> Option<Name> {
        self.names.find(identity)
    }
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            dictionary: Dictionary::default(),
            plain: State::batch(),
            packed: State::batch(),
            names: Names::default(),
            labels: String::new(),
        }
    }
}

/// What became of a request.
#[derive(Debug, Default)]
pub struct Receipt {
    /// The flush that will make it durable; none if nothing of it was folded.
    pub flush: Option<u64>,
    /// How many samples were folded.
    pub accepted: u64,
    /// How many were refused.
    pub refused: u64,
    /// Whether it is a request that was folded before, and was not folded again.
    pub repeated: bool,
    /// Each of them, in the order of their places; one for all if the request was too large.
    pub rejections: Vec<Rejection>,
    /// What was accepted, but perhaps not as it was meant.
    pub warnings: Vec<String>,
}

/// The bounds of sample times.
#[derive(Clone, Copy)]
pub(super) struct Window<'e> {
    pub(super) now: Timestamp,
    /// Before it no series keeps a sample, and from then on all keep it.
    oldest: Timestamp,
    kept_by_all: Timestamp,
    newest: Timestamp,
    reach: &'e Reach,
}

impl Window<'_> {
    /// Whether the time is so old that only some series keep it.
    pub(super) fn is_doubtful(&self, time: Timestamp) -> bool {
        time < self.kept_by_all
    }

    /// Checks a doubtful time of this series.
    pub(super) fn check_of(
        &self,
        time: Timestamp,
        component: &str,
        metric: &str,
    ) -> Result<(), Problem> {
        let oldest = self.now.before(self.reach.of(component, metric));
        if time >= oldest {
            return Ok(());
        }
        Err(Problem::new(
            Reason::TimeTooOld,
            format!("time {time} is before {oldest}, the oldest that is kept of this series"),
        ))
    }

    pub(super) fn check(&self, time: Option<Timestamp>) -> Result<Timestamp, Problem> {
        match time {
            None => Ok(self.now),
            Some(time) if time > self.newest => Err(Problem::new(
                Reason::TimeAhead,
                format!("time {time} is more than 10 minutes ahead of the server's {}", self.now),
            )),
            Some(time) if time < self.oldest => Err(Problem::new(
                Reason::TimeTooOld,
                format!(
                    "time {time} is before {}, the oldest that HEALTH_RETENTION keeps",
                    self.oldest
                ),
            )),
            Some(time) => Ok(time),
        }
    }
}

impl Engine {
    /// Takes a request in, which is this one of a session, or of none. An error means that nothing of
    /// it was folded; after Err(Overloaded) it may be sent again.
    pub fn ingest<'a>(
        &self,
        stream: &mut Stream,
        session: Option<(&Ticket, u64)>,
        declared: impl Iterator<Item = Declared<'a>>,
        plain: impl ExactSizeIterator<Item: Into<Sample<'a>>>,
        packed: &Packed<'_>,
    ) -> Result<Receipt, Error> {
        let samples = plain.len() + packed.rows();
        let now = self.clock.now();
        let window = Window {
            now,
            oldest: now.before(self.reach.most()),
            kept_by_all: now.before(self.reach.least()),
            newest: now.after(MAX_AHEAD),
            reach: &self.reach,
        };
        let mut receipt = Receipt::default();
        for declared in declared {
            let max_series = self.config.max_series.get();
            if let Err(problem) = stream.dictionary.declare(&self.state, max_series, &declared) {
                receipt
                    .warn(format!("series with ref {}: {}", declared.reference, problem.message));
            }
        }
        // A request that was folded before declares its series all the same: others refer to them.
        let barred = |ticket: &Ticket, sequence, why| self.barred(ticket.client(), sequence, why);
        if let Some((ticket, sequence)) = session {
            super::session::check_number(sequence)?;
            let repeats = ticket.repeats(sequence).map_err(|why| barred(ticket, sequence, why))?;
            if let Some(flush) = repeats {
                return Ok(Receipt { flush, repeated: true, ..receipt });
            }
        }
        // All that can be done before is done before: a flush waits for whoever holds the cut open.
        let mut refused = Rejections::default();
        stream.plain.clear();
        stream.packed.clear();
        let mut targets = PlainTargets::new(&mut stream.names, &mut stream.labels);
        if samples <= MAX_SAMPLES {
            let first = plain.len();
            for (index, sample) in plain.enumerate() {
                let sample = sample.into();
                let staged = targets.stage(&self.state, window, index, &sample, &mut stream.plain);
                if let Err(problem) = staged {
                    refused.push(index, &problem);
                }
            }
            let (state, dictionary) = (&*self.state, &stream.dictionary);
            let staging = packed::Staging { state, window, dictionary, first };
            packed.stage(&staging, &mut stream.packed, &mut refused);
        }
        let intake = self.state.intake(now).map_err(|denied| self.denied(denied))?;
        let mut admitted = None;
        if let Some((ticket, sequence)) = session {
            let admission = intake.admit(ticket, sequence);
            match admission.map_err(|why| barred(ticket, sequence, why))? {
                Admission::Next(next) => admitted = Some(next),
                Admission::Known(flush) => {
                    return Ok(Receipt { flush, repeated: true, ..receipt });
                }
            }
        }
        receipt.take(intake.fold(&mut stream.plain, &mut targets), &mut refused);
        receipt.take(intake.fold(&mut stream.packed, &mut stream.dictionary), &mut refused);
        // A mark moves also past what was refused: sent again, it would be refused again.
        let moves = admitted.is_some();
        if let Some(admitted) = admitted {
            intake.done(admitted, self.life.lived());
        }
        receipt.flush = (moves || receipt.accepted > 0).then(|| intake.generation());
        drop(intake);
        targets.keep();
        if samples > MAX_SAMPLES {
            self.refuse_all(&mut receipt, samples);
        } else {
            self.finish(&mut receipt, refused);
        }
        Ok(receipt)
    }

    /// Takes a few samples in, of a sender that has no stream.
    pub fn record<'a>(
        &self,
        plain: impl ExactSizeIterator<Item = Plain<'a>>,
    ) -> Result<Receipt, Error> {
        let none = std::iter::empty::<Declared<'_>>();
        self.ingest(&mut Stream::default(), None, none, plain, &Packed::default())
    }

    /// Takes in a call's samples that are a request of a session, which this opens if it must: a call
    /// that is made again is not counted again.
    pub async fn record_once<'a>(
        &self,
        client: &str,
        (epoch, sequence): (u64, u64),
        plain: impl ExactSizeIterator<Item = Plain<'a>>,
    ) -> Result<Receipt, Error> {
        if sequence == 0 {
            let message = "count the calls of a client from 1".to_owned();
            return Err(Error::Invalid { field: "sequence", message });
        }
        let hello = Hello { client, epoch, last_sent: sequence - 1, first_retained: 0 };
        let opened = self.open_session(hello, false)?;
        if let Some(flush) = opened.flush {
            self.committed_after(flush - 1).await?;
        }
        let none = std::iter::empty::<Declared<'_>>();
        let session = Some((&opened.ticket, sequence));
        self.ingest(&mut Stream::default(), session, none, plain, &Packed::default())
    }

    /// Flushes, and waits until what was folded is committed. Says whether that makes it durable.
    pub async fn make_durable(&self, receipt: &Receipt) -> Result<bool, Error> {
        if self.durability() != Durability::Synced {
            return Ok(false);
        }
        // Of a repeated request, no flush is left that it would wait for.
        let Some(flush) = receipt.flush else { return Ok(receipt.repeated) };
        self.flush.wake();
        self.committed_after(flush - 1).await?;
        Ok(true)
    }

    fn finish(&self, receipt: &mut Receipt, refused: Rejections) {
        receipt.rejections = refused.0;
        receipt.rejections.sort_by_key(|rejection| rejection.index);
        receipt.refused = receipt.rejections.len() as u64;
        for rejection in &receipt.rejections {
            self.rejected.add(rejection.reason, 1);
        }
        self.accepted.fetch_add(receipt.accepted, std::sync::atomic::Ordering::Relaxed);
        if self.state.pending_folds() >= self.config.batch_size.get() {
            self.flush.wake();
        }
    }

    fn refuse_all(&self, receipt: &mut Receipt, samples: usize) {
        self.rejected.add(Reason::TooManySamples, samples as u64);
        let message = format!("the request has {samples} samples; send at most {MAX_SAMPLES}");
        receipt.refused = samples as u64;
        receipt.rejections = vec![Rejection { index: 0, reason: Reason::TooManySamples, message }];
    }
}

/// The most warnings of one request.
const MAX_WARNINGS: usize = 16;

impl Receipt {
    fn warn(&mut self, text: String) {
        if self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(text);
        }
    }

    fn take(&mut self, outcome: Outcome, refused: &mut Rejections) {
        self.accepted += outcome.accepted;
        for (index, reason) in outcome.refused {
            refused.push(index as usize, &Problem::refused(reason));
        }
        for metric in outcome.other_unit {
            self.warn(format!(
                "{}/{}: its unit is {:?} since its first sample; the other one was ignored",
                metric.component, metric.name, metric.unit
            ));
        }
    }
}
