//! The lock and the atomic of a cell.
//!
//! In a build for exploring interleavings (`HEALTHD_SHUTTLE=1 cargo test -p healthd-client --lib explored`)
//! they are Shuttle's, which runs one thread at a time and chooses at each of them which goes on.

#[cfg(not(all(test, shuttle)))]
pub(crate) use parking_lot::Mutex;
#[cfg(not(all(test, shuttle)))]
pub(crate) use std::sync::atomic::AtomicU64;

#[cfg(all(test, shuttle))]
pub(crate) use explored::{AtomicU64, Mutex};

#[cfg(all(test, shuttle))]
#[expect(clippy::unwrap_used, reason = "a thread that panicked ended its schedule")]
mod explored {
    use shuttle::sync;
    pub(crate) use shuttle::sync::atomic::AtomicU64;

    #[derive(Debug)]
    pub(crate) struct Mutex<T>(sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> sync::MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }
}
