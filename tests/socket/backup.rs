//! Backups: made beside everything else, proved before they count, and never more than what they are.

use crate::commands::{healthd, text};
use crate::support::{Backend, Client, Server, increment, on_both};
use healthd::serve::proto::v1;
use healthd::serve::proto::v1::backup_service_client::BackupServiceClient;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// A service that keeps backups in a directory, and flushes when it is asked to.
async fn keeping(directory: &Path, flags: &[&str]) -> Server {
    let backups = format!("--backup-dir={}", directory.display());
    let own = ["--flush-interval=1h", "--backup-enabled=true", "--backup-interval=0", &backups];
    Server::with(Backend::Sqlite, &[&own, flags].concat()).await
}

fn door(client: &Client) -> BackupServiceClient<Channel> {
    BackupServiceClient::new(client.channel.clone())
}

async fn create(client: &Client) -> Result<(Vec<v1::BackupStage>, v1::Backup), Status> {
    let mut parts = door(client).create_backup(v1::CreateBackupRequest {}).await?.into_inner();
    let (mut stages, mut backup) = (Vec::new(), None);
    while let Some(part) = parts.message().await? {
        assert!(backup.is_none(), "the backup is in the last message");
        stages.push(part.stage());
        backup = part.backup;
    }
    Ok((stages, backup.unwrap()))
}

async fn list(client: &Client) -> Vec<v1::Backup> {
    let listed = door(client).list_backups(v1::ListBackupsRequest {}).await.unwrap();
    listed.into_inner().backups
}

async fn verify(client: &Client, id: &str) -> Result<v1::Backup, Status> {
    let request = v1::VerifyBackupRequest { id: id.to_owned() };
    Ok(door(client).verify_backup(request).await?.into_inner().backup.unwrap())
}

/// The files of a directory, those of the lock left out.
fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name != ".lock").collect();
    names.sort();
    names
}

