use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use pgportage_data_plane::peer::PeerAddress;
use pgportage_proto::MigrationId;

use super::*;

const POLICY: &str = r#"
acts = ["check_server", "fence_source", "raise_barrier"]

[peers]
dst-1 = "10.0.0.2:7421"
dst-2 = "10.0.0.3:7421"

[databases.shop]
sides = ["source"]
peers = ["dst-1"]

[databases."odd \"name\"\n"]
sides = ["source", "destination"]

[limits]
max_outage = "2s"
retained_wal_abort = "256 MB"
free_disk_abort_bytes = 1000
"#;

fn load(text: &str) -> Result<Policy, Failure> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.toml");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    Policy::load(&path)
}

fn participation(database: &str, side: Side, peer: &str) -> Participation {
    Participation { migration: MigrationId::new("m").unwrap(), side, database: database.into(), peer: peer.into() }
}

fn intent(kind: ActKind) -> Intent {
    Intent { kind, verb: Verb::Perform, acts: Vec::new(), max_outage: None }
}

#[test]
fn says_which_line_would_allow_it() {
    let policy = load(POLICY).unwrap();
    assert_eq!(policy.limits().retained_wal_abort_bytes, 256 << 20);
    assert_eq!(policy.limits().free_disk_abort_bytes, 1000);
    let shop = participation("shop", Side::Source, "dst-1");
    policy.allows(&shop, &intent(ActKind::CheckServer)).unwrap();
    policy.allows(&participation("odd \"name\"\n", Side::Destination, "dst-2"), &intent(ActKind::CheckServer)).unwrap();

    let fence = Intent { acts: vec![DestructiveAct::Fence], ..intent(ActKind::FenceSource) };
    let long = Intent { max_outage: Some(Duration::from_secs(3)), ..intent(ActKind::RaiseBarrier) };
    for (participation, intent, line) in [
        (participation("crm", Side::Source, "dst-1"), intent(ActKind::CheckServer), "[databases.crm]"),
        (participation("shop", Side::Destination, "dst-1"), intent(ActKind::CheckServer), "\"destination\" to `sides`"),
        (participation("shop", Side::Source, "dst-9"), intent(ActKind::CheckServer), "under [peers]"),
        (participation("shop", Side::Source, "dst-2"), intent(ActKind::CheckServer), "\"dst-2\" to `peers`"),
        (shop.clone(), intent(ActKind::CreateSlot), "\"create_slot\" to `acts`"),
        (shop.clone(), fence, "`fence = true`"),
        (shop.clone(), long, "`max_outage`"),
    ] {
        let failure = policy.allows(&participation, &intent).unwrap_err();
        assert_eq!(failure.reason, Reason::PolicyDenied);
        assert_eq!(failure.effect, Effect::None);
        assert!(failure.hint.contains(line), "{} should name {line}", failure.hint);
    }
}

/// An older file calls the key `steps`; hints on what would allow more then use that name.
#[test]
fn the_former_name_of_the_acts_is_taken_and_not_beside_the_new_one() {
    let former = POLICY.replacen("acts =", "steps =", 1);
    let shop = participation("shop", Side::Source, "dst-1");
    let policy = load(&former).unwrap();
    policy.allows(&shop, &intent(ActKind::CheckServer)).unwrap();
    let failure = policy.allows(&shop, &intent(ActKind::CreateSlot)).unwrap_err();
    assert!(failure.hint.contains("\"create_slot\" to `steps`"), "{}", failure.hint);
    let failure = load(&format!("acts = []\n{former}")).unwrap_err();
    assert!(failure.detail.contains("steps: is what `acts` was called before"), "{}", failure.detail);
}

#[test]
fn names_every_problem_at_once() {
    let failure = load(
        r#"
        acts = ["drop_database"]
        colour = "red"
        [peers]
        dst-1 = "nowhere"
        [databases.shop]
        sides = ["primary"]
        [limits]
        lock_timeout = "soon"
        "#,
    )
    .unwrap_err();
    assert_eq!(failure.reason, Reason::ConfigurationInvalid);
    for key in ["acts: \"drop_database\"", "colour:", "peers.dst-1:", "databases.shop.sides:", "limits.lock_timeout:"] {
        assert!(failure.detail.contains(key), "{key} is missing in:\n{}", failure.detail);
    }
    assert_eq!(failure.detail.lines().count(), 5, "{}", failure.detail);
}

