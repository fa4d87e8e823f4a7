//! Compiles proto/ to Rust with protox, which is pure Rust: no protoc is needed.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let services = ["ingest", "query", "admin"].map(|s| format!("healthd/v1/{s}_service.proto"));
    // Comments and imports stay in: server reflection is the manual that a grpcurl user reads.
    let descriptors = protox::compile(services, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("healthd.bin"), prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure().btree_map(".").compile_fds(descriptors)?;
    Ok(())
}
