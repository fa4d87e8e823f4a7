//! Compiles what a client needs of the contract.

use std::error::Error;

const PROTO: &str = "../../proto";
/// A build for tests only, with locks that choose who goes on; see src/sync.rs.
const SHUTTLE: &str = "HEALTHD_SHUTTLE";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO}");
    println!("cargo::rerun-if-env-changed={SHUTTLE}");
    println!("cargo::rustc-check-cfg=cfg(shuttle)");
    if std::env::var_os(SHUTTLE).is_some() {
        println!("cargo::rustc-cfg=shuttle");
    }
    let descriptors = protox::compile(["healthd/v1/ingest_service.proto"], [PROTO])?;
    tonic_prost_build::configure().build_server(false).compile_fds(descriptors)?;
    Ok(())
}
