//! The network fails: a proxy that delays what it carries and cuts connections at any byte.

use crate::client::Manner;
use crate::rig::{Random, Rig, Settings};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How bytes are carried.
#[derive(Clone, Copy)]
pub(crate) enum Carriage {
    /// As they come.
    Faithful,
    /// Some late, and at most so many.
    Unreliable,
}

/// One address, whichever server is behind it.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    target: watch::Sender<Option<SocketAddr>>,
    cuts: Arc<AtomicU64>,
    _serving: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn start(carriage: Carriage, random: Random) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (target, targets) = watch::channel(None);
        let cuts = Arc::default();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, targets, carriage, random, Arc::clone(&cuts)));
        Self { address, target, cuts, _serving: serving }
    }

    pub(crate) fn lead_to(&self, server: Option<SocketAddr>) {
        self.target.send_replace(server);
    }

    fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::SeqCst)
    }
}

async fn serve(
    listener: TcpListener,
    targets: watch::Receiver<Option<SocketAddr>>,
    carriage: Carriage,
    mut random: Random,
    cuts: Arc<AtomicU64>,
) {
    let mut carrying = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        while carrying.try_join_next().is_some() {}
        let Some(server) = *targets.borrow() else { continue };
        let Ok(server) = TcpStream::connect(server).await else { continue };
        let random = Random(random.below(1 << 31));
        let cuts = cuts.clone();
        carrying.spawn(async move {
            carry(client, server, carriage, random).await;
            cuts.fetch_add(1, Ordering::SeqCst);
        });
    }
}

/// Carries both ways until one end is gone, or the connection has carried what it may.
async fn carry(client: TcpStream, server: TcpStream, carriage: Carriage, mut random: Random) {
    let mut left = match carriage {
        Carriage::Faithful => u64::MAX,
        // As often within the greeting as within megabytes.
        Carriage::Unreliable => {
            let magnitude = random.below(18);
            random.below(2 << magnitude)
        }
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (mut up, mut down) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    while left > 0 {
        let (bytes, to) = tokio::select! {
            read = from_client.read(&mut up) => (read.map(|read| &up[..read]), &mut to_server),
            read = from_server.read(&mut down) => (read.map(|read| &down[..read]), &mut to_client),
        };
        let Ok(bytes @ [_, ..]) = bytes else { return };
        if matches!(carriage, Carriage::Unreliable) && random.below(8) == 0 {
            tokio::time::sleep(Duration::from_millis(random.below(5))).await;
        }
        let carried = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if to.write_all(&bytes[..carried]).await.is_err() {
            return;
        }
        left -= carried as u64;
    }
}

pub(crate) async fn cuts(settings: Settings) -> bool {
    let manner = Manner { doubles: 7, ..Manner::default() };
    let mut rig = Rig::with("cuts", settings, manner);
    let database = rig.database();
    let proxy = Proxy::start(Carriage::Unreliable, rig.random.clone()).await;
    for part in 1..=10 {
        let server = rig.checked(&database, &format!("part {part}")).await;
        proxy.lead_to(Some(server.address));
        rig.clients.stream_to(proxy.address);
        while proxy.cuts() < u64::from(settings.cycles) * part / 10 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        proxy.lead_to(None);
        rig.kill(server).await;
    }
    println!("cuts: {} connections cut, {} streams opened", proxy.cuts(), rig.clients.streams());
    rig.end(&database).await
}
