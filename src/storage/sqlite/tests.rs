//! The conformance suite on SQLite, and what only a file can get wrong.

use super::*;
use crate::storage::conformance::{self, Fixture, at, commit, flush, grew, read, series};
use crate::storage::{Gap, Missing};
use model::{Range, Width};
use std::collections::BTreeSet;
use std::path::Path;

pub(super) struct File {
    pub(super) directory: tempfile::TempDir,
    pub(super) storage: Option<Sqlite>,
}

pub(super) async fn open(directory: &Path, now: i64) -> Result<Sqlite, Error> {
    Sqlite::open(&Config::at(&directory.join("health.db")), at(now)).await
}

pub(super) async fn fixture() -> File {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path(), 0).await.unwrap();
    storage.recover().await.unwrap();
    File { directory, storage: Some(storage) }
}

impl File {
    pub(super) fn plain(&self) -> Connection {
        Connection::open(self.directory.path().join("health.db")).unwrap()
    }

    async fn close(&mut self, now: i64) {
        self.storage.take().unwrap().close(at(now)).await.unwrap();
    }
}

#[async_trait]
impl Fixture for File {
    fn storage(&self) -> &dyn Storage {
        self.storage.as_ref().unwrap()
    }

    async fn reopen(&mut self) {
        self.close(1).await;
        let storage = open(self.directory.path(), 2).await.unwrap();
        storage.recover().await.unwrap();
        self.storage = Some(storage);
    }
}

conformance::suite!(fixture());

#[tokio::test]
async fn what_is_committed_was_synced() {
    let fixture = fixture().await;
    let pragma = |name: &'static str| {
        let read = move |connection: &mut Connection| {
            connection
                .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
                .map_err(connect::error)
        };
        fixture.storage.as_ref().unwrap().pools.write(read)
    };
    assert_eq!(pragma("synchronous").await.unwrap(), 2);
    assert_eq!(pragma("auto_vacuum").await.unwrap(), 2);
    assert_eq!(pragma("mmap_size").await.unwrap_or(0), 0);
}

/// Flushes that bring about so many megabytes into the log, with housekeeping after each.
async fn megabytes(file: &File, from: u64, count: u64) {
    let all: Vec<_> = (0..4).map(|n| series(1 + n, 0)).collect();
    let policy = Arc::new(Policy::new(model::Retention::default(), at(0)));
    for seq in from..from + count {
        // Without a pattern, so about 8 bytes each.
        let mut random = seq;
        let mut fold = |n: i64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let value = f64::from_bits(random >> 2 | 1 << 61);
            (all[n as usize % 4].id, seq as i64 * 40_000 + n / 4, grew(value))
        };
        let folds: Vec<_> = (0..120_000).map(&mut fold).collect();
        let new = if seq == 1 { &all[..] } else { &[] };
        commit(file.storage(), flush(seq, new, &folds)).await;
        while file.storage().maintain(at(0), &policy).await.unwrap() == More::Yes {}
    }
}

