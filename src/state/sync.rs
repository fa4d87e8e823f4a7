//! The locks and atomics of the live state.
//!
//! In a build for exploring interleavings (`HEALTHD_SHUTTLE=1 cargo test --lib explored`) they are
//! Shuttle's, which runs one thread at a time and chooses at each of them which goes on.

#[cfg(not(all(test, shuttle)))]
pub(super) use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard};
#[cfg(not(all(test, shuttle)))]
pub(super) use std::sync::atomic::{AtomicU64, AtomicUsize};

#[cfg(all(test, shuttle))]
pub(super) use explored::*;

#[cfg(all(test, shuttle))]
#[expect(clippy::unwrap_used, reason = "a thread that panicked ended its schedule")]
mod explored {
    use shuttle::sync;
    pub(crate) use shuttle::sync::atomic::{AtomicU64, AtomicUsize};
    pub(crate) use shuttle::sync::{MutexGuard, RwLockReadGuard};

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }

        pub(crate) fn get_mut(&mut self) -> &mut T {
            self.0.get_mut().unwrap()
        }

        pub(crate) fn into_inner(self) -> T {
            self.0.into_inner().unwrap()
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct RwLock<T>(sync::RwLock<T>);

    impl<T> RwLock<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(sync::RwLock::new(value))
        }

        pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
            self.0.read().unwrap()
        }

        pub(crate) fn write(&self) -> sync::RwLockWriteGuard<'_, T> {
            self.0.write().unwrap()
        }

        pub(crate) fn into_inner(self) -> T {
            self.0.into_inner().unwrap()
        }
    }
}