/// What a backup's counter came to, by a service that goes on from it.
async fn total_in(file: &Path) -> f64 {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("health.db");
    fs::copy(file, &copy).unwrap();
    let path = format!("--db-path={}", copy.display());
    let server = Server::with(Backend::Sqlite, &[&path]).await;
    let total = server.client().await.current("c").await["n"];
    server.stop().await.unwrap();
    total
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_holds_what_was_accepted_before_it_while_more_comes_in() {
    let shelf = tempfile::tempdir().unwrap();
    let server = keeping(shelf.path(), &["--flush-interval=20ms"]).await;
    let client = server.client().await;
    let mut load = JoinSet::new();
    let mut sending = server.client().await;
    load.spawn(async move {
        loop {
            sending.record(vec![increment("c", "n", 1.0)]).await;
        }
    });
    let mut made = Vec::new();
    for _ in 0..4 {
        let mut asking = server.client().await;
        crate::support::until("something comes in", async || {
            asking.current("c").await.get("n").copied()
        })
        .await;
        let before = asking.current("c").await["n"];
        let (stages, backup) = create(&client).await.unwrap();
        let after = asking.current("c").await["n"];
        assert_eq!(stages.last(), Some(&v1::BackupStage::Done));
        assert!(stages.contains(&v1::BackupStage::Copying), "{stages:?}");
        made.push((backup, before, after));
    }
    load.abort_all();
    let listed = list(&client).await;
    assert_eq!(listed.len(), made.len());
    for ((backup, before, after), listed) in made.iter().zip(listed.iter().rev()) {
        assert_eq!(backup, listed);
        assert_eq!(verify(&client, &backup.id).await.unwrap(), *backup);
        let total = total_in(&shelf.path().join(format!("{}.db", backup.id))).await;
        assert!((*before..=*after).contains(&total), "{before} <= {total} <= {after}");
    }
    assert_eq!(files(shelf.path()).len(), 2 * made.len(), "nothing is left of trying them out");
    let status = server.client().await.status().await.backups.unwrap();
    assert_eq!((status.newest, status.error), (made[3].0.id.clone(), String::new()));
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_makes_one_of_all_there_is_and_a_start_none_that_is_the_same() {
    let shelf = tempfile::tempdir().unwrap();
    let flags = ["--backup-interval=24h"];
    let server = keeping(shelf.path(), &flags).await;
    let mut client = server.client().await;
    assert_eq!(list(&client).await, [], "of nothing none is made");
    client.record(vec![increment("c", "n", 5.0)]).await;
    let backups = format!("--backup-dir={}", shelf.path().display());
    let again = ["--flush-interval=1h", "--backup-enabled=true", &backups, "--backup-interval=24h"];
    let server = server.restart(&again).await;
    let client = server.client().await;
    let [backup] = &list(&client).await[..] else { panic!("there is one") };
    assert_eq!(backup.trigger(), v1::BackupTrigger::Stop);
    assert_eq!(total_in(&shelf.path().join(format!("{}.db", backup.id))).await, 5.0);
    let server = server.restart(&again).await;
    assert_eq!(list(&server.client().await).await.len(), 1, "nothing is new");
    server.client().await.record(vec![increment("c", "n", 1.0)]).await;
    // The interval is over by the time of the next start.
    let due = ["--flush-interval=1h", "--backup-enabled=true", &backups, "--backup-interval=1ms"];
    let server = server.restart(&due).await;
    let client = server.client().await;
    let newest = crate::support::until("the start makes one", async || {
        let backups = list(&client).await;
        backups
            .into_iter()
            .find(|one| one.trigger() != v1::BackupTrigger::Stop || one.flush_seq > 1)
    })
    .await;
    assert!(newest.problem.is_empty());
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_whole_backup_is_told_and_nothing_else_is_touched() {
    let shelf = tempfile::tempdir().unwrap();
    let server = keeping(shelf.path(), &[]).await;
    let mut client = server.client().await;
    client.record(vec![increment("c", "n", 5.0)]).await;
    let (_, good) = create(&client).await.unwrap();
    let file = |id: &str| shelf.path().join(format!("{id}.db"));
    let long = "x".repeat(300);
    for name in [
        "../health",
        "/etc/passwd",
        "",
        ".",
        "20261122T181107Z-1A2b3c4d",
        "20261122T181107Z-1a2b3c4d.db",
        &long,
    ] {
        let refused = verify(&client, name).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{name}: {refused:?}");
        assert!(refused.message().starts_with("id: "), "{refused:?}");
    }
    let absent = verify(&client, "20261122T181107Z-1a2b3c4d").await.unwrap_err();
    assert_eq!(absent.code(), Code::NotFound);
    // A byte that was changed, and one that is missing.
    let bytes = fs::read(file(&good.id)).unwrap();
    let mut changed = bytes.clone();
    let place = changed.len() / 2;
    changed[place] ^= 1;
    fs::write(file(&good.id), &changed).unwrap();
    let found = verify(&client, &good.id).await.unwrap_err();
    assert_eq!(found.code(), Code::DataLoss, "{found:?}");
    assert!(found.message().contains("SHA-256"), "{found:?}");
    fs::write(file(&good.id), &bytes[1..]).unwrap();
    assert!(list(&client).await[0].problem.contains("bytes"), "{:?}", list(&client).await);
    assert_eq!(verify(&client, &good.id).await.unwrap_err().code(), Code::DataLoss);
    fs::write(file(&good.id), &bytes).unwrap();
    verify(&client, &good.id).await.unwrap();
    // What somebody planted: links, a pipe, a file of another program with a manifest that fits its name.
    let planted = |n: u32| format!("20200101T00000{n}Z-00000000");
    let manifest = fs::read_to_string(shelf.path().join(format!("{}.json", good.id))).unwrap();
    let plant = |n: u32| {
        let text = manifest.replace(&good.id, &planted(n));
        fs::write(shelf.path().join(format!("{}.json", planted(n))), text).unwrap();
    };
    symlink("/etc/hostname", shelf.path().join(format!("{}.json", planted(1)))).unwrap();
    plant(2);
    symlink(file(&good.id), file(&planted(2))).unwrap();
    plant(3);
    let pipe = std::process::Command::new("mkfifo").arg(file(&planted(3))).status().unwrap();
    assert!(pipe.success());
    plant(4);
    rusqlite::Connection::open(file(&planted(4)))
        .unwrap()
        .execute_batch("CREATE TABLE t (a)")
        .unwrap();
    let listed = list(&client).await;
    assert_eq!(listed.len(), 5);
    for backup in listed.iter().filter(|backup| backup.id != good.id) {
        assert!(!backup.problem.is_empty(), "{backup:?}");
        let refused = verify(&client, &backup.id).await.unwrap_err();
        assert_eq!(refused.code(), Code::DataLoss, "{refused:?}");
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_left_is_cleared_away_and_what_is_not_ours_is_not() {
    let shelf = tempfile::tempdir().unwrap();
    let id = "20261122T181107Z-1a2b3c4d";
    let left = [
        format!(".{id}.tmp"),
        format!(".{id}.json.tmp"),
        format!(".{id}.trial"),
        format!("{id}.db"),
    ];
    let others = ["notes.txt", "20261122.db", ".hidden.tmp", "my.json"];
    for name in left.iter().map(String::as_str).chain(others) {
        fs::write(shelf.path().join(name), "x").unwrap();
    }
    let server = keeping(shelf.path(), &[]).await;
    let mut expected: Vec<String> = others.iter().map(ToString::to_string).collect();
    expected.sort();
    assert_eq!(files(shelf.path()), expected);
    // Two services do not share a directory; the second one goes on without backups, and says so.
    let second = keeping(shelf.path(), &[]).await;
    let mut client = second.client().await;
    client.record(vec![increment("c", "n", 5.0)]).await;
    let refused = create(&client).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("another healthd keeps its backups"), "{refused:?}");
    let summary = client.query.get_health_summary(v1::GetHealthSummaryRequest::default()).await;
    let service = summary.unwrap().into_inner().service.unwrap();
    assert!(service.backup_error.contains("HEALTH_BACKUP_DIR"), "{service:?}");
    server.stop().await.unwrap();
    create(&client).await.unwrap();
    assert_eq!(client.status().await.backups.unwrap().error, "");
    second.stop().await.unwrap();
}

on_both!(where_none_are_made_that_is_said,);

async fn where_none_are_made_that_is_said(server: Server) {
    let client = server.client().await;
    let why = match server.backend {
        Backend::Sqlite => "HEALTH_BACKUP_ENABLED",
        Backend::Memory => "HEALTH_PERSISTENCE_ENABLED",
    };
    let refused = create(&client).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains(why), "{refused:?}");
    let refused = door(&client).list_backups(v1::ListBackupsRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(server.client().await.status().await.backups.is_none());
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_terminal_backups_are_made_listed_tried_out_and_removed() {
    let shelf = tempfile::tempdir().unwrap();
    let server = keeping(shelf.path(), &["--backup-retention-days=1"]).await;
    server.client().await.record(vec![increment("c", "n", 5.0)]).await;
    let url = format!("http://{}", server.address);
    let run =
        async |words: &[&str]| healthd(&[&["backup"], words, &["--server", &url]].concat()).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        let made = run(&["create", "--json"]).await;
        assert!(made.status.success(), "{}", text(&made.stderr));
        let json: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
        ids.push(json["id"].as_str().unwrap().to_owned());
    }
    let listed = text(&run(&["list"]).await.stdout);
    let lines: Vec<&str> = listed.lines().collect();
    assert!(lines.len() == 5 && lines[1].starts_with(&ids[3]), "{listed}");
    let verified = run(&["verify", &ids[0]]).await;
    assert!(text(&verified.stderr).contains("can be gone on from"), "{}", text(&verified.stderr));
    assert!(!run(&["verify", "../x"]).await.status.success());
    // The first three are as old as nobody can be by a wall clock alone: the service has not lived so long.
    let manifest = |id: &str| -> PathBuf { shelf.path().join(format!("{id}.json")) };
    let aged = |id: &str, incarnation: &str| {
        let mut said: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(manifest(id)).unwrap()).unwrap();
        said["created"] = "2020-01-01T00:00:00Z".into();
        if !incarnation.is_empty() {
            said["incarnation"] = incarnation.into();
        }
        fs::write(manifest(id), said.to_string()).unwrap();
    };
    aged(&ids[0], "");
    aged(&ids[1], "00112233445566778899aabbccddeeff");
    let dry = run(&["cleanup", "--dry-run"]).await;
    assert!(text(&dry.stderr).contains("1 would be removed, 3 stay"), "{}", text(&dry.stderr));
    assert!(manifest(&ids[1]).exists());
    let cleaned = run(&["cleanup"]).await;
    assert!(text(&cleaned.stdout).contains(&ids[1]), "{}", text(&cleaned.stdout));
    assert!(!manifest(&ids[1]).exists() && manifest(&ids[0]).exists());
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_service_goes_on_from_a_backup_as_other_data() {
    let shelf = tempfile::tempdir().unwrap();
    let backups = shelf.path().to_str().unwrap().to_owned();
    let server = keeping(shelf.path(), &[]).await;
    let mut client = server.client().await;
    let numbered = |sequence| v1::RecordRequest {
        metrics: vec![increment("c", "n", 1.0)],
        client_id: "sender".to_owned(),
        epoch: 1,
        sequence,
        wait_durable: true,
    };
    for sequence in 1..=2 {
        client.ingest.record(numbered(sequence)).await.unwrap();
    }
    let (_, backup) = create(&client).await.unwrap();
    client.ingest.record(numbered(3)).await.unwrap();
    let before = client.status().await;
    let path = server.path();
    let database = path.to_str().unwrap().to_owned();
    let restore = async |id: &str| {
        healthd(&["restore", id, "--db-path", &database, "--backup-dir", &backups]).await
    };
    // While the service has them it is refused, and so is what there is not.
    let running = restore(&backup.id).await;
    assert!(!running.status.success());
    assert!(text(&running.stderr).contains("another healthd"), "{}", text(&running.stderr));
    let flags = ["--flush-interval=1h"];
    let mut restored = String::new();
    let server = {
        let (stopped, told) = (server, &mut restored);
        let (id, database, backups) = (backup.id.clone(), database.clone(), backups.clone());
        stopped
            .restart_with(&flags, move |_| {
                let run = |id: &str| {
                    let words = ["restore", id, "--db-path", &database, "--backup-dir", &backups];
                    std::process::Command::new(env!("CARGO_BIN_EXE_healthd"))
                        .args(words)
                        .output()
                        .unwrap()
                };
                for wrong in ["../health", "20261122T181107Z-1a2b3c4d"] {
                    assert!(!run(wrong).status.success());
                }
                let done = run(&id);
                assert!(done.status.success(), "{}", text(&done.stderr));
                *told = text(&done.stdout);
            })
            .await
    };
    assert!(restored.contains(&backup.id), "{restored}");
    let mut client = server.client().await;
    assert_eq!(client.current("c").await["n"], 2.0, "as of the backup");
    let after = client.status().await;
    assert_ne!(after.incarnation, before.incarnation);
    let seq = |status: &v1::GetStatusResponse| status.storage.as_ref().unwrap().flush_seq;
    assert!(seq(&after) > seq(&before), "flushes are above those of both");
    // A client that was told that 3 is durable learns that it is lost, and 4 counts.
    let hello =
        v1::Hello { client_id: "sender".to_owned(), epoch: 1, last_sent: 3, first_retained: 4 };
    let opening = v1::IngestRequest { hello: Some(hello), ..Default::default() };
    let acks = client.stream(vec![opening]).await.unwrap();
    let welcome = acks.into_iter().find_map(|ack| ack.welcome).unwrap();
    assert_eq!((welcome.lost_from, welcome.lost_to, welcome.accepted_through), (3, 3, 3));
    // What was there is put aside, whole.
    let aside = fs::read_dir(format!("{database}.quarantine")).unwrap().next().unwrap().unwrap();
    let query = "select sum(value) as n from metrics";
    let aside = aside.path().join("health.db");
    let asked = healthd(&["sql", query, "--db-path", aside.to_str().unwrap()]).await;
    assert!(text(&asked.stdout).contains('3'), "{}", text(&asked.stdout));
    server.stop().await.unwrap();
}
