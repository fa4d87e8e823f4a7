//! Damage of any page of a file, and what the service makes of it.

use super::recovery::{Evidence, Remedy, decide, examine};
use super::tests::{File, fixture, open};
use super::*;
use crate::storage::conformance::{Fixture, at, commit, flush, grew, series};
use model::{Fate, Kind, Mark, Metric, Series};
use std::collections::BTreeMap;
use std::fs;

const PAGE: usize = 4096;
/// Enough series and clients that their tables have several pages.
const SERIES: u32 = 300;
const CLIENTS: u64 = 200;
const FLUSHES: u64 = 5;

fn counter(component: u32, ordinal: u32) -> Arc<Series> {
    let mut series = Series::clone(&series(component, ordinal));
    series.metric = Arc::new(Metric { kind: Kind::Counter, ..Metric::clone(&series.metric) });
    Arc::new(series)
}

fn names() -> Vec<Arc<Series>> {
    (1..=3).flat_map(|component| (0..SERIES / 3).map(move |n| counter(component, n))).collect()
}

/// A clean file in which each series counts 1 in each flush, and each client sent what the flushes have.
async fn filled() -> File {
    let file = fixture().await;
    let all = names();
    for seq in 1..=FLUSHES {
        let folds: Vec<_> = all.iter().map(|one| (one.id, seq as i64, grew(1.0))).collect();
        let new = if seq == 1 { &all[..] } else { &[] };
        let mut flush = Arc::into_inner(flush(seq, new, &folds)).unwrap();
        flush.marks = (0..CLIENTS).map(|client| mark(client, seq)).collect();
        commit(file.storage(), Arc::new(flush)).await;
    }
    file
}

fn mark(client: u64, sequence: u64) -> Mark {
    let client = format!("client_{client:04}_{}", "x".repeat(60)).into();
    Mark { client, epoch: 1, sequence, seen: Duration::ZERO, fate: Fate::Kept }
}

async fn shut(file: &mut File) -> PathBuf {
    file.storage.take().unwrap().close(at(100)).await.unwrap();
    file.directory.path().join("health.db")
}

fn config(path: &Path, allow_empty_start: bool) -> Config {
    Config { allow_empty_start, ..Config::at(path) }
}

/// What of the file is there: for each series what it came to, the sessions, and whether anything was
/// said to be missing.
async fn contents(storage: &Sqlite) -> (BTreeMap<String, f64>, usize, bool) {
    let recovered = storage.recover().await.unwrap();
    let totals = recovered.series.iter().map(|(series, current)| {
        assert!(current.value <= FLUSHES as f64, "{series:?}: {current:?}");
        (format!("{:?}", series.key()), current.value)
    });
    for mark in &recovered.sessions {
        assert!(mark.sequence <= FLUSHES, "{mark:?}");
    }
    let totals: BTreeMap<String, f64> = totals.collect();
    let status = storage.status().await.unwrap();
    let told = storage.read_only().is_some() || status.quarantined > 0;
    (totals, recovered.sessions.len(), told)
}

