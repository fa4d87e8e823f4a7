//! `healthd backup`: makes, lists, tries out and removes backups of a running service.

use super::Server;
use super::table::Table;
use crate::serve::proto::v1;
use crate::serve::{Peer, to_json, words};
use clap::{Parser, Subcommand};
use indicatif::{HumanBytes, ProgressBar};
use std::io::{IsTerminal, Write};
use std::time::Duration;

/// Make, list, try out and remove backups of a running service
#[derive(Clone, Debug, Parser)]
pub struct Backup {
    #[command(subcommand)]
    what: What,

    /// The service
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:4317", global = true)]
    server: String,

    /// The answer as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Make one now of all that was accepted, and prove it
    Create,
    /// Say which there are, the newest first
    List,
    /// Try whether one can be gone on from: read all of it, and open a copy of it
    Verify {
        /// Its name, such as 20261122T181107Z-1a2b3c4d
        id: String,
    },
    /// Remove those that are too old
    Cleanup {
        /// Only say which
        #[arg(long)]
        dry_run: bool,
    },
}

impl Backup {
    pub(super) fn run(self, out: &mut impl Write) -> anyhow::Result<()> {
        let json = self.json;
        // However long it takes: the service tells how far it is, or fails.
        let server = Server { server: self.server, timeout: Duration::MAX };
        match self.what {
            What::Create => {
                let bar = if std::io::stderr().is_terminal() {
                    ProgressBar::new_spinner()
                } else {
                    ProgressBar::hidden()
                };
                bar.enable_steady_tick(Duration::from_millis(100));
                let tell = |stage| bar.set_message(words::backup_stage(stage));
                let made = server.ask(async |mut peer: Peer| peer.create_backup(tell).await)?;
                bar.finish_and_clear();
                let json = json.then(|| to_json("healthd.v1.Backup", &made)).transpose()?;
                print(json, vec![made], out)
            }
            What::List => {
                let listed = server.ask(async |mut peer: Peer| peer.list_backups().await)?;
                let json = json.then(|| to_json("healthd.v1.ListBackupsResponse", &listed));
                print(json.transpose()?, listed.backups, out)
            }
            What::Verify { id } => {
                let verified = server.ask(async |mut peer: Peer| peer.verify_backup(id).await)?;
                let json = json.then(|| to_json("healthd.v1.Backup", &verified)).transpose()?;
                print(json, vec![verified], out)?;
                writeln!(std::io::stderr(), "it is whole, and can be gone on from")?;
                Ok(())
            }
            What::Cleanup { dry_run } => {
                let cleaned =
                    server.ask(async |mut peer: Peer| peer.cleanup_backups(dry_run).await)?;
                let json = json.then(|| to_json("healthd.v1.CleanupBackupsResponse", &cleaned));
                let verb = if dry_run { "would be removed" } else { "removed" };
                let (removed, kept) = (cleaned.removed.len(), cleaned.kept);
                print(json.transpose()?, cleaned.removed, out)?;
                writeln!(std::io::stderr(), "{removed} {verb}, {kept} stay")?;
                Ok(())
            }
        }
    }
}

/// Prints the JSON, if it is that, or else the backups.
fn print(
    json: Option<String>,
    backups: Vec<v1::Backup>,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    if let Some(json) = json {
        writeln!(out, "{json}")?;
        return Ok(());
    }
    if backups.is_empty() {
        return Ok(());
    }
    let mut table =
        Table::new(vec!["backup", "why", "size", "folds", "oldest", "newest", "problem"]);
    for backup in backups {
        table.add(vec![
            backup.id.clone(),
            words::backup_trigger(backup.trigger()).to_owned(),
            HumanBytes(backup.bytes).to_string(),
            backup.folds.to_string(),
            words::time(backup.oldest.as_ref()),
            words::time(backup.newest.as_ref()),
            backup.problem.clone(),
        ]);
    }
    table.print(out)?;
    Ok(())
}
