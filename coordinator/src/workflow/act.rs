//! The acts, each in a file: what it is given, what it produces, how both travel, and
//! what it will run.
//!
//! A row of [`TABLE`](super::TABLE) points at an [`Act`]. To add one: a file here, its
//! `mod` line, and its row of the table. What acts are given and produce is stored:
//! **names and fields never change their form.**

pub mod await_copy;
pub mod await_lag;
pub mod certify_switch;
pub mod check_server;
pub mod close_database;
pub mod compare_rows;
pub mod copy_tables;
pub mod count_rows;
pub mod create_publication;
pub mod create_replication_role;
pub mod create_slot;
pub mod create_subscription;
pub mod create_way_back;
pub mod drain_to_marker;
pub mod fence_source;
pub mod finish_migration;
pub mod follow_stream;
pub mod keep_stream;
mod kind;
pub mod open_destination;
pub mod prepare_cutover;
pub mod raise_barrier;
pub mod reach_peer;
pub mod release_barrier;
pub mod restore_schema;
mod sequence;
pub mod set_replica_identity;

pub use kind::{Act, Given, Input, Outcome, Trial};
pub use pgportage_proto::RelationName;
pub use pgportage_proto::v1::command_result::Result as Produced;
pub use pgportage_report::Digest;
pub use pgportage_report::comparison::{RowComparison, TableComparison};
pub use pgportage_report::inventory::{
    ConnectGrant, Extension, Inventory, PlanMaterial, PlannedRole, PlannedTable, SessionGroup,
};

pub use certify_switch::SignedStatement;
pub use check_server::{CheckServer, CheckServerResult};
pub use compare_rows::CompareRows;
pub use count_rows::{RowCounts, SequencePlace, TableCount};
pub use drain_to_marker::{DrainToMarkerResult, WrittenRows};
pub use fence_source::Fence;
pub use finish_migration::{FinishMigration, FinishMigrationResult};
pub use open_destination::OpenDestinationResult;
pub use prepare_cutover::{PrepareCutover, PrepareCutoverResult};
pub use raise_barrier::{Barrier, RaiseBarrier};
pub use reach_peer::{ReachPeer, Reached};
pub use sequence::SequenceState;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pgportage_proto::ActKind;
    use serde_json::{Value, json};

    use super::super::depth::Look;
    use super::super::fact::Event;
    use super::super::proof::Play;
    use super::super::verb::Request;
    use super::super::{CopyMethod, TABLE};
    use super::await_copy::AwaitCopy;
    use super::create_publication::CreatePublication;
    use super::create_slot::CreateSlot;
    use super::keep_stream::KeepStream;
    use super::restore_schema::RestoreSchemaResult;
    use super::*;

    /// As the release before stored them.
    #[test]
    fn stored_forms_are_kept() {
        for (input, form) in [
            (Input::of(CreatePublication), json!("create_publication")),
            (
                Input::of(CreateSlot { copy_method: CopyMethod::Native }),
                json!({"create_slot": {"copy_method": "native"}}),
            ),
            (Input::of(KeepStream { cutover_epoch: 3 }), json!({"keep_stream": {"cutover_epoch": 3}})),
        ] {
            assert_eq!(serde_json::to_value(&input).unwrap(), form);
            assert_eq!(serde_json::from_value::<Input>(form).unwrap(), input);
        }
        let event = json!({"kind": "verification_requested", "trace": {},
            "scrutiny": {"rows": {"comparison_id": 7, "time_limit": null, "repair": false}}});
        let read: Event = serde_json::from_value(event.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), event);
        let read: Outcome = serde_json::from_value(json!({"check_server": {"findings": [],
            "inventory": {"server_version_num": 160004, "table_count": 3}}}))
        .unwrap();
        let CheckServerResult { inventory, .. } = read.read().unwrap();
        assert_eq!((inventory.table_count, inventory.plan_material.as_ref()), (3, None));
        let restored = RestoreSchemaResult { dump_digest: Digest(vec![1]), object_count: 2 };
        let form = json!({"restore_schema": {"dump_digest": "01", "object_count": 2}});
        assert_eq!(serde_json::to_value(Outcome::of(restored)).unwrap(), form);
    }

    /// What acts of a whole migration are given and produce, as it was stored when they
    /// were the variants of two enums.
    #[test]
    fn a_whole_migration_is_stored_as_it_was() {
        let mut play = Play::started();
        play.answer_all();
        play.submit(Request::Verify(Look { rows: true, ..Look::default() })).unwrap();
        play.answer_all();
        play.cut_over().unwrap();
        play.answer_all();
        play.submit(Request::Finish).unwrap();
        play.answer_all();
        let (mut inputs, mut outcomes) = (BTreeMap::new(), BTreeMap::new());
        for fact in &play.facts {
            if let Event::CommandIssued(issued) = &fact.event {
                inputs.insert(issued.act.kind().unwrap().as_str(), serde_json::to_value(&issued.input).unwrap());
            } else if let Event::CommandSucceeded { command, outcome: Some(outcome), .. } = &fact.event {
                let issued = play.issued.iter().find(|issued| issued.command == *command).unwrap();
                outcomes.insert(issued.act.kind().unwrap().as_str(), serde_json::to_value(outcome).unwrap());
            }
        }
        // The number of a fact.
        inputs.get_mut("compare_rows").unwrap()["compare_rows"]["comparison_id"] = json!(1);
        let before: BTreeMap<&str, BTreeMap<&str, Value>> =
            serde_json::from_str(include_str!("act/stored_forms.json")).unwrap();
        for (kind, form) in &before["inputs"] {
            assert_eq!(&inputs[kind], form);
        }
        for (kind, form) in &before["outcomes"] {
            assert_eq!(&outcomes[kind], form);
        }
        for row in TABLE.iter().flat_map(|row| row.acts) {
            let read = |of: &str| before[of].get(row.act.kind.as_str()).cloned();
            if let (Some(input), Some(outcome)) = (read("inputs"), read("outcomes")) {
                assert!((row.act.send)(&serde_json::from_value(input).unwrap()).is_some(), "{:?}", row.act);
                assert!((row.act.produces)(&serde_json::from_value(outcome).unwrap()), "{:?}", row.act);
            }
        }
    }

    #[test]
    fn every_kind_is_in_the_table() {
        let acts: Vec<_> = TABLE.iter().flat_map(|row| row.acts).map(|row| row.act.kind).collect();
        for kind in ActKind::ALL {
            assert!(acts.contains(kind), "{kind:?}");
        }
    }

    #[test]
    fn an_act_takes_and_gives_its_own_kind_only() {
        let produced = || Produced::AwaitCopy(pgportage_proto::v1::AwaitCopyResult::default());
        for row in TABLE.iter().flat_map(|row| row.acts) {
            let own = row.act.kind == ActKind::AwaitCopy;
            assert_eq!((row.act.send)(&Input::of(AwaitCopy)).is_some(), own, "{:?}", row.act);
            assert_eq!((row.act.receive)(produced()).is_ok(), own, "{:?}", row.act);
        }
    }
}
