//! Faults, and what must survive them: `cargo test --test faults -- kill --cycles 1000`.
//!
//! A fault is done to the real binary while clients stream to it that number their requests, each of which
//! is unlike any other. After each fault the server must hold what the requests up to its mark come to,
//! and nothing else, and the mark may not be below what any client was told to be durable.

#![expect(clippy::unwrap_used, reason = "in a rig a panic is the report")]
#![expect(clippy::print_stdout, reason = "what it counts is what it is for")]

mod client;
mod server;

use clap::{Args, Parser, Subcommand};
use client::Clients;
use server::Server;
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
    let command = match &*arguments {
        // As `cargo test` runs it beside all others.
        [] => Command { fault: Fault::Kill(Settings { cycles: 50, seed: 1, clients: 4 }) },
        // Names of tests that are none of these.
        [first, ..] if !["kill", "help", "--help", "-h"].contains(&&**first) => {
            println!("0 passed, 0 failed");
            return ExitCode::SUCCESS;
        }
        _ => Command::parse(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let failed = match command.fault {
        Fault::Kill(settings) => runtime.block_on(kill(settings)),
    };
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

async fn kill(settings: Settings) -> u32 {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut random = Random(settings.seed);
    let mut clients = Clients::start(settings.clients, directory.path());
    let (mut starts, mut failed) = (Vec::new(), 0);
    println!(
        "kill: {} cycles, {} clients, seed {}",
        settings.cycles, settings.clients, settings.seed
    );
    for cycle in 1..=settings.cycles {
        let begin = Instant::now();
        let server = Server::start(&directory.path().join("health.db")).await;
        starts.push(begin.elapsed());
        if let Err(wrong) = clients.check(server.address).await {
            println!("cycle {cycle}: {wrong}");
            failed += 1;
        }
        clients.stream_to(server.address);
        // Some end before anything is durable, some in the middle of much.
        tokio::time::sleep(Duration::from_millis(random.below(400))).await;
        clients.pause();
        server.kill().await;
    }
    let server = Server::start(&directory.path().join("health.db")).await;
    if let Err(wrong) = clients.check(server.address).await {
        println!("at the end: {wrong}");
        failed += 1;
    }
    failed += u32::from(clients.complaints() > 0);
    let durable = clients.durable();
    server.kill().await;
    clients.stop().await;
    starts.sort_unstable();
    let at = |share: f64| starts[((starts.len() - 1) as f64 * share) as usize].as_millis();
    println!("start: p50 {} ms, p99 {} ms, most {} ms", at(0.5), at(0.99), at(1.0));
    println!("requests that were told to be durable: {durable}");
    assert!(durable > u64::from(settings.cycles), "the clients got nothing done");
    println!("{} passed, {failed} failed", settings.cycles + 1 - failed.min(settings.cycles + 1));
    failed
}
