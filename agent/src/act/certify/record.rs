//! What the journal holds of one switchover: what the coordinator asked this agent, what it answered and
//! when.
//!
//! The answers are read back as they were given. So the statement of an agent is what it did, even if it
//! was restarted in between.

use std::time::SystemTime;

use pgportage_link::Failure;
use pgportage_migration::journal::PastFact;
use pgportage_postgres::RelationName;
use pgportage_proto::{Reason, v1};
use prost::Message;
use v1::command::Action as Asked;
use v1::command_fact::Fact as Told;

use super::{Compared, Counted, Done, SwitchRecord};
use crate::act::cutover::{
    DrainToMarker, DrainToMarkerResult, FenceSourceResult, OpenDestination, PrepareCutoverResult, RaiseBarrierResult,
    ReleaseBarrierResult, WrittenRows,
};
use crate::act::{Act, Produced};
use crate::message::{marker, relations, reported, sequences, uint32};

/// Reads what is known of the switchover `epoch`, carried out under a plan, from the commands of its
/// migration with their facts. The latest answer of each kind counts.
///
/// # Errors
///
/// [`Reason::StoreUnwritable`] when the journal holds something else.
pub(super) fn switch_record(history: Vec<PastFact>, plan_digest: &[u8], epoch: i64) -> Result<SwitchRecord, Failure> {
    let mut record = SwitchRecord::default();
    let mut begin = SystemTime::UNIX_EPOCH;
    for PastFact { command, fact } in history {
        let command = v1::Command::decode(command.as_slice()).map_err(|error| unreadable("command", &error))?;
        if command.verb() != v1::Verb::Perform || command.plan_digest != plan_digest {
            continue;
        }
        let fact = v1::CommandFact::decode(fact.as_slice()).map_err(|error| unreadable("fact", &error))?;
        // An action that another release has written and this one does not know is not part of this
        // switchover.
        let Some(asked) = command.action else { continue };
        let at = fact.record_time.and_then(|time| SystemTime::try_from(time).ok()).unwrap_or(SystemTime::UNIX_EPOCH);
        match fact.fact {
            Some(Told::Accepted(_)) => {
                begin = at;
                if let Asked::OpenDestination(asked) = asked
                    && asked.cutover_epoch == epoch
                {
                    let what = OpenDestination::decode(asked)?.sequences;
                    record.opening = Some(Done { begin, end: at, what });
                }
            }
            Some(Told::Succeeded(v1::CommandResult { result: Some(result) })) => {
                learn(&mut record, asked, result, epoch, (begin, at))?;
            }
            Some(Told::Succeeded(_) | Told::Failed(_) | Told::Cancelled(_)) | None => {}
        }
    }
    Ok(record)
}

fn unreadable(what: &str, error: &prost::DecodeError) -> Failure {
    Failure::new(Reason::StoreUnwritable, format!("the journal holds a {what} that cannot be read")).because(error)
}

