//! The examples in `deploy/examples` are what this release reads.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgportage_agent::policy::{DestructiveAct, HookPoint, Policy};
use pgportage_agent::settings::Settings;
use pgportage_data_plane::peer::PeerAddress;
use pgportage_link::settings::print;
use pgportage_proto::ActKind;
use tempfile::TempDir;

/// The example as it is, or with everything in it that is commented out.
fn example(directory: &TempDir, name: &str, whole: bool) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples").join(name);
    // The policy wants the password files that it names to be there.
    let here = directory.path().to_str().unwrap();
    let text = std::fs::read_to_string(path).unwrap().replace("/etc/pgportage", here);
    let lines = text.lines().map(|line| if whole { uncomment(line) } else { line });
    let copy = directory.path().join(name);
    std::fs::write(&copy, lines.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    // A checkout may be writable for a group, a policy must not be.
    std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o600)).unwrap();
    copy
}

/// `#key = value` and `#[section]` without the `#`; prose begins with a blank.
fn uncomment(line: &str) -> &str {
    let is_setting = |rest: &&str| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
    line.strip_prefix('#').filter(is_setting).unwrap_or(line)
}

#[test]
fn the_settings_load_and_show_the_defaults() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings::load(&example(&directory, "agent.toml", false)).unwrap();
    let mut all = Settings::load(&example(&directory, "agent.toml", true)).unwrap();
    // What has no default, as the example says.
    assert!(all.postgres.password_file.take().is_some() && all.postgres.passfile.take().is_some());
    assert!(all.programs.pg_dump.take().is_some() && all.programs.pg_restore.take().is_some());
    assert!(all.telemetry.otlp_endpoint.take().is_some());
    assert_eq!(print(&settings).unwrap(), print(&all).unwrap());
}

#[test]
fn the_policy_loads_and_shows_the_defaults() {
    let directory = tempfile::tempdir().unwrap();
    let policy = Policy::load(&example(&directory, "policy.toml", false)).unwrap();
    for (name, mode) in [
        ("mover-password", 0o600),
        ("mover-canary-password", 0o600),
        ("pgbouncer-password", 0o600),
        ("tell-the-monitoring", 0o700),
    ] {
        let file = directory.path().join(name);
        std::fs::write(&file, "secret").unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
    }
    let whole = Policy::load(&example(&directory, "policy.toml", true)).unwrap();
    assert_eq!(policy.limits(), whole.limits());
    let address = PeerAddress::Direct("destination-b.example.com:7444".to_owned());
    assert_eq!(policy.peer_address("destination-b"), Some(&address));
    let allows = |act| policy.destructive().allows(act);
    assert!(allows(DestructiveAct::Fence) && !allows(DestructiveAct::Open));
    assert!(policy.roles().replication.is_none() && whole.roles().canary.is_some());
    assert_eq!((policy.poolers("shop").count(), whole.poolers("shop").count()), (0, 1));
    assert_eq!(whole.poolers("shop").next().unwrap().pause_timeout, Duration::from_secs(1));
    let told = |policy: &Policy| policy.hooks(HookPoint::AfterOpen, "shop").map(|hook| hook.command.timeout).next();
    assert_eq!((told(&policy), told(&whole)), (None, Some(Duration::from_secs(5))));
}

#[test]
fn the_example_policy_has_every_destructive_act_and_no_other() {
    let example = include_str!("../../../deploy/examples/policy.toml");
    let (_, section) = example.split_once("\n[destructive]\n").unwrap();
    let keys = section.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(" = "));
    let keys: BTreeSet<_> = keys.map(|(key, _)| key).filter(|key| !key.starts_with('#')).collect();
    assert_eq!(keys, DestructiveAct::ALL.iter().map(|act| act.as_str()).collect());
}

/// The words in backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn the_owners_page_has_every_act_and_what_the_policy_must_allow() {
    let page = include_str!("../../README.md");
    let (_, table) = page.split_once("| act | side | on the server | needs in `[destructive]` |\n").unwrap();
    let rows: Vec<Vec<_>> = table
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let said: BTreeSet<_> = rows.iter().flat_map(|row| quoted(row[1])).collect();
    assert_eq!(said, ActKind::ALL.iter().map(|kind| kind.as_str()).collect());
    let needed: BTreeSet<_> = rows.iter().flat_map(|row| quoted(row[4])).collect();
    assert_eq!(needed, DestructiveAct::ALL.iter().map(|act| act.as_str()).collect());
}
