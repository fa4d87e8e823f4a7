//! The process is killed: at any moment, or at a certain call.

use crate::rig::{Rig, Settings};
use crate::server::{Launch, Server};
use std::time::Duration;

pub(crate) async fn kill(settings: Settings) -> bool {
    let mut rig = Rig::new("kill", settings);
    let database = rig.database();
    for cycle in 1..=settings.cycles {
        let server = rig.checked(&database, &format!("cycle {cycle}")).await;
        rig.clients.stream_to(server.address);
        rig.wait().await;
        rig.kill(server).await;
    }
    rig.end(&database).await
}

/// What a database file is changed by.
const CALLS: [&str; 3] = ["pwrite64", "fsync,fdatasync", "ftruncate"];

pub(crate) async fn points(settings: Settings) -> bool {
    let mut rig = Rig::new("points", settings);
    let database = rig.database();
    for cycle in 0..settings.cycles {
        let (call, n) = (CALLS[cycle as usize % CALLS.len()], 1 + cycle / CALLS.len() as u32);
        let launch = Launch::injected(&database, call, &format!("signal=SIGKILL:when={n}"));
        // With few calls of a kind, the later ones never come.
        if let Ok(mut server) = Server::launch(&database, &launch).await {
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
