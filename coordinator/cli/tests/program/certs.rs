//! What needs no coordinator: certificates, completions, manual pages, settings.

use std::os::unix::fs::PermissionsExt;

use crate::script::{Ran, program};

#[tokio::test]
async fn an_authority_and_certificates_are_made_once() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("certs");
    let directory = directory.to_str().unwrap();
    let run = async |arguments: &[&str]| {
        let mut command = program(home.path(), arguments);
        command.args(["--directory", directory]);
        Ran::end(command.spawn().unwrap()).await
    };
    run(&["certs", "init", "--trust-domain", "shop.example"]).await.exits(0).says("shop.example");
    run(&["certs", "init"]).await.exits(1).notes("exists already");
    for (role, name) in [("coordinator", "main"), ("agent", "alpha"), ("operator", "alice")] {
        let made = run(&["certs", "issue", role, name, "--json"]).await.exits(0).json().remove(0);
        assert_eq!(made["id"], format!("spiffe://shop.example/pgportage/{role}/{name}"));
        let key = std::fs::metadata(made["files"]["key"].as_str().unwrap()).unwrap();
        assert_eq!(key.permissions().mode() & 0o777, 0o600);
    }
    run(&["certs", "issue", "agent", "alpha"]).await.exits(1).notes("exists already");
    run(&["certs", "issue", "king", "alpha"]).await.exits(1).notes("none of coordinator, agent and operator");
    run(&["certs", "issue", "agent", "../alpha"]).await.exits(1);
}

#[tokio::test]
async fn completions_and_manual_pages_name_every_verb() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let child = program(home.path(), &["completions", shell]).spawn().unwrap();
        Ran::end(child).await.exits(0).says("cutover");
    }
    let pages = home.path().join("man/man1");
    let child = program(home.path(), &["man", pages.to_str().unwrap()]).spawn().unwrap();
    Ran::end(child).await.exits(0);
    for page in ["pgportage.1", "pgportage-cutover.1", "pgportage-certs-issue.1"] {
        assert!(pages.join(page).is_file(), "{page}");
    }
}

#[tokio::test]
async fn the_settings_in_force_are_printed() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("pgportage.toml");
    let text = "[coordinator]\naddress = \"localhost:7443\"\n\
                [identity]\ncertificate = \"a.pem\"\nkey = \"a-key.pem\"\nauthority = \"ca.pem\"\n";
    std::fs::write(&file, text).unwrap();
    let arguments = ["--print-config", "--config", file.to_str().unwrap(), "--coordinator", "localhost:1"];
    let child = program(home.path(), &arguments).spawn().unwrap();
    Ran::end(child).await.exits(0).says("address = \"localhost:1\"").says("patience = \"2m\"");
}
