//! A journal of the release before is read as that release wrote it.

use std::path::Path;

use pgportage_agent::wire;
use pgportage_migration::journal::{Journal, Note};
use pgportage_migration::switchover::{Fence, SwitchoverRecord};
use pgportage_proto::v1::command_fact::Fact;
use pgportage_proto::{MigrationId, Side, v1};
use pgportage_tests::before::{self, Left};
use prost::Message;

fn migration() -> MigrationId {
    MigrationId::new("shop-move").unwrap()
}

fn journal(directory: &Path, state: &str, left: Left) -> Journal {
    let path = directory.join("journal.db");
    left.unpack(state, &path).unwrap();
    Journal::open(&path).unwrap()
}

/// Each command becomes an act again, with all facts about it, and what it takes part
/// in is the same.
#[test]
fn every_command_and_fact_of_before_is_understood() {
    for state in before::STATES {
        for (left, side, peer) in
            [(Left::SourceJournal, Side::Source, "oslo"), (Left::DestinationJournal, Side::Destination, "berlin")]
        {
            let directory = tempfile::tempdir().unwrap();
            let journal = journal(directory.path(), state, left);
            let [participation] = &journal.participations().unwrap()[..] else { panic!("{state}: one participation") };
            assert_eq!((&participation.migration, participation.side), (&migration(), side));
            assert_eq!((participation.database.as_str(), participation.peer.as_str()), ("shop", peer));
            assert_eq!(journal.leader_epoch().unwrap(), 1);

            let history = journal.history(&migration()).unwrap();
            assert!(history.len() > 8, "{state}: {} facts", history.len());
            for past in &history {
                let command = wire::stored(&past.command).unwrap().command.unwrap();
                assert_eq!(command.participation, *participation, "{state}");
                let fact = v1::CommandFact::decode(past.fact.as_slice()).unwrap();
                match fact.fact.unwrap() {
                    Fact::Accepted(_) => {}
                    Fact::Succeeded(success) => assert!(success.result.is_some(), "{state}: {}", command.id),
                    other => panic!("{state}: {other:?}"),
                }
            }
            // Only the copy was under way when the agents were stopped.
            let under_way: Vec<_> = journal.interrupted().unwrap();
            let is_copying = state == "copying" && side == Side::Destination;
            assert_eq!(under_way.len(), usize::from(is_copying), "{state}");
            for command in under_way {
                wire::stored(&command).unwrap().command.unwrap();
            }
            assert!(journal.facts_to_send().unwrap().is_empty(), "{state}");
        }
    }
}

/// What an agent noted about a migration means the same as before.
#[test]
fn every_note_of_before_is_read() {
    let note = |journal: &Journal, note| journal.note(&migration(), note).unwrap();
    for state in before::STATES {
        let [source, destination] = [Left::SourceJournal, Left::DestinationJournal].map(|left| {
            let directory = tempfile::tempdir().unwrap();
            (journal(directory.path(), state, left), directory)
        });
        let (source, destination) = (&source.0, &destination.0);
        let is_copied = state != "copying";
        let has_cut_over = state == "cut-over";
        let some = |value: &str, holds: bool| holds.then(|| value.to_owned());

        assert_eq!(note(source, Note::Slot), some("pgportage_shop_move", true), "{state}");
        assert_eq!(note(source, Note::MaxRate), some("1048576", !is_copied), "{state}");
        assert_eq!(note(source, Note::WayBackProved), some("yes", is_copied), "{state}");
        let fence = if has_cut_over { Fence::Kept(1) } else { Fence::Down };
        let left = SwitchoverRecord { fence, left: has_cut_over.then_some(1), ..SwitchoverRecord::default() };
        assert_eq!(source.switchover(&migration()).unwrap(), left, "{state}");
        assert_eq!(destination.switchover(&migration()).unwrap(), SwitchoverRecord::default(), "{state}");
        assert_eq!(note(destination, Note::Slot), some("pgportageback_shop_move", is_copied), "{state}");
        assert_eq!(note(destination, Note::WayBackKept), some("1", has_cut_over), "{state}");
        assert!(note(destination, Note::SchemaRestored).is_some(), "{state}");
    }
}
