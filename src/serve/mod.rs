//! The doors: gRPC services on one port. They convert, and have no verb of their own.
//!
//! A door that is told to stop ends what it does with an answer: the last ack of a stream, or
//! UNAVAILABLE with the time after which to come back.

mod acks;
mod admin;
mod answers;
mod ask;
mod backup;
mod call;
mod carry;
mod convert;
mod drain;
mod export;
mod feed;
mod ingest;
mod linger;
mod page;
pub mod proto;

pub use ask::{Interrupted, Peer, to_json};
pub use export::{COMPONENT_LABEL, METRIC_LABEL, fitting_name};
pub use feed::{Feed, FeedError};
pub use wire::{Malformed, Reading};
mod query;
mod status;
mod summary;
mod watch;
mod wire;
pub mod words;

use crate::engine::Engine;
use linger::Lingering;
use proto::ingest::ingest_service_server::IngestServiceServer;
use proto::v1::admin_service_server::AdminServiceServer;
use proto::v1::backup_service_server::BackupServiceServer;
use proto::v1::query_service_server::QueryServiceServer;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::codec::CompressionEncoding::{Gzip, Zstd};
use tonic::service::Routes;
use tonic::transport::server::{Server, TcpIncoming};
use tonic_health::ServingStatus;

const MAX_ANSWERS: NonZeroUsize = NonZeroUsize::new(32).expect("above 0");
const MAX_WATCHES: NonZeroUsize = NonZeroUsize::new(100).expect("above 0");
const MAX_MESSAGE_BYTES: NonZeroUsize = NonZeroUsize::new(16 << 20).expect("above 0");

/// What the doors may be told.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Config {
    /// The address of the one port. Port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:4317", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,

    /// Listen on an address that others can reach, though nothing is encrypted and nobody is asked
    /// who they are
    #[arg(
        long,
        default_value_t = false,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub insecure: bool,

    /// The largest message that is taken, after decompression
    #[arg(long, default_value_t = MAX_MESSAGE_BYTES, value_name = "BYTES")]
    pub max_message_bytes: NonZeroUsize,

    /// The most calls and streams at once on one connection
    #[arg(
        long,
        default_value_t = 1024,
        value_name = "STREAMS",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub max_streams: u32,

    /// The most answers of Extract that are in memory at once, and the most of Sql; more wait for a turn.
    /// An answer of Extract takes a few megabytes, one of Sql at most 32
    #[arg(long, default_value_t = MAX_ANSWERS, value_name = "ANSWERS")]
    pub max_answers: NonZeroUsize,

    /// The most clients that watch at once
    #[arg(long, default_value_t = MAX_WATCHES, value_name = "CLIENTS")]
    pub max_watches: NonZeroUsize,
}

/// How often a silent connection is asked whether it lives, and how long it may take to answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// How much a client may send ahead on one stream, and on all streams of a connection. Streams that
/// are held back keep theirs full; so many of them leave room for other calls beside them.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 64 * STREAM_WINDOW;

/// The doors, bound to their port.
pub struct Doors {
    listener: TcpListener,
    address: SocketAddr,
    config: Config,
}

impl Doors {
    /// Binds the port. An address that others can reach is refused unless that is asked for.
    pub async fn bind(config: Config) -> std::io::Result<Self> {
        if !config.listen.ip().is_loopback() && !config.insecure {
            return Err(std::io::Error::other(
                "others can reach it, and there is no TLS; listen on 127.0.0.1, or set \
                 HEALTH_INSECURE=true if the network protects it",
            ));
        }
        let listener = TcpListener::bind(config.listen).await?;
        Ok(Self { address: listener.local_addr()?, listener, config })
    }

    /// Where they are.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until told to stop, then until what is in flight has ended.
    pub async fn run(self, engine: Arc<Engine>, stop: CancellationToken) -> anyhow::Result<()> {
        let tasks = TaskTracker::new();
        let (health, health_service) = tonic_health::server::health_reporter();
        let max = self.config.max_message_bytes.get();
        let ingest = ingest::Service::new(engine.clone(), stop.clone(), tasks.clone(), max);
        let query = query::Service::new(
            engine.clone(),
            stop.clone(),
            tasks.clone(),
            (self.config.max_answers.get(), self.config.max_watches.get()),
        );
        let read_only = engine.read_only().is_some();
        let admin = admin::Service::new(engine.clone(), stop.clone(), tasks.clone());
        let backup = backup::Service::new(engine, stop.clone(), tasks.clone());
        // Each service is told the same, and their types have nothing in common that could be told.
        let routes = Routes::new(
            IngestServiceServer::new(ingest)
                .accept_compressed(Gzip)
                .accept_compressed(Zstd)
                .send_compressed(Gzip)
                .send_compressed(Zstd)
                .max_decoding_message_size(max),
        )
        .add_service(
            QueryServiceServer::new(query)
                .accept_compressed(Gzip)
                .accept_compressed(Zstd)
                .send_compressed(Gzip)
                .send_compressed(Zstd)
                .max_decoding_message_size(max),
        )
        .add_service(
            AdminServiceServer::new(admin)
                .accept_compressed(Gzip)
                .accept_compressed(Zstd)
                .send_compressed(Gzip)
                .send_compressed(Zstd)
                .max_decoding_message_size(max),
        )
        .add_service(
            BackupServiceServer::new(backup)
                .accept_compressed(Gzip)
                .accept_compressed(Zstd)
                .send_compressed(Gzip)
                .send_compressed(Zstd)
                .max_decoding_message_size(max),
        )
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
        let services = ["QueryService", "AdminService", "BackupService"]
            .map(|name| format!("healthd.v1.{name}"));
        // The whole of it serves when samples are taken in.
        let whole = ["", "healthd.v1.IngestService"].map(str::to_owned);
        let takes_in = if read_only { ServingStatus::NotServing } else { ServingStatus::Serving };
        for service in &services {
            health.set_service_status(service, ServingStatus::Serving).await;
        }
        for service in &whole {
            health.set_service_status(service, takes_in).await;
        }
        let draining = drain::Draining::new(stop.clone());
        let router = routes
            .into_axum_router()
            .reset_fallback()
            .fallback(call::unknown)
            .layer(tower::layer::layer_fn(move |inner| draining.clone().around(inner)))
            .layer(tower::layer::layer_fn(move |inner| call::Calls::new(inner, max)));
        let stopping = async move {
            stop.cancelled().await;
            for service in services.into_iter().chain(whole) {
                health.set_service_status(service, ServingStatus::NotServing).await;
            }
        };
        Server::builder()
            .accept_http1(true)
            .http2_keepalive_interval(Some(KEEPALIVE.0))
            .http2_keepalive_timeout(Some(KEEPALIVE.1))
            .max_concurrent_streams(self.config.max_streams)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .add_routes(Routes::from(router))
            .serve_with_incoming_shutdown(incoming(self.listener), stopping)
            .await?;
        tasks.close();
        tasks.wait().await;
        Ok(())
    }
}

/// Connections without Nagle's algorithm, with which a call takes 40 ms longer. The server's own
/// setting for it does not reach a listener that it is given.
fn incoming(listener: TcpListener) -> impl Stream<Item = std::io::Result<Lingering>> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    incoming.map(|stream| stream.map(Lingering::new))
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // So that grpcurl can show the details of errors.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_are_without_nagles_algorithm() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut incoming = std::pin::pin!(incoming(listener));
        let accepted = incoming.next().await.unwrap().unwrap();
        assert!(accepted.nodelay().unwrap());
        drop(client);
    }
}
