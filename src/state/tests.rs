//! The live state against a plain map: whatever is folded is pending, frozen or let go, once.

use super::*;
use model::{Kind, Merge, Rolling};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const WIDTH: Width = Width::from_secs(1);
const ALWAYS: Range = Range::ALWAYS;

/// Series by number: even ones are counters.
pub(super) struct Named {
    names: Vec<String>,
    hashes: Vec<u64>,
    places: Vec<Option<Place>>,
    remember: bool,
}

impl Named {
    pub(super) fn new(state: &State, count: usize, remember: bool) -> Self {
        let names: Vec<String> = (0..count).map(|n| format!("m{n}")).collect();
        let mut named = Self { hashes: Vec::new(), places: vec![None; count], names, remember };
        named.hashes = (0..count as u32).map(|n| state.hash(named.series_key(n))).collect();
        named
    }

    pub(super) fn hash(&self, target: u32) -> u64 {
        self.hashes[target as usize]
    }

    fn series_key(&self, target: u32) -> SeriesKey<'_> {
        let component = if target.is_multiple_of(3) { "a" } else { "b" };
        SeriesKey { component, name: &self.names[target as usize], labels: "" }
    }
}

impl Targets for Named {
    fn key(&self, target: u32) -> (SeriesKey<'_>, u64) {
        (self.series_key(target), self.hashes[target as usize])
    }

    fn declaration(&self, target: u32) -> Declaration<'_> {
        Declaration { kind: kind(target), unit: "", description: "" }
    }

    fn place(&self, target: u32) -> Option<Place> {
        self.places[target as usize]
    }

    fn found(&mut self, target: u32, place: Place) {
        if self.remember {
            self.places[target as usize] = Some(place);
        }
    }
}

fn kind(target: u32) -> Kind {
    if target.is_multiple_of(2) { Kind::Counter } else { Kind::Rolling }
}

fn state(max_series: usize, max_pending_bytes: usize) -> State {
    let seed = Seed::default();
    State::new(seed, [WIDTH].into(), max_series, max_pending_bytes)
}

pub(super) fn at(ms: i64) -> Timestamp {
    Timestamp::from_ms(ms)
}

fn add(state: &State, named: &mut Named, samples: &[(u32, i64, u32)]) -> Outcome {
    let mut batch = State::batch();
    for (index, (target, ms, value)) in samples.iter().enumerate() {
        let value = match kind(*target) {
            Kind::Counter => Value::Increment(f64::from(*value)),
            Kind::Rolling => Value::Observation(f64::from(*value)),
        };
        match named.places[*target as usize] {
            Some(place) => batch.push_known(place, *target, index as u32, at(*ms), value),
            None => {
                batch.push(named.hashes[*target as usize], *target, index as u32, at(*ms), value);
            }
        }
    }
    state.intake(at(0)).unwrap().fold(&mut batch, named)
}

pub(super) type Folds = BTreeMap<(SeriesId, Timestamp), Fold>;

fn merge_into(folds: &mut Folds, row: Row<Fold>) {
    let merge = |fold: &mut Fold| fold.merge(&row.fold);
    folds.entry(row.key()).and_modify(merge).or_insert(row.fold);
}

/// What the storage would hold after committing it.
pub(super) fn commit_into(folds: &mut Folds, frozen: &Frozen) {
    let model::Folds { counters, rollings } = (*frozen.sorted()).clone();
    assert!(counters.is_sorted_by(|a, b| a.key() < b.key()), "sorted, each key once");
    assert!(rollings.is_sorted_by(|a, b| a.key() < b.key()), "sorted, each key once");
    for row in counters {
        merge_into(folds, Row { series: row.series, start: row.start, fold: row.fold.into() });
    }
    for row in rollings {
        merge_into(folds, Row { series: row.series, start: row.start, fold: row.fold.into() });
    }
}

#[derive(Clone, Debug)]
enum Step {
    Add(Vec<(u32, i64, u32)>),
    Freeze,
    Commit,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let sample = (0u32..12, 0i64..5000, 0u32..100);
    let step = prop_oneof![
        4 => proptest::collection::vec(sample, 1..40).prop_map(Step::Add),
        1 => Just(Step::Freeze),
        1 => Just(Step::Commit),
    ];
    proptest::collection::vec(step, 1..30)
}

