use std::time::{Duration, SystemTime};

use super::*;
use crate::switchover::{Entry, Event, Fence, Role, Switchover, SwitchoverRecord};

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn entry(id: &str, content: u8) -> CommandEntry {
    CommandEntry {
        id: id.to_owned(),
        migration: "m".to_owned(),
        digest: [content; 32],
        message: vec![content],
        actor: "spiffe://t/pgportage/coordinator/c".to_owned(),
        actor_serial: "01".to_owned(),
    }
}

fn participation() -> Participation {
    Participation {
        migration: MigrationId::new("m").unwrap(),
        side: Side::Source,
        database: "shop".to_owned(),
        peer: "dst-1".to_owned(),
    }
}

#[test]
fn keeps_everything_across_a_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    let migration = MigrationId::new("m").unwrap();
    {
        let journal = Journal::open(&path).unwrap();
        journal.accept(&entry("a", 1), Some(&participation()), b"accepted", NOW).unwrap();
        journal.refuse(&entry("b", 2), b"refused", NOW).unwrap();
        journal.set_note(&migration, Note::TunnelPort, "7440").unwrap();
        journal.happened(&migration, Event::Fences(3)).unwrap();
        journal.raise_leader_epoch(7).unwrap();
        journal.begin_session(7, 3).unwrap();
    }
    let journal = Journal::open(&path).unwrap();
    assert_eq!(journal.participation(&migration).unwrap(), Some(participation()));
    assert_eq!(journal.note(&migration, Note::TunnelPort).unwrap().as_deref(), Some("7440"));
    assert_eq!(journal.switchover(&migration).unwrap().fence, Fence::MayStand(3));
    assert_eq!(journal.interrupted().unwrap(), [vec![1]]);
    assert_eq!(journal.unacknowledged().unwrap(), [("a".to_owned(), 1), ("b".to_owned(), 1)]);
    assert_eq!(journal.leader_epoch().unwrap(), 7);
    assert_eq!(journal.raise_leader_epoch(6).unwrap_err().reason, Reason::StaleEpoch);
    assert_eq!(journal.begin_session(6, 4).unwrap_err().reason, Reason::StaleEpoch);
    assert_eq!(journal.begin_session(7, 3).unwrap_err().reason, Reason::StaleSession);
    journal.begin_session(7, 4).unwrap();
    journal.begin_session(8, 1).unwrap();

    journal.forget(&migration).unwrap();
    assert_eq!(journal.participation(&migration).unwrap(), None);
    assert_eq!(journal.note(&migration, Note::TunnelPort).unwrap(), None);
    assert_eq!(journal.switchover(&migration).unwrap(), SwitchoverRecord::default());
    assert_eq!(journal.facts_to_send().unwrap().len(), 2, "what is to be told is still told");
}

#[test]
fn answers_the_same_and_tells_conflicts() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&dir.path().join("journal.db")).unwrap();
    assert_eq!(journal.known("a", &[1; 32]).unwrap(), Known::New);
    journal.accept(&entry("a", 1), None, b"accepted", NOW).unwrap();
    assert_eq!(journal.known("a", &[1; 32]).unwrap(), Known::Same);
    assert_eq!(journal.known("a", &[2; 32]).unwrap(), Known::Conflict);

    journal.record("a", FactKind::Final, b"succeeded", NOW).unwrap();
    journal.record("a", FactKind::Final, b"failed", NOW).unwrap();
    let facts: Vec<_> =
        journal.facts_to_send().unwrap().into_iter().map(|fact| (fact.sequence, fact.message)).collect();
    assert_eq!(facts, [(1, b"accepted".to_vec()), (2, b"succeeded".to_vec())], "the first outcome stands");
    assert!(journal.interrupted().unwrap().is_empty());

    journal.acknowledge("a", 1).unwrap();
    assert_eq!(journal.facts_to_send().unwrap().len(), 1);
    assert_eq!(journal.unacknowledged().unwrap(), [("a".to_owned(), 2)]);
    journal.acknowledge("a", 2).unwrap();
    assert!(journal.unacknowledged().unwrap().is_empty());
    journal.repeat("a").unwrap();
    assert_eq!(journal.facts_to_send().unwrap().len(), 2);
}

#[test]
fn abandoned_commands_are_neither_resumed_nor_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&dir.path().join("journal.db")).unwrap();
    journal.accept(&entry("a", 1), None, b"accepted", NOW).unwrap();
    journal.abandon("a").unwrap();
    journal.record("a", FactKind::Final, b"cancelled", NOW).unwrap();
    assert!(journal.interrupted().unwrap().is_empty());
    assert!(journal.facts_to_send().unwrap().is_empty());
    assert!(journal.unacknowledged().unwrap().is_empty());
    assert_eq!(journal.known("a", &[1; 32]).unwrap(), Known::Same, "the id stays known");
}

