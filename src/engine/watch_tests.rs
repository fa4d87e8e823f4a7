//! Changes make up all that came in, once each, whatever the pace of who looks.

use super::super::bed::{Bed, Given, Kept};
use super::*;
use crate::state::Value;

const NOW: Timestamp = Timestamp::from_ms(1_767_225_600_000);

fn later(ms: i64) -> Timestamp {
    Timestamp::from_ms(NOW.as_ms() + ms)
}

fn orders(amount: f64, ms: i64) -> Given {
    Given::new("shop", "orders", Value::Increment(amount), later(ms))
}

fn increase(change: &Change) -> f64 {
    change.groups.iter().map(|group| group.columns[0].range.unwrap()).sum()
}

#[tokio::test(start_paused = true)]
async fn each_change_covers_the_time_since_the_one_before() {
    let bed = Bed::new(Kept::InMemory, later(300)).await;
    let mut watching = bed.engine.watch(Watch::default()).unwrap();
    let (mut told, mut sent, mut end) = (0.0, 0.0, NOW);
    // Who looks comes at all paces; samples come in time.
    for (turn, pause) in [7200, 5000, 1300, 23_000, 61_000, 4999, 12_000].into_iter().enumerate() {
        let begin = end.as_ms() - NOW.as_ms();
        let amount = (turn + 1) as f64;
        let times: Vec<Given> =
            (begin..begin + pause).step_by(500).map(|ms| orders(amount, ms)).collect();
        sent += times.len() as f64 * amount;
        bed.turn_to(later(begin + pause + 7000));
        bed.record(&times);
        if turn % 2 == 0 {
            bed.flush().await;
        }
        let change = watching.next().await.unwrap();
        assert_eq!(change.range.start, end, "no gap and no repeat");
        assert!(change.range.end > end);
        end = change.range.end;
        told += increase(&change);
        let of_range = change.range.end.since(change.range.start).as_secs_f64();
        assert!(of_range % 5.0 == 0.0);
        // What is beyond the change comes with the next one.
        let beyond = times.iter().filter(|given| given.time >= end).count() as f64;
        sent -= beyond * amount;
    }
    assert_eq!(told, sent);
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_with_where_it_was_misses_nothing() {
    let bed = Bed::new(Kept::InMemory, NOW).await;
    let mut first = bed.engine.watch(Watch::default()).unwrap();
    bed.record(&[orders(1.0, 1000), orders(2.0, 6000)]);
    bed.turn_to(later(7000));
    let change = first.next().await.unwrap();
    assert_eq!((change.range.end, increase(&change)), (later(5000), 1.0));
    drop(first);
    bed.turn_to(later(3_600_000));
    bed.record(&[orders(4.0, 1_800_000), orders(8.0, 3_590_000)]);
    let request = Watch { from: Some(change.range.end), ..Watch::default() };
    let mut second = bed.engine.watch(request).unwrap();
    let missed = second.next().await.unwrap();
    assert_eq!((missed.range.start, increase(&missed)), (later(5000), 14.0));
    bed.turn_to(later(3_610_000));
    let nothing = second.next().await.unwrap();
    assert!(nothing.groups.is_empty(), "nothing came, and that is told too");
    assert_eq!(nothing.range.start, missed.range.end);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_watched_is_refused_with_the_field() {
    let bed = Bed::new(Kept::InMemory, NOW).await;
    let short = Watch { interval: Some(Duration::from_millis(999)), ..Watch::default() };
    assert!(matches!(
        bed.engine.watch(short).err(),
        Some(Error::Invalid { field: "interval", .. })
    ));
    let delta = Watch { functions: vec![Function::Delta], ..Watch::default() };
    assert!(matches!(
        bed.engine.watch(delta).err(),
        Some(Error::Invalid { field: "functions", .. })
    ));
    let many = Watch { max_series: Some(10_001), ..Watch::default() };
    assert!(matches!(
        bed.engine.watch(many).err(),
        Some(Error::Invalid { field: "max_series", .. })
    ));
}
