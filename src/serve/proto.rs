//! The contract as Rust: what build.rs makes of proto/. Clients in Rust may use it too.

/// Descriptors of all files, comments included.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/healthd.bin"));

/// Package `healthd.v1`.
#[allow(
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    missing_docs,
    unreachable_pub,
    reason = "generated from proto/"
)]
pub mod v1 {
    tonic::include_proto!("healthd.v1");
}

/// The server of `healthd.v1.IngestService` whose requests come as their bytes.
#[allow(
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    missing_docs,
    unreachable_pub,
    reason = "generated from proto/"
)]
pub(super) mod ingest {
    include!(concat!(env!("OUT_DIR"), "/ingest/healthd.v1.rs"));
}