fn learn(
    record: &mut SwitchRecord,
    asked: Asked,
    result: Produced,
    epoch: i64,
    (begin, end): (SystemTime, SystemTime),
) -> Result<(), Failure> {
    match (asked, result) {
        (Asked::PrepareCutover(asked), Produced::PrepareCutover(result)) if asked.cutover_epoch == epoch => {
            let what = PrepareCutoverResult {
                table_set_digest: result.table_set_digest,
                catalog_digest: result.catalog_digest,
                table_count: uint32(result.table_count),
            };
            record.prepared = Some(Done { begin, end, what });
        }
        (Asked::RaiseBarrier(asked), Produced::RaiseBarrier(result)) if asked.cutover_epoch == epoch => {
            let what = RaiseBarrierResult {
                marker_id: marker(&result.marker_id)?,
                marker_lsn: result.marker_lsn,
                sequences: sequences(result.sequences)?,
                catalog_digest: result.catalog_digest,
                lock_wait: reported(result.lock_wait),
                cancelled_session_count: uint32(result.cancelled_session_count),
            };
            record.raised = Some(Done { begin, end, what });
        }
        (Asked::DrainToMarker(asked), Produced::DrainToMarker(result)) if asked.cutover_epoch == epoch => {
            let what = DrainToMarkerResult {
                drain_time: reported(result.drain_time),
                sequence_count: uint32(result.sequence_count),
                flush_lsn: result.flush_lsn,
                compared: result.comparison.map(written),
            };
            record.drained = Some(Done { begin, end, what: (DrainToMarker::decode(asked)?.marker_id, what) });
        }
        (Asked::FenceSource(asked), Produced::FenceSource(result)) if asked.cutover_epoch == epoch => {
            let what = FenceSourceResult {
                fence_lsn: result.fence_lsn,
                sequences: sequences(result.sequences)?,
                terminated_session_count: uint32(result.terminated_session_count),
                catalog_digest: result.catalog_digest,
            };
            record.fenced = Some(Done { begin, end, what });
        }
        (Asked::OpenDestination(asked), Produced::OpenDestination(_)) if asked.cutover_epoch == epoch => {
            let what = OpenDestination::decode(asked)?.sequences;
            record.opening = Some(Done { begin, end, what });
        }
        (Asked::ReleaseBarrier(asked), Produced::ReleaseBarrier(result)) if asked.cutover_epoch == epoch => {
            let what = ReleaseBarrierResult { barrier_time: reported(result.barrier_time) };
            record.released = Some(Done { begin, end, what });
        }
        // A count of a few tables only, or of none, is no verification.
        (Asked::CountRows(asked), Produced::CountRows(result)) if asked.tables.is_empty() && !asked.objects_only => {
            let tables = result.tables.into_iter().map(|count| (named(count.table), count.row_count)).collect();
            record.counted = Some(Counted { time: end, tables });
        }
        (Asked::CompareRows(_), Produced::CompareRows(result)) => {
            let differing = |table: &v1::TableComparison| table.missing_count + table.extra_count + table.changed_count;
            record.compared = Some(Compared {
                time: end,
                complete: result.complete && result.tables.iter().all(|table| table.obstacle.is_empty()),
                difference_count: result.tables.iter().map(differing).sum(),
                unsettled_count: result.tables.iter().map(|table| table.unsettled_count).sum(),
                tables: result
                    .tables
                    .into_iter()
                    .map(|table| (named(table.table), table.row_count, table.digest))
                    .collect(),
            });
        }
        (_other, _of_another_switch) => {}
    }
    Ok(())
}

fn written(message: v1::SwitchComparison) -> WrittenRows {
    WrittenRows {
        table_count: uint32(message.table_count),
        row_count: message.row_count.unsigned_abs(),
        left_out: relations(message.left_out),
        elapsed: reported(message.elapsed),
    }
}

