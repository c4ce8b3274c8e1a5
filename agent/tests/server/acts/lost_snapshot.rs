//! A snapshot is lost when some tables are complete: they are kept, but for the
//! rows that were touched since, wherever that can be known.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use pgportage_link::fail_point;
use pgportage_migration::names;
use pgportage_proto::Side;
use pgportage_tests::postgres_versions::PostgresVersion::{V14, V16, V18};
use pgportage_tests::postgres_versions::{PostgresVersion, tools_for};

use super::contract::{perform, perform_with, undo};
use super::copy::{COPY, SLOT, follow_and_compare, ready_with};
use crate::world::{Options, World, migration};

const LIMIT: Duration = Duration::from_secs(60);

/// What was touched is exchanged in these, and the rest of them stays.
const MENDED: [&str; 7] = ["by_index", "computed", "external", "odd", "parted_1", "parted_2", "touched"];
/// No row of these was touched.
const KEPT: [&str; 2] = ["still", "untouched"];
/// What was touched in these is not known, or too much, or not worth replacing.
const ANEW: [&str; 7] = ["flooded", "keyless", "last", "rewritten", "small", "truncated", "value_first"];

/// One is cut into parts. All but the last three are large enough to be mended.
const SCHEMA: &str = "\
CREATE ROLE app;
CREATE TYPE public.mood AS ENUM ('sad', 'it''s \\ fine');
CREATE DOMAIN public.positive AS int CHECK (value > 0);
CREATE TABLE public.untouched (id int PRIMARY KEY, v text);
CREATE TABLE public.touched (v text, id int PRIMARY KEY);
CREATE TABLE public.still (id int, v text);
ALTER TABLE public.still REPLICA IDENTITY FULL;
CREATE TABLE public.keyless (id int, v text);
ALTER TABLE public.keyless REPLICA IDENTITY FULL;
CREATE TABLE public.truncated (id int PRIMARY KEY, v text);
CREATE TABLE public.rewritten (id int PRIMARY KEY, v text, w int);
CREATE TABLE public.flooded (id int PRIMARY KEY, v text);
INSERT INTO public.untouched SELECT i, repeat('u', 60) FROM generate_series(1, 20000) i;
INSERT INTO public.touched SELECT repeat('t', 60), i FROM generate_series(1, 350000) i;
INSERT INTO public.still SELECT i, repeat('s', 60) FROM generate_series(1, 20000) i;
INSERT INTO public.keyless SELECT i, repeat('k', 60) FROM generate_series(1, 20000) i;
INSERT INTO public.truncated SELECT i, repeat('c', 60) FROM generate_series(1, 20000) i;
INSERT INTO public.rewritten SELECT i, repeat('r', 60), i FROM generate_series(1, 20000) i;
INSERT INTO public.flooded SELECT i, repeat('f', 60) FROM generate_series(1, 40000) i;
CREATE TABLE public.odd (
    v text, mood public.mood, code text, at timestamptz, n public.positive, fixed character(5), scale double precision,
    PRIMARY KEY (code, at, mood, n, fixed, scale));
INSERT INTO public.odd
SELECT repeat('o', 60), 'it''s \\ fine', (ARRAY['', E'a\\tb', E'\\n\\r', E'\\\\N', 'it''s', 'größe', '\"', ' '])[1 + i % 8] || i,
       timestamptz '2020-01-01' + i * interval '1.000001 s', i, 'x', i / 7.0::float8
