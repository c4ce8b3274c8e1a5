//! The acts, each in a file: what it is given, what it produces, how both travel, and
//! what it will run.
//!
//! A row of [`TABLE`](super::TABLE) points at an [`Act`]. To add one: a file here, its
//! `mod` line, and its row of the table. What acts are given and produce is stored:
//! **names and fields never change their form.**

pub(crate) mod await_copy;
pub(crate) mod await_lag;
pub(crate) mod certify_switch;
pub(crate) mod check_server;
pub(crate) mod close_database;
pub(crate) mod compare_rows;
pub(crate) mod copy_tables;
pub(crate) mod count_rows;
pub(crate) mod create_publication;
pub(crate) mod create_replication_role;
pub(crate) mod create_slot;
pub(crate) mod create_subscription;
pub(crate) mod create_way_back;
pub(crate) mod drain_to_marker;
pub(crate) mod fence_source;
pub(crate) mod finish_migration;
pub(crate) mod follow_stream;
pub(crate) mod keep_stream;
mod kind;
pub(crate) mod open_destination;
pub(crate) mod prepare_cutover;
pub(crate) mod raise_barrier;
pub(crate) mod reach_peer;
pub(crate) mod release_barrier;
pub(crate) mod restore_schema;
pub(crate) mod sequence;
pub(crate) mod set_replica_identity;

pub(crate) use kind::{Act, Given, Input, Kind, Outcome, Produced, Trial};
pub(crate) use pgportage_proto::RelationName;
pub(crate) use pgportage_report::Digest;
pub(crate) use pgportage_report::comparison::{RowComparison, TableComparison};
pub(crate) use pgportage_report::inventory::Inventory;

pub(crate) use certify_switch::{CertifySwitch, SignedStatement};
pub(crate) use check_server::{CheckServer, CheckServerResult};
pub(crate) use compare_rows::CompareRows;
pub(crate) use count_rows::{CountRows, RowCounts, SequencePlace, TableCount};
pub(crate) use drain_to_marker::{DrainToMarker, WrittenRows};
pub(crate) use fence_source::{Fence, FenceSource};
pub(crate) use finish_migration::FinishMigration;
pub(crate) use open_destination::OpenDestination;
pub(crate) use prepare_cutover::PrepareCutover;
pub(crate) use raise_barrier::{Barrier, RaiseBarrier};
pub(crate) use reach_peer::ReachPeer;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pgportage_proto::{ActKind, CopyMethod};
    use serde_json::{Value, json};

    use super::super::TABLE;
    use super::super::depth::Look;
    use super::super::fact::Event;
    use super::super::proof::Play;
    use super::super::verb::Request;
    use super::await_copy::AwaitCopy;
    use super::create_publication::CreatePublication;
    use super::create_slot::CreateSlot;
    use super::keep_stream::KeepStream;
    use super::restore_schema::{RestoreSchema, RestoreSchemaResult};
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
        let CheckServerResult { inventory, .. } = read.read::<CheckServer>().unwrap();
        assert_eq!((inventory.table_count, inventory.plan_material.as_ref()), (3, None));
        let restored = RestoreSchemaResult { dump_digest: Digest(vec![1]), object_count: 2 };
        let form = json!({"restore_schema": {"dump_digest": "01", "object_count": 2}});
        assert_eq!(serde_json::to_value(Outcome::of::<RestoreSchema>(restored)).unwrap(), form);
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
