use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::migration::MigrationId;

const POLICY: &str = r#"
steps = ["check_server", "fence_source", "raise_barrier"]

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

fn intent(kind: ActionKind) -> Intent {
    Intent { kind, verb: Verb::Perform, acts: Vec::new(), max_outage: None }
}

#[test]
fn says_which_line_would_allow_it() {
    let policy = load(POLICY).unwrap();
    assert_eq!(policy.limits().retained_wal_abort_bytes, 256 << 20);
    assert_eq!(policy.limits().free_disk_abort_bytes, 1000);
    let shop = participation("shop", Side::Source, "dst-1");
    policy.allows(&shop, &intent(ActionKind::CheckServer)).unwrap();
    policy
        .allows(&participation("odd \"name\"\n", Side::Destination, "dst-2"), &intent(ActionKind::CheckServer))
        .unwrap();

    let fence = Intent { acts: vec![DestructiveAct::Fence], ..intent(ActionKind::FenceSource) };
    let long = Intent { max_outage: Some(Duration::from_secs(3)), ..intent(ActionKind::RaiseBarrier) };
    for (participation, intent, line) in [
        (participation("crm", Side::Source, "dst-1"), intent(ActionKind::CheckServer), "[databases.crm]"),
        (
            participation("shop", Side::Destination, "dst-1"),
            intent(ActionKind::CheckServer),
            "\"destination\" to `sides`",
        ),
        (participation("shop", Side::Source, "dst-9"), intent(ActionKind::CheckServer), "under [peers]"),
        (participation("shop", Side::Source, "dst-2"), intent(ActionKind::CheckServer), "\"dst-2\" to `peers`"),
        (shop.clone(), intent(ActionKind::CreateSlot), "\"create_slot\" to `steps`"),
        (shop.clone(), fence, "`fence = true`"),
        (shop.clone(), long, "`max_outage`"),
    ] {
        let failure = policy.allows(&participation, &intent).unwrap_err();
        assert_eq!(failure.reason, Reason::PolicyDenied);
        assert_eq!(failure.effect, Effect::None);
        assert!(failure.hint.contains(line), "{} should name {line}", failure.hint);
    }
}

#[test]
fn names_every_problem_at_once() {
    let failure = load(
        r#"
        steps = ["drop_database"]
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
    for key in ["steps: \"drop_database\"", "colour:", "peers.dst-1:", "databases.shop.sides:", "limits.lock_timeout:"]
    {
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
        load("").unwrap().allows(&participation("shop", Side::Source, "dst-1"), &intent(ActionKind::CheckServer));
    assert_eq!(failure.unwrap_err().reason, Reason::PolicyDenied);
}
