//! Any bytes as a request of a stream: an error or a receipt, and totals that are numbers.

#![no_main]

use healthd::engine::{Clock, Config, Engine, Stream};
use healthd::serve::Reading;
use healthd::storage::memory::{self, Memory};
use libfuzzer_sys::fuzz_target;
use model::{Selector, Timestamp};
use std::sync::{Arc, LazyLock};

static ENGINE: LazyLock<Arc<Engine>> = LazyLock::new(|| {
    let storage = Memory::new(&memory::Config { memory_bytes: 1 << 20 }).expect("it needs nothing");
    let config = Config { max_series: 10_000.try_into().expect("above 0"), ..Config::default() };
    let clock = Clock::new(|| Timestamp::from_ms(1_800_000_000_000));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let opened = runtime.block_on(Engine::open(config, Arc::new(storage), clock));
    opened.expect("memory opens").0
});

fuzz_target!(|data: &[u8]| {
    let (mut stream, mut reading) = (Stream::default(), Reading::default());
    // Twice: what was new at first is known then.
    for _ in 0..2 {
        if reading.read(data, &stream).is_err() {
            return;
        }
        let (declared, samples) = (reading.declared(), reading.samples());
        if let Ok(receipt) = ENGINE.ingest(&mut stream, None, declared, samples, &reading.packed()) {
            assert!(receipt.rejections.len() as u64 <= receipt.refused);
        }
    }
    for current in ENGINE.current(&Selector::default(), None, 100) {
        assert!(current.value.is_finite(), "{current:?}");
    }
});
