//! Random histories of a storage, against a plain map: whatever was committed, deleted and reopened, every
//! answer is what the map says.

use super::*;
use proptest::prelude::*;

/// A step of a random history.
#[derive(Clone, Debug)]
pub(in crate::storage) enum Step {
    Flush(Vec<(u32, i64, u32)>),
    Reopen,
    Maintain,
    Read {
        from: i64,
        span: i64,
        step: i64,
    },
    /// Some of the series that are known, by their bits, from where, and for how long.
    Delete(u8, i64, i64),
}

pub(in crate::storage) fn history() -> impl Strategy<Value = Vec<Step>> {
    let fold = (0u32..6, -5i64..40, 0u32..1000);
    let step = prop_oneof![
        6 => proptest::collection::vec(fold, 1..20).prop_map(Step::Flush),
        1 => Just(Step::Reopen),
        1 => Just(Step::Maintain),
        3 => (-5i64..40, 1i64..60, 1i64..20)
            .prop_map(|(from, span, step)| Step::Read { from, span, step }),
        1 => (0u8..64, -5i64..40, 1i64..60).prop_map(|(s, from, span)| Step::Delete(s, from, span)),
    ];
    proptest::collection::vec(step, 1..24)
}

/// Runs a history and compares every answer with that of a plain map.
pub(in crate::storage) async fn any_history_reads_as_the_oracle_says(
    fixture: &mut dyn Fixture,
    history: Vec<Step>,
) {
    let all: Vec<Arc<Series>> = (0..6).map(|n| series(1 + n / 3, n % 3)).collect();
    let mut known: BTreeSet<SeriesId> = BTreeSet::new();
    let mut oracle: Vec<(SeriesId, i64, Fold)> = Vec::new();
    let mut seq = 0;
    for (number, step) in history.into_iter().enumerate() {
        match step {
            Step::Flush(folds) => {
                seq += 1;
                let mut new = Vec::new();
                let mut ready = Vec::new();
                for (n, secs, value) in folds {
                    let series = &all[n as usize];
                    let fold = match series.metric.kind {
                        Kind::Counter => grew(f64::from(value)),
                        Kind::Rolling => seen(f64::from(value), secs * 1000 + i64::from(value)),
                    };
                    // Ids of a component come in order, so those below come with it.
                    for before in 0..=series.id.ordinal() {
                        let before = &all[(n - n % 3 + before) as usize];
                        if known.insert(before.id) {
                            new.push(before.clone());
                            let zero = match before.metric.kind {
                                Kind::Counter => grew(0.0),
                                Kind::Rolling => seen(0.0, secs * 1000),
                            };
                            ready.push((before.id, secs, zero));
                        }
                    }
                    ready.push((series.id, secs, fold));
                }
                new.sort_by_key(|series| series.id);
                commit(fixture.storage(), flush(seq, &new, &ready)).await;
                oracle.extend(merged(ready.into_iter()).into_iter().map(|((s, t), f)| (s, t, f)));
            }
            Step::Reopen => {
                fixture.reopen().await;
                let recovered = fixture.storage().recover().await.unwrap();
                assert_eq!(recovered.flush_seq, seq);
                let mut currents: BTreeMap<SeriesId, Current> =
                    known.iter().map(|id| (*id, Current::default())).collect();
                for (id, secs, fold) in &oracle {
                    currents.entry(*id).or_default().merge(at(*secs), fold);
                }
                let found = recovered.series.into_iter().map(|(series, c)| (series.id, c));
                assert_eq!(found.collect::<BTreeMap<_, _>>(), currents);
            }
            Step::Maintain => {
                let policy = Arc::new(Policy::new(Retention::default(), at(0)));
                let now = at(1000 * number as i64);
                while fixture.storage().maintain(now, &policy).await.unwrap() == More::Yes {}
            }
            Step::Delete(bits, from, span) => {
                let chosen = known.iter().enumerate().filter(|(n, _)| bits & (1 << n) != 0);
                let chosen: BTreeSet<SeriesId> = chosen.map(|(_, id)| *id).collect();
                let range = Range::new(at(from), at(from + span));
                for dry_run in [true, false] {
                    let deletion = deletion(&chosen, Some(range), dry_run);
                    let mut deleted = fixture.storage().delete(deletion).await.unwrap();
                    let expected = what_goes(&oracle, &chosen, range);
                    for (found, expected) in deleted.iter_mut().zip(&expected) {
                        // Folds of one bucket may be merged by now.
                        assert!((1..=expected.folds).contains(&found.folds));
                        found.folds = expected.folds;
                    }
                    assert_eq!(deleted, expected);
                }
                oracle.retain(|(id, secs, _)| !(chosen.contains(id) && range.contains(at(*secs))));
            }
            Step::Read { from, span, step } => {
                let (range, step) = (Range::new(at(from), at(from + span)), Width::from_secs(step));
                let found = read(fixture.storage(), &known, range, step).await;
                let inside = oracle.iter().filter(|(_, secs, _)| range.contains(at(*secs)));
                let stepped = inside.map(|(id, secs, fold)| {
                    (*id, step.truncate(at(*secs)).as_ms() / 1000, fold.clone())
                });
                assert_eq!(found, merged(stepped));
                check_groups(fixture.storage(), &found, range, step).await;
            }
        }
    }
}
