//! The conformance suite on memory, and its budget.

use super::*;
use crate::storage::conformance::{self, Fixture, at, commit, flush, grew, series};

struct Fresh(Memory);

#[async_trait]
impl Fixture for Fresh {
    fn storage(&self) -> &dyn Storage {
        &self.0
    }

    async fn reopen(&mut self) {
        self.0.close(at(0)).await.unwrap();
    }
}

fn fixture() -> Fresh {
    Fresh(Memory::new(&Config { memory_bytes: 64 << 20 }).unwrap())
}

conformance::suite!(std::future::ready(fixture()));

#[tokio::test]
async fn the_oldest_data_goes_first_and_answers_say_so() {
    let storage = Memory::new(&Config { memory_bytes: 2000 }).unwrap();
    let counter = series(1, 0);
    commit(&storage, flush(1, std::slice::from_ref(&counter), &[(counter.id, 0, grew(1.0))])).await;
    for seq in 2..100 {
        commit(&storage, flush(seq, &[], &[(counter.id, seq as i64, grew(1.0))])).await;
        assert!(storage.status().await.unwrap().file_bytes <= 2000);
    }
    let all = Range::new(at(0), at(1000));
    let scan = conformance::scan(&[counter.id].into(), all, conformance::WIDTH);
    let scanned = storage.scan(scan).await.unwrap();
    let kept = storage.status().await.unwrap().oldest.unwrap();
    assert!(at(0) < kept && kept < at(99));
    assert_eq!(scanned.gaps, [Gap { range: Range::new(at(0), kept), missing: Missing::Budget }]);
    let current = storage.recover().await.unwrap().series[0].1;
    assert_eq!(current.value, 99.0, "the total outlives its history");
}
