//! The live state in many interleavings of its threads: `HEALTHD_SHUTTLE=1 cargo test --lib explored`.
//!
//! Each thread stops at every lock and atomic, and the schedule is drawn at random or, to provoke rare
//! orders, by priorities that change at a few points.

use super::tests::{Folds, Named, at, commit_into};
use super::*;
use model::{Counter, Merge};
use shuttle::thread;
use std::time::Duration;

const SCHEDULES: usize = 3_000;
const WIDTH: Width = Width::from_secs(1);
const REQUESTS: u64 = 3;
const SERIES: usize = 4;

fn explore(scenario: impl Fn() + Send + Sync + 'static) {
    let scenario = std::sync::Arc::new(scenario);
    let again = scenario.clone();
    shuttle::check_random(move || scenario(), SCHEDULES);
    shuttle::check_pct(move || again(), SCHEDULES, 3);
}

fn state() -> Arc<State> {
    let seed = Seed::default();
    Arc::new(State::new(seed, [WIDTH].into(), 100, usize::MAX))
}

fn open(state: &State, client: &str, epoch: u64) -> Result<Opened, Barred> {
    let hello = Hello { client, epoch, last_sent: 0, first_retained: 0 };
    state.open_session(hello, true, 10, At { now: at(0), lived: Duration::ZERO })
}

/// Sends a request: one more of each of some counters, which lie in several shards, at its number.
fn send(state: &State, ticket: &Ticket, sequence: u64) -> Result<bool, Barred> {
    let mut named = Named::new(state, 2 * SERIES, false);
    let mut batch = State::batch();
    let time = at(sequence as i64 * 1000);
    for series in 0..SERIES as u32 {
        batch.push(named.hash(2 * series), 2 * series, series, time, Value::Increment(1.0));
    }
    let intake = state.intake(time).unwrap();
    match intake.admit(ticket, sequence)? {
        Admission::Known(_) => Ok(false),
        Admission::Next(admitted) => {
            assert_eq!(intake.fold(&mut batch, &mut named).accepted, SERIES as u64);
            intake.done(admitted, Duration::ZERO);
            Ok(true)
        }
    }
}

/// What a storage has.
#[derive(Default)]
struct Stored {
    seq: u64,
    folds: Folds,
    marks: HashMap<String, Mark>,
}

impl Stored {
    fn commit(&mut self, frozen: &Frozen) {
        assert_eq!(frozen.seq(), self.seq + 1);
        self.seq = frozen.seq();
        commit_into(&mut self.folds, frozen);
        for mark in frozen.marks() {
            let before = self.marks.insert(mark.client.to_string(), mark.clone());
            let rises =
                |before: &Mark| (before.epoch, before.sequence) <= (mark.epoch, mark.sequence);
            assert!(before.as_ref().is_none_or(rises), "{before:?}, and now {mark:?}");
        }
        // At each number every counter has one for each client whose mark is there.
        let reached = |second: i64| {
            let marks = self.marks.values();
            marks.filter(|mark| mark.sequence as i64 >= second).count() as f64
        };
        let mut seen = 0;
        for ((_, start), fold) in &self.folds {
            let expected = reached(start.as_ms() / 1000);
            assert_eq!(*fold, Fold::Counter(Counter { sum: expected }), "at {start}");
            seen += expected as u64;
        }
        let due: u64 = self.marks.values().map(|mark| mark.sequence).sum();
        assert_eq!(seen, due * SERIES as u64, "whole requests up to the marks");
    }
}

fn flush(state: &State, stored: &Mutex<Stored>) {
    if let Some(frozen) = state.freeze() {
        let seq = frozen.seq();
        stored.lock().commit(&frozen);
        drop(frozen);
        state.committed(seq);
    }
}

#[test]
fn explored_a_flush_has_whole_requests_up_to_every_mark() {
    explore(|| {
        let (state, stored) = (state(), Arc::new(Mutex::new(Stored::default())));
        let clients = ["a", "b"].map(|client| {
            let state = state.clone();
            thread::spawn(move || {
                let ticket = open(&state, client, 1).unwrap().ticket;
                for sequence in 1..=REQUESTS {
                    assert_eq!(send(&state, &ticket, sequence), Ok(true));
                }
            })
        });
        let flusher = {
            let (state, stored) = (state.clone(), stored.clone());
            thread::spawn(move || (0..3).for_each(|_| flush(&state, &stored)))
        };
        for thread in clients.into_iter().chain([flusher]) {
            thread.join().unwrap();
        }
        flush(&state, &stored);
        let stored = stored.lock();
        assert!(stored.marks.values().all(|mark| mark.sequence == REQUESTS));
        assert_eq!((state.pending_folds(), state.pending_bytes()), (0, 0));
    });
}

