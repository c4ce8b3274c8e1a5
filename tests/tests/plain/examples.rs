//! The example files of `deploy/examples` are files that the programs accept.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use pgportage_tests::cli::{Cli, CliOutput};
use pgportage_tests::postgres_versions::workspace_directory;
use pgportage_tests::site::program;

/// Copies an example to `directory`, with everybody's files there.
fn copy(directory: &Path, name: &str) {
    let text = fs::read_to_string(workspace_directory().join("deploy/examples").join(name)).unwrap();
    let here = directory.to_str().unwrap();
    let text = text.replace("/etc/pgportage", here).replace("/home/alice/.config/pgportage", here);
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
}

async fn run(directory: &Path, binary: &str, config: &str, arguments: &[&str]) -> CliOutput {
    let program = Cli {
        path: program(binary).unwrap(),
        config: directory.join(config),
        scratch: directory.to_owned(),
        environment: Vec::new(),
    };
    program.run(arguments).await.unwrap()
}

#[tokio::test]
async fn every_example_is_accepted() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    for name in ["agent.toml", "policy.toml", "coordinator.toml", "pgportage.toml"] {
        copy(directory, name);
    }
    let here = directory.to_str().unwrap();
    for certificate in [
        &["certs", "init", "--directory", here][..],
        &["certs", "issue", "--directory", here, "agent", "source-a"],
        &["certs", "issue", "--directory", here, "coordinator", "main"],
        &["certs", "issue", "--directory", here, "operator", "alice"],
    ] {
        let output = run(directory, "pgportage", "pgportage.toml", certificate).await;
        assert_eq!(output.code, Some(0), "{}", output.all());
    }
    for (binary, config, arguments) in [
        ("pgportage-agent", "agent.toml", "check-config"),
        ("pgportage-agent", "agent.toml", "--print-config"),
        ("pgportage-coordinator", "coordinator.toml", "--print-config"),
        ("pgportage", "pgportage.toml", "--print-config"),
    ] {
        let output = run(directory, binary, config, &[arguments]).await;
        assert_eq!(output.code, Some(0), "{binary} {arguments}: {}", output.all());
    }
}
