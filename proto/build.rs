//! Compiles the contract with a protobuf compiler written in Rust, so that no
//! `protoc` is needed on the machine.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=pgportage");
    let mut files: Vec<PathBuf> =
        fs::read_dir("pgportage/v1")?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.sort(); // `read_dir` has no order, and builds must repeat.
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_source_info(true).include_imports(true).open_files(files)?;
    let descriptor = PathBuf::from(env::var("OUT_DIR")?).join("pgportage.bin");
    fs::write(descriptor, compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        .bytes(".pgportage.v1.AcceptRelayRequest")
        .bytes(".pgportage.v1.AcceptRelayResponse")
        .bytes(".pgportage.v1.CopyRangeResponse")
        .bytes(".pgportage.v1.DumpSchemaResponse")
        .bytes(".pgportage.v1.MeasureLinkResponse")
        .bytes(".pgportage.v1.OpenRelayRequest")
        .bytes(".pgportage.v1.OpenRelayResponse")
        .bytes(".pgportage.v1.OpenTunnelRequest")
        .bytes(".pgportage.v1.OpenTunnelResponse")
        .bytes(".pgportage.v1.ReadStatisticsResponse")
        // One large message in a small one that stands in every result of a command.
        .boxed(".pgportage.v1.Inventory.plan_material")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
