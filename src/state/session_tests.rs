//! Sessions against a model of the protocol: whoever sends what, again, late or after a crash, the
//! storage holds each request up to the mark once, and nothing beyond.

use super::tests::{Named, at, commit_into};
use super::*;
use model::Fate;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const WIDTH: Width = Width::from_secs(1);
const TTL: Duration = Duration::from_hours(1);

#[derive(Clone, Debug)]
enum Step {
    /// A stream opens the session with this epoch.
    Open(usize, u64),
    /// A stream sends a request that is so far from the next.
    Send(usize, i64),
    /// A stream goes.
    Leave(usize),
    Cut,
    /// The generation that is cut is committed, and the client may be told.
    Commit {
        told: bool,
    },
    /// What is not committed is lost.
    Crash,
    /// Nothing comes for too long.
    Silence,
    /// What is stored is copied.
    Backup,
    /// It is put back, and what was stored since is gone.
    Restore,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..3usize, 0..4u64).prop_map(|(stream, epoch)| Step::Open(stream, epoch)),
        16 => (0..3usize, prop_oneof![4 => Just(0), 1 => -3..3i64]).prop_map(|(s, n)| Step::Send(s, n)),
        3 => (0..3usize).prop_map(Step::Leave),
        4 => Just(Step::Cut),
        4 => any::<bool>().prop_map(|told| Step::Commit { told }),
        2 => Just(Step::Crash),
        2 => Just(Step::Silence),
        1 => Just(Step::Backup),
        1 => Just(Step::Restore),
    ];
    proptest::collection::vec(step, 1..80)
}

/// What the protocol says that there is.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    session: Option<Session>,
    /// How often the client was forgotten, each time with its requests counted from 1 again.
    life: u64,
    /// With which epoch it was, the last time.
    forgotten: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Session {
    epoch: u64,
    accepted: u64,
    /// The stream that may send.
    stream: Option<usize>,
}

impl Model {
    /// As it is when all streams are gone.
    fn alone(mut self) -> Self {
        self.session = self.session.map(|session| Session { stream: None, ..session });
        self
    }
}

/// What a storage has.
#[derive(Clone, Default)]
struct Stored {
    flush_seq: u64,
    folds: BTreeMap<(SeriesId, Timestamp), Fold>,
    series: Vec<Arc<Series>>,
    mark: Option<Mark>,
    /// The last request of each life.
    through: Vec<u64>,
}

/// The second of a request: that of its number, in the time of its life.
fn second(life: u64, sequence: u64) -> i64 {
    (1000 * life + sequence) as i64
}

impl Stored {
    /// `lost` are the seconds of requests that nobody has any more.
    fn commit(&mut self, frozen: &Frozen, lost: &BTreeSet<i64>) {
        assert_eq!(frozen.seq(), self.flush_seq + 1);
        self.flush_seq = frozen.seq();
        commit_into(&mut self.folds, frozen);
        self.series.extend(frozen.created().iter().cloned());
        for mark in frozen.marks() {
            let before = self.mark.replace(mark.clone());
            if let Some(before) = before.filter(|before| before.fate == Fate::Kept) {
                assert!(before.epoch <= mark.epoch && before.sequence <= mark.sequence, "it rises");
            }
            if self.through.is_empty() {
                self.through.push(0);
            }
            *self.through.last_mut().unwrap() = mark.sequence;
            if mark.fate == Fate::Forgotten {
                self.through.push(0);
            }
        }
        let found: Vec<i64> = self.folds.keys().map(|(_, start)| start.as_ms() / 1000).collect();
        let lives = (0..).zip(&self.through);
        let sent = lives.flat_map(|(life, through)| (1..=*through).map(move |n| second(life, n)));
        let expected: Vec<i64> = sent.filter(|second| !lost.contains(second)).collect();
        assert_eq!(found, expected, "whole requests up to the mark, and nothing beyond");
        for fold in self.folds.values() {
            assert_eq!(*fold, Fold::Counter(model::Counter { sum: 1.0 }), "each once");
        }
    }

    /// A state that goes on from it.
    fn recover(&self) -> State {
        let series = self.series.iter().map(|series| ((**series).clone(), Current::default()));
        let seed = Seed {
            flush_seq: self.flush_seq,
            series: series.collect(),
            counts: HashMap::new(),
            sessions: self.mark.iter().cloned().collect(),
            annotations: Vec::new(),
        };
        State::new(seed, [WIDTH].into(), 10, usize::MAX)
    }
}

