//! Clients that stream with sessions and write down what they are told, and the check of it.

use healthd::serve::proto::v1;
use healthd::serve::proto::v1::admin_service_client::AdminServiceClient;
use healthd::serve::proto::v1::ingest_service_client::IngestServiceClient;
use healthd::serve::proto::v1::metric::Value;
use healthd::serve::proto::v1::query_service_client::QueryServiceClient;
use healthd::serve::proto::v1::sql_value::Kind;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Series of a client: they lie in several shards.
const SERIES: u64 = 8;
/// How the clients send.
#[derive(Clone, Copy)]
pub(crate) struct Manner {
    /// Requests that may be on their way and not durable.
    pub(crate) ahead: u64,
    /// Of so many requests one is sent twice; 0: none.
    pub(crate) doubles: u64,
}

impl Default for Manner {
    fn default() -> Self {
        Self { ahead: 500, doubles: 0 }
    }
}

/// What a request adds to a series: no two requests add the same to all.
fn increment(sequence: u64, series: u64) -> u64 {
    1 + (sequence * (2 * series + 1) + series) % 1009
}

fn request(client: usize, sequence: u64) -> v1::IngestRequest {
    let metric = |series| v1::Metric {
        component: name(client),
        name: format!("s{series}"),
        value: Some(Value::Increment(increment(sequence, series) as f64)),
        ..Default::default()
    };
    v1::IngestRequest { sequence, metrics: (0..SERIES).map(metric).collect(), ..Default::default() }
}

fn name(client: usize) -> String {
    format!("client_{client}")
}

/// What a client knows for certain.
struct Ledger {
    client: usize,
    file: parking_lot::Mutex<File>,
    manner: Manner,
    /// What it was told to be durable, and to be accepted.
    durable: AtomicU64,
    accepted: AtomicU64,
    /// How often it opened a stream.
    streams: AtomicU64,
    /// How often it was told something that cannot be.
    complaints: AtomicU64,
}

impl Ledger {
    fn note(&self, durable: u64) {
        if self.durable.fetch_max(durable, Ordering::SeqCst) < durable {
            writeln!(self.file.lock(), "{durable}").unwrap();
        }
    }

    fn complain(&self, of: &str) {
        // Who has a reason may have it again and again.
        if self.complaints.fetch_add(1, Ordering::SeqCst) < 3 {
            println!("{}: {of}", name(self.client));
        }
    }
}

/// All clients.
pub(crate) struct Clients {
    ledgers: Vec<Arc<Ledger>>,
    address: watch::Sender<Option<SocketAddr>>,
    tasks: JoinSet<()>,
}

impl Clients {
    pub(crate) fn start(count: usize, manner: Manner, directory: &Path) -> Self {
        let (address, told) = watch::channel(None);
        let mut tasks = JoinSet::new();
        let ledgers = (0..count).map(|client| {
            let file = File::create(directory.join(format!("ledger_{client}"))).unwrap();
            let [durable, accepted, streams, complaints] = Default::default();
            let file = parking_lot::Mutex::new(file);
            Arc::new(Ledger { client, file, manner, durable, accepted, streams, complaints })
        });
        let ledgers: Vec<_> = ledgers.collect();
        for ledger in &ledgers {
            tasks.spawn(run(ledger.clone(), told.clone()));
        }
        Self { ledgers, address, tasks }
    }

    pub(crate) fn stream_to(&self, address: SocketAddr) {
        self.address.send_replace(Some(address));
    }

    /// Lets them wait for the next server. Those in the middle of something find out by themselves.
    pub(crate) fn pause(&self) {
        self.address.send_replace(None);
    }

    pub(crate) async fn stop(mut self) {
        self.tasks.shutdown().await;
    }

    fn sum(&self, of: impl Fn(&Ledger) -> &AtomicU64) -> u64 {
        self.ledgers.iter().map(|ledger| of(ledger).load(Ordering::SeqCst)).sum()
    }

    pub(crate) fn durable(&self) -> u64 {
        self.sum(|ledger| &ledger.durable)
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.sum(|ledger| &ledger.accepted)
    }

    /// How many streams they opened.
    pub(crate) fn streams(&self) -> u64 {
        self.sum(|ledger| &ledger.streams)
    }

    pub(crate) fn complaints(&self) -> u64 {
        self.sum(|ledger| &ledger.complaints)
    }

    /// Whether a server that nobody streams to holds what it must, and no more.
    pub(crate) async fn check(&mut self, address: SocketAddr) -> Result<(), String> {
        self.check_since(address, &self.told()).await
    }

    /// What each of them was told to be durable by now.
    pub(crate) fn told(&self) -> Vec<u64> {
        self.ledgers.iter().map(|ledger| ledger.durable.load(Ordering::SeqCst)).collect()
    }

