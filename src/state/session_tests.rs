//! Sessions against a model of the protocol: whoever sends what, again, late or after a crash, the
//! storage holds each request up to the mark once, and nothing beyond.

use super::tests::{Named, at, commit_into};
use super::*;
use model::Fate;
use proptest::prelude::*;
use std::collections::BTreeMap;
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
    Commit,
    /// What is not committed is lost.
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..3usize, 0..4u64).prop_map(|(stream, epoch)| Step::Open(stream, epoch)),
        8 => (0..3usize, prop_oneof![4 => Just(0), 1 => -3..3i64]).prop_map(|(s, n)| Step::Send(s, n)),
        1 => (0..3usize).prop_map(Step::Leave),
        2 => Just(Step::Cut),
        2 => Just(Step::Commit),
        1 => Just(Step::Crash),
    ];
    proptest::collection::vec(step, 1..60)
}

/// What the protocol says that there is.
#[derive(Clone, Debug, Default, PartialEq)]
struct Session {
    epoch: u64,
    accepted: u64,
    /// The stream that may send.
    stream: Option<usize>,
}

/// What a storage has.
#[derive(Default)]
struct Stored {
    flush_seq: u64,
    folds: BTreeMap<(SeriesId, Timestamp), Fold>,
    series: Vec<Arc<Series>>,
    mark: Option<Mark>,
}

impl Stored {
    fn commit(&mut self, frozen: &Frozen) {
        assert_eq!(frozen.seq(), self.flush_seq + 1);
        self.flush_seq = frozen.seq();
        commit_into(&mut self.folds, frozen);
        self.series.extend(frozen.created().iter().cloned());
        for mark in frozen.marks() {
            let before = self.mark.replace(mark.clone());
            if let Some(before) = before {
                assert!(before.epoch <= mark.epoch && before.sequence <= mark.sequence, "it rises");
            }
        }
        let through = self.mark.as_ref().map_or(0, |mark| mark.sequence);
        let found: Vec<i64> = self.folds.keys().map(|(_, start)| start.as_ms() / 1000).collect();
        let expected: Vec<i64> = (1..=through as i64).collect();
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
        };
        State::new(seed, [WIDTH].into(), 10, usize::MAX)
    }
}

/// Sends a request: a single increment in the second of its number.
fn send(state: &State, ticket: &Ticket, sequence: u64) -> Result<bool, Barred> {
    let mut named = Named::new(state, 1, false);
    let mut batch = State::batch();
    let time = at(sequence as i64 * 1000);
    batch.push(named.hash(0), 0, 0, time, Value::Increment(1.0));
    let intake = state.intake(time).unwrap();
    match intake.admit(ticket, sequence)? {
        Admission::Known(_) => Ok(false),
        Admission::Next(admitted) => {
            assert_eq!(intake.fold(&mut batch, &mut named).accepted, 1);
            intake.done(admitted, Duration::ZERO);
            Ok(true)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn the_storage_holds_each_request_up_to_the_mark_once(steps in steps()) {
        let mut stored = Stored::default();
        let mut state = stored.recover();
        let mut frozen: Option<Arc<Frozen>> = None;
        let mut model: Option<Session> = None;
        // What the model is after a crash; and after one when the frozen generation is committed.
        let (mut durable, mut cut): (Option<Session>, Option<Session>) = (None, None);
        let mut tickets: [Option<Ticket>; 3] = [None, None, None];
        for step in steps {
            match step {
                Step::Open(stream, epoch) => {
                    let last_sent = model.as_ref().map_or(0, |session| session.accepted);
                    let hello = Hello { client: "c", epoch, last_sent, first_retained: 0 };
                    let now = At { now: at(0), lived: Duration::ZERO };
                    let opened = state.open_session(hello, true, 10, now);
                    let before = model.clone().unwrap_or_default();
                    if epoch < before.epoch {
                        prop_assert_eq!(opened.unwrap_err(), Barred::Fenced(before.epoch));
                        continue;
                    }
                    let opened = opened.unwrap();
                    prop_assert_eq!(opened.accepted, before.accepted);
                    let rose = model.is_none() || epoch > before.epoch;
                    prop_assert!(!rose || opened.flush.is_some(), "an epoch is to be committed");
                    let known = durable.as_ref().is_some_and(|durable| durable.epoch == epoch);
                    prop_assert!(!known || opened.flush.is_none(), "which it is but once");
                    model = Some(Session { epoch, stream: Some(stream), ..before });
                    tickets[stream] = Some(opened.ticket);
                }
                Step::Send(stream, off) => {
                    let Some(ticket) = &tickets[stream] else { continue };
                    let session = model.as_mut().expect("who has a stream has a session");
                    let Some(sequence) = (session.accepted + 1).checked_add_signed(off) else {
                        continue;
                    };
                    if sequence == 0 {
                        continue;
                    }
                    let sent = send(&state, ticket, sequence);
                    if session.stream != Some(stream) {
                        prop_assert_eq!(sent, Err(Barred::Fenced(session.epoch)));
                    } else if off > 0 {
                        prop_assert_eq!(sent, Err(Barred::Gap(session.accepted + 1)));
                    } else {
                        prop_assert_eq!(sent, Ok(off == 0));
                        session.accepted += u64::from(off == 0);
                    }
                }
                Step::Leave(stream) => tickets[stream] = None,
                Step::Cut if frozen.is_none() => {
                    frozen = state.freeze();
                    cut = model.clone();
                }
                Step::Commit => {
                    let Some(generation) = frozen.take() else { continue };
                    stored.commit(&generation);
                    state.committed(generation.seq());
                    durable = cut.clone();
                    let info = state.session("c");
                    let through = stored.mark.as_ref().map_or(0, |mark| mark.sequence);
                    prop_assert!(info.is_none_or(|info| info.durable == through));
                }
                Step::Crash => {
                    (frozen, tickets) = (None, [None, None, None]);
                    state = stored.recover();
                    model = durable.clone().map(|session| Session { stream: None, ..session });
                    let found = state.session("c").map(|info| (info.epoch, info.accepted));
                    prop_assert_eq!(found, model.as_ref().map(|s| (s.epoch, s.accepted)));
                }
                Step::Cut => {}
            }
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