/// Sends a request: a single increment in its second.
fn send_in(
    state: &State,
    ticket: &Ticket,
    (life, sequence): (u64, u64),
    lived: Duration,
) -> Result<bool, Barred> {
    let mut named = Named::new(state, 1, false);
    let mut batch = State::batch();
    let time = at(second(life, sequence) * 1000);
    batch.push(named.hash(0), 0, 0, time, Value::Increment(1.0));
    let intake = state.intake(time).unwrap();
    match intake.admit(ticket, sequence)? {
        Admission::Known(_) => Ok(false),
        Admission::Next(admitted) => {
            assert_eq!(intake.fold(&mut batch, &mut named).accepted, 1);
            intake.done(admitted, lived);
            Ok(true)
        }
    }
}

fn send(state: &State, ticket: &Ticket, sequence: u64) -> Result<bool, Barred> {
    send_in(state, ticket, (0, sequence), Duration::ZERO)
}

/// The protocol as it runs, and as it should.
struct World {
    stored: Stored,
    state: State,
    frozen: Option<Arc<Frozen>>,
    tickets: [Option<Ticket>; 3],
    lived: Duration,
    model: Model,
    /// What the model is after a crash; and after one when the frozen generation is committed.
    durable: Model,
    cut: Model,
    /// Up to which of its requests the client was told, in this life, that they are durable.
    told: u64,
    lost: BTreeSet<i64>,
    backup: Option<(Stored, Model)>,
}

impl World {
    fn new() -> Self {
        let stored = Stored::default();
        Self {
            state: stored.recover(),
            stored,
            frozen: None,
            tickets: [None, None, None],
            lived: Duration::ZERO,
            model: Model::default(),
            durable: Model::default(),
            cut: Model::default(),
            told: 0,
            lost: BTreeSet::new(),
            backup: None,
        }
    }

    fn hello(&self, epoch: u64, last_sent: u64, first_retained: u64) -> Result<Opened, Barred> {
        let hello = Hello { client: "c", epoch, last_sent, first_retained };
        self.state.open_session(hello, true, 10, At { now: at(0), lived: self.lived })
    }

    fn open(&mut self, stream: usize, epoch: u64) {
        let Model { session, life, forgotten } = self.model.clone();
        let known = session.as_ref().map(|session| session.epoch).or(forgotten);
        if let Some(known) = known.filter(|known| epoch < *known) {
            assert_eq!(self.hello(epoch, 0, 0).unwrap_err(), Barred::Fenced(known));
            return;
        }
        if session.is_none() {
            let barred = if life > 0 { Barred::Forgotten } else { Barred::Unknown };
            assert_eq!(self.hello(epoch, 1, 0).unwrap_err(), barred);
            self.told = if life > 0 || self.stored.mark.is_none() { 0 } else { self.told };
        }
        let before = session.clone().unwrap_or_default();
        let (last, first) = match session {
            // Nothing tells a client that begins anew from one that never was.
            None => (0, 0),
            Some(_) => (before.accepted.max(self.told), self.told + 1),
        };
        let opened = self.hello(epoch, last, first).unwrap();
        let lost = (first > before.accepted + 1).then(|| (before.accepted + 1, first - 1));
        assert_eq!(opened.lost, lost);
        let accepted = lost.map_or(before.accepted, |(_, last)| last);
        assert_eq!(opened.accepted, accepted);
        let missing = lost.into_iter().flat_map(|(first, last)| first..=last);
        self.lost.extend(missing.map(|n| second(life, n)));
        let rose = session.is_none() || epoch > before.epoch || lost.is_some();
        assert!(!rose || opened.flush.is_some(), "it is to be committed");
        let is_known = self.durable.session.as_ref();
        let is_known = is_known.is_some_and(|it| it.epoch == epoch && self.durable.life == life);
        // What is lost is to be committed too, whoever opens it before that.
        let is_known = is_known && self.lost.is_empty();
        assert!(!is_known || rose || opened.flush.is_none(), "which it is but once");
        self.model.session = Some(Session { epoch, accepted, stream: Some(stream) });
        self.tickets[stream] = Some(opened.ticket);
    }

    fn send(&mut self, stream: usize, off: i64) {
        let Some(ticket) = &self.tickets[stream] else { return };
        let session = self.model.session.as_mut().expect("who has a stream has a session");
        let next = (session.accepted + 1).checked_add_signed(off);
        let Some(sequence @ 1..) = next else { return };
        let sent = send_in(&self.state, ticket, (self.model.life, sequence), self.lived);
        if session.stream != Some(stream) {
            assert_eq!(sent, Err(Barred::Fenced(session.epoch)));
        } else if off > 0 {
            assert_eq!(sent, Err(Barred::Gap(session.accepted + 1)));
        } else {
            assert_eq!(sent, Ok(off == 0));
            session.accepted += u64::from(off == 0);
        }
    }