#[tokio::test]
async fn the_log_stays_small_and_an_outside_reader_only_delays_that() {
    let file = fixture().await;
    megabytes(&file, 1, 12).await;
    let wal = |file: &File| file.storage.as_ref().unwrap().size_of("-wal");
    assert!(wal(&file) < 8 << 20, "{} bytes", wal(&file));
    let other = file.plain();
    other.execute_batch("BEGIN; SELECT count(*) FROM run").unwrap();
    megabytes(&file, 13, 12).await;
    let held = wal(&file);
    assert!(held > 8 << 20, "a reader keeps what it may still read: {held} bytes");
    let pools = &file.storage.as_ref().unwrap().pools;
    pools.empty_log(held).await.unwrap();
    assert_eq!(wal(&file), held, "nobody waits for it");
    other.execute_batch("COMMIT").unwrap();
    let ids = BTreeSet::from([series(1, 0).id]);
    let all = conformance::scan(&ids, Range::new(at(0), at(10_000_000)), Width::MAX);
    let read = file.storage().scan(all).await.unwrap();
    pools.empty_log(held).await.unwrap();
    assert_eq!(wal(&file), 0, "what was read pins nothing, however slowly it is sent");
    drop(read);
    let timeout = |connection: &mut Connection| -> Result<i64, Error> {
        connection.pragma_query_value(None, "busy_timeout", |r| r.get(0)).map_err(connect::error)
    };
    assert_eq!(pools.write(timeout).await.unwrap(), 5000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_wait_until_a_log_that_outgrew_its_budget_is_emptied() {
    let file = fixture().await;
    megabytes(&file, 1, 4).await;
    let storage = file.storage.as_ref().unwrap();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let (end, ends) = std::sync::mpsc::sync_channel::<()>(1);
    let slow = storage.pools.read(move |connection| {
        let snapshot = connection.transaction().map_err(connect::error)?;
        schema::Meta::read(&snapshot)?;
        begun.send(()).unwrap();
        ends.recv().unwrap();
        Ok(())
    });
    let later = async {
        has_begun.await.unwrap();
        let emptying = storage.pools.checkpoint(65 << 20);
        tokio::pin!(emptying);
        assert!(poll_once(emptying.as_mut()).is_none(), "a reader is there");
        // Comes after, so it must see the log empty, though there are readers to spare.
        let wal = storage.path.with_extension("db-wal");
        let next = storage.pools.read(move |_| Ok(std::fs::metadata(wal).unwrap().len()));
        tokio::pin!(next);
        assert!(poll_once(next.as_mut()).is_none(), "it is held back");
        end.send(()).unwrap();
        let (emptied, next) = tokio::join!(emptying, next);
        emptied.unwrap();
        assert_eq!(next.unwrap(), 0);
    };
    let (slow, ()) = tokio::join!(slow, later);
    slow.unwrap();
}

/// What a future gives if it is polled once.
fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

#[tokio::test]
async fn a_second_service_on_the_same_file_is_refused() {
    let fixture = fixture().await;
    let error = open(fixture.directory.path(), 0).await.err().unwrap().to_string();
    assert!(error.contains("another healthd has"), "{error}");
}

#[tokio::test]
async fn a_file_of_another_program_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("health.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (a)").unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = open(directory.path(), 0).await.err().unwrap();
    assert!(matches!(&error, Error::Foreign(text) if text.contains("another program")), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    std::fs::write(&path, b"no database at all, but long enough to have a header of one").unwrap();
    let error = open(directory.path(), 0).await.err().unwrap();
    assert!(matches!(&error, Error::Foreign(text) if text.contains("HEALTH_DB_PATH")), "{error}");
}

#[tokio::test]
async fn a_file_of_a_newer_healthd_is_left_alone() {
    let mut fixture = fixture().await;
    fixture.close(1).await;
    fixture.plain().pragma_update(None, "user_version", 99).unwrap();
    let error = open(fixture.directory.path(), 2).await.err().unwrap();
    assert!(matches!(&error, Error::Foreign(text) if text.contains("newer healthd")), "{error}");
}

#[tokio::test]
async fn the_incarnation_outlives_a_restart() {
    let mut fixture = fixture().await;
    let first = fixture.storage().recover().await.unwrap().incarnation;
    fixture.reopen().await;
    assert_eq!(fixture.storage().recover().await.unwrap().incarnation, first);
}

#[tokio::test]
async fn a_range_tells_when_the_service_was_away_and_whether_it_crashed() {
    let mut fixture = fixture().await;
    fixture.close(100).await;
    fixture.storage = Some(open(fixture.directory.path(), 200).await.unwrap());
    // Dropped without a close: as after a SIGKILL.
    fixture.storage = None;
    fixture.storage = Some(open(fixture.directory.path(), 300).await.unwrap());
    let range = Range::new(at(150), at(1000));
    let scan = conformance::scan(&[series(1, 0).id].into(), range, conformance::WIDTH);
    let scanned = fixture.storage().scan(scan).await.unwrap();
    let gap = |from, to, missing| Gap { range: Range::new(at(from), at(to)), missing };
    assert_eq!(scanned.gaps, [gap(150, 200, Missing::Down), gap(200, 300, Missing::Crashed)]);
}

/// Two flushes of a counter, of which the first one's block is not what was written.
async fn damaged() -> (File, Arc<model::Series>) {
    let fixture = fixture().await;
    let counter = series(1, 0);
    let first = flush(1, std::slice::from_ref(&counter), &[(counter.id, 5, grew(1.0))]);
    commit(fixture.storage(), first).await;
    commit(fixture.storage(), flush(2, &[], &[(counter.id, 7, grew(2.0))])).await;
    fixture.plain().execute("UPDATE block SET data = zeroblob(5) WHERE id = 1", []).unwrap();
    (fixture, counter)
}

fn scan_of(counter: &model::Series) -> Scan {
    conformance::scan(&[counter.id].into(), Range::new(at(0), at(10)), conformance::WIDTH)
}

#[tokio::test]
async fn a_damaged_block_is_put_aside_alone_and_answers_say_what_is_missing() {
    let (fixture, counter) = damaged().await;
    let storage = fixture.storage();
    for _ in 0..2 {
        let scanned = storage.scan(scan_of(&counter)).await.unwrap();
        let gap = Gap { range: Range::new(at(5), at(6)), missing: Missing::Damaged };
        assert_eq!(scanned.gaps, [gap]);
        let found = scanned.steps.into_folds();
        assert_eq!(found, [[(at(7), grew(2.0))]], "the rest is served");
    }
    let status = storage.status().await.unwrap();
    assert_eq!((status.blocks, status.quarantined), (1, 1));
    let kept: (i64, Vec<u8>) = fixture
        .plain()
        .query_row("SELECT id, data FROM quarantine", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    assert_eq!(kept, (1, vec![0; 5]), "it stays as it was found");
}

#[tokio::test]
async fn a_start_needs_no_block_of_any_series() {
    for damage in ["UPDATE block SET data = zeroblob(length(data))", "DELETE FROM block"] {
        let (mut fixture, counter) = damaged().await;
        fixture.plain().execute(damage, []).unwrap();
        for _ in 0..2 {
            fixture.reopen().await;
            let recovered = fixture.storage().recover().await.unwrap();
            let found: Vec<_> = recovered.series.iter().map(|(one, now)| (one.id, *now)).collect();
            assert_eq!(found, [(counter.id, model::Current::default())]);
        }
        assert_eq!(fixture.storage().status().await.unwrap().quarantined, 2);
        commit(fixture.storage(), flush(3, &[], &[(counter.id, 9, grew(5.0))])).await;
        let scanned = fixture.storage().scan(scan_of(&counter)).await.unwrap();
        assert_eq!(scanned.steps.into_folds(), [[(at(9), grew(5.0))]]);
    }
}

#[tokio::test]
async fn a_statement_goes_round_damage_and_says_so() {
    let (fixture, _) = damaged().await;
    let query = SqlQuery {
        text: "SELECT sum(value) FROM metrics".to_owned(),
        max_rows: 10,
        deadline: Instant::now() + Duration::from_mins(1),
    };
    let path = fixture.directory.path().join("health.db");
    let answer = query_file(&path, &query).unwrap();
    assert_eq!(answer.rows, [[super::super::SqlValue::Real(2.0)]]);
    assert_eq!(answer.warnings.len(), 1, "{:?}", answer.warnings);
    assert!(answer.warnings[0].starts_with("damaged blocks are left out (1)"));
    let answer = fixture.storage().sql(query).await.unwrap();
    assert_eq!(answer.rows, [[super::super::SqlValue::Real(2.0)]]);
    assert!(answer.warnings[0].starts_with("damaged blocks were put aside earlier (1)"));
}

#[tokio::test]
async fn a_damaged_block_stops_neither_a_start_nor_a_merge() {
    let (mut fixture, counter) = damaged().await;
    fixture.reopen().await;
    assert_eq!(fixture.storage().recover().await.unwrap().series[0].1.value, 2.0);
    let (mut fixture, _) = damaged().await;
    let limits = plan::Limits { fresh_runs: 2, ..plan::Limits::default() };
    fixture.storage.as_mut().unwrap().limits = limits;
    let policy = Arc::new(Policy::new(model::Retention::default(), at(20)));
    while fixture.storage().maintain(at(20), &policy).await.unwrap() == More::Yes {}
    let scanned = fixture.storage().scan(scan_of(&counter)).await.unwrap();
    assert_eq!(scanned.gaps.len(), 1);
    assert_eq!(fixture.storage().status().await.unwrap().quarantined, 1);
}

#[tokio::test]
async fn a_block_of_a_newer_version_is_left_where_it_is() {
    let (fixture, counter) = damaged().await;
    let data = vec![9u8; 20];
    let checksum = crc32fast::hash(&data);
    fixture.plain().execute("UPDATE block SET data = ?1 WHERE id = 1", [&data]).unwrap();
    let update = "UPDATE directory SET checksum = ?1 WHERE id = 1";
    fixture.plain().execute(update, [checksum]).unwrap();
    let error = fixture.storage().scan(scan_of(&counter)).await.unwrap_err();
    assert!(matches!(&error, Error::Corrupt(text) if text.contains("use a newer one")), "{error}");
    assert_eq!(fixture.storage().status().await.unwrap().quarantined, 0);
}

#[tokio::test]
async fn a_dropped_read_ends_and_leaves_its_connection_usable() {
    let fixture = fixture().await;
    let pools = &fixture.storage.as_ref().unwrap().pools;
    let endless = |connection: &mut Connection| {
        let count = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
                     SELECT max(i) FROM n";
        connection.query_row(count, [], |_| Ok(())).map_err(connect::error)
    };
    let soon = std::time::Duration::from_millis(20);
    for _ in 0..16 {
        let ended = tokio::time::timeout(soon, pools.read(endless)).await;
        assert!(ended.is_err(), "the read is endless");
    }
    let deadline = std::time::Instant::now() + soon;
    let ended = pools.read_until(deadline, endless).await;
    assert!(matches!(ended, Err(Error::Deadline)), "{ended:?}");
    let ids = BTreeSet::from([series(1, 0).id]);
    read(fixture.storage(), &ids, Range::new(at(0), at(1)), conformance::WIDTH).await;
}

#[tokio::test]
async fn a_locked_file_is_not_committed_and_the_next_attempt_is() {
    let fixture = fixture().await;
    let counter = series(1, 0);
    let flush = flush(1, std::slice::from_ref(&counter), &[(counter.id, 5, grew(1.0))]);
    let other = fixture.plain();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let outcome = fixture.storage().commit(flush.clone()).await;
    assert!(matches!(outcome, Commit::NotCommitted(Error::Unavailable(_))), "{outcome:?}");
    other.execute_batch("ROLLBACK").unwrap();
    commit(fixture.storage(), flush).await;
    assert_eq!(fixture.storage().committed().await.unwrap(), 1);
}

#[tokio::test]
async fn after_an_unknown_outcome_the_next_commit_knows_what_the_file_holds() {
    let fixture = fixture().await;
    let (first, second) = (series(1, 0), series(1, 1));
    let lost = flush(1, std::slice::from_ref(&first), &[(first.id, 5, grew(1.0))]);
    commit(fixture.storage(), lost.clone()).await;
    // As if the commit had been reported as failed, though it is in the file.
    *fixture.storage.as_ref().unwrap().known.lock() = Some(Known::default());
    commit(fixture.storage(), lost).await;
    let folds = [(first.id, 6, grew(1.0)), (second.id, 6, conformance::seen(1.0, 6000))];
    commit(fixture.storage(), flush(2, std::slice::from_ref(&second), &folds)).await;
    *fixture.storage.as_ref().unwrap().known.lock() = Some(Known::default());
    let third = series(1, 2);
    let next = flush(3, std::slice::from_ref(&third), &[(third.id, 7, grew(1.0))]);
    let outcome = fixture.storage().commit(next.clone()).await;
    assert!(matches!(outcome, Commit::NotCommitted(_)), "what it knew was wrong: {outcome:?}");
    commit(fixture.storage(), next).await;
}

#[tokio::test]
async fn a_path_that_is_no_file_is_refused_before_anything_is_made() {
    let directory = tempfile::tempdir().unwrap();
    for path in [Path::new(":memory:"), Path::new("file:x.db?mode=memory"), directory.path()] {
        let config = Config::at(path);
        let error = Sqlite::open(&config, at(0)).await.err().unwrap().to_string();
        assert!(error.starts_with("HEALTH_DB_PATH: "), "{error}");
    }
    assert!(!Path::new(":memory:.lock").exists());
}
