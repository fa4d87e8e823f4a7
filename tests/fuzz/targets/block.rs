//! Any bytes as a block: an error or folds, and never more memory than a block may take.

#![no_main]

use healthd::storage::Parts;
use healthd::storage::block::View;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(view) = View::new(data) else { return };
    for segment in view.segments() {
        for parts in [Parts::All, Parts::NoSketches] {
            if let Ok(rows) = view.read(segment, parts) {
                let Ok(()) = rows.try_for_each(|_, _, fold| {
                    std::hint::black_box(fold);
                    Ok::<(), std::convert::Infallible>(())
                });
            }
        }
    }
});