#[test]
fn explored_of_two_streams_one_goes_on_and_no_number_is_used_twice() {
    explore(|| {
        let (state, stored) = (state(), Arc::new(Mutex::new(Stored::default())));
        // Both send the same requests, as a client does that opened its stream anew.
        let streams = [1, 2].map(|epoch| {
            let (state, stored) = (state.clone(), stored.clone());
            thread::spawn(move || {
                let Ok(opened) = open(&state, "c", epoch) else { return 0 };
                let mut folded = 0;
                for sequence in opened.accepted + 1..=REQUESTS {
                    match send(&state, &opened.ticket, sequence) {
                        Ok(is_new) => folded += u64::from(is_new),
                        Err(barred) => {
                            assert_eq!(barred, Barred::Fenced(2));
                            break;
                        }
                    }
                    if epoch == 2 {
                        flush(&state, &stored);
                    }
                }
                folded
            })
        });
        let folded: u64 = streams.map(|stream| stream.join().unwrap()).iter().sum();
        assert_eq!(folded, REQUESTS, "each once, by the one or the other");
        flush(&state, &stored);
        assert_eq!(stored.lock().marks["c"].sequence, REQUESTS);
    });
}

#[test]
fn explored_a_reader_sees_each_fold_once_also_while_it_is_committed() {
    explore(|| {
        let (state, stored) = (state(), Arc::new(Mutex::new(Stored::default())));
        let writer = {
            let state = state.clone();
            thread::spawn(move || {
                let ticket = open(&state, "a", 1).unwrap().ticket;
                for sequence in 1..=REQUESTS {
                    send(&state, &ticket, sequence).unwrap();
                }
            })
        };
        let flusher = {
            let (state, stored) = (state.clone(), stored.clone());
            thread::spawn(move || (0..2).for_each(|_| flush(&state, &stored)))
        };
        let mut before = 0.0;
        for _ in 0..3 {
            let wanted = state.select(&Selector::default());
            let (pending, _) = state.pending(&wanted, Range::ALWAYS);
            // The storage is read after that.
            let stored = stored.lock();
            let mut sum = Counter { sum: 0.0 };
            let newer = pending.iter().filter(|copy| copy.seq > stored.seq);
            for fold in newer.map(|copy| &copy.row.fold).chain(stored.folds.values()) {
                let Fold::Counter(counter) = fold else { panic!("{fold:?}") };
                sum.merge(counter);
            }
            assert!(sum.sum >= before, "{before} were seen, and now {}", sum.sum);
            assert!(sum.sum <= (REQUESTS * SERIES as u64) as f64, "seen twice");
            before = sum.sum;
        }
        writer.join().unwrap();
        flusher.join().unwrap();
    });
}

#[test]
fn explored_a_session_is_forgotten_or_used_but_not_both() {
    explore(|| {
        let state = state();
        let ticket = open(&state, "a", 1).unwrap().ticket;
        send(&state, &ticket, 1).unwrap();
        drop(ticket);
        let forgetting = {
            let state = state.clone();
            thread::spawn(move || {
                let later = At { now: at(0), lived: Duration::from_hours(2) };
                state.forget_silent_sessions(Duration::from_hours(1), later);
            })
        };
        let hello = Hello { client: "a", epoch: 1, last_sent: 1, first_retained: 2 };
        let now = At { now: at(0), lived: Duration::from_hours(2) };
        let sent = state.open_session(hello, true, 10, now).and_then(|opened| {
            assert_eq!(opened.accepted, 1);
            // The stream goes on.
            send(&state, &opened.ticket, 2).map(|is_new| (is_new, opened.ticket))
        });
        forgetting.join().unwrap();
        match sent {
            Ok((is_new, _ticket)) => {
                assert!(is_new);
                assert_eq!(state.session("a").map(|session| session.accepted), Some(2));
            }
            Err(barred) => {
                assert_eq!(barred, Barred::Forgotten);
                assert_eq!(state.session("a"), None);
            }
        }
    });
}
