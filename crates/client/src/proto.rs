//! The contract as Rust: what build.rs makes of proto/.

#[allow(
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "generated from proto/"
)]
pub(crate) mod v1 {
    tonic::include_proto!("healthd.v1");
}
