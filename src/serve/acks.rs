//! Acks: what a stream is told of its requests.
//!
//! Numbers only rise, and what is said to be durable is committed; so an ack that is left out is made
//! good by the next.

use super::convert::{to_durability, to_rejection};
use super::proto::v1;
use crate::engine::{MAX_SAMPLES, Receipt};
use crate::storage::Durability;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// Acks are at least so far apart,
const ACK_EVERY: Duration = Duration::from_millis(10);
/// or so many requests.
const ACK_REQUESTS: u64 = 64;
/// Bytes of rejections' messages that are told at once. Clients take messages of 4 MiB.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// The most warnings of an ack.
const MAX_WARNINGS: usize = 16;

/// What a stream's next ack says.
pub(super) struct Acks {
    durability: Durability,
    welcome: Option<v1::Welcome>,
    /// What was said last to hold things up.
    stall: v1::Stall,
    accepted_through: u64,
    durable_through: u64,
    /// Flushes that are not committed, each with the last request that is in it.
    pending: VecDeque<(u64, u64)>,
    /// The last flush that is known to be committed.
    pub(super) committed: u64,
    accepted_samples: u64,
    rejected_count: u64,
    rejections: Vec<v1::Rejection>,
    /// Bytes of their messages.
    message_bytes: usize,
    warnings: Vec<String>,
    /// Requests since the last ack.
    requests: u64,
    /// Whether there is something to say, and when.
    pub(super) waiting: bool,
    pub(super) due: Instant,
}

impl Acks {
    pub(super) fn new(durability: Durability) -> Self {
        Self {
            durability,
            welcome: None,
            stall: v1::Stall::Unspecified,
            accepted_through: 0,
            durable_through: 0,
            pending: VecDeque::new(),
            committed: 0,
            accepted_samples: 0,
            rejected_count: 0,
            rejections: Vec::new(),
            message_bytes: 0,
            warnings: Vec::new(),
            requests: 0,
            waiting: false,
            due: Instant::now(),
        }
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether it must be sent before more is read, so that clients can take it.
    pub(super) fn is_large(&self) -> bool {
        self.rejections.len() >= MAX_SAMPLES || self.message_bytes >= MAX_MESSAGE_BYTES
    }

    /// Takes in what became of the session's opening.
    pub(super) fn open(&mut self, welcome: v1::Welcome, flush: Option<u64>) {
        self.accepted_through = welcome.accepted_through;
        self.durable_through = welcome.durable_through;
        self.pending.extend(flush.map(|flush| (flush, welcome.accepted_through)));
        self.welcome = Some(welcome);
        self.wait();
    }

    /// Takes in what became of a request; without a number it is the next, if it counts at all.
    pub(super) fn take(&mut self, receipt: Receipt, sequence: u64) {
        self.message_bytes +=
            receipt.rejections.iter().map(|rejection| rejection.message.len()).sum::<usize>();
        self.accepted_through = self.accepted_through.max(sequence);
        self.requests += 1;
        self.accepted_samples += receipt.accepted;
        self.rejected_count += receipt.refused;
        self.rejections
            .extend(receipt.rejections.into_iter().map(|one| to_rejection(sequence, one)));
        self.warnings.extend(receipt.warnings);
        self.warnings.truncate(MAX_WARNINGS);
        match (receipt.flush, self.pending.back_mut()) {
            (None, None) => self.durable_through = self.durable_through.max(sequence),
            (Some(flush), Some((last, through))) if *last == flush => {
                *through = sequence.max(*through);
            }
            (None, Some((_, through))) => *through = sequence.max(*through),
            (Some(flush), _) => self.pending.push_back((flush, sequence)),
        }
        self.wait();
    }

    /// Whether there were so many requests that an ack is due at once.
    pub(super) fn are_many(&self) -> bool {
        self.requests >= ACK_REQUESTS
    }

    /// Says it later.
    pub(super) fn put_off(&mut self) {
        self.waiting = true;
        self.due = Instant::now() + ACK_EVERY;
    }

    /// The number of the next request of a stream that has no session.
    pub(super) fn following(&self) -> u64 {
        self.accepted_through + 1
    }

    /// Takes note of what holds things up; says whether that is news.
    pub(super) fn stalled(&mut self, stall: v1::Stall) -> bool {
        std::mem::replace(&mut self.stall, stall) != stall
    }

    pub(super) fn committed(&mut self, seq: u64) {
        self.committed = seq;
        while let Some((_, through)) = self.pending.pop_front_if(|(flush, _)| *flush <= seq) {
            self.durable_through = self.durable_through.max(through);
        }
        self.wait();
    }

    fn wait(&mut self) {
        if !self.waiting {
            self.waiting = true;
            self.due = self.due.max(Instant::now());
        }
    }

    pub(super) fn next(&mut self) -> v1::IngestResponse {
        self.waiting = false;
        self.requests = 0;
        self.message_bytes = 0;
        self.due = Instant::now() + ACK_EVERY;
        v1::IngestResponse {
            welcome: self.welcome.take(),
            stall: self.stall.into(),
            accepted_through: self.accepted_through,
            durable_through: match self.durability {
                Durability::Synced => self.durable_through,
                Durability::None => self.accepted_through,
            },
            rejections: std::mem::take(&mut self.rejections),
            rejected_count: self.rejected_count,
            warnings: std::mem::take(&mut self.warnings),
            durability: to_durability(self.durability).into(),
            accepted_samples: self.accepted_samples,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(acks: &mut Acks) -> (u64, u64) {
        let ack = acks.next();
        (ack.accepted_through, ack.durable_through)
    }

    #[test]
    fn numbers_only_rise_also_when_requests_are_sent_again() {
        let mut acks = Acks::new(Durability::Synced);
        let welcome =
            v1::Welcome { accepted_through: 10, durable_through: 5, ..v1::Welcome::default() };
        acks.open(welcome, Some(1));
        assert_eq!(said(&mut acks), (10, 5));
        // Sent again, after a call moved the mark in a later flush.
        let repeated = || Receipt { flush: Some(2), repeated: true, ..Receipt::default() };
        acks.take(repeated(), 6);
        acks.take(repeated(), 7);
        assert_eq!(said(&mut acks), (10, 5));
        acks.committed(1);
        assert_eq!(said(&mut acks), (10, 10));
        acks.committed(2);
        assert_eq!(said(&mut acks), (10, 10));
    }
}
