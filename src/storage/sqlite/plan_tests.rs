//! The plan, tried on lists of runs.

use super::*;
use model::Retention;

const NOW: Timestamp = Timestamp::from_ms(1_767_225_600_000 + 40 * 86_400_000);

fn days_ago(days: i64) -> Timestamp {
    Timestamp::from_ms(DAY.truncate(NOW).as_ms() - days * DAY.as_ms())
}

fn policy() -> Policy {
    Policy::new(Retention::default(), NOW)
}

fn run(level: Level, first: Timestamp, rows: u64) -> Run {
    let made = NOW.before(Duration::from_hours(1));
    let form = policy().form(day_of(first));
    Run { id: 0, level, seq: 1, first, last: first, rows, bytes: rows, made, form }
}

fn plan(runs: &[Run], now: Timestamp) -> Option<Job> {
    super::plan(runs, &Limits::default(), now, &policy())
}

#[test]
fn level_0_is_left_when_it_is_large_or_nothing_comes() {
    let fresh = |count: usize, rows| vec![run(Level::Fresh, NOW, rows); count];
    let plan = |runs: &[Run]| plan(runs, NOW);
    assert!(plan(&fresh(255, 10)).is_none());
    assert!(matches!(plan(&fresh(256, 10)), Some(Job::Leave(runs)) if runs.len() == 256));
    let mut busy = fresh(8, 999_999);
    busy[7].made = NOW;
    assert!(plan(&busy).is_none());
    busy[7].rows += 8;
    assert!(matches!(plan(&busy), Some(Job::Leave(_))));
    assert!(matches!(plan(&fresh(2, 10_000)), Some(Job::Leave(_))));
    let mut old = fresh(2, 10);
    old[0].made = NOW.before(OLD);
    assert!(matches!(plan(&old), Some(Job::Leave(_))), "or it gets old");
}

#[test]
fn a_day_is_merged_when_it_is_over_and_quiet() {
    let today = vec![run(Level::Part, days_ago(0), 1000); 300];
    assert!(plan(&today, NOW).is_none());
    let mut yesterday = vec![run(Level::Part, days_ago(1), 1000); 3];
    let later = NOW.after(Duration::from_hours(2));
    assert!(matches!(plan(&yesterday, later), Some(Job::Day(_, r)) if r.len() == 3));
    yesterday[2].made = later;
    assert!(plan(&yesterday, later).is_none());
}

#[test]
fn late_parts_wait_until_they_are_worth_a_rewrite() {
    let day = run(Level::Day, days_ago(3), 100_000);
    let with = |late: &[u64]| {
        let late = late.iter().map(|rows| run(Level::Part, days_ago(3), *rows));
        plan(&[day.clone()].into_iter().chain(late).collect::<Vec<_>>(), NOW)
    };
    assert!(with(&[]).is_none());
    assert!(with(&[9_999]).is_none());
    assert!(matches!(with(&[5000, 5000]), Some(Job::Day(_, runs)) if runs.len() == 3));
    assert!(with(&[10; 7]).is_none());
    assert!(matches!(with(&[10; 8]), Some(Job::Join(runs)) if runs.len() == 8));
    assert!(matches!(with(&[900, 10, 10, 10, 10, 10, 10, 10]), Some(Job::Join(r)) if r.len() == 7));
    assert!(
        matches!(with(&[900, 900, 900, 70, 50, 30, 20, 1]), Some(Job::Join(r)) if r.len() == 2)
    );
}

#[test]
fn a_day_is_rewritten_when_its_tier_changes_and_dropped_when_its_time_is_over() {
    let merged = |days| {
        let mut day = run(Level::Day, days_ago(days), 1000);
        day.form = Policy::new(Retention::default(), days_ago(days)).form(day_of(days_ago(days)));
        plan(&[day], NOW)
    };
    assert!(merged(7).is_none());
    assert!(matches!(merged(8), Some(Job::Day(..))));
    assert!(matches!(merged(1095), Some(Job::Day(..))));
    assert!(matches!(merged(1096), Some(Job::Drop(_))));
}