FROM generate_series(1, 12000) i;
CREATE TABLE public.by_index (v numeric NOT NULL, w text);
CREATE UNIQUE INDEX by_index_v ON public.by_index (v);
ALTER TABLE public.by_index REPLICA IDENTITY USING INDEX by_index_v;
INSERT INTO public.by_index SELECT i / 3.0, repeat('b', 60) FROM generate_series(1, 20000) i;
CREATE TABLE public.external (v int, id text PRIMARY KEY);
ALTER TABLE public.external ALTER COLUMN id SET STORAGE EXTERNAL;
INSERT INTO public.external SELECT i, i || repeat('e', 2400) FROM generate_series(1, 600) i;
CREATE TABLE public.computed (doubled int GENERATED ALWAYS AS (id * 2) STORED, id int PRIMARY KEY, v text);
INSERT INTO public.computed (id, v) SELECT i, repeat('g', 60) FROM generate_series(1, 20000) i;
CREATE TABLE public.parted (id int, day date, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE public.parted_1 PARTITION OF public.parted FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE public.parted_2 (v text, day date NOT NULL, id int NOT NULL);
ALTER TABLE public.parted ATTACH PARTITION public.parted_2 FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
INSERT INTO public.parted SELECT i, date '2020-01-01' + i % 700, repeat('p', 60) FROM generate_series(1, 40000) i;
CREATE TABLE public.value_first (v text, id int PRIMARY KEY);
ALTER TABLE public.value_first ALTER COLUMN v SET STORAGE EXTERNAL;
INSERT INTO public.value_first SELECT repeat('v', 100000), i FROM generate_series(1, 30) i;
CREATE TABLE public.small (id int PRIMARY KEY, v text);
INSERT INTO public.small SELECT i, repeat('s', 60) FROM generate_series(1, 2000) i;
CREATE TABLE public.last (id int PRIMARY KEY, v text);
INSERT INTO public.last VALUES (1, 'held up');
CREATE TABLE public.empty (id int PRIMARY KEY);";

/// All that can be done to rows, each time to others. More changes than the server
/// is asked for at a time.
fn touches(round: u32) -> Vec<String> {
    let a = round * 100;
    let mut touches: Vec<String> = (0..3)
        .map(|n| format!("UPDATE flooded SET v = 'flood {n}' WHERE id > 0"))
        .take(if round == 1 { 3 } else { 1 })
        .collect();
    touches.extend([
        format!("UPDATE touched SET v = 'new' WHERE id BETWEEN {a} AND {}", a + 10),
        format!("DELETE FROM touched WHERE id BETWEEN {} AND {}", a + 20, a + 25),
        format!("INSERT INTO touched SELECT 'more', {} + i FROM generate_series(1, 50) i", 1_000_000 * round),
        // A row takes the key of one that is gone.
        format!("DELETE FROM touched WHERE id = {0}; UPDATE touched SET id = {0} WHERE id = {1}", a + 30, a + 31),
        format!("UPDATE touched SET id = -{a} WHERE id = {}", a + 40),
        format!("BEGIN; UPDATE touched SET v = 'never' WHERE id = {}; ROLLBACK", a + 41),
        format!("BEGIN; SAVEPOINT a; DELETE FROM touched WHERE id = {0}; ROLLBACK TO a; UPDATE touched SET v = 'sub' WHERE id = {0}; COMMIT", a + 42),
        format!("UPDATE odd SET v = 'new' WHERE n BETWEEN {a} AND {}", a + 16),
        format!("UPDATE odd SET code = code || E'\\t\\\\' WHERE n BETWEEN {} AND {}", a + 20, a + 36),
        format!("UPDATE odd SET mood = 'sad', scale = -scale WHERE n BETWEEN {} AND {}", a + 40, a + 44),
        format!("DELETE FROM odd WHERE n BETWEEN {} AND {}", a + 50, a + 66),
        format!("UPDATE by_index SET w = 'new' WHERE v BETWEEN {a} AND {}", a + 3),
        format!("UPDATE by_index SET v = -v WHERE v BETWEEN {} AND {}", a + 10, a + 13),
        format!("DELETE FROM by_index WHERE v BETWEEN {} AND {}", a + 20, a + 23),
        // The key is out of line, and not sent again.
        format!("UPDATE external SET v = -v WHERE v BETWEEN {a} AND {}", a + 5),
        format!("UPDATE external SET id = 'other ' || id WHERE v BETWEEN {} AND {}", a + 10, a + 12),
        format!("DELETE FROM external WHERE v BETWEEN {} AND {}", a + 20, a + 22),
        format!("UPDATE computed SET v = 'new' WHERE id BETWEEN {a} AND {}", a + 10),
        format!("UPDATE computed SET id = -id WHERE id BETWEEN {} AND {}", a + 20, a + 24),
        format!("UPDATE parted SET v = 'new' WHERE id BETWEEN {a} AND {}", a + 10),
        // From one partition to the other.
        format!("UPDATE parted SET day = '2021-12-12' WHERE id BETWEEN {} AND {}", a + 20, a + 30),
        format!("DELETE FROM parted WHERE id BETWEEN {} AND {}", a + 40, a + 50),
        format!("UPDATE keyless SET v = 'new' WHERE id = {a}"),
        format!("UPDATE value_first SET v = repeat('w', 100000) WHERE id = {round}"),
        format!("UPDATE small SET v = 'new' WHERE id = {a}"),
        format!("UPDATE last SET v = 'round {round}'"),
    ]);
    touches
}

/// Rows that change without being in the stream, and a table that is emptied. Both
/// wait for the readers of the tables.
fn rebuild(round: u32) -> String {
    format!(
        "ALTER TABLE rewritten ALTER COLUMN w TYPE int USING w + 1; TRUNCATE truncated;
         INSERT INTO truncated SELECT i, repeat('c', 60) FROM generate_series(1, {}) i",
        20_000 - round
    )
}

async fn touch(world: &World, round: u32) {
    let source = world.source.connect(&world.options.database).await.unwrap();
    for statement in touches(round) {
        source.batch_execute(&statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
}

/// Ends the session that keeps the snapshot, and those that have imported it.
async fn lose_snapshot(world: &World) {
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name IN ('pgportage keeper', 'pgportage scan')";
    world.source.execute(&world.options.database, end).await.unwrap();
    let gone = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'pgportage keeper')";
    world.source.wait_until(&world.options.database, gone, LIMIT).await.unwrap();
}

/// Copies until every table but `last`, which another session locks, is as another snapshot than `held` shows it,
/// and dies.
async fn copy_all_but_the_last(world: &World, held: &str) {
    let database = &world.options.database;
    let tables = MENDED.len() + KEPT.len() + ANEW.len();
    let all_but_one = format!(
        "SELECT count(DISTINCT relation) = {} AND (SELECT consistent_point <> '{held}' FROM pgportage.copy)
         FROM pgportage.copied WHERE schema = 'public' AND relation <> 'empty'",
        tables - 1
    );
    let blocker = world.destination.connect(database).await.unwrap();
    blocker.batch_execute("BEGIN; LOCK TABLE public.last IN ACCESS SHARE MODE").await.unwrap();
    let begun = "SELECT to_regclass('pgportage.copied') IS NOT NULL";
    let seen = async {
        world.destination.wait_until(database, begun, LIMIT).await.unwrap();
        world.destination.wait_until(database, &all_but_one, LIMIT).await.unwrap();
    };
    tokio::select! {
        () = seen => {}
        copied = perform(world, Side::Destination, &COPY) => panic!("past the one that is held up: {copied:?}"),
    }
}

/// A death before what is mended is committed.
async fn die_level(world: &World) {
    let point = "copy_tables.perform.level";
    fail_point::arm(point);
    let cx = world.context(Side::Destination);
    let died = Box::pin(AssertUnwindSafe(perform_with(&cx, &COPY)).catch_unwind()).await;
    assert!(!fail_point::disarm(point), "{point} was not passed");
    assert!(died.is_err());
}

/// Slots of ours on the source, and where they begin.
async fn slots(world: &World) -> BTreeMap<String, String> {
    let source = world.source.connect(&world.options.database).await.unwrap();
    let slots = "SELECT slot_name::text, confirmed_flush_lsn::text FROM pg_replication_slots";
    source.query(slots, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// What the ledger has of each table: where its rows are, and how many bytes came.
async fn ledger(world: &World) -> BTreeMap<String, (u32, i64)> {
    let client = world.destination.connect(&world.options.database).await.unwrap();
    let parts = "SELECT relation, c.relfilenode, sum(copied_bytes)::bigint
        FROM pgportage.copied p JOIN pg_class c ON c.oid = format('%I.%I', p.schema, p.relation)::regclass
        GROUP BY relation, c.relfilenode";
    client.query(parts, &[]).await.unwrap().iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect()
}

async fn fates(world: &World, condition: &str) -> Vec<String> {
    let client = world.destination.connect(&world.options.database).await.unwrap();
    let tables = format!(
        "SELECT relation FROM pgportage.copied_table
         WHERE schema = 'public' AND relation <> 'empty' AND {condition} ORDER BY relation COLLATE \"C\""
    );
    client.query(&tables, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn point(world: &World) -> String {
    let client = world.destination.connect(&world.options.database).await.unwrap();
    client.query_one("SELECT consistent_point FROM pgportage.copy", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn complete_tables_outlast_their_snapshot() {
    outlast(PostgresVersion::V15, V18).await;
}

#[tokio::test]
#[ignore = "make test-all"]
async fn complete_tables_outlast_their_snapshot_in_every_version() {
    for (from, to) in [(V14, V16), (V16, V18), (V18, V18)] {
        outlast(from, to).await;
    }
}

async fn outlast(from: PostgresVersion, to: PostgresVersion) {
    let pg_dump = tools_for(to).unwrap().program("pg_dump");
    let options = Options { source: from, destination: to, pg_dump: Some(pg_dump), ..Options::default() };
    let mut world = Box::pin(ready_with(options, SCHEMA)).await;
    let name = names::replication_name(&migration());
    let former = names::former_slot(&migration());

    Box::pin(copy_all_but_the_last(&world, "")).await;
    let first = point(&world).await;
    let before = ledger(&world).await;
    assert_eq!(slots(&world).await, BTreeMap::from([(name.clone(), first.clone())]));
    let in_parts = "SELECT count(*) > 1 FROM pgportage.copied WHERE relation = 'touched'";
    world.destination.wait_until(&world.options.database, in_parts, Duration::from_secs(1)).await.unwrap();

    // Lost once, and once more before the destination has said that it is level.
    lose_snapshot(&world).await;
    touch(&world, 1).await;
    world.source.execute(&world.options.database, &rebuild(1)).await.unwrap();
    Box::pin(die_level(&world)).await;
    assert_eq!((point(&world).await, ledger(&world).await), (first.clone(), before.clone()), "all or nothing");
    let kept = slots(&world).await;
    assert_eq!((kept.len(), &kept[&former]), (2, &first));
    assert_ne!(kept[&name], first);
    lose_snapshot(&world).await;
    touch(&world, 2).await;
    // The source's agent fails between the old slot and the new one.
    let point_between = "snapshot.open.kept";
    fail_point::arm(point_between);
    Box::pin(copy_all_but_the_last(&world, &first)).await;
    assert!(!fail_point::disarm(point_between), "it was not passed");

    let second = point(&world).await;
    assert_eq!(slots(&world).await, BTreeMap::from([(name.clone(), second.clone())]), "what was kept is gone");
    assert_eq!(fates(&world, "kept AND NOT mended").await, KEPT);
    assert_eq!(fates(&world, "mended").await, MENDED);
    assert_eq!(fates(&world, "NOT kept").await, ANEW);
    let after = ledger(&world).await;
    for table in KEPT {
        assert_eq!(before[table], after[table], "{table} was copied again");
    }
    for table in MENDED {
        let ((file, bytes), (file_now, bytes_now)) = (before[table], after[table]);
        assert_eq!(file, file_now, "{table} was copied again");
        assert!((bytes + 1..bytes + bytes / 3).contains(&bytes_now), "{table}: {bytes} bytes, then {bytes_now}");
    }
    let kept: BTreeSet<&str> = KEPT.into_iter().chain(MENDED).collect();
    let thrown = |of: &BTreeMap<String, (u32, i64)>| -> i64 {
        of.iter().filter(|(table, _)| !kept.contains(table.as_str())).map(|(_, (_, bytes))| bytes).sum()
    };
    let repeated = thrown(&before);

    // A third time, with the server; then to the end, while an application writes.
    let update = "UPDATE touched SET v = 'before the crash' WHERE id BETWEEN 900 AND 999";
    world.source.execute(&world.options.database, update).await.unwrap();
    world.source.kill9().unwrap();
    world.source.start_again().await.unwrap();
    touch(&world, 3).await;
    world.source.execute(&world.options.database, &rebuild(3)).await.unwrap();
    let copying = async { perform(&world, Side::Destination, &COPY).await };
    let writing = async {
        for round in 10..15 {
            touch(&world, round).await;
        }
    };
    let (copied, ()) = Box::pin(async { tokio::join!(copying, writing) }).await;
    // The marker's table is empty, and stays.
    assert_eq!(copied.mended_table_count as usize, MENDED.len(), "{copied:?}");
    assert!(copied.kept_table_count as usize >= KEPT.len() + MENDED.len(), "{copied:?}");
    assert!(copied.repeated_bytes >= repeated, "{copied:?}, {repeated}");
    assert!(copied.repeated_bytes < 2 * repeated + repeated / 4, "{copied:?}, {repeated}");
    assert_ne!(copied.consistent_point, second);
    assert_eq!(slots(&world).await.len(), 1);
    Box::pin(follow_and_compare(&world)).await;
}

/// Without the slot of the lost snapshot the source cannot know what was touched. And what is kept of it goes with
/// the migration.
#[tokio::test]
async fn without_the_slot_everything_begins_anew() {
    let world = Box::pin(ready_with(Options::default(), SCHEMA)).await;
    let name = names::replication_name(&migration());
    Box::pin(copy_all_but_the_last(&world, "")).await;
    let (first, before) = (point(&world).await, ledger(&world).await);
    lose_snapshot(&world).await;
    let drop = format!("SELECT pg_drop_replication_slot('{name}')");
    world.source.execute(&world.options.database, &drop).await.unwrap();
    touch(&world, 1).await;
    Box::pin(copy_all_but_the_last(&world, &first)).await;
    assert_eq!(fates(&world, "kept").await, Vec::<String>::new());
    for table in KEPT.into_iter().chain(MENDED) {
        assert_ne!(before[table].0, ledger(&world).await[table].0, "{table} is that of a snapshot that is lost");
    }
    lose_snapshot(&world).await;
    Box::pin(die_level(&world)).await;
    assert_eq!(slots(&world).await.len(), 2);
    undo(&world, Side::Source, &SLOT).await;
    assert_eq!(slots(&world).await, BTreeMap::new());
}
