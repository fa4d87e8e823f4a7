//! Compiles proto/ to Rust with protox, which is pure Rust: no protoc is needed.

use std::{env, error::Error, fs, path::PathBuf};

const INGEST: &str = "healthd/v1/ingest_service.proto";

/// Plants faults for the rig of faults to catch; see src/canary.rs.
const CANARY: &str = "HEALTHD_CANARY";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed={CANARY}");
    println!("cargo::rustc-check-cfg=cfg(canary)");
    if env::var_os(CANARY).is_some() {
        println!("cargo::rustc-cfg=canary");
    }
    println!("cargo::rerun-if-changed=proto");
    let files = [INGEST, "healthd/v1/query_service.proto", "healthd/v1/admin_service.proto"];
    // Comments and imports stay in: server reflection is the manual that a grpcurl user reads.
    let mut descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("healthd.bin"), prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure().btree_map(".").compile_fds(descriptors.clone())?;
    // The server of streams once more: it reads requests by itself, from their bytes.
    descriptors.file.retain(|file| file.name.as_deref() == Some(INGEST));
    let ingest = out.join("ingest");
    fs::create_dir_all(&ingest)?;
    tonic_prost_build::configure()
        .build_client(false)
        .out_dir(ingest)
        .extern_path(".healthd.v1", "crate::serve::proto::v1")
        .extern_path(".healthd.v1.IngestRequest", "crate::serve::wire::Wire")
        .compile_fds(descriptors)?;
    Ok(())
}
