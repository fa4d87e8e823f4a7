//! What every fault is done to, and what came of it.

use crate::client::{Clients, Manner};
use crate::server::{Launch, Server};
use clap::Args;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(Args, Clone, Copy)]
pub(crate) struct Settings {
    /// How often
    #[arg(long, default_value_t = 50)]
    pub(crate) cycles: u32,
    /// For how many seconds, of faults that last
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u64,
    /// What the moments of the faults are drawn from
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Clients that stream at once
    #[arg(long, default_value_t = 4)]
    pub(crate) clients: usize,
}

impl Settings {
    pub(crate) fn duration(self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// Numbers without a pattern, the same for a seed.
#[derive(Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % most
    }
}

pub(crate) struct Rig {
    fault: &'static str,
    pub(crate) directory: tempfile::TempDir,
    _ledgers: tempfile::TempDir,
    pub(crate) random: Random,
    pub(crate) clients: Clients,
    /// How each server is started that is checked.
    pub(crate) launch: Launch,
    starts: Vec<Duration>,
    passed: u32,
    failed: u32,
}

impl Rig {
    pub(crate) fn new(fault: &'static str, settings: Settings) -> Self {
        Self::with(fault, settings, Manner::default())
    }

    pub(crate) fn with(fault: &'static str, settings: Settings, manner: Manner) -> Self {
        let Settings { cycles, seconds, seed, clients } = settings;
        println!("{fault}: {cycles} cycles or {seconds} s, {clients} clients, seed {seed}");
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // Not on the disk that the faults are done to: what is written there waits for its syncs.
        let ledgers = tempfile::tempdir_in("/dev/shm").unwrap();
        let clients = Clients::start(clients, manner, ledgers.path());
        let (random, starts, launch) = (Random(seed), Vec::new(), Launch::default());
        let (passed, failed) = (0, 0);
        Self {
            fault,
            directory,
            _ledgers: ledgers,
            random,
            clients,
            launch,
            starts,
            passed,
            failed,
        }
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.directory.path().join("health.db")
    }

    pub(crate) fn count(&mut self, of: &str, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => self.passed += 1,
            Err(wrong) => {
                println!("{} {of}: {wrong}", self.fault);
                self.failed += 1;
            }
        }
    }

    /// Counts whether this holds; if not, the text says how it is.
    pub(crate) fn expect(&mut self, of: &str, holds: bool, wrong: String) {
        self.count(of, if holds { Ok(()) } else { Err(wrong) });
    }

    /// Starts a server, and checks what it holds before anybody streams to it.
    pub(crate) async fn checked(&mut self, database: &Path, of: &str) -> Server {
        let begin = Instant::now();
        let server = Server::launch(database, &self.launch).await;
        let server = server.unwrap_or_else(|said| panic!("{of}: no start: {said:#?}"));
        self.starts.push(begin.elapsed());
        let outcome = self.clients.check(server.address).await;
        self.count(of, outcome);
        server
    }

    /// For as long as the next fault takes to come: some come before anything is durable, some in the
    /// middle of much.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(Duration::from_millis(self.random.below(400))).await;
    }

    /// Ends a server in the middle of whatever it does.
    pub(crate) async fn kill(&self, server: Server) {
        self.clients.pause();
        server.kill().await;
    }

    /// Waits until everything that was accepted by now is durable; gives up after this long.
    pub(crate) async fn durable_within(&self, limit: Duration) -> Option<Duration> {
        let (begin, accepted) = (Instant::now(), self.clients.accepted());
        while self.clients.durable() < accepted {
            if begin.elapsed() > limit {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Some(begin.elapsed())
    }

    /// A last look at what is there; says whether all was as it must be.
    pub(crate) async fn end(mut self, database: &Path) -> bool {
        let server = self.checked(database, "at the end").await;
        server.kill().await;
        let (durable, complaints) = (self.clients.durable(), self.clients.complaints());
        self.clients.stop().await;
        self.starts.sort_unstable();
        let starts = &self.starts;
        let at = |share: f64| starts[((starts.len() - 1) as f64 * share) as usize].as_millis();
        println!("start: p50 {} ms, p99 {} ms, most {} ms", at(0.5), at(0.99), at(1.0));
        println!("{durable} requests durable, {complaints} complaints of clients");
        assert!(durable > 0, "the clients got nothing done");
        let failed = self.failed + u32::from(complaints > 0);
        println!("{}: {} passed, {failed} failed", self.fault, self.passed);
        failed == 0
    }
}
