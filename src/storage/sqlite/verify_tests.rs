//! Damage of what is said of blocks, and of pages: it is told, and costs no more than it must.

use super::tests::{File, fixture, open};
use super::*;
use crate::storage::conformance::{Fixture, at, commit, flush, grew, scan, series};
use crate::storage::{Missing, Scanned};
use model::{Fold, Range, Width};

const HOUR: Width = Width::from_secs(3600);

/// Flushes of a few counters, a minute apart.
async fn filled() -> (File, Vec<Arc<model::Series>>) {
    let fixture = fixture().await;
    let all: Vec<_> = (0..4).map(|n| series(1 + n, 0)).collect();
    for seq in 1..=5 {
        let folds: Vec<_> =
            all.iter().map(|one| (one.id, 60 * seq, grew(f64::from(1u32 << seq)))).collect();
        let new = if seq == 1 { &all[..] } else { &[] };
        commit(fixture.storage(), flush(seq as u64, new, &folds)).await;
    }
    (fixture, all)
}

async fn ask(file: &File, all: &[Arc<model::Series>]) -> Scanned {
    let ids = all.iter().map(|series| series.id).collect();
    let range = Range::new(at(0), at(3600));
    file.storage().scan(scan(&ids, range, HOUR)).await.unwrap()
}

fn totals(scanned: Scanned) -> Vec<f64> {
    let sum = |steps: Vec<(Timestamp, Fold)>| {
        let parts = steps.iter().map(|(_, fold)| match fold {
            Fold::Counter(fold) => fold.sum,
            Fold::Rolling(fold) => fold.sum(),
        });
        parts.sum()
    };
    scanned.steps.into_folds().into_iter().map(sum).collect()
}

const FULL: f64 = 62.0;

#[tokio::test]
async fn a_damaged_directory_is_made_good_or_what_is_missing_is_told() {
    let changes = [
        // What blocks tell themselves.
        ("UPDATE directory SET first_ms = first_ms + 86400000 WHERE id = 2", true),
        ("UPDATE directory SET last_ms = 0 WHERE id = 3", true),
        ("UPDATE directory SET last_series = 1 WHERE id = 3", true),
        ("UPDATE directory SET first_series = first_series + 4096 WHERE id = 1", true),
        ("UPDATE directory SET rows = 1, width_ms = 4096 WHERE id = 5", true),
        ("UPDATE run SET first_ms = 9223372036854775807 WHERE id = 2", true),
        ("UPDATE run SET last_ms = -1 WHERE id = 4", true),
        ("UPDATE run SET state = 0 WHERE id = 3", true),
        ("UPDATE run SET rows = 0, digest = 5 WHERE id = 3", true),
        // What they do not.
        ("DELETE FROM directory WHERE id = 2", false),
        ("UPDATE directory SET run = 77 WHERE id = 2", false),
        ("UPDATE directory SET id = 99 WHERE id = 4", false),
        ("UPDATE directory SET checksum = checksum + 1 WHERE id = 4", false),
    ];
    for (change, is_made_good) in changes {
        let (mut file, all) = filled().await;
        file.storage.take().unwrap().close(at(400)).await.unwrap();
        file.plain().execute_batch(change).unwrap();
        file.storage = Some(open(file.directory.path(), 500).await.unwrap());
        for _ in 0..2 {
            file.storage().recover().await.unwrap();
            let scanned = ask(&file, &all).await;
            let told = scanned.gaps.iter().any(|gap| gap.missing == Missing::Damaged);
            let found = totals(scanned);
            if is_made_good {
                assert_eq!(found, [FULL; 4], "{change}");
            } else {
                assert!(told && found.iter().all(|sum| *sum < FULL), "{change}: {found:?}");
            }
            file.reopen().await;
        }
        // The rest is served, and goes on.
        let folds = [(all[0].id, 400, grew(1000.0))];
        commit(file.storage(), flush(6, &[], &folds)).await;
        assert!(totals(ask(&file, &all).await)[0] >= 1000.0, "{change}");
    }
}

#[tokio::test]
async fn a_page_that_is_lost_costs_the_blocks_on_it() {
    let (mut file, all) = filled().await;
    // Blocks of several pages.
    let mut random = 1u64;
    let mut number = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 11) as f64
    };
    for seq in 6..=7 {
        let folds: Vec<_> =
            (0..1000).map(|n| (all[0].id, 600 * (seq as i64 - 5) + n, grew(number()))).collect();
        commit(file.storage(), flush(seq, &[], &folds)).await;
    }
    file.storage.take().unwrap().close(at(400)).await.unwrap();
    let data: Vec<u8> = file
        .plain()
        .query_row("SELECT data FROM block WHERE length(data) > 6000 ORDER BY id", [], |row| {
            row.get(0)
        })
        .unwrap();
    let path = file.directory.path().join("health.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let inside = &data[data.len() - 64..];
    let place = bytes.windows(64).position(|window| window == inside).unwrap();
    bytes[place / 4096 * 4096..][..4096].fill(0);
    std::fs::write(&path, bytes).unwrap();
    file.storage = Some(open(file.directory.path(), 500).await.unwrap());
    file.storage().recover().await.unwrap();
    let scanned = ask(&file, &all).await;
    assert!(scanned.gaps.iter().any(|gap| gap.missing == Missing::Damaged), "{:?}", scanned.gaps);
    let found = totals(scanned);
    assert_eq!(found[1..], [FULL; 3], "the others are whole");
    assert!(found[0] > FULL, "and so is the other large block");
    assert_eq!(file.storage().status().await.unwrap().quarantined, 1);
    file.reopen().await;
    assert_eq!(totals(ask(&file, &all).await), found);
}

#[tokio::test]
async fn one_file_under_two_names_has_one_service() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path(), 0).await.unwrap();
    let other = |name: &str| Config::at(&directory.path().join(name));
    std::os::unix::fs::symlink("health.db", directory.path().join("link.db")).unwrap();
    let refused = Sqlite::open(&other("link.db"), at(1)).await.err().unwrap().to_string();
    assert!(refused.contains("another healthd has"), "{refused}");
    std::fs::hard_link(directory.path().join("health.db"), directory.path().join("hard.db"))
        .unwrap();
    let refused = Sqlite::open(&other("hard.db"), at(1)).await.err().unwrap().to_string();
    assert!(refused.contains("hard link"), "{refused}");
    first.close(at(2)).await.unwrap();
}

#[tokio::test]
async fn a_service_whose_file_was_taken_over_commits_nothing() {
    let (file, all) = filled().await;
    let taken = "UPDATE meta SET writer = zeroblob(16)";
    file.plain().execute(taken, []).unwrap();
    let flush = flush(6, &[], &[(all[0].id, 400, grew(1.0))]);
    let outcome = file.storage().commit(flush).await;
    let Commit::NotCommitted(Error::Unavailable(why)) = outcome else { panic!("{outcome:?}") };
    assert!(why.contains("another healthd writes"), "{why}");
    assert!(file.storage().committed().await.is_err());
}
