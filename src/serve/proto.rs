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
