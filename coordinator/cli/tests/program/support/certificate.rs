//! What both agents state about a cutover.

use std::time::{Duration, SystemTime};

use pgportage_certificate::{
    Account, Comparison, Direction, Entered, FORMAT, Left, Listing, Moment, Phase, Rows, Sequence, Server, Statement,
    TableSet, Verification,
};

/// What they state, all of it within a minute before `now`.
pub(crate) fn statements(now: SystemTime) -> [Statement; 2] {
    let at = |milliseconds: u64| Moment::from(now - Duration::from_secs(60) + Duration::from_millis(milliseconds));
    let phase = |name: &str, begin: u64, end: u64| Phase { name: name.to_owned(), begin: at(begin), end: at(end) };
    let uri = |name: &str| format!("spiffe://test.example/pgportage/agent/{name}");
    let sequence =
        Sequence { schema: "public".to_owned(), name: "orders_id_seq".to_owned(), last_value: 41, called: true };
    let rows = |hash: &str| {
        Listing::of(vec![Rows {
            schema: "public".to_owned(),
            name: "orders".to_owned(),
            row_count: 41,
            hash: hash.to_owned(),
        }])
    };
    let left = Statement {
        format: FORMAT,
        migration: "shop".to_owned(),
        cutover_epoch: 1,
        direction: Direction::Cutover,
        database: "shop".to_owned(),
        plan_sha256: "07".repeat(32),
        agent: uri("alpha"),
        peer: uri("beta"),
        server: Server { system_identifier: "7391245523198837112".to_owned(), version_num: 150_019 },
        marker_id: "6d3cbd14-6a0c-4a9b-9a3f-0d7d51f0a4d2".to_owned(),
        tables: TableSet { count: 1, sha256: "aa".repeat(32) },
        catalog_sha256: "cc".repeat(32),
        sequences: Listing::of(vec![sequence]),
        phases: vec![
            phase("prepare_cutover", 0, 84),
            phase("raise_barrier", 90, 112),
            phase("fence_source", 131, 188),
            phase("release_barrier", 215, 240),
        ],
        account: Account::Left(Left {
            marker_lsn: "0/3000110".to_owned(),
            fence_lsn: "0/3000A98".to_owned(),
            fence_time: at(188),
            lock_wait_microseconds: 9_412,
            barrier_microseconds: 118_903,
            cancelled_session_count: 1,
            terminated_session_count: 7,
        }),
        verification: Some(Verification { time: at(0), tables: rows(""), row_count: 41, comparison: None }),
        statement_time: at(900),
    };
    let entered = Statement {
        agent: uri("beta"),
        peer: uri("alpha"),
        server: Server { system_identifier: "7391245523200001234".to_owned(), version_num: 180_001 },
        phases: vec![
            phase("prepare_cutover", 0, 71),
            phase("drain_to_marker", 114, 129),
            phase("open_destination", 190, 213),
        ],
        account: Account::Entered(Entered {
            written: None,
            flush_lsn: "0/1F00100".to_owned(),
            drain_microseconds: 3_200,
            decision_lsn: "0/1F00880".to_owned(),
            decision_time: at(209),
        }),
        verification: Some(Verification {
            time: at(0),
            tables: rows(&"ee".repeat(32)),
            row_count: 41,
            comparison: Some(Comparison { complete: true, difference_count: 0, unsettled_count: 0 }),
        }),
        ..left.clone()
    };
    [left, entered]
}