proptest! {
    #[test]
    fn every_sample_is_seen_once_at_every_moment(steps in steps(), remember in any::<bool>()) {
        let state = state(100, 1 << 20);
        let mut named = Named::new(&state, 12, remember);
        let (mut stored, mut expected) = (Folds::new(), BTreeMap::new());
        let mut flying: Option<Arc<Frozen>> = None;
        let mut created = BTreeSet::new();
        for step in steps {
            match step {
                Step::Add(samples) => {
                    let outcome = add(&state, &mut named, &samples);
                    prop_assert_eq!(outcome.accepted, samples.len() as u64);
                    for (target, ms, value) in samples {
                        let fold = match kind(target) {
                            Kind::Counter => {
                                Fold::Counter(model::Counter { sum: f64::from(value) })
                            }
                            Kind::Rolling => {
                                Fold::Rolling(Rolling::one(f64::from(value), at(ms)))
                            }
                        };
                        let key = (named.names[target as usize].clone(), WIDTH.truncate(at(ms)));
                        let merge = |before: &mut Fold| before.merge(&fold);
                        expected.entry(key).and_modify(merge).or_insert(fold);
                    }
                }
                Step::Freeze if flying.is_none() => {
                    flying = state.freeze();
                    for series in flying.iter().flat_map(|frozen| frozen.created().to_vec()) {
                        prop_assert!(created.insert(series.id), "a series is new once");
                    }
                }
                Step::Freeze => {}
                Step::Commit => {
                    if let Some(frozen) = flying.take() {
                        commit_into(&mut stored, &frozen);
                        state.committed(frozen.seq());
                    }
                }
            }
            let all = state.select(&Selector::default());
            let mut seen = stored.clone();
            for copy in state.pending(&all, ALWAYS).0 {
                merge_into(&mut seen, copy.row);
            }
            let names: BTreeMap<SeriesId, String> = state
                .select(&Selector::default())
                .iter()
                .map(|s| (s.series.id, s.series.metric.name.to_string()))
                .collect();
            let seen: BTreeMap<_, _> =
                seen.into_iter().map(|((id, start), f)| ((names[&id].clone(), start), f)).collect();
            prop_assert_eq!(&seen, &expected);
        }
        if let Some(frozen) = flying.take() {
            state.committed(frozen.seq());
        }
        if let Some(frozen) = state.freeze() {
            state.committed(frozen.seq());
        }
        prop_assert_eq!(state.pending_folds(), 0);
        prop_assert_eq!(state.pending.bytes.load(Ordering::Relaxed), 0);
        prop_assert_eq!(state.pending_since(), None);
    }
}

#[test]
fn a_million_increments_in_a_second_are_one_fold() {
    let state = state(10, 1 << 20);
    let mut named = Named::new(&state, 1, true);
    let second: Vec<(u32, i64, u32)> = (0..1000).map(|ms| (0, ms, 1)).collect();
    for _ in 0..1000 {
        add(&state, &mut named, &second);
    }
    assert_eq!(state.pending_folds(), 1);
    let frozen = state.freeze().unwrap();
    assert_eq!(frozen.sorted().counters[0].fold.sum, 1e6);
}

#[test]
fn the_series_limit_refuses_new_series_and_serves_known_ones() {
    let state = state(2, 1 << 20);
    let mut named = Named::new(&state, 3, false);
    assert_eq!(add(&state, &mut named, &[(0, 0, 1), (1, 0, 1)]).accepted, 2);
    let outcome = add(&state, &mut named, &[(0, 0, 1), (2, 0, 1), (1, 0, 1)]);
    assert_eq!(outcome.accepted, 2);
    assert_eq!(outcome.refused, [(1, Refused::SeriesLimit(2))]);
    assert_eq!(state.series_count(), 2);
}

#[test]
fn a_metric_has_one_kind_whatever_its_labels() {
    struct Other(u64);
    impl Targets for Other {
        fn key(&self, _: u32) -> (SeriesKey<'_>, u64) {
            (SeriesKey { component: "a", name: "m0", labels: "x\u{1f}y\u{1f}" }, self.0)
        }
        fn declaration(&self, _: u32) -> Declaration<'_> {
            Declaration { kind: Kind::Rolling, unit: "", description: "" }
        }
        fn place(&self, _: u32) -> Option<Place> {
            None
        }
        fn found(&mut self, _: u32, _: Place) {}
    }
    let state = state(10, 1 << 20);
    add(&state, &mut Named::new(&state, 1, false), &[(0, 0, 1)]);
    let mut other = Other(0);
    other.0 = state.hash(other.key(0).0);
    let mut batch = State::batch();
    batch.push(other.0, 0, 0, at(0), Value::Observation(1.0));
    let outcome = state.intake(at(0)).unwrap().fold(&mut batch, &mut other);
    assert_eq!(outcome.refused, [(0, Refused::Kind(Kind::Counter))]);
    assert_eq!(state.series_count(), 1);
}

