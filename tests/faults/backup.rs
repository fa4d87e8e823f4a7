//! Backups: made while clients stream, and broken off by a kill at any moment.
//!
//! After each kill what is on the shelf is whole, and the last of it holds what had been durable when it was
//! begun, to the last request.

use crate::rig::{Rig, Settings};
use crate::server::{Launch, Server};
use healthd::serve::proto::v1;
use healthd::serve::proto::v1::backup_service_client::BackupServiceClient;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// Kept no longer than that many, so that the disk has room for them.
const KEPT: usize = 3;

async fn door(server: &Server) -> BackupServiceClient<Channel> {
    let url = format!("http://{}", server.address);
    BackupServiceClient::new(Endpoint::from_shared(url).unwrap().connect().await.unwrap())
}

/// The name of a backup, if it comes to that.
async fn create(mut door: BackupServiceClient<Channel>) -> Option<String> {
    let request = v1::CreateBackupRequest {};
    let mut parts = door.create_backup(request).await.ok()?.into_inner();
    while let Ok(Some(part)) = parts.message().await {
        if let Some(backup) = part.backup {
            return Some(backup.id);
        }
    }
    None
}

pub(crate) async fn backup(settings: Settings) -> bool {
    let mut rig = Rig::new("backup", settings);
    let (database, shelf) = (rig.database(), rig.directory.path().join("backups"));
    let flags = ["--backup-enabled=true".to_owned(), format!("--backup-dir={}", shelf.display())];
    let launch = std::mem::take(&mut rig.launch);
    rig.launch = flags.iter().fold(launch, |launch, flag| launch.flag(flag));
    // What was durable when each was begun.
    let mut begun: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let (mut made, mut broken) = (0, 0);
    for cycle in 1..=settings.cycles {
        let server = rig.checked(&database, &format!("cycle {cycle}")).await;
        check_shelf(&mut rig, &server, &shelf, &format!("cycle {cycle}")).await;
        rig.clients.stream_to(server.address);
        rig.wait().await;
        let told = rig.clients.told();
        let creating = create(door(&server).await);
        // Some are finished by then, and some are not.
        let limit = Duration::from_millis(rig.random.below(120));
        match tokio::time::timeout(limit, creating).await {
            Ok(Some(id)) => drop((begun.insert(id, told), made += 1)),
            Ok(None) => rig.count("create", Err("it failed though nobody was killed".to_owned())),
            Err(_) => broken += 1,
        }
        rig.kill(server).await;
        let names = ids(&shelf);
        for id in names.iter().rev().skip(KEPT) {
            for ending in ["json", "db"] {
                std::fs::remove_file(shelf.join(format!("{id}.{ending}"))).unwrap();
            }
        }
        // The newest, as a service of its own.
        if let Some((id, told)) = names.last().and_then(|id| begun.remove_entry(id)) {
            let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let copy = directory.path().join("health.db");
            std::fs::copy(shelf.join(format!("{id}.db")), &copy).unwrap();
            let alone = Server::launch(&copy, &Launch::default()).await;
            let outcome = match alone {
                Ok(alone) => {
                    let outcome = rig.clients.check_since(alone.address, &told).await;
                    alone.kill().await;
                    outcome
                }
                Err(said) => Err(format!("no start: {said:#?}")),
            };
            rig.count(&format!("backup {id}"), outcome);
        }
    }
    println!("backup: {made} made, {broken} broken off");
    rig.expect("backups", made > 0 && broken > 0, format!("{made} made, {broken} broken off"));
    rig.end(&database).await
}

/// The names of the backups that are there, the oldest first.
fn ids(shelf: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(shelf) else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut ids: Vec<String> =
        names.filter_map(|name| Some(name.strip_suffix(".json")?.to_owned())).collect();
    ids.retain(|id| !id.starts_with('.'));
    ids.sort();
    ids
}

/// All that is on the shelf is whole, and nothing else is there after a start.
async fn check_shelf(rig: &mut Rig, server: &Server, shelf: &Path, of: &str) {
    let mut door = door(server).await;
    for id in ids(shelf) {
        let verified = door.verify_backup(v1::VerifyBackupRequest { id: id.clone() }).await;
        rig.count(of, verified.map(drop).map_err(|status| format!("{id}: {status}")));
    }
    let left = std::fs::read_dir(shelf).unwrap();
    let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = left.filter(|name| name.starts_with('.') && name != ".lock").collect();
    rig.expect(of, left.is_empty(), format!("a crash left {left:?}"));
}