#[test]
fn a_peer_is_reached_at_its_address_or_through_the_coordinator() {
    let policy = load("[peers]\noslo = \"oslo.example.com:7444\"\nrome = \"relay\"\n").unwrap();
    assert_eq!(policy.peer_address("oslo"), Some(&PeerAddress::Direct("oslo.example.com:7444".to_owned())));
    assert_eq!(policy.peer_address("rome"), Some(&PeerAddress::Relay));
    assert_eq!(policy.peer_address("paris"), None);
    let failure = load("[peers]\nrome = \"Relay\"\n").unwrap_err();
    assert_eq!(failure.detail.trim(), "peers.rome: must be host:port, or relay");
}

#[test]
fn refuses_a_file_that_others_can_write() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.toml");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o664)).unwrap();
    assert!(Policy::load(&path).unwrap_err().detail.contains("chmod go-w"));
}

#[test]
fn an_empty_file_allows_nothing() {
    let failure =
        load("").unwrap().allows(&participation("shop", Side::Source, "dst-1"), &intent(ActKind::CheckServer));
    assert_eq!(failure.unwrap_err().reason, Reason::PolicyDenied);
}

fn program(directory: &Path, mode: u32) -> String {
    let path = directory.join("program");
    std::fs::write(&path, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    path.display().to_string()
}

#[test]
fn poolers_and_hooks_belong_to_their_databases() {
    let dir = tempfile::tempdir().unwrap();
    let program = program(dir.path(), 0o755);
    let policy = load(&format!(
        r#"
        [databases.shop]
        sides = ["source"]
        [databases.crm]
        sides = ["source"]
        [[pooler]]
        database = "shop"
        console = "/run/pgbouncer:6432"
        config = "/etc/pgbouncer/pgbouncer.ini"
        destination = "[fd00::2]:5432"
        [[pooler]]
        database = "shop"
        console = "10.0.0.9:6432"
        entries = ["shop", "reports"]
        pause_timeout = "300ms"
        repoint_command = ["{program}", "shop"]
        [[hook]]
        at = "after-open"
        command = ["{program}"]
        [[hook]]
        at = "after-open"
        command = ["{program}", "crm"]
        databases = ["crm"]
        timeout = "1s"
        "#
    ))
    .unwrap();
    let poolers: Vec<_> = policy.poolers("shop").collect();
    assert_eq!(policy.poolers("crm").count(), 0);
    assert_eq!(poolers[0].entries, ["shop"]);
    let address = ServerAddress { host: "fd00::2".to_owned(), port: 5432 };
    assert!(matches!(&poolers[0].repoint, Repoint::File { destination, .. } if *destination == address));
    assert_eq!((poolers[1].entries.len(), poolers[1].pause_timeout), (2, Duration::from_millis(300)));
    assert!(matches!(&poolers[1].repoint, Repoint::Command { command, .. } if command.arguments == ["shop"]));
    assert_eq!(policy.hooks(HookPoint::AfterOpen, "shop").count(), 1);
    assert_eq!(policy.hooks(HookPoint::AfterOpen, "crm").count(), 2);
    assert_eq!(policy.hooks(HookPoint::AfterAbort, "crm").count(), 0);
}

#[test]
fn names_every_problem_of_poolers_and_hooks_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let program = program(dir.path(), 0o775);
    let failure = load(&format!(
        r#"
        [databases.shop]
        sides = ["destination"]
        [[pooler]]
        database = "shop"
        console = "nowhere"
        entries = []
        config = "pgbouncer.ini"
        destination = "oslo"
        [[pooler]]
        database = "crm"
        console = "10.0.0.9:6432"
        [[hook]]
        at = "sometimes"
        command = ["{program}"]
        [[hook]]
        at = "after-open"
        command = ["tell"]
        timeout = "soon"
        [[hook]]
        at = "after-open"
        command = []
        "#
    ))
    .unwrap_err();
    for problem in [
        "pooler[0].database: \"shop\" is no source",
        "pooler[0].console: must be host:port",
        "pooler[0].entries: is empty",
        "pooler[0].config: must be an absolute path",
        "pooler[0].destination: \"oslo\" must be host:port",
        "pooler[1].database: \"crm\" is no source",
        "pooler[1].config: give either config or repoint_command",
        "hook[0].at: \"sometimes\" is no point of a cutover; expected before-barrier, after-fence",
        "hook[0].command: others than its owner can write",
        "hook[1].command: \"tell\" is no absolute path",
        "hook[1].timeout: \"soon\" is no duration",
        "hook[2].command: is empty",
    ] {
        assert!(failure.detail.contains(problem), "{problem} is missing in:\n{}", failure.detail);
    }
}