#[test]
fn prunes_only_what_is_old_and_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&dir.path().join("journal.db")).unwrap();
    let day = Duration::from_secs(86_400);
    for id in ["open", "told", "untold"] {
        journal.accept(&entry(id, 1), None, b"accepted", NOW).unwrap();
    }
    for id in ["told", "untold"] {
        journal.record(id, FactKind::Final, b"succeeded", NOW).unwrap();
    }
    journal.acknowledge("told", 2).unwrap();
    assert_eq!(journal.prune(NOW + day / 2, day).unwrap(), 0);
    assert_eq!(journal.prune(NOW + 2 * day, day).unwrap(), 1);
    assert_eq!(journal.known("told", &[1; 32]).unwrap(), Known::New);
    assert_eq!(journal.facts_to_send().unwrap().len(), 3);
}

#[test]
fn another_part_in_the_same_migration_is_refused_whole() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&dir.path().join("journal.db")).unwrap();
    journal.accept(&entry("a", 1), Some(&participation()), b"accepted", NOW).unwrap();
    let other = Participation { peer: "dst-2".to_owned(), ..participation() };
    let failure = journal.accept(&entry("b", 1), Some(&other), b"accepted", NOW).unwrap_err();
    assert_eq!(failure.reason, Reason::ObjectConflict);
    assert_eq!(journal.known("b", &[1; 32]).unwrap(), Known::New);
}

#[test]
fn one_agent_runs_on_it_and_verbs_work_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    let migration = MigrationId::new("m").unwrap();
    assert_eq!(Journal::open_beside(&path).unwrap_err().reason, Reason::StoreUnwritable);
    let journal = Journal::open(&path).unwrap();
    journal.accept(&entry("a", 1), Some(&participation()), b"accepted", NOW).unwrap();
    assert_eq!(Journal::open(&path).unwrap_err().reason, Reason::StoreInUse);
    let beside = Journal::open_beside(&path).unwrap();
    assert!(beside.participation(&migration).unwrap().is_some());
    beside.forget(&migration).unwrap();
    assert!(journal.participation(&migration).unwrap().is_none());
}

#[test]
fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    drop(Journal::open(&path).unwrap());
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", format::VERSION + 1).unwrap();
    assert_eq!(Journal::open(&path).unwrap_err().reason, Reason::StoreTooNew);
}

#[test]
fn a_journal_of_the_first_format_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    Journal::open(&path).unwrap().accept(&entry("a", 1), None, b"accepted", NOW).unwrap();
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("DROP INDEX fact_to_send; DROP TABLE switchover; PRAGMA user_version = 1").unwrap();
    drop(connection);
    assert_eq!(Journal::open(&path).unwrap().facts_to_send().unwrap().len(), 1);
}

#[test]
fn only_acknowledging_does_not_wait_for_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&dir.path().join("journal.db")).unwrap();
    journal.accept(&entry("a", 1), None, b"accepted", NOW).unwrap();
    journal.acknowledge("a", 1).unwrap();
    let level: i64 = journal.connection().query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap();
    assert_eq!(level, 2, "FULL");
}

#[test]
fn what_was_done_stays_known_when_it_was_told() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&dir.path().join("journal.db")).unwrap();
    let other = CommandEntry { migration: "other".to_owned(), ..entry("o", 9) };
    for (command, participation) in [(entry("a", 1), Some(participation())), (other, None), (entry("b", 2), None)] {
        journal.accept(&command, participation.as_ref(), b"accepted", NOW).unwrap();
        journal.record(&command.id, FactKind::Final, &[command.digest[0]], NOW).unwrap();
    }
    journal.accept(&entry("c", 3), None, b"accepted", NOW).unwrap();
    journal.acknowledge("a", 2).unwrap();
    journal.abandon("c").unwrap();
    let past = |command: u8, fact: &[u8]| PastFact { command: vec![command], fact: fact.to_vec() };
    let expected = [past(1, b"accepted"), past(1, &[1]), past(2, b"accepted"), past(2, &[2])];
    assert_eq!(journal.history(&MigrationId::new("m").unwrap()).unwrap(), expected);
}

/// Writes a journal as the previous release did, which had a note for each part of a switchover.
fn write_notes_of_before(path: &Path, notes: &[(&str, &str, &str)]) {
    let connection = Connection::open(path).unwrap();
    for migration in &format::MIGRATIONS[..2] {
        connection.execute_batch(migration).unwrap();
    }
    connection.pragma_update(None, "user_version", 2).unwrap();
    for (migration, key, value) in notes {
        connection.execute("INSERT INTO note VALUES (?1, ?2, ?3)", [migration, key, value]).unwrap();
    }
}

