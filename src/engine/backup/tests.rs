//! Which backups go, and which names there are.

use super::retention::{Ages, too_old};
use super::*;

const DAY: Duration = Duration::from_hours(24);
const NOW: Timestamp = Timestamp::from_ms(1_800_000_000_000);
const OWN: Incarnation = Incarnation([1; 16]);

/// Made so many days ago by the wall clock, and by how long the service lived.
fn backup(days: u32, lived: u32, incarnation: Incarnation) -> Backup {
    let created = NOW.before(DAY * days);
    let id = Id::new(created).unwrap();
    let mut backup = Backup { created, problem: None, ..Backup::unreadable(id, String::new()) };
    backup.copied.incarnation = incarnation;
    backup.copied.lived = DAY * (100 - lived);
    backup
}

fn ages() -> Ages {
    Ages { now: NOW, lived: DAY * 100, incarnation: OWN }
}

fn gone(backups: &[Backup], days: u32, in_use: &[Id], broken: &[usize]) -> Vec<usize> {
    let is_whole = |one: &Backup| !broken.iter().any(|place| backups[*place].id == one.id);
    let old = too_old(backups, ages(), days, in_use, is_whole);
    let place = |id: &Id| backups.iter().position(|one| one.id == *id).unwrap();
    old.iter().map(place).collect()
}

#[test]
fn the_two_newest_that_are_whole_stay_whatever_their_age() {
    let all: Vec<Backup> = [40, 50, 60, 70].map(|days| backup(days, days, OWN)).into();
    assert_eq!(gone(&all, 30, &[], &[]), [2, 3]);
    assert_eq!(gone(&all, 30, &[], &[0]), [3], "one that is not whole is none of the two");
    assert_eq!(gone(&all, 30, &[], &[0, 1, 2, 3]), [0; 0]);
    assert_eq!(gone(&all, 65, &[], &[]), [3]);
    assert_eq!(gone(&all, 0, &[], &[]), [0; 0], "0 keeps all");
    assert_eq!(gone(&all, 30, &[all[2].id.clone()], &[]), [3], "one that is read stays");
}

#[test]
fn a_wall_clock_that_jumps_makes_no_backup_old() {
    // By the wall clock all are from years ago; the service has lived for some days since.
    let all: Vec<Backup> =
        [3650, 3651, 3652, 3653].map(|days| backup(days, days - 3640, OWN)).into();
    assert_eq!(gone(&all, 30, &[], &[]), [0; 0]);
    let other = Incarnation([2; 16]);
    let of_others: Vec<Backup> = [1, 2, 40, 41].map(|days| backup(days, 0, other)).into();
    assert_eq!(gone(&of_others, 30, &[], &[]), [2, 3], "of other data only the wall clock tells");
    let mut future = backup(1, 40, OWN);
    future.created = NOW.after(DAY);
    let all = [backup(1, 1, OWN), backup(2, 2, OWN), future];
    assert_eq!(gone(&all, 30, &[], &[]), [0; 0]);
}

#[test]
fn names_are_made_here_and_nothing_else_is_one() {
    let id = Id::new(Timestamp::from_ms(1_795_371_067_123)).unwrap();
    assert!(id.as_str().starts_with("20261122T"), "{id:?}");
    assert_eq!(Id::parse(id.as_str()).unwrap(), id);
    for wrong in [
        "",
        "x",
        "../20261122T181107Z-1a2b3c4d",
        "20261122T181107Z-1a2b3c4g",
        "20261122T181107Z-1a2b3c4d/",
    ] {
        assert!(Id::parse(wrong).is_err(), "{wrong}");
    }
    for trigger in [Trigger::Start, Trigger::Stop, Trigger::Interval, Trigger::Hand] {
        assert_eq!(trigger.to_string().parse(), Ok(trigger));
    }
}
