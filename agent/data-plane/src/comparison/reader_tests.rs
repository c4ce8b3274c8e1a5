//! The statements on a real server: parts make up the whole, both ways of hashing
//! see every difference, and an order that is not the server's is noticed.

use std::sync::Arc;
use std::time::Duration;

use pgportage_link::Clock;
use pgportage_postgres::{DoorSettings, RelationName};
use pgportage_tests::cluster::{Cluster, ClusterOptions, SUPERUSER};
use pgportage_tests::postgres_versions::PostgresVersion;

use super::*;
use crate::comparison::Hashing;

const SCHEMA: &str = "\
CREATE TYPE mood AS ENUM ('sad', 'fine');
CREATE TABLE t (name text PRIMARY KEY, n int, f float8, body bytea, kind \"char\", mood mood, price money,
                at timestamptz, remark varchar, amount numeric, doc jsonb);
INSERT INTO t SELECT md5(i::text), i, i / 7.0, decode(md5(i::text), 'hex'), 'a', 'fine', i::numeric::money,
       timestamptz '2026-01-02' + i * interval '1 second', 'remark ' || i, 1.0, jsonb_build_object('n', i)
FROM generate_series(1, 1000) i;
CREATE TABLE odd (a int, b text, UNIQUE (a));
CREATE TABLE deferred (a int PRIMARY KEY DEFERRABLE);
CREATE TABLE moods (mood mood, \"Day\" date, PRIMARY KEY (mood, \"Day\"));";

/// Each of these changes a row in one small way.
const CHANGES: [&str; 11] = [
    "UPDATE t SET n = NULL WHERE n = 500",
    "UPDATE t SET f = f + 1e-13 WHERE n = 501",
    "UPDATE t SET body = set_bit(body, 77, 1 - get_bit(body, 77)) WHERE n = 502",
    "UPDATE t SET kind = 'b' WHERE n = 503",
    "UPDATE t SET mood = 'sad' WHERE n = 504",
    "UPDATE t SET at = at + interval '1 microsecond' WHERE n = 506",
    "UPDATE t SET remark = upper(remark) WHERE n = 507",
    // Equal for PostgreSQL, although the text differs.
    "UPDATE t SET amount = 1.00 WHERE n = 508",
    "UPDATE t SET doc = '{\"n\": 509.0}' WHERE n = 509",
    "DELETE FROM t WHERE n = 505",
    "INSERT INTO t (name) VALUES ('')",
];

async fn reader(cluster: &Cluster) -> Reader {
    let settings = DoorSettings {
        host: cluster.socket_directory().display().to_string(),
        port: cluster.port,
        user: SUPERUSER.to_owned(),
        password_file: None,
        passfile: None,
        lock_timeout: Duration::from_secs(2),
        max_sessions: 4,
    };
    Reader::open(&Door::new(settings, Clock), "postgres").await.unwrap()
}

#[tokio::test]
async fn parts_make_up_the_whole_and_no_change_is_missed() {
    let cluster = Cluster::start(PostgresVersion::V15, &ClusterOptions::new()).await.unwrap();
    cluster.execute("postgres", SCHEMA).await.unwrap();
    let mut reader = reader(&cluster).await;
    let names = ["deferred", "moods", "odd", "t"].map(|name| RelationName::new("public", name));
    let tables = describe(&reader.session, &names).await.unwrap();
    let keys: Vec<_> = tables.iter().map(|table| table.key.join(" ")).collect();
    assert_eq!(keys, ["", "mood Day", "", "name"], "deferrable ones and those with gaps are no keys");
    let table = Arc::new(tables[3].clone());

    for hashing in [Hashing::Native, Hashing::Portable] {
        let part = |which| Part { table: Arc::clone(&table), hashing, which };
        let keyless = Part { table: Arc::new(table.without_key()), hashing, which: Which::ALL };
        let mut whole = reader.digests(&[part(Which::ALL)]).await.unwrap()[0].digest;
        assert_eq!(whole.row_count, 1000);

        // The table read in order, in parts of any size, and in buckets.
        let (mut sum, mut first, mut parts) = (Digest::default(), None, 0);
        loop {
            let end = reader.key_behind(&table, first.as_ref(), 137).await.unwrap();
            let range = part(Which::Range { first, end: end.clone() });
            let digest = reader.digests(std::slice::from_ref(&range)).await.unwrap()[0];
            assert!(!digest.disordered);
            assert_eq!(reader.rows(&range).await.unwrap().len() as i64, digest.digest.row_count);
            sum += digest.digest;
            (first, parts) = (end, parts + 1);
            if first.is_none() {
                break;
            }
        }
        assert_eq!((sum, parts), (whole, 8));
        let dealt = Part { which: Which::Buckets { count: 16, only: vec![] }, ..keyless.clone() };
        let mut sum = Digest::default();
        for bucket in reader.digests(std::slice::from_ref(&dealt)).await.unwrap() {
            let only = Part { which: Which::Buckets { count: 16, only: vec![bucket.bucket] }, ..keyless.clone() };
            assert_eq!(reader.rows(&only).await.unwrap().len() as i64, bucket.digest.row_count);
            sum += bucket.digest;
        }
        assert_eq!(sum, whole);

        // A range whose ends are exchanged is noticed by the order of the column.
        let [low, high] = ["0", "f"].map(|name| Some(RowKey(vec![name.to_owned()])));
        let turned = part(Which::Range { first: high, end: low });
        assert!(reader.digests(&[turned]).await.unwrap()[0].disordered);

        for change in CHANGES {
            cluster.execute("postgres", change).await.unwrap();
            let changed = reader.digests(&[part(Which::ALL)]).await.unwrap()[0].digest;
            assert_ne!(changed, whole, "{hashing:?}: {change}");
            whole = changed;
        }
        cluster.execute("postgres", "TRUNCATE t").await.unwrap();
        let rows = SCHEMA.split_once("INSERT INTO t").unwrap().1.split_once(';').unwrap().0;
        cluster.execute("postgres", &format!("INSERT INTO t{rows}")).await.unwrap();
    }

    // A key of two columns, one of them an enum: its rows are found again by their values.
    cluster
        .execute("postgres", "INSERT INTO moods VALUES ('sad', '2020-01-01'), ('fine', '2020-01-02')")
        .await
        .unwrap();
    let moods = Arc::new(tables[1].clone());
    let key = RowKey(vec!["fine".to_owned(), "2020-01-02".to_owned()]);
    assert_eq!(reader.key_behind(&moods, None, 1).await.unwrap(), Some(key.clone()));
    let one = Part { table: moods, hashing: Hashing::Native, which: Which::Keys(vec![key.clone()]) };
    assert_eq!(reader.rows(&one).await.unwrap()[0].key, key);
    assert_eq!(
        reader.contents(&one).await.unwrap()[0].values,
        [Some("2020-01-02".to_owned()), Some("fine".to_owned())]
    );
}
