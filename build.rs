//! Compiles proto/ to Rust with protox, which is pure Rust: no protoc is needed.

use std::{env, error::Error, fs, path::PathBuf};

const INGEST: &str = "healthd/v1/ingest_service.proto";

/// Builds for tests only: with planted faults (src/canary.rs), and with locks that choose who goes on
/// (src/state/sync.rs).
const BUILDS: [(&str, &str); 2] = [("HEALTHD_CANARY", "canary"), ("HEALTHD_SHUTTLE", "shuttle")];

fn main() -> Result<(), Box<dyn Error>> {
    for (variable, cfg) in BUILDS {
        println!("cargo::rerun-if-env-changed={variable}");
        println!("cargo::rustc-check-cfg=cfg({cfg})");
        if env::var_os(variable).is_some() {
            println!("cargo::rustc-cfg={cfg}");
        }
    }
    println!("cargo::rerun-if-changed=proto");
    let others =
        ["query", "admin", "backup"].map(|name| format!("healthd/v1/{name}_service.proto"));
    let files = others.into_iter().chain([INGEST.to_owned()]);
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
