//! The outbox: requests from their cut until they are durable at the server.
//!
//! A request's number never changes once it may have been sent, and no two requests of one session have
//! the same. Nothing leaves but what is durable, or what nobody can tell whether it was counted.

use crate::request::Request;
use std::collections::VecDeque;

#[derive(Debug)]
struct Entry {
    /// 0 while it has none.
    sequence: u64,
    request: Request,
    /// Whether the server may have it.
    sent: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// The last number that was given.
    last: u64,
    /// The highest number that may have been sent.
    sent: u64,
    /// Whether the server has said which number is the next: an earlier life may have used more than it
    /// wrote down. Before that nothing is given a number.
    is_numbering: bool,
    /// How many requests with samples have entered, and left.
    entered: u64,
    gone: u64,
    /// The first number that the open stream was not sent; none while no stream is welcome.
    next: Option<u64>,
}

/// What the outbox lost when its session was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Uncertain {
    /// So many requests.
    pub(crate) requests: u64,
    /// They were among the first so many that entered.
    pub(crate) through: u64,
}

impl Outbox {
    /// What an earlier life left: requests with their numbers, or 0, after this number.
    pub(crate) fn restored(
        before_first: u64,
        requests: impl Iterator<Item = (u64, Request)>,
    ) -> Self {
        let mut outbox = Self { last: before_first, sent: before_first, ..Self::default() };
        for (sequence, request) in requests {
            outbox.last = outbox.last.max(sequence);
            outbox.sent = outbox.last;
            outbox.enter(sequence, request, sequence > 0);
        }
        outbox
    }

    /// Takes in a request.
    pub(crate) fn push(&mut self, request: Request) {
        let sequence = if self.is_numbering { self.number() } else { 0 };
        self.enter(sequence, request, false);
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn enter(&mut self, sequence: u64, request: Request, sent: bool) {
        self.bytes += request.bytes();
        self.entered += u64::from(!request.is_empty());
        self.entries.push_back(Entry { sequence, request, sent });
    }

    /// Bytes of what is in it.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many requests are in it, with those that only fill a number.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many requests were ever in it.
    pub(crate) fn entered(&self) -> u64 {
        self.entered
    }

    /// How many of those have left.
    pub(crate) fn gone(&self) -> u64 {
        self.gone
    }

    /// The number before that of the first request in it: up to it all were durable.
    pub(crate) fn before_first(&self) -> u64 {
        match self.entries.front() {
            Some(Entry { sequence: sequence @ 1.., .. }) => sequence - 1,
            _ => self.last,
        }
    }

    /// What to tell the server at the beginning of a stream: the last number that may have been sent, and
    /// the first that can be sent still.
    pub(crate) fn hello(&self) -> (u64, u64) {
        (self.sent, self.before_first().min(self.sent) + 1)
    }

    /// A stream is welcome, and the server has all up to `accepted`, for good up to `durable`. Says whether
    /// numbers were given: those must be written down before anything is sent.
    pub(crate) fn welcome(&mut self, accepted: u64, durable: u64) -> bool {
        self.durable(durable);
        self.is_numbering = true;
        self.sent = self.sent.max(accepted);
        self.next = Some(accepted + 1);
        let first = self.entries.partition_point(|entry| entry.sequence > 0);
        let mut unnumbered = self.entries.split_off(first);
        // What an earlier life sent and did not write down, the server may lose before it is durable. Then
        // nobody has it, and something must come in its place.
        let missing = self.last.max(durable) + 1..=accepted;
        let is_numbering = !(unnumbered.is_empty() && missing.is_empty());
        for sequence in missing {
            self.enter(sequence, Request::default(), true);
        }
        self.last = self.last.max(accepted);
        for entry in &mut unnumbered {
            entry.sequence = self.number();
        }
        self.entries.append(&mut unnumbered);
        is_numbering
    }

    /// The stream is gone.
    pub(crate) fn interrupted(&mut self) {
        self.next = None;
    }

    /// Whether there is a stream that was sent everything.
    pub(crate) fn is_sent(&self) -> bool {
        self.next.is_some_and(|next| next > self.last)
    }

    /// Whether there is something to send.
    pub(crate) fn has_next(&self) -> bool {
        self.next.is_some_and(|next| next <= self.last)
    }

    /// The next request to send, which counts as sent.
    pub(crate) fn next(&mut self) -> Option<(u64, &Request)> {
        let next = self.next?;
        let place = self.entries.partition_point(|entry| entry.sequence < next);
        let entry = self.entries.get_mut(place)?;
        entry.sent = true;
        self.sent = self.sent.max(entry.sequence);
        self.next = Some(entry.sequence + 1);
        Some((entry.sequence, &entry.request))
    }

    /// The series of a row of a request.
    pub(crate) fn slot(&self, sequence: u64, row: usize) -> Option<usize> {
        let place = self.entries.partition_point(|entry| (1..sequence).contains(&entry.sequence));
        let entry = self.entries.get(place).filter(|entry| entry.sequence == sequence)?;
        entry.request.rows.refs.get(row).map(|slot| *slot as usize)
    }

    /// The server has all up to here for good.
    pub(crate) fn durable(&mut self, through: u64) {
        self.leave(|entry| (1..=through).contains(&entry.sequence));
    }

    /// The session is no more. If this is another database, it has nothing of what is in here; otherwise
    /// nobody knows what it has of what may have been sent, and to send that again might count it twice.
    pub(crate) fn renew(&mut self, is_other_database: bool) -> Uncertain {
        let requests = if is_other_database { 0 } else { self.leave(|entry| entry.sent) };
        for entry in &mut self.entries {
            (entry.sequence, entry.sent) = (0, false);
        }
        (self.last, self.sent, self.next, self.is_numbering) = (0, 0, None, false);
        Uncertain { requests, through: self.gone }
    }

    fn leave(&mut self, mut which: impl FnMut(&Entry) -> bool) -> u64 {
        let before = self.gone;
        while let Some(entry) = self.entries.pop_front_if(|entry| which(entry)) {
            self.bytes -= entry.request.bytes();
            self.gone += u64::from(!entry.request.is_empty());
        }
        self.gone - before
    }

    /// All that is in it, with their numbers, or 0.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Request)> {
        self.entries.iter().map(|entry| (entry.sequence, &entry.request))
    }

    /// The last so many.
    pub(crate) fn newest(&self, count: usize) -> impl Iterator<Item = (u64, &Request)> {
        self.iter().skip(self.entries.len().saturating_sub(count))
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