#[test]
fn a_full_state_says_so_until_a_flush_makes_room() {
    let state = state(10, 100);
    let mut named = Named::new(&state, 2, true);
    add(&state, &mut named, &[(0, 0, 1), (0, 1000, 1), (0, 2000, 1), (0, 3000, 1), (0, 4000, 1)]);
    assert_eq!(state.intake(at(0)).err(), Some(Denied::Full));
    let frozen = state.freeze().unwrap();
    assert_eq!(state.intake(at(0)).err(), Some(Denied::Full), "frozen folds take room too");
    state.committed(frozen.seq());
    assert!(state.intake(at(0)).is_ok());
}

#[test]
fn nothing_is_folded_after_the_close() {
    let state = state(10, 1 << 20);
    state.close();
    assert_eq!(state.intake(at(0)).err(), Some(Denied::Closed));
    assert!(state.freeze().is_none());
}

#[test]
fn concurrent_requests_are_whole_in_one_generation() {
    const REQUESTS: u32 = 300;
    let state = state(100, 1 << 30);
    let mut generations: Vec<BTreeMap<String, f64>> = Vec::new();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let state = &state;
                scope.spawn(move || {
                    let mut named = Named::new(state, 40, true);
                    // Each request adds one to 10 counters that are spread over the shards.
                    let targets = (0..10).map(|n| (writer * 20 + 2 * n, 0, 1)).collect::<Vec<_>>();
                    (0..REQUESTS).for_each(|_| drop(add(state, &mut named, &targets)));
                })
            })
            .collect();
        loop {
            let over = writers.iter().all(std::thread::ScopedJoinHandle::is_finished);
            if let Some(frozen) = state.freeze() {
                let names: BTreeMap<SeriesId, String> = state
                    .select(&Selector::default())
                    .iter()
                    .map(|s| (s.series.id, s.series.metric.name.to_string()))
                    .collect();
                let folds = frozen.sorted();
                let sums = folds.counters.iter();
                generations.push(sums.map(|r| (names[&r.series].clone(), r.fold.sum)).collect());
                state.committed(frozen.seq());
            }
            if over {
                break;
            }
        }
    });
    let mut total = 0.0;
    for sums in &generations {
        for writer in 0..2 {
            let of =
                |m: u32| sums.get(&format!("m{}", writer * 20 + 2 * m)).copied().unwrap_or(0.0);
            assert!((1..10).all(|n| of(n) == of(0)), "a request is never half in: {sums:?}");
            total += of(0);
        }
    }
    assert_eq!(total, f64::from(2 * REQUESTS));
}

#[test]
fn a_full_state_coarsens_what_waits_and_loses_nothing() {
    let seed = Seed::default();
    let widths = [WIDTH, Width::from_secs(60), Width::from_secs(3600)];
    let state = State::new(seed, widths.into(), 10, 100_000);
    let mut named = Named::new(&state, 2, true);
    let mut sent = 0u32;
    let mut send = |state: &State, from: i64| {
        // A request a minute: 60 seconds of a counter and a rolling metric.
        let samples: Vec<_> =
            (0..60).flat_map(|s| [(0, (from + s) * 1000, 1), (1, (from + s) * 1000, 7)]).collect();
        add(state, &mut named, &samples);
        sent += 60;
    };
    send(&state, 0);
    let in_flight = state.freeze().unwrap();
    let mut minutes = 1;
    while state.pending_width() < widths[2] {
        assert!(minutes < 10_000, "it never got coarser");
        send(&state, minutes * 60);
        minutes += 1;
        assert!(state.pending_bytes() < 110_000, "a request above the budget at most");
    }
    assert_eq!((in_flight.width(), in_flight.rows()), (WIDTH, 120), "in flight, so it stays");
    let all = state.select(&Selector::default());
    let (mut increase, mut observed) = (0.0, 0);
    for copy in state.pending(&all, ALWAYS).0 {
        match copy.row.fold {
            Fold::Counter(fold) => increase += fold.sum,
            Fold::Rolling(fold) => observed += fold.count(),
        }
    }
    assert_eq!((increase, observed), (f64::from(sent), u64::from(sent)));
    assert!(state.pending_folds() < 2 * sent as usize / 10, "hours take less than seconds");
    // Nothing left to be coarsened: an hour of its own for each sample.
    while state.intake(at(0)).is_ok() {
        add(&state, &mut named, &[(0, minutes * 3_600_000, 1), (1, minutes * 3_600_000, 1)]);
        minutes += 1;
    }
    assert_eq!(state.intake(at(0)).err(), Some(Denied::Full));
    state.committed(in_flight.seq());
    drop(in_flight);
    let coarse = state.freeze().unwrap();
    assert_eq!(coarse.width(), widths[2]);
    assert!(coarse.sorted().counters.is_sorted_by(|a, b| a.key() < b.key()));
    state.committed(coarse.seq());
    assert!(state.intake(at(0)).is_ok());
    assert_eq!((state.pending_bytes(), state.pending_width()), (0, WIDTH), "and fine again");
}