    fn begin_again(&mut self) {
        (self.frozen, self.tickets) = (None, [None, None, None]);
        self.state = self.stored.recover();
        self.model = self.durable.clone().alone();
        let found = self.state.session("c").map(|info| (info.epoch, info.accepted));
        let session = self.model.session.as_ref();
        assert_eq!(found, session.map(|session| (session.epoch, session.accepted)));
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Open(stream, epoch) => self.open(stream, epoch),
            Step::Send(stream, off) => self.send(stream, off),
            Step::Leave(stream) => self.tickets[stream] = None,
            Step::Cut if self.frozen.is_none() => {
                self.frozen = self.state.freeze();
                self.cut = self.model.clone();
            }
            Step::Cut => {}
            Step::Commit { told } => {
                let Some(generation) = self.frozen.take() else { return };
                self.stored.commit(&generation, &self.lost);
                self.state.committed(generation.seq());
                self.durable = self.cut.clone();
                let Some(session) = &self.durable.session else { return };
                if self.durable.life == self.model.life {
                    let info = self.state.session("c").expect("it is there");
                    assert_eq!(info.durable, session.accepted);
                    self.told = if told { session.accepted } else { self.told };
                }
            }
            Step::Crash => self.begin_again(),
            Step::Silence => {
                self.lived += 2 * TTL;
                let at = At { now: at(0), lived: self.lived };
                self.state.forget_silent_sessions(TTL, at);
                let is_silent = self.tickets.iter().all(Option::is_none);
                if let Some(session) = self.model.session.take_if(|_| is_silent) {
                    let forgotten = Some(session.epoch);
                    self.model = Model { session: None, life: self.model.life + 1, forgotten };
                    self.told = 0;
                }
            }
            Step::Backup => self.backup = Some((self.stored.clone(), self.durable.clone())),
            Step::Restore => {
                // A client that began anew under its old name is not to meet its earlier self.
                let same = |backup: &&(Stored, Model)| backup.1.life == self.model.life;
                if let Some((stored, model)) = self.backup.as_ref().filter(same).cloned() {
                    (self.stored, self.durable) = (stored, model);
                    self.begin_again();
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn the_storage_holds_each_request_up_to_the_mark_once(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
    }
}

fn open(state: &State, last_sent: u64, lived: Duration) -> Result<Opened, Barred> {
    let hello = Hello { client: "c", epoch: 1, last_sent, first_retained: 0 };
    state.open_session(hello, true, 10, At { now: at(0), lived })
}

fn forget(state: &State, lived: Duration) {
    state.forget_silent_sessions(TTL, At { now: at(0), lived });
}

/// Cuts and commits; gives the marks.
fn flush(state: &State) -> Vec<Mark> {
    let frozen = state.freeze().expect("something is pending");
    let marks = frozen.marks().cloned().collect();
    state.committed(frozen.seq());
    marks
}

#[test]
fn a_silent_session_is_forgotten_and_one_with_a_stream_is_not() {
    let state = Stored::default().recover();
    let opened = open(&state, 0, Duration::ZERO).unwrap();
    send(&state, &opened.ticket, 1).unwrap();
    flush(&state);
    forget(&state, 2 * TTL);
    assert!(state.session("c").is_some(), "its stream is there");
    assert_eq!(flush(&state)[0].seen, 2 * TTL, "which is noted, for after a restart");
    drop(opened);
    forget(&state, 3 * TTL);
    assert!(state.session("c").is_some(), "it was not silent for longer than that");
    forget(&state, 3 * TTL + Duration::from_secs(1));
    assert_eq!(state.session("c"), None);
    let marks = flush(&state);
    assert_eq!((marks[0].fate, marks[0].sequence), (Fate::Forgotten, 1));
    for state in [state, Stored { mark: marks.into_iter().next(), ..Stored::default() }.recover()] {
        assert_eq!(open(&state, 1, 4 * TTL).unwrap_err(), Barred::Forgotten);
        let again = open(&state, 0, 4 * TTL).unwrap();
        assert_eq!((again.accepted, again.durable), (0, 0));
        send(&state, &again.ticket, 1).unwrap();
        let marks = flush(&state);
        assert_eq!((marks.last().unwrap().fate, marks.last().unwrap().sequence), (Fate::Kept, 1));
        assert_eq!(state.session("c").unwrap().durable, 1);
    }
}

#[test]
fn a_call_that_waited_too_long_to_fold_is_told_so() {
    let state = Stored::default().recover();
    let hello = Hello { client: "c", epoch: 1, last_sent: 0, first_retained: 0 };
    let call = state.open_session(hello, false, 10, At { now: at(0), lived: Duration::ZERO });
    let call = call.unwrap();
    forget(&state, 2 * TTL);
    assert_eq!(send(&state, &call.ticket, 1).unwrap_err(), Barred::Forgotten);
}
