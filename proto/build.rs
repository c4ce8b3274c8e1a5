//! Compiles the contract with a protobuf compiler written in Rust, so that no
//! `protoc` is needed on the machine.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost_types::FileDescriptorSet;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=pgportage");
    let mut files: Vec<PathBuf> =
        fs::read_dir("pgportage/v1")?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.sort(); // `read_dir` has no order, and builds must repeat.
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_source_info(true).include_imports(true).open_files(files)?;
    let descriptor = PathBuf::from(env::var("OUT_DIR")?).join("pgportage.bin");
    fs::write(descriptor, compiler.encode_file_descriptor_set())?;
    let kinds = PathBuf::from(env::var("OUT_DIR")?).join("act_kinds.rs");
    fs::write(kinds, act_kinds(&compiler.file_descriptor_set()).ok_or("the contract has no `Command.action`")?)?;
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

/// A line of `kinds!` in `src/act_kind.rs` for each arm of `Command.action`, with the
/// arm's comment.
fn act_kinds(contract: &FileDescriptorSet) -> Option<String> {
    let file = contract.file.iter().find(|file| file.name() == "pgportage/v1/command.proto")?;
    let message = file.message_type.iter().position(|message| message.name() == "Command")?;
    let command = &file.message_type[message];
    let action = command.oneof_decl.iter().position(|oneof| oneof.name() == "action")?;
    let mut kinds = String::from("kinds! {\n");
    for (index, arm) in command.field.iter().enumerate() {
        if arm.oneof_index.map(usize::try_from) != Some(Ok(action)) {
            continue;
        }
        // 4 is `FileDescriptorProto.message_type`, 2 is `DescriptorProto.field`.
        let path = [4, i32::try_from(message).ok()?, 2, i32::try_from(index).ok()?];
        let place = file.source_code_info.as_ref()?.location.iter().find(|location| location.path == path)?;
        for line in place.leading_comments().lines() {
            kinds.push_str(&format!("///{line}\n"));
        }
        let name = arm.name();
        let words = name.split('_').map(|word| word[..1].to_uppercase() + &word[1..]);
        kinds.push_str(&format!("{} = \"{name}\",\n", words.collect::<String>()));
    }
    kinds.push_str("}\n");
    Some(kinds)
}
