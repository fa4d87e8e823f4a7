//! Copies: of files that are damaged, and files that are none.

use super::super::Storage;
use super::super::tests::{File, fixture, open};
use super::*;
use crate::storage::conformance::{Fixture, at, commit, flush, grew, series};
use std::path::PathBuf;

/// A file of two flushes.
async fn filled() -> File {
    let file = fixture().await;
    let counter = series(1, 0);
    commit(file.storage(), flush(1, std::slice::from_ref(&counter), &[(counter.id, 5, grew(1.0))]))
        .await;
    commit(file.storage(), flush(2, &[], &[(counter.id, 7, grew(2.0))])).await;
    file
}

fn copy_of(file: &File) -> PathBuf {
    file.directory.path().join("copy.db")
}

fn proved(path: &Path) -> Result<Facts, Error> {
    prove(path, &Arc::new(AtomicBool::new(true)))
}

#[tokio::test]
async fn a_copy_is_what_the_file_holds_and_a_block_that_is_damaged_there_is_put_aside() {
    let file = filled().await;
    let copied = file.storage().copy(&copy_of(&file)).await.unwrap();
    assert_eq!((copied.flush_seq, copied.series, copied.blocks, copied.folds), (2, 1, 2, 2));
    assert_eq!((copied.oldest, copied.newest), (Some(at(5)), Some(at(7))));
    assert_eq!(proved(&copy_of(&file)).unwrap().copied, copied);
    let trial = file.directory.path().join("trial.db");
    assert_eq!(file.storage().trial(&copy_of(&file), &trial, at(9)).await.unwrap(), copied);
    file.plain().execute("UPDATE block SET data = zeroblob(5) WHERE id = 1", []).unwrap();
    let copied = file.storage().copy(&copy_of(&file)).await.unwrap();
    assert_eq!(copied.blocks, 1, "what is left");
    assert_eq!(file.storage().status().await.unwrap().quarantined, 1);
}

#[tokio::test]
async fn a_copy_that_was_changed_in_any_part_is_no_copy() {
    let file = filled().await;
    for (change, part) in [
        ("UPDATE block SET data = zeroblob(length(data)) WHERE id = 1", "block 1"),
        ("DELETE FROM block WHERE id = 2", "block 2"),
        ("UPDATE directory SET rows = 7", "directory of run"),
        ("CREATE TRIGGER t AFTER INSERT ON meta BEGIN DELETE FROM block; END", "other tables"),
        ("CREATE VIEW v AS SELECT 1", "other tables"),
        ("DROP TABLE annotation", "other tables"),
        ("PRAGMA application_id = 7", "another program"),
        ("PRAGMA user_version = 99", "newer healthd"),
        ("DELETE FROM meta", "SQLite"),
    ] {
        file.storage().copy(&copy_of(&file)).await.unwrap();
        Connection::open(copy_of(&file)).unwrap().execute_batch(change).unwrap();
        let error = proved(&copy_of(&file)).unwrap_err().to_string();
        assert!(error.contains(part), "{change}: {error}");
    }
    // Cut off, and with a page that is not as it was.
    file.storage().copy(&copy_of(&file)).await.unwrap();
    let whole = std::fs::read(copy_of(&file)).unwrap();
    for cut in [0, 100, 4096, whole.len() / 2, whole.len() - 1] {
        std::fs::write(copy_of(&file), &whole[..cut]).unwrap();
        assert!(proved(&copy_of(&file)).is_err(), "{cut} bytes of {}", whole.len());
    }
}

#[tokio::test]
async fn marks_that_differ_from_those_of_the_file_are_found() {
    let file = filled().await;
    let facts = |connection: &mut Connection| super::facts(connection).unwrap();
    let before = facts(&mut file.plain());
    assert!(before.is_between(&before, &before).is_ok());
    let changed = |change: &str| {
        file.storage.as_ref().unwrap();
        let copy = copy_of(&file);
        std::fs::remove_file(&copy).ok();
        super::copy(
            &file.directory.path().join("health.db"),
            &copy,
            &Arc::new(AtomicBool::new(true)),
        )
        .unwrap();
        let mut connection = Connection::open(&copy).unwrap();
        connection.execute_batch(change).unwrap();
        facts(&mut connection).is_between(&before, &before).unwrap_err().to_string()
    };
    assert!(changed("INSERT INTO session VALUES ('c', 1, 1, 0, 0)").contains("marks"));
    assert!(changed("UPDATE meta SET flush_seq = 3").contains("flushes"));
    assert!(
        changed("UPDATE meta SET incarnation = x'00112233445566778899aabbccddeeff'")
            .contains("data")
    );
    assert!(changed("DELETE FROM series").contains("series"));
}

#[tokio::test]
async fn nobody_waits_for_a_copy_that_nobody_wants_any_more() {
    let file = filled().await;
    let gone = Arc::new(AtomicBool::new(false));
    let path = file.directory.path().join("health.db");
    // Long enough that it is looked whether anybody waits.
    let grow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
        INSERT INTO text (text) SELECT 'text ' || i FROM n";
    file.plain().execute(grow, []).unwrap();
    let copied = super::copy(&path, &copy_of(&file), &gone);
    assert!(matches!(copied, Err(Error::Deadline)), "{copied:?}");
}

#[tokio::test]
async fn a_file_that_is_restored_over_is_put_aside_and_one_that_is_open_is_not() {
    let mut file = filled().await;
    let copied = file.storage().copy(&copy_of(&file)).await.unwrap();
    let config = Config::at(&file.directory.path().join("health.db"));
    assert!(restore(&config, &copy_of(&file)).is_err(), "a service has it");
    let counter = series(1, 0);
    commit(file.storage(), flush(3, &[], &[(counter.id, 9, grew(4.0))])).await;
    file.storage.take().unwrap().close(at(10)).await.unwrap();
    let restored = restore(&config, &copy_of(&file)).unwrap();
    assert_ne!(restored.incarnation, copied.incarnation);
    assert_eq!((restored.flush_seq, restored.folds), (4, 2));
    let storage = open(file.directory.path(), 20).await.unwrap();
    let recovered = storage.recover().await.unwrap();
    assert_eq!((recovered.incarnation, recovered.flush_seq), (restored.incarnation, 4));
    storage.close(at(21)).await.unwrap();
    // In the place of nothing, of nonsense, and not of another program's file.
    let name = |name: &str| Config::at(&file.directory.path().join(name));
    restore(&name("none.db"), &copy_of(&file)).unwrap();
    let other = name("other.db");
    Connection::open(&other.db_path).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
    assert!(restore(&other, &copy_of(&file)).is_err());
    std::fs::write(copy_of(&file), "nonsense").unwrap();
    assert!(restore(&name("none.db"), &copy_of(&file)).is_err());
    assert!(open(file.directory.path(), 22).await.is_ok(), "and nothing is harmed by that");
}