fn named(table: Option<v1::RelationName>) -> RelationName {
    table.map(RelationName::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MARKER: &str = "4f9a0000-0000-4000-8000-000000000000";

    /// A journal's history, one command after the other, with a second for each fact.
    #[derive(Default)]
    struct History {
        rows: Vec<PastFact>,
        seconds: i64,
        plan: u8,
    }

    impl History {
        fn command(&mut self, verb: v1::Verb, action: Asked, facts: Vec<Told>) {
            let command = v1::Command {
                id: uuid::Uuid::from_u128(self.rows.len() as u128).to_string(),
                migration_id: "shop".to_owned(),
                attempt: 1,
                stall_timeout: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
                plan_digest: vec![self.plan],
                verb: verb.into(),
                side: v1::Side::Source.into(),
                database: "shop".to_owned(),
                peer_agent_id: "oslo".to_owned(),
                action: Some(action),
                ..v1::Command::default()
            };
            for fact in facts {
                self.seconds += 1;
                let record_time = Some(prost_types::Timestamp { seconds: self.seconds, nanos: 0 });
                let fact = v1::CommandFact { record_time, fact: Some(fact), ..v1::CommandFact::default() };
                self.rows.push(PastFact { command: command.encode_to_vec(), fact: fact.encode_to_vec() });
            }
        }

        fn did(&mut self, action: Asked, result: Produced) {
            let result = v1::CommandResult { result: Some(result) };
            self.command(
                v1::Verb::Perform,
                action,
                vec![Told::Accepted(v1::CommandAccepted {}), Told::Succeeded(result)],
            );
        }

        fn record(self, epoch: i64) -> SwitchRecord {
            switch_record(self.rows, &[0], epoch).unwrap()
        }
    }

    fn second(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn budget() -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds: 1, nanos: 0 })
    }

    fn sequence(last_value: i64) -> v1::SequenceState {
        let sequence = v1::RelationName { schema_name: "public".to_owned(), relation_name: "ids".to_owned() };
        v1::SequenceState { sequence: Some(sequence), last_value, called: true }
    }

    fn raise(history: &mut History, cutover_epoch: i64, marker_lsn: &str) {
        history.did(
            Asked::RaiseBarrier(v1::RaiseBarrier { cutover_epoch, max_outage: budget() }),
            Produced::RaiseBarrier(v1::RaiseBarrierResult {
                marker_id: MARKER.to_owned(),
                marker_lsn: marker_lsn.to_owned(),
                sequences: vec![sequence(10)],
                cancelled_session_count: 2,
                ..v1::RaiseBarrierResult::default()
            }),
        );
    }

    fn fence(cutover_epoch: i64) -> Asked {
        Asked::FenceSource(v1::FenceSource { cutover_epoch, marker_id: MARKER.to_owned() })
    }

    fn fenced(last_value: i64) -> Produced {
        let sequences = vec![sequence(last_value)];
        Produced::FenceSource(v1::FenceSourceResult { sequences, ..v1::FenceSourceResult::default() })
    }

    #[test]
    fn a_switch_is_known_by_its_number_and_its_plan() {
        let mut history = History::default();
        raise(&mut history, 1, "0/1");
        raise(&mut history, 2, "0/2");
        history.plan = 9;
        raise(&mut history, 2, "0/9");
        history.plan = 0;
        raise(&mut history, 3, "0/3");
        let raised = history.record(2).raised.unwrap();
        assert_eq!((raised.what.marker_lsn.as_str(), raised.begin, raised.end), ("0/2", second(3), second(4)));
        assert_eq!((raised.what.marker_id.to_string().as_str(), raised.what.cancelled_session_count), (MARKER, 2));
    }

    #[test]
    fn what_failed_or_was_taken_back_is_not_stated() {
        let mut history = History::default();
        let failed = Told::Failed(v1::Failure::default());
        history.command(v1::Verb::Perform, fence(1), vec![Told::Accepted(v1::CommandAccepted {}), failed]);
        let undone = Told::Succeeded(v1::CommandResult { result: None });
        history.command(v1::Verb::Undo, fence(1), vec![Told::Accepted(v1::CommandAccepted {}), undone]);
        assert_eq!(history.record(1), SwitchRecord::default());
    }

    #[test]
    fn the_latest_answer_counts() {
        let mut history = History::default();
        history.did(fence(1), fenced(10));
        history.did(fence(1), fenced(20));
        assert_eq!(history.record(1).fenced.unwrap().what.sequences[0].last_value, 20);
    }

    /// The answer to the opening may be lost with the agent; the values that it set are not.
    #[test]
    fn an_opening_without_an_answer_is_known() {
        let mut history = History::default();
        let open = Asked::OpenDestination(v1::OpenDestination { cutover_epoch: 1, sequences: vec![sequence(20)] });
        history.command(v1::Verb::Perform, open, vec![Told::Accepted(v1::CommandAccepted {})]);
        let opening = history.record(1).opening.unwrap();
        assert_eq!((opening.what[0].last_value, opening.begin, opening.end), (20, second(1), second(1)));
    }

    fn orders() -> Option<v1::RelationName> {
        Some(v1::RelationName { schema_name: "public".to_owned(), relation_name: "orders".to_owned() })
    }

    #[test]
    fn only_a_count_of_every_table_is_one() {
        let counted = |row_count: i64| {
            let count = v1::TableCount { table: orders(), row_count, ..v1::TableCount::default() };
            Produced::CountRows(v1::CountRowsResult { tables: vec![count], ..v1::CountRowsResult::default() })
        };
        let mut history = History::default();
        history.did(Asked::CountRows(v1::CountRows::default()), counted(7));
        let again = v1::CountRows { tables: orders().into_iter().collect(), objects_only: false, sequences: false };
        history.did(Asked::CountRows(again), counted(1));
        let objects = v1::CountRows { tables: Vec::new(), objects_only: true, sequences: false };
        history.did(Asked::CountRows(objects), counted(2));
        let counted = history.record(1).counted.unwrap();
        assert_eq!((counted.tables[0].1, counted.time), (7, second(2)));
    }

    #[test]
    fn a_comparison_with_an_obstacle_is_not_complete() {
        for (obstacle, complete) in [("", true), ("has no key", false)] {
            let table = v1::TableComparison {
                table: orders(),
                row_count: 7,
                digest: vec![0xab],
                missing_count: 1,
                extra_count: 1,
                changed_count: 2,
                obstacle: obstacle.to_owned(),
                ..v1::TableComparison::default()
            };
            let result = v1::CompareRowsResult { tables: vec![table], complete: true, ..Default::default() };
            let mut history = History::default();
            history.did(Asked::CompareRows(v1::CompareRows::default()), Produced::CompareRows(result));
            let compared = history.record(1).compared.unwrap();
            assert_eq!((compared.complete, compared.difference_count), (complete, 4));
            assert_eq!(compared.tables[0].2, [0xab]);
        }
    }
}