/// One migration for each state in which an agent of the previous release may have been stopped.
#[test]
fn the_notes_of_a_switchover_are_taken_up_as_its_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    let leaving = |epoch| Some(Switchover { epoch, role: Role::Leaving });
    write_notes_of_before(
        &path,
        &[
            // This side was left; the agent does not know whether the other side has opened.
            ("doubt", "fence.epoch", "7"),
            ("doubt", "cutover.settled", "3"),
            ("doubt", "pooler.paused", "7"),
            ("doubt", "hook.owed", "7"),
            // This side was left, clients wait, and the agent was killed before it led them to the other
            // side.
            ("left", "fence.epoch", "4"),
            ("left", "cutover.settled", "4"),
            ("left", "pooler.paused", "4"),
            ("left", "announcement.awaited", "4"),
            // This side is being left, and has no fence yet.
            ("barrier", "announcement.awaited", "2"),
            // This side is being entered.
            ("entering", "fence.epoch", "4"),
            ("entering", "cutover.settled", "4"),
            ("entering", "pooler.paused", "5 entering"),
            ("entering", "hook.owed_on_entry", "5"),
            ("entering", "tunnel.port", "7440"),
            // This side was entered: poolers may lead to the other one.
            ("entered", "pooler.lead_back", "yes"),
            // A text that no release has written is not read as a pause.
            ("odd", "pooler.paused", "7 sailing"),
            ("other", "tunnel.port", "7441"),
        ],
    );
    let beside = Journal::open_beside(&path);
    assert!(beside.is_ok(), "nobody runs on it: {beside:?}");
    let journal = Journal::open(&path).unwrap();
    let record = |name: &str| journal.switchover(&MigrationId::new(name).unwrap()).unwrap();
    let nothing = SwitchoverRecord::default;

    assert_eq!(
        record("doubt"),
        SwitchoverRecord {
            fence: Fence::MayStand(7),
            left: Some(3),
            pause: leaving(7),
            hooks_on_leaving: Some(7),
            ..nothing()
        }
    );
    assert_eq!(
        record("left"),
        SwitchoverRecord { fence: Fence::Kept(4), left: Some(4), pause: leaving(4), ..nothing() }
    );
    assert_eq!(record("barrier"), SwitchoverRecord { untold: Some(2), ..nothing() });
    assert_eq!(
        record("entering"),
        SwitchoverRecord {
            fence: Fence::Kept(4),
            left: Some(4),
            pause: Some(Switchover { epoch: 5, role: Role::Entering }),
            hooks_on_entry: Some(Entry { epoch: 5, opened: false }),
            ..nothing()
        }
    );
    assert_eq!(record("entered"), SwitchoverRecord { lead_here: true, ..nothing() });
    assert_eq!(record("odd"), nothing());
    assert_eq!(record("other"), nothing());
    let notes: Vec<String> = journal.rows("SELECT key FROM note", |row| row.get(0)).unwrap();
    assert_eq!(notes, ["tunnel.port", "tunnel.port"], "and nothing is left that nobody reads");
}

/// An agent of the previous release may still run while the new program is called beside it. It would go on
/// writing notes that no release reads any more.
#[test]
fn a_journal_of_before_is_not_taken_up_under_a_running_agent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.db");
    write_notes_of_before(&path, &[("m", "fence.epoch", "7")]);
    let running = try_lock(&path).unwrap().unwrap();
    let refused = Journal::open_beside(&path).unwrap_err();
    assert_eq!(refused.reason, Reason::StoreInUse);
    drop(running);
    Journal::open_beside(&path).unwrap();
    // A running agent of this release is no obstacle.
    let _running = try_lock(&path).unwrap().unwrap();
    Journal::open_beside(&path).unwrap();
}

/// An event that is refused, or changes nothing, writes nothing.
#[test]
fn a_record_is_written_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&dir.path().join("journal.db")).unwrap();
    let migration = MigrationId::new("m").unwrap();
    let happened = |event| journal.happened(&migration, event);
    happened(Event::Fences(2)).unwrap();
    let written = journal.switchover(&migration).unwrap();
    assert_eq!(happened(Event::Fences(1)).unwrap_err().reason, Reason::WrongState);
    happened(Event::LetOn(Switchover { epoch: 2, role: Role::Leaving })).unwrap();
    assert_eq!(journal.switchover(&migration).unwrap(), written);
    happened(Event::OtherOpened(2)).unwrap();
    assert_eq!(journal.switchover(&migration).unwrap().fence, Fence::Kept(2));
}
