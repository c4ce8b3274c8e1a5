//! What is stated from a given record. The statement itself, with its signature, is checked by the tests
//! that make real switchovers.

use pgportage_certificate::Account;

use super::*;

fn second(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn done<T>(begin: u64, end: u64, what: T) -> Option<Done<T>> {
    Some(Done { begin: second(begin), end: second(end), what })
}

fn position(last_value: i64) -> SequencePosition {
    SequencePosition { name: RelationName::new("public", "ids"), last_value, called: true }
}

fn orders() -> RelationName {
    RelationName::new("public", "orders")
}

/// A record with all that an agent of either side may know of a switchover.
fn known() -> SwitchRecord {
    SwitchRecord {
        prepared: done(
            1,
            2,
            PrepareCutoverResult { table_set_digest: vec![1], catalog_digest: vec![2], table_count: 3 },
        ),
        raised: done(
            3,
            4,
            RaiseBarrierResult {
                marker_id: Uuid::from_u128(7),
                marker_lsn: "0/A".to_owned(),
                sequences: vec![position(10)],
                catalog_digest: vec![2],
                lock_wait: Duration::from_micros(1_500),
                cancelled_session_count: 1,
            },
        ),
        drained: done(
            4,
            5,
            (
                Uuid::from_u128(8),
                DrainToMarkerResult {
                    drain_time: Duration::from_millis(3),
                    sequence_count: 1,
                    flush_lsn: "0/B".to_owned(),
                    compared: None,
                },
            ),
        ),
        fenced: done(
            5,
            6,
            FenceSourceResult {
                fence_lsn: "0/C".to_owned(),
                sequences: vec![position(20)],
                terminated_session_count: 4,
                catalog_digest: vec![2],
            },
        ),
        opening: done(6, 7, vec![position(21)]),
        released: done(8, 9, ReleaseBarrierResult { barrier_time: Duration::from_millis(40) }),
        counted: Some(Counted { time: second(0), tables: vec![(orders(), 9)] }),
        compared: None,
    }
}

fn names(phases: &[Phase]) -> Vec<&str> {
    phases.iter().map(|phase| phase.name.as_str()).collect()
}

#[test]
fn the_side_that_was_left_tells_what_it_read_when_nobody_was_there() {
    let told = told_by_the_left(&known()).unwrap();
    assert_eq!((told.marker_id, told.sequences), (Uuid::from_u128(7), vec![position(20)]));
    assert_eq!(names(&told.phases), ["prepare_cutover", "raise_barrier", "fence_source", "release_barrier"]);
    let Account::Left(left) = told.account else { panic!("{:?}", told.account) };
    assert_eq!((left.marker_lsn.as_str(), left.fence_lsn.as_str()), ("0/A", "0/C"));
    assert_eq!(left.fence_time, Moment::from(second(6)));
    assert_eq!((left.lock_wait_microseconds, left.barrier_microseconds), (1_500, 40_000));
    assert_eq!((left.cancelled_session_count, left.terminated_session_count), (1, 4));
}

#[test]
fn the_side_that_was_entered_tells_what_it_saw_and_set() {
    let decision = Decision { time: second(7), lsn: "0/D".to_owned() };
    let told = told_by_the_entered(&known(), decision).unwrap();
    assert_eq!((told.marker_id, told.sequences), (Uuid::from_u128(8), vec![position(21)]));
    assert_eq!(names(&told.phases), ["prepare_cutover", "drain_to_marker", "open_destination"]);
    let Account::Entered(entered) = told.account else { panic!("{:?}", told.account) };
    assert_eq!((entered.flush_lsn.as_str(), entered.decision_lsn.as_str()), ("0/B", "0/D"));
    assert_eq!(entered.decision_time, Moment::from(second(7)));
}

#[test]
fn what_is_not_known_is_not_stated() {
    let missing_left: [fn(&mut SwitchRecord); 4] = [
        |record| record.prepared = None,
        |record| record.raised = None,
        |record| record.fenced = None,
        |record| record.released = None,
    ];
    for forget in missing_left {
        let mut record = known();
        forget(&mut record);
        let refused = told_by_the_left(&record).unwrap_err();
        assert_eq!((refused.reason, refused.remedy), (Reason::WrongState, Remedy::Operator));
    }
    let missing_entered: [fn(&mut SwitchRecord); 3] =
        [|record| record.prepared = None, |record| record.drained = None, |record| record.opening = None];
    for forget in missing_entered {
        let mut record = known();
        forget(&mut record);
        let decision = Decision { time: second(7), lsn: "0/D".to_owned() };
        assert!(told_by_the_entered(&record, decision).is_err());
    }
}

#[test]
fn the_last_look_at_rows_is_told_and_the_one_that_looked_closer() {
    let counted = known();
    let found = verification(&counted, Side::Destination).unwrap();
    assert_eq!((found.row_count, found.comparison), (9, None));
    let compared = |time| Compared {
        time: second(time),
        complete: true,
        difference_count: 0,
        unsettled_count: 1,
        tables: vec![(orders(), 10, vec![0xab])],
    };
    let closer = SwitchRecord { compared: Some(compared(0)), ..known() };
    let found = verification(&closer, Side::Destination).unwrap();
    assert_eq!((found.row_count, found.comparison.unwrap().unsettled_count), (10, 1));
    assert_eq!(found.tables.entries.unwrap()[0].hash, "ab");
    assert_eq!(verification(&closer, Side::Source).unwrap().comparison, None, "the destination's agent compares");
    let counted_since = SwitchRecord {
        counted: Some(Counted { time: second(1), tables: Vec::new() }),
        compared: Some(compared(0)),
        ..known()
    };
    assert_eq!(verification(&counted_since, Side::Destination).unwrap().comparison, None);
    assert_eq!(verification(&SwitchRecord { counted: None, ..known() }, Side::Source), None);
}
