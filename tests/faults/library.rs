//! The client is killed: an application that sends with the client library and a spill file.
//!
//! What the library said to be kept must be counted once, and nothing more than once. Each sample adds
//! another power of four, so a total tells which are in it, and how often.

use crate::net::{Carriage, Proxy};
use crate::rig::{Random, Settings};
use crate::server::Server;
use clap::Args;
use healthd::serve::proto::v1;
use healthd::serve::proto::v1::query_service_client::QueryServiceClient;
use healthd_client::{Client, Report};
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

const COMPONENT: &str = "app";
/// Powers of four that a sum holds exactly.
const IN_ONE: u32 = 26;

#[derive(Args, Clone)]
pub(crate) struct Sender {
    /// The server
    #[arg(long)]
    address: String,
    /// The spill file
    #[arg(long)]
    spill: PathBuf,
    /// Which life of the application this is
    #[arg(long)]
    life: u32,
}

/// The application: records, and says what is kept, until it is killed. Life 0 only sends what is there.
pub(crate) async fn send(sender: Sender) -> bool {
    let Sender { address, spill, life } = sender;
    let settings = healthd_client::Settings {
        address,
        component: COMPONENT.to_owned(),
        interval: Duration::from_millis(20),
        spill: Some(spill),
        ..healthd_client::Settings::default()
    };
    let health = Client::new(&settings).unwrap();
    if life == 0 {
        health.flush().await.unwrap();
        let report = health.close(Duration::from_secs(10)).await;
        let Report { pending_requests, uncertain_requests, reverted_requests, .. } = report;
        return (pending_requests, uncertain_requests, reverted_requests) == (0, 0, 0);
    }
    let say = |word: &str, n: u32| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{word} {n}").unwrap();
        out.flush().unwrap();
    };
    for n in 0.. {
        say("begun", n);
        health.incr(&series(life, n), 4f64.powi((n % IN_ONE) as i32));
        health.keep().await.unwrap();
        say("kept", n);
    }
    true
}

fn series(life: u32, n: u32) -> String {
    format!("life_{life}_{}", n / IN_ONE)
}

/// How many samples a life began and how many it was told to be kept.
#[derive(Clone, Copy, Default)]
struct Ledger {
    begun: u32,
    kept: u32,
}

fn start(address: &str, spill: &Path, life: u32) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["sender", "--address", address, "--life", &life.to_string()]);
    command.arg("--spill").arg(spill).stdout(Stdio::piped()).kill_on_drop(true);
    command.spawn().unwrap()
}

/// Lets an application live for this long; gives what it said.
async fn live(mut child: Child, span: Duration) -> Ledger {
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut reading = JoinSet::new();
    reading.spawn(async move {
        let mut ledger = Ledger::default();
        while let Some(line) = said.next_line().await.unwrap() {
            match line.split_once(' ') {
                Some(("begun", n)) => ledger.begun = n.parse::<u32>().unwrap() + 1,
                Some(("kept", n)) => ledger.kept = n.parse::<u32>().unwrap() + 1,
                // The line in which it was killed.
                _ => {}
            }
        }
        ledger
    });
    tokio::time::sleep(span).await;
    child.kill().await.unwrap();
    reading.join_next().await.unwrap().unwrap()
}

pub(crate) async fn library(settings: Settings) -> bool {
    println!("library: {} cycles, seed {}", settings.cycles, settings.seed);
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (database, spill) = (directory.path().join("health.db"), directory.path().join("spill"));
    let mut random = Random(settings.seed);
    let proxy = Proxy::start(Carriage::Faithful, random.clone()).await;
    let address = format!("http://{}", proxy.address);
    let mut server = Server::start(&database).await;
    proxy.lead_to(Some(server.address));
    let mut ledgers = Vec::new();
    for life in 1..=settings.cycles {
        let child = start(&address, &spill, life);
        // Some lives are over before the server is reached, and in some it goes as well.
        let span = Duration::from_millis(20 + random.below(300));
        if life % 5 == 0 {
            let (ledger, ()) = tokio::join!(live(child, span), async {
                tokio::time::sleep(span / 2).await;
                server.kill().await;
            });
            ledgers.push(ledger);
            server = Server::start(&database).await;
            proxy.lead_to(Some(server.address));
        } else {
            ledgers.push(live(child, span).await);
        }
    }
    let last = start(&address, &spill, 0).wait().await.unwrap();
    let (mut passed, mut failed) = (0, u32::from(!last.success()));
    let totals = totals(&server).await;
    for (life, ledger) in (1..).zip(&ledgers) {
        let mut wrong = None;
        for n in 0..ledger.begun.next_multiple_of(IN_ONE) {
            let total = totals.get(&series(life, n)).copied().unwrap_or_default();
            let times = (total / 4f64.powi((n % IN_ONE) as i32)) as u64 % 4;
            if times > u64::from(n < ledger.begun) || times < u64::from(n < ledger.kept) {
                wrong = Some((n, times));
            }
        }
        match wrong {
            None => passed += 1,
            Some((n, times)) => {
                let Ledger { begun, kept } = ledger;
                println!("life {life}: {kept} of {begun} kept, and {n} is counted {times} times");
                failed += 1;
            }
        }
    }
    server.kill().await;
    let sum = |of: fn(&Ledger) -> u32| ledgers.iter().map(of).sum::<u32>();
    let (begun, kept) = (sum(|ledger| ledger.begun), sum(|ledger| ledger.kept));
    println!("library: {begun} samples recorded, {kept} said to be kept");
    assert!(kept > 0, "nothing was kept");
    println!("library: {passed} passed, {failed} failed");
    failed == 0
}

async fn totals(server: &Server) -> HashMap<String, f64> {
    let endpoint = tonic::transport::Channel::from_shared(format!("http://{}", server.address));
    let mut query = QueryServiceClient::new(endpoint.unwrap().connect().await.unwrap());
    let (mut totals, mut page_token) = (HashMap::new(), String::new());
    loop {
        let component = COMPONENT.to_owned();
        let request = v1::GetCurrentRequest { component, page_token, ..Default::default() };
        let page = query.get_current(request).await.unwrap().into_inner();
        for series in page.series {
            if let Some(v1::current_series::Value::Total(total)) = series.value {
                totals.insert(series.name, total);
            }
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return totals;
        }
    }
}
