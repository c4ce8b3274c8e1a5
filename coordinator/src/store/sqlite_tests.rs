//! The embedded store: what it keeps, what it refuses, what it survives.

use super::*;
use crate::workflow::proof::{Play, spec};

fn agent(name: &str) -> AgentRecord {
    AgentRecord {
        name: name.to_owned(),
        session_epoch: 0,
        software_version: "0.1.0".to_owned(),
        revision: 1,
        server_version_num: 180_000,
        policy_digest: vec![1, 2],
        attach_time: SystemTime::UNIX_EPOCH + Duration::from_secs(5),
        contact_time: SystemTime::UNIX_EPOCH + Duration::from_secs(6),
        left: false,
    }
}

#[tokio::test]
async fn facts_come_back_as_they_were() {
    let directory = tempfile::tempdir().unwrap();
    let mut play = Play::at_cutover();
    play.answer_all();
    let id = MigrationId::new("shop").unwrap();
    {
        let store = SqliteStore::open(directory.path()).unwrap();
        let (first, rest) = play.facts.split_at(3);
        store.append(id.clone(), first.to_vec()).await.unwrap();
        store.append(id.clone(), rest.to_vec()).await.unwrap();
    }
    let store = SqliteStore::open(directory.path()).unwrap();
    assert_eq!(store.histories().await.unwrap(), [(id, play.facts)]);
    assert_eq!(spec().database, "shop");
}

#[tokio::test]
async fn a_history_has_one_next_fact() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path()).unwrap();
    let play = Play::started();
    let id = MigrationId::new("shop").unwrap();
    store.append(id.clone(), play.facts[..2].to_vec()).await.unwrap();
    for wrong in [&play.facts[..1], &play.facts[1..2]] {
        assert!(matches!(store.append(id.clone(), wrong.to_vec()).await, Err(StoreError::Conflict(_))));
    }
    // All or none: the first of these would fit, the second not.
    let wrong = vec![play.facts[2].clone(), play.facts[1].clone()];
    assert!(matches!(store.append(id.clone(), wrong).await, Err(StoreError::Conflict(_))));
    assert_eq!(store.histories().await.unwrap()[0].1.len(), 2);
}

#[tokio::test]
async fn epochs_only_grow() {
    let directory = tempfile::tempdir().unwrap();
    for expected in 1..=3 {
        let store = SqliteStore::open(directory.path()).unwrap();
        assert_eq!(store.leader_epoch(), expected);
        assert_eq!(store.begin_session(agent("old")).await.unwrap(), expected);
    }
    let store = SqliteStore::open(directory.path()).unwrap();
    let later = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
    store.end_session("old".to_owned(), 2, later, true).await.unwrap();
    assert!(!store.agents().await.unwrap()[0].left, "an old session has no say");
    store.end_session("old".to_owned(), 3, later, true).await.unwrap();
    let agents = store.agents().await.unwrap();
    assert_eq!((agents[0].left, agents[0].contact_time, agents[0].session_epoch), (true, later, 3));
}

#[test]
fn a_second_process_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path()).unwrap();
    assert!(matches!(SqliteStore::open(directory.path()), Err(StoreError::InUse { .. })));
    drop(store);
    assert!(SqliteStore::open(directory.path()).is_ok());
}

#[test]
fn a_newer_format_is_refused_and_an_older_one_migrated() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("coordinator.db");
    // Format 0: an empty file, as an interrupted first start leaves it.
    drop(Connection::open(&path).unwrap());
    drop(SqliteStore::open(directory.path()).unwrap());
    let connection = Connection::open(&path).unwrap();
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(version, FORMAT);
    connection.pragma_update(None, "user_version", FORMAT + 1).unwrap();
    drop(connection);
    let refused = SqliteStore::open(directory.path());
    assert!(matches!(refused, Err(StoreError::TooNew { found, known: FORMAT }) if found == FORMAT + 1));
}

#[test]
fn something_else_in_the_files_place_is_told() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("coordinator.db"), "not a database at all, but long enough to look").unwrap();
    assert!(matches!(SqliteStore::open(directory.path()), Err(StoreError::Unreadable(_))));
}

#[tokio::test]
async fn after_a_failed_write_nothing_is_written_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path()).unwrap();
    let failed: Result<(), _> = store.run(|_| Err(StoreError::Broken("the disk said no".into()))).await;
    assert!(failed.is_err());
    assert!(store.broken().is_cancelled());
    let play = Play::created(spec());
    let refused = store.append(MigrationId::new("shop").unwrap(), play.facts).await;
    assert!(matches!(refused, Err(StoreError::Broken(_))));
    drop(store);
    let store = SqliteStore::open(directory.path()).unwrap();
    assert!(store.histories().await.unwrap().is_empty());
}

#[tokio::test]
async fn the_file_is_for_us_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let _store = SqliteStore::open(directory.path()).unwrap();
    let mode = std::fs::metadata(directory.path().join("coordinator.db")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