    /// The same for a server that must hold no more than what was durable at some moment.
    pub(crate) async fn check_since(
        &self,
        address: SocketAddr,
        told: &[u64],
    ) -> Result<(), String> {
        let channel = connect(address).await.map_err(|error| format!("no connection: {error}"))?;
        for (ledger, told) in self.ledgers.iter().zip(told.iter().copied()) {
            let client_id = name(ledger.client);
            let request = v1::GetSessionRequest { client_id: client_id.clone() };
            let session = IngestServiceClient::new(channel.clone()).get_session(request).await;
            let mark = match session {
                Ok(session) => session.into_inner().accepted_through,
                Err(status) if status.code() == Code::NotFound => 0,
                Err(status) => return Err(format!("{client_id}: {status}")),
            };
            if mark < told {
                return Err(format!(
                    "{client_id}: lost: durable through {told}, and there is {mark}"
                ));
            }
            let request =
                v1::GetCurrentRequest { component: client_id.clone(), ..Default::default() };
            let current = QueryServiceClient::new(channel.clone()).get_current(request).await;
            let mut found = vec![0.0; SERIES as usize];
            for series in current.map_err(|status| status.to_string())?.into_inner().series {
                let place: usize = series.name[1..].parse().unwrap();
                if let Some(v1::current_series::Value::Total(total)) = series.value {
                    found[place] = total;
                }
            }
            let sum = |series| (1..=mark).map(|n| increment(n, series)).sum::<u64>() as f64;
            let expected: Vec<f64> = (0..SERIES).map(sum).collect();
            let history = history(&channel, &client_id).await?;
            for (found, what) in [(found, "totals"), (history, "history")] {
                if found != expected {
                    return Err(format!(
                        "{client_id}: requests up to {mark} come to {expected:?}, and the {what} to \
                         {found:?}"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// What the stored increments of a client come to.
async fn history(channel: &Channel, client_id: &str) -> Result<Vec<f64>, String> {
    let query = format!(
        "SELECT name, sum(value) FROM metrics WHERE component = '{client_id}' GROUP BY name"
    );
    let request = v1::SqlRequest { query, ..Default::default() };
    let rows = QueryServiceClient::new(channel.clone()).sql(request).await;
    let mut rows = rows.map_err(|status| status.to_string())?.into_inner();
    let mut sums = vec![0.0; SERIES as usize];
    while let Some(part) = rows.message().await.map_err(|status| status.to_string())? {
        for row in part.rows {
            let values: Vec<Kind> = row.values.into_iter().filter_map(|value| value.kind).collect();
            let [Kind::Text(name), Kind::Real(sum)] = &values[..] else {
                return Err(format!("a row is not a name and a sum: {values:?}"));
            };
            sums[name[1..].parse::<usize>().unwrap()] = *sum;
        }
    }
    Ok(sums)
}

/// The server's own account of how it is, after questions that it must be able to answer.
pub(crate) async fn ask(address: SocketAddr) -> Result<v1::GetStatusResponse, String> {
    let failed = |status: Status| status.to_string();
    let channel = connect(address).await.map_err(|error| error.to_string())?;
    let mut query = QueryServiceClient::new(channel.clone());
    query.get_current(v1::GetCurrentRequest::default()).await.map_err(failed)?;
    let request = v1::ExtractRequest { component: name(0), ..Default::default() };
    let mut points = query.extract(request).await.map_err(failed)?.into_inner();
    while points.message().await.map_err(failed)?.is_some() {}
    let status = AdminServiceClient::new(channel).get_status(v1::GetStatusRequest {}).await;
    Ok(status.map_err(failed)?.into_inner())
}

async fn connect(address: SocketAddr) -> Result<Channel, tonic::transport::Error> {
    Channel::from_shared(format!("http://{address}")).unwrap().connect().await
}

/// Streams to whatever server there is, until it is stopped.
async fn run(ledger: Arc<Ledger>, mut told: watch::Receiver<Option<SocketAddr>>) {
    let (mut epoch, mut sent) = (0, 0);
    loop {
        let Ok(address) = told.wait_for(Option::is_some).await.map(|address| address.unwrap())
        else {
            return;
        };
        epoch += 1;
        let ended = stream(&ledger, address, epoch, &mut sent).await;
        if let Err(status) = ended
            && !matches!(
                status.code(),
                Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal
            )
        {
            ledger.complain(&format!("the stream ended: {status}"));
        }
        // The server is gone, or is about to be noticed to be.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn stream(
    ledger: &Ledger,
    address: SocketAddr,
    epoch: u64,
    sent: &mut u64,
) -> Result<(), Status> {
    let gone = |error: tonic::transport::Error| Status::unavailable(error.to_string());
    let mut client = IngestServiceClient::new(connect(address).await.map_err(gone)?);
    let (sender, requests) = mpsc::channel(16);
    let durable = ledger.durable.load(Ordering::SeqCst);
    let hello = v1::Hello {
        client_id: name(ledger.client),
        epoch,
        last_sent: *sent,
        first_retained: if *sent == 0 { 0 } else { durable + 1 },
    };
    let opening = v1::IngestRequest { hello: Some(hello), ..Default::default() };
    sender.send(opening).await.unwrap();
    let mut acks = client.ingest(ReceiverStream::new(requests)).await?.into_inner();
    let welcome = loop {
        match acks.message().await? {
            Some(ack) if ack.welcome.is_some() => break ack.welcome.unwrap(),
            Some(_) => {}
            None => return Ok(()),
        }
    };
    if welcome.durable_through < durable || welcome.lost_from > 0 {
        ledger.complain(&format!("{durable} was durable, and now there is {welcome:?}"));
    }
    let mut next = welcome.accepted_through + 1;
    let (mut through, mut doubled) = (welcome.durable_through, 0);
    let Manner { ahead, doubles } = ledger.manner;
    ledger.streams.fetch_add(1, Ordering::SeqCst);
    loop {
        tokio::select! {
            ack = acks.message() => {
                let Some(ack) = ack? else { return Ok(()) };
                if ack.rejected_count > 0 {
                    ledger.complain(&format!("refused: {ack:?}"));
                }
                through = through.max(ack.durable_through);
                ledger.accepted.fetch_max(ack.accepted_through, Ordering::SeqCst);
                ledger.note(through);
            }
            room = sender.reserve(), if next <= through + ahead => {
                let Ok(room) = room else { return Ok(()) };
                room.send(request(ledger.client, next));
                *sent = next.max(*sent);
                // A double is sent when its turn to be sent again comes.
                let again = doubles > 0 && next % doubles == 0 && next > doubled;
                doubled = next.max(doubled);
                next += u64::from(!again);
            }
        }
    }
}
