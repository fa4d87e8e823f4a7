//! Planted faults, each of which the fault that is named beside it must catch.

use crate::power::{self, FileSystem};
use crate::rig::Settings;
use crate::{disk, process, server};
use healthd::canary::Canary;
use std::pin::Pin;

type Fault = fn(Settings) -> Pin<Box<dyn Future<Output = bool>>>;

const CANARIES: [(Canary, &str, Fault); 5] = [
    (Canary::AckBeforeCommit, "kill", |settings| Box::pin(process::kill(settings))),
    (Canary::NoSync, "power", |settings| Box::pin(power::power(settings, FileSystem::Ext4))),
    (Canary::MarksApart, "kill", |settings| Box::pin(process::kill(settings))),
    (Canary::NoCut, "kill", |settings| Box::pin(process::kill(settings))),
    (Canary::BlindRetry, "errors", |settings| Box::pin(disk::errors(settings))),
];

/// Says whether all were caught, each in as many rounds as there are cycles. The binary is one that has
/// them.
pub(crate) async fn canaries(settings: Settings) -> bool {
    let mut passed = 0;
    for (canary, by, fault) in CANARIES {
        println!("---- {}, which {by} must catch", canary.name());
        *server::PLANTED.lock() = Some(canary.name());
        // Short ones, until it is caught.
        let mut rounds = 1..=settings.cycles;
        let short = |seed| Settings { cycles: 10, seconds: 10, seed, ..settings };
        let caught_in = loop {
            let Some(round) = rounds.next() else { break None };
            if !fault(short(settings.seed + u64::from(round))).await {
                break Some(round);
            }
        };
        match caught_in {
            Some(round) => println!("---- {} was caught in round {round}", canary.name()),
            None => println!("---- {} was NOT caught", canary.name()),
        }
        passed += u32::from(caught_in.is_some());
    }
    let failed = CANARIES.len() as u32 - passed;
    println!("canaries: {passed} passed, {failed} failed");
    failed == 0
}