/// Whether nothing is missing.
fn is_whole(totals: &BTreeMap<String, f64>, sessions: usize) -> bool {
    let full = totals.values().filter(|total| **total == FLUSHES as f64).count();
    (full, sessions) == (SERIES as usize, CLIENTS as usize)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_page_is_lost_the_rest_is_answered_and_nothing_is_missed_in_silence() {
    let mut file = filled().await;
    let path = shut(&mut file).await;
    let (mut whole, mut kept) = (0, 0);
    let incarnation = {
        let opened = Sqlite::open(&config(&path, false), at(101)).await.unwrap();
        let incarnation = opened.recover().await.unwrap().incarnation;
        opened.close(at(102)).await.unwrap();
        incarnation
    };
    let good = fs::read(&path).unwrap();
    for page in 0..good.len() / PAGE {
        let mut bad = good.clone();
        bad[page * PAGE..][..PAGE].fill(0x5a);
        fs::write(&path, &bad).unwrap();
        let opened = Sqlite::open(&config(&path, false), at(200)).await.unwrap();
        let found = opened.recovered.lock().as_ref().map(|recovered| recovered.incarnation);
        // A client is not to take it for another database and send again what is in it.
        assert_eq!(found, Some(incarnation), "page {page}");
        let (totals, sessions, told) = contents(&opened).await;
        let read_only = opened.read_only().is_some();
        opened.close(at(201)).await.unwrap();
        whole += usize::from(is_whole(&totals, sessions));
        assert!(told || is_whole(&totals, sessions), "page {page}: nothing is said");
        if read_only {
            // A block that was put aside before more was found is noted there, and that is all.
            let left = fs::read(&path).unwrap();
            let [left, lost] = [&left, &bad].map(|file| &file[page * PAGE..][..PAGE]);
            assert_eq!(left, lost, "page {page}: it was changed");
            // The same with leave to go on: then it takes in what comes.
            let opened = Sqlite::open(&config(&path, true), at(300)).await.unwrap();
            assert!(opened.read_only().is_none());
            let (again, ..) = contents(&opened).await;
            assert_eq!(again, totals, "page {page}");
            let seq = opened.committed().await.unwrap() + 1;
            let new = counter(9, 0);
            commit(&opened, flush(seq, std::slice::from_ref(&new), &[(new.id, 300, grew(1.0))]))
                .await;
            opened.close(at(301)).await.unwrap();
            let aside = file.directory.path().join("health.db.quarantine");
            let put = fs::read_dir(&aside).unwrap().map(|entry| entry.unwrap().path());
            let put: Vec<PathBuf> = put.collect();
            let put = fs::read(put[0].join("health.db")).unwrap();
            assert_eq!(put[page * PAGE..][..PAGE], bad[page * PAGE..][..PAGE], "page {page}");
            fs::remove_dir_all(&aside).unwrap();
            kept += 1;
        }
    }
    let pages = good.len() / PAGE;
    assert!(
        whole < pages && kept > 5,
        "of {pages} pages {whole} lost nothing, {kept} were put aside"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_cut_off_is_answered_from_as_far_as_it_goes() {
    let mut file = filled().await;
    let path = shut(&mut file).await;
    let good = fs::read(&path).unwrap();
    let mut most = 0;
    for pages in 1..good.len() / PAGE {
        fs::write(&path, &good[..pages * PAGE - 100]).unwrap();
        let opened = match Sqlite::open(&config(&path, false), at(200)).await {
            Ok(opened) => opened,
            Err(error) => panic!("{pages} pages: {error}"),
        };
        let (totals, _, told) = contents(&opened).await;
        assert!(told, "{pages} pages: nothing is said");
        most = most.max(totals.len());
        opened.close(at(201)).await.unwrap();
    }
    assert!(most > 0, "nothing was ever read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_the_log_is_salvaged_too() {
    let mut file = filled().await;
    let path = file.directory.path().join("health.db");
    let log = file.directory.path().join("health.db-wal");
    // As a power cut leaves it: a log, most of it in the file, and one page of that lost.
    file.plain().query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
    let (mut bad, log_bytes) = (fs::read(&path).unwrap(), fs::read(&log).unwrap());
    shut(&mut file).await;
    let last = bad.len() / PAGE - 1;
    bad.truncate(last * PAGE);
    fs::write(&path, &bad).unwrap();
    fs::write(&log, &log_bytes).unwrap();
    let opened = Sqlite::open(&config(&path, true), at(200)).await.unwrap();
    let (totals, sessions, _) = contents(&opened).await;
    assert!(is_whole(&totals, sessions), "all of it is in the log: {sessions} {totals:?}");
    opened.close(at(201)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_while_it_is_put_aside_leaves_it_whole() {
    let mut file = filled().await;
    let path = shut(&mut file).await;
    let good = fs::read(&path).unwrap();
    let beside = |name: &str| file.directory.path().join(name);
    let aside = beside("health.db.quarantine");
    // What replaces it is there, and of the three files so many are put aside.
    for moved in 0..=3 {
        fs::write(beside("health.db.salvaged"), &good).unwrap();
        let modified = fs::metadata(beside("health.db.salvaged")).unwrap().modified().unwrap();
        let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap();
        let name = Timestamp::default().after(since).to_string().replace(':', "-");
        fs::create_dir_all(aside.join(&name)).unwrap();
        for (place, name_of) in ["health.db", "health.db-wal", "health.db-shm"].iter().enumerate() {
            let directory = if place < moved { aside.join(&name) } else { beside("") };
            fs::write(directory.join(name_of), "damaged").unwrap();
        }
        let opened = open(file.directory.path(), 200).await.unwrap();
        let (totals, sessions, _) = contents(&opened).await;
        assert!(is_whole(&totals, sessions), "{moved} moved");
        opened.close(at(201)).await.unwrap();
        let put = fs::read_dir(aside.join(&name)).unwrap().count();
        assert_eq!(put, 3, "{moved} moved: they are together");
        assert!(!beside("health.db.salvaged").exists());
        fs::remove_dir_all(&aside).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_gone_on_from_and_counts_nothing_twice() {
    let mut file = filled().await;
    let path = shut(&mut file).await;
    let backup = file.directory.path().join("backup.db");
    fs::copy(&path, &backup).unwrap();
    file.storage = Some(open(file.directory.path(), 200).await.unwrap());
    let all = names();
    let folds: Vec<_> = all.iter().map(|one| (one.id, 6, grew(10.0))).collect();
    let mut newer = Arc::into_inner(flush(FLUSHES + 1, &[], &folds)).unwrap();
    newer.marks = vec![mark(0, FLUSHES + 1)];
    commit(file.storage(), Arc::new(newer)).await;
    shut(&mut file).await;
    // Of the old series nothing is left but what the backup has.
    let mut bad = fs::read(&path).unwrap();
    let lost = String::from_utf8_lossy(&bad).len().min(8 * PAGE);
    bad[2 * PAGE..lost].fill(0x5a);
    fs::write(&path, &bad).unwrap();
    recovery::replace(&path, Some(&backup), at(300)).unwrap();
    let opened = open(file.directory.path(), 301).await.unwrap();
    let recovered = opened.recover().await.unwrap();
    assert_eq!(recovered.series.len(), SERIES as usize);
    assert!(recovered.series.iter().all(|(_, current)| current.value == FLUSHES as f64));
    assert_eq!(recovered.sessions.len(), CLIENTS as usize);
    opened.close(at(302)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_bit_is_wrong_the_service_starts_and_what_it_takes_in_is_kept() {
    const FLIPS: usize = 400;
    let mut file = filled().await;
    let path = shut(&mut file).await;
    let good = fs::read(&path).unwrap();
    let aside = file.directory.path().join("health.db.quarantine");
    let (mut at_bit, mut refused) = (7, 0);
    for flip in 0..FLIPS {
        // Every page is hit, at places without a pattern.
        at_bit = (at_bit * 6_364_136_223 + 1_442_695) % (PAGE * 8);
        let page = flip % (good.len() / PAGE);
        let mut bad = good.clone();
        bad[page * PAGE + at_bit / 8] ^= 1 << (at_bit % 8);
        fs::write(&path, &bad).unwrap();
        drop(fs::remove_dir_all(&aside));
        let which = format!("bit {at_bit} of page {page}");
        let opened = match Sqlite::open(&config(&path, true), at(300)).await {
            Ok(opened) => opened,
            // It says to be somebody else's.
            Err(Error::Foreign(_)) if page == 0 => {
                refused += 1;
                continue;
            }
            Err(error) => panic!("{which}: {error}"),
        };
        let recovered = opened.recover().await.unwrap();
        let seq = recovered.flush_seq + 1;
        let component = 1 + recovered.counts.keys().max().copied().unwrap_or(0);
        let new = counter(component, 0);
        let next = flush(seq, std::slice::from_ref(&new), &[(new.id, 300, grew(1.0))]);
        match opened.commit(next).await {
            Commit::Committed => {}
            failed => panic!("{which}: {failed:?}"),
        }
        opened.close(at(301)).await.unwrap();
    }
    assert!(refused < FLIPS / 20, "{refused} were refused");
}

#[tokio::test]
async fn what_somebody_added_to_a_file_is_no_damage_nor_is_a_file_without_tables() {
    let mut file = filled().await;
    let path = shut(&mut file).await;
    let added = "CREATE INDEX mine ON component (name); ANALYZE;";
    file.plain().execute_batch(added).unwrap();
    let opened = Sqlite::open(&config(&path, false), at(200)).await.unwrap();
    assert_eq!(opened.read_only(), None);
    opened.close(at(201)).await.unwrap();
    let other = file.directory.path().join("other.db");
    Connection::open(&other).unwrap().execute_batch("VACUUM").unwrap();
    assert!(fs::metadata(&other).unwrap().len() > 0);
    let opened = Sqlite::open(&config(&other, false), at(200)).await.unwrap();
    assert_eq!(opened.read_only(), None);
    opened.close(at(201)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_without_its_file_is_not_thrown_away() {
    let mut file = filled().await;
    let bytes = fs::read(file.directory.path().join("health.db-wal")).unwrap();
    // Elsewhere: connections that are still being closed take away the log where they were.
    let directory = tempfile::tempdir().unwrap();
    let (path, log) = (directory.path().join("health.db"), directory.path().join("health.db-wal"));
    let lock = "health.db.lock";
    fs::copy(file.directory.path().join(lock), directory.path().join(lock)).unwrap();
    shut(&mut file).await;
    fs::write(&log, &bytes).unwrap();
    let opened = Sqlite::open(&config(&path, false), at(200)).await.unwrap();
    assert!(opened.read_only().is_some_and(|why| why.contains("log is there")));
    opened.close(at(201)).await.unwrap();
    assert_eq!(fs::read(&log).unwrap(), bytes);
    let opened = Sqlite::open(&config(&path, true), at(300)).await.unwrap();
    assert_eq!(opened.read_only(), None);
    opened.close(at(301)).await.unwrap();
    let aside = fs::read_dir(directory.path().join("health.db.quarantine")).unwrap();
    let aside: Vec<PathBuf> = aside.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(fs::read(aside[0].join("health.db-wal")).unwrap(), bytes);
}

#[tokio::test]
async fn a_disk_that_cannot_be_read_is_told_from_a_damaged_file() {
    let mut file = filled().await;
    let path = shut(&mut file).await;
    let sound = examine(&path, true);
    assert_eq!((&sound.disk, &sound.damage), (&None, &None));
    // What cannot be read, whatever one does about it.
    drop(fs::remove_file(file.directory.path().join("health.db-wal")));
    fs::create_dir(file.directory.path().join("health.db-wal")).unwrap();
    let Remedy::Stop(why) = decide(examine(&path, true)) else { panic!("it goes on") };
    assert!(why.contains("health.db-wal cannot be read"), "{why}");
}

#[test]
fn what_is_done_follows_from_what_is_known() {
    let evidence = |disk: bool, damage: bool, backup: bool, may_lose: bool| Evidence {
        disk: disk.then(|| "EIO".to_owned()),
        damage: damage.then(|| "page 7".to_owned()),
        backup: backup.then(|| "b".into()),
        may_lose,
    };
    for may_lose in [false, true] {
        for backup in [false, true] {
            let stop = Remedy::Stop("EIO".to_owned());
            assert_eq!(decide(evidence(true, true, backup, may_lose)), stop);
            assert_eq!(decide(evidence(false, false, backup, may_lose)), Remedy::TryAgain);
        }
        let restore = Remedy::Restore("b".into());
        assert_eq!(decide(evidence(false, true, true, may_lose)), restore);
    }
    assert_eq!(decide(evidence(false, true, false, true)), Remedy::GoOn);
    let read = Remedy::OnlyRead("page 7".to_owned());
    assert_eq!(decide(evidence(false, true, false, false)), read);
}
