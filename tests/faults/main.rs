//! Faults, and what must survive them: `cargo test --test faults -- kill --cycles 1000`.
//!
//! A fault is done to the real binary while clients stream to it that number their requests, each of which
//! is unlike any other. After each fault the server must hold what the requests up to its mark come to,
//! and nothing else, and the mark may not be below what any client was told to be durable.

#![expect(clippy::unwrap_used, reason = "in a rig a panic is the report")]
#![expect(clippy::print_stdout, reason = "what it counts is what it is for")]

mod client;
mod power;
mod server;

use clap::{Args, Parser, Subcommand};
use client::Clients;
use server::Server;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Does faults to a running service and checks that nothing is lost or counted twice.
#[derive(Parser)]
#[command(name = "faults")]
struct Command {
    #[command(subcommand)]
    fault: Fault,
}

#[derive(Subcommand)]
enum Fault {
    /// SIGKILL in the middle of streams
    Kill(Settings),
    /// SIGKILL at the n-th write or sync of a database file, for n from 1 on; needs strace
    Points(Settings),
    /// The power goes: what was not synced is gone. On a file system of its own; needs root
    Power(Settings),
}

#[derive(Args, Clone, Copy)]
struct Settings {
    /// How often
    #[arg(long, default_value_t = 50)]
    cycles: u32,
    /// What the moments of the faults are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Clients that stream at once
    #[arg(long, default_value_t = 4)]
    clients: usize,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let settings = |cycles| Settings { cycles, seed: 1, clients: 4 };
    let faults = match &*arguments {
        // As `cargo test` runs it beside all others: what needs nothing but the binary, for a short time.
        [] => vec![Fault::Kill(settings(50))],
        // Names of tests that are none of these.
        [first, ..] if !["kill", "points", "power", "help", "--help", "-h"].contains(&&**first) => {
            println!("0 passed, 0 failed");
            return ExitCode::SUCCESS;
        }
        _ => vec![Command::parse().fault],
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let done = faults.into_iter().map(|fault| match fault {
        Fault::Kill(settings) => runtime.block_on(kill(settings)),
        Fault::Points(settings) => runtime.block_on(points(settings)),
        Fault::Power(settings) => runtime.block_on(power::power(settings)),
    });
    // All of them, also after one that failed.
    let failed = done.filter(|passed| !passed).count();
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Numbers without a pattern, the same for a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % most
    }
}

/// What every fault is done to, and what came of it.
struct Rig {
    fault: &'static str,
    directory: tempfile::TempDir,
    random: Random,
    clients: Clients,
    starts: Vec<Duration>,
    passed: u32,
    failed: u32,
}

impl Rig {
    fn new(fault: &'static str, settings: Settings) -> Self {
        let Settings { cycles, seed, clients } = settings;
        println!("{fault}: {cycles} cycles, {clients} clients, seed {seed}");
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let clients = Clients::start(clients, directory.path());
        let (random, starts) = (Random(seed), Vec::new());
        Self { fault, directory, random, clients, starts, passed: 0, failed: 0 }
    }

    fn database(&self) -> PathBuf {
        self.directory.path().join("health.db")
    }

    fn count(&mut self, of: &str, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => self.passed += 1,
            Err(wrong) => {
                println!("{} {of}: {wrong}", self.fault);
                self.failed += 1;
            }
        }
    }

    /// Starts a server, and checks what it holds before anybody streams to it.
    async fn checked(&mut self, database: &Path, of: &str) -> Server {
        let begin = Instant::now();
        let server = Server::start(database).await;
        self.starts.push(begin.elapsed());
        let outcome = self.clients.check(server.address).await;
        self.count(of, outcome);
        server
    }

    /// For as long as the next fault takes to come: some come before anything is durable, some in the
    /// middle of much.
    async fn wait(&mut self) {
        tokio::time::sleep(Duration::from_millis(self.random.below(400))).await;
    }

    /// A last look at what is there; says whether all was as it must be.
    async fn end(mut self, database: &Path) -> bool {
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

async fn kill(settings: Settings) -> bool {
    let mut rig = Rig::new("kill", settings);
    let database = rig.database();
    for cycle in 1..=settings.cycles {
        let server = rig.checked(&database, &format!("cycle {cycle}")).await;
        rig.clients.stream_to(server.address);
        rig.wait().await;
        rig.clients.pause();
        server.kill().await;
    }
    rig.end(&database).await
}

/// What a database file is changed by.
const CALLS: [&str; 3] = ["pwrite64", "fsync,fdatasync", "ftruncate"];

async fn points(settings: Settings) -> bool {
    let mut rig = Rig::new("points", settings);
    let database = rig.database();
    for cycle in 0..settings.cycles {
        let (call, n) = (CALLS[cycle as usize % CALLS.len()], 1 + cycle / CALLS.len() as u32);
        // With few calls of a kind, the later ones never come.
        let traced = Server::start_killed_at(&database, call, n).await;
        if let Some(mut server) = traced {
            rig.clients.stream_to(server.address);
            let end = tokio::time::timeout(Duration::from_secs(2), server.ended()).await;
            rig.clients.pause();
            if end.is_err() {
                println!("points: there is no {call} number {n}");
                server.kill().await;
            }
        }
        let server = rig.checked(&database, &format!("{call} {n}")).await;
        server.kill().await;
    }
    rig.end(&database).await
}
