//! What the planner goes by after the copy: on a server that can be told, exactly
//! what the source's goes by, although a look at the rows would say something else;
//! a look at the rows wherever that is the better answer.

use std::time::Duration;

use pgportage_agent::act::copy::CopyTables;
use pgportage_data_plane::peer::Packing;
use pgportage_data_plane::statistics::Condition;
use pgportage_link::fail_point;
use pgportage_postgres::RelationName;
use pgportage_proto::{CopyMethod, Side};
use pgportage_tests::cluster::Cluster;
use pgportage_tests::postgres_versions::{PostgresVersion, tools_for};

use super::contract::perform_with;
use super::way::{copy, lead_to_the_copy};
use crate::world::{Options, World};

const LIMIT: Duration = Duration::from_secs(30);

/// Of every kind of statistics, under names and with values that have to be quoted.
const SCHEMA: &str = r#"
CREATE ROLE app;
CREATE TYPE public.mood AS ENUM ('sad', 'it''s \ fine');
CREATE SCHEMA "My ""own"" schema";
CREATE TABLE "My ""own"" schema"."it's \ ""odd""" (
    gone int, id int PRIMARY KEY, "Col ""umn" text, unique_text text, tags text[], doc tsvector, price money,
    at timestamptz, passed interval, tall numeric, mood public.mood, bits bytea, nothing int, flag bool);
ALTER TABLE "My ""own"" schema"."it's \ ""odd""" DROP COLUMN gone;
INSERT INTO "My ""own"" schema"."it's \ ""odd"""
SELECT i, (ARRAY['it''s', 'a,b', '{x}', '"q"', E'back\\slash', 'NULL', '', 'hush-hush'])[i % 8 + 1], 'u' || i,
       ARRAY['t' || i % 5, 'hush-hush', NULL], to_tsvector('simple', 'word' || i % 7 || ' hush'), (i % 90) * 1000.5,
       timestamptz '2024-02-03 04:05:06' + i % 400 * interval '1 hour', i % 30 * interval '1 day', i / 7.0,
       (ARRAY['sad', 'it''s \ fine'])[i % 2 + 1]::public.mood, decode(lpad(to_hex(i), 4, '0'), 'hex'), NULL, i % 3 = 0
FROM generate_series(1, 3000) i;
CREATE INDEX "by it's ""own""" ON "My ""own"" schema"."it's \ ""odd""" (lower("Col ""umn"), (id % 10));
CREATE INDEX ON "My ""own"" schema"."it's \ ""odd""" USING gin (to_tsvector('simple', unique_text));

CREATE TABLE public.parent (id int PRIMARY KEY, v text);
CREATE TABLE public.child (PRIMARY KEY (id)) INHERITS (public.parent);
INSERT INTO public.parent SELECT i, 'p' || i % 4 FROM generate_series(1, 300) i;
INSERT INTO public.child SELECT i, 'c' || i % 9 FROM generate_series(1001, 1900) i;
CREATE TABLE public.parted (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE public.parted_1 PARTITION OF public.parted FOR VALUES FROM (0) TO (1000);
CREATE TABLE public.parted_2 (v text, id int NOT NULL);
ALTER TABLE public.parted ATTACH PARTITION public.parted_2 FOR VALUES FROM (1000) TO (2000);
INSERT INTO public.parted SELECT i, 'v' || i % 5 FROM generate_series(1, 1900) i;
CREATE TABLE public.unasked (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE public.unasked_1 PARTITION OF public.unasked FOR VALUES FROM (0) TO (1000);
INSERT INTO public.unasked SELECT i FROM generate_series(1, 200) i;

CREATE TABLE public.bare (v int);
ALTER TABLE public.bare REPLICA IDENTITY FULL;
INSERT INTO public.bare SELECT i % 10 FROM generate_series(1, 5000) i;
CREATE TABLE public.spans (id int PRIMARY KEY, span int4range);
INSERT INTO public.spans SELECT i, int4range(i, i + i % 20) FROM generate_series(1, 1000) i;
CREATE TABLE public.moody (id int PRIMARY KEY, mood public.mood);
INSERT INTO public.moody SELECT i, 'sad' FROM generate_series(1, 900) i;
CREATE TABLE public.stale (id int PRIMARY KEY, v text) WITH (autovacuum_analyze_threshold = 10);
INSERT INTO public.stale SELECT i, 'old' FROM generate_series(1, 1000) i;
CREATE TABLE public.patient (id int PRIMARY KEY, v text) WITH (autovacuum_analyze_scale_factor = 1);
INSERT INTO public.patient SELECT i, 'old' FROM generate_series(1, 1000) i;
CREATE TABLE public.extended (id int PRIMARY KEY, a int, b int);
INSERT INTO public.extended SELECT i, i % 10, i % 10 FROM generate_series(1, 1000) i;
CREATE STATISTICS public.together ON a, b FROM public.extended;"#;

/// What no ANALYZE has seen, but for `stale` too little for autovacuum to have
/// another look. Tables that were never analysed come last.
const CHANGES: &str = r#"
UPDATE "My ""own"" schema"."it's \ ""odd""" SET "Col ""umn" = 'unseen', tall = 0 WHERE id <= 90;
UPDATE public.parent SET v = 'unseen' WHERE id <= 20;
UPDATE public.child SET v = 'unseen' WHERE id <= 1030;
UPDATE public.parted SET v = 'unseen' WHERE id <= 20;
UPDATE public.bare SET v = 77 WHERE ctid < '(1,0)';
UPDATE public.spans SET span = 'empty' WHERE id <= 30;
UPDATE public.stale SET v = 'new' WHERE id <= 111;
UPDATE public.patient SET v = 'new' WHERE id <= 700;
UPDATE public.extended SET a = 1 WHERE id <= 30;
CREATE TABLE public.never (id int PRIMARY KEY, v text);
INSERT INTO public.never SELECT i, 'v' || i % 3 FROM generate_series(1, 1000) i;
CREATE TABLE public.empty (id int PRIMARY KEY);"#;

const COUNTED: &str = "\
SELECT pg_stat_get_mod_since_analyze('public.stale'::regclass) = 111
   AND pg_stat_get_mod_since_analyze('public.patient'::regclass) = 700
   AND pg_stat_get_mod_since_analyze('public.extended'::regclass) = 30";

/// One line for each column of each table and index. An expression's name is left
/// out: it is made up.
const KNOWN: &str = "\
SELECT s.tablename::text,
       concat(s.schemaname, '.', s.tablename, '.', CASE WHEN c.relkind <> 'i' THEN s.attname END, ' ',
              ROW(s.inherited, s.null_frac, s.avg_width, s.n_distinct, s.most_common_vals, s.most_common_freqs,
                  s.histogram_bounds, s.correlation, s.most_common_elems, s.most_common_elem_freqs,
                  s.elem_count_histogram RANGES)::text)
FROM pg_stats s JOIN pg_namespace n ON n.nspname = s.schemaname
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.tablename
WHERE n.nspname IN ('public', 'My \"own\" schema')";

/// The lines of a side, by table.
async fn known(cluster: &Cluster, database: &str, ranges: bool) -> Vec<(String, String)> {
    let of_ranges = ", s.range_length_histogram, s.range_empty_frac, s.range_bounds_histogram";
    let query = KNOWN.replace(" RANGES", if ranges { of_ranges } else { "" });
    let client = cluster.connect(database).await.unwrap();
    let rows = client.query(&query, &[]).await.unwrap();
    let mut lines: Vec<_> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    lines.sort();
    lines
}

/// Tables that were analysed by an ANALYZE command.
async fn analysed(cluster: &Cluster, database: &str) -> Vec<String> {
    let query = "SELECT relname::text FROM pg_stat_user_tables
        WHERE schemaname <> 'pgportage' AND last_analyze IS NOT NULL ORDER BY relname";
    let client = cluster.connect(database).await.unwrap();
    client.query(query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// A source that has been in use for a while, and a destination that writes every
/// statement down. Autovacuum is off, so only an act analyses tables.
async fn world(source: PostgresVersion, destination: PostgresVersion) -> World {
    let pg_dump = Some(tools_for(destination).unwrap().program("pg_dump"));
    let world = World::start_with(Options { source, destination, pg_dump, ..Options::default() }).await;
    for (cluster, settings) in [
        (&world.source, &["autovacuum = off"] as &[_]),
        (&world.destination, &["autovacuum = off", "log_statement = 'all'"]),
    ] {
        for setting in settings {
            cluster.execute("postgres", &format!("ALTER SYSTEM SET {setting}")).await.unwrap();
        }
        cluster.execute("postgres", "SELECT pg_reload_conf()").await.unwrap();
    }
    let database = &world.options.database;
    for statements in [SCHEMA, "ANALYZE", CHANGES] {
        world.source.execute(database, statements).await.unwrap_or_else(|error| panic!("{error:#?}"));
    }
    // Partitioned tables are analysed with the others; this takes one back.
    if source == PostgresVersion::V18 {
        let forget = "SELECT pg_clear_attribute_stats('public', 'unasked', 'id', true)";
        world.source.execute(database, forget).await.unwrap();
    }
    world.source.wait_until(database, COUNTED, LIMIT).await.unwrap();
    world.destination.execute("postgres", "CREATE ROLE app").await.unwrap();
    lead_to_the_copy(&world).await;
    world
}

/// `own`: tables of which the destination makes its own statistics.
async fn carried(source: PostgresVersion, own: &[&str]) {
    let world = world(source, PostgresVersion::V18).await;
    let database = &world.options.database;
    let ranges = source == PostgresVersion::V18;
    let peer = world.destination_agent.peers.call(&world.on(Side::Destination)).await.unwrap();
    peer.open_snapshot("", LIMIT).await.unwrap();
    // Not in the snapshot, and nothing that the destination has a name for.
    for statement in [
        "ALTER TYPE public.mood ADD VALUE 'unheard'",
        "INSERT INTO public.moody SELECT i, 'unheard' FROM generate_series(1001, 1500) i",
        "ANALYZE public.moody",
    ] {
        world.source.execute(database, statement).await.unwrap();
    }
    // A session analyses a table with its changes between a death and the next attempt.
    let point = "copy_tables.perform.scripted";
    fail_point::arm(point);
    let cx = world.context(Side::Destination);
    let act = CopyTables { copy_method: CopyMethod::Snapshot };
    let run = std::panic::AssertUnwindSafe(perform_with(&cx, &act));
    assert!(futures_util::FutureExt::catch_unwind(run).await.is_err());
    assert!(!fail_point::disarm(point), "{point} was not passed");
    let look = r#"ANALYZE "My ""own"" schema"."it's \ ""odd""""#;
    for statement in [look, "SELECT pg_stat_reset()"] {
        world.destination.execute(database, statement).await.unwrap();
    }
    copy(&world).await;

    let mut own: Vec<String> = own.iter().map(|&table| table.to_owned()).collect();
    own.extend(["empty", "extended", "moody", "never", "stale"].map(str::to_owned));
    own.sort();
    assert_eq!(analysed(&world.destination, database).await, own);
    let (there, here) =
        (known(&world.source, database, ranges).await, known(&world.destination, database, ranges).await);
    let of_source = |lines: &[(String, String)]| {
        let lines = lines.iter().filter(|(table, _)| !own.contains(table));
        lines.map(|(_, line)| line.clone()).collect::<Vec<_>>()
    };
    let (there, here) = (of_source(&there), of_source(&here));
    assert!(there.len() > 25 && there.iter().all(|line| !line.contains("unseen")), "{there:#?}");
    for of in ["parted.v (t,", "parent.v (t,", "parent.v (f,", "by it's", "to_tsvector_idx", "hush-hush"] {
        assert!(there.iter().any(|line| line.contains(of)), "{of}: {there:#?}");
    }
    assert_eq!(there, here);

    // What was made here has seen everything.
    let fresh = known(&world.destination, database, false).await;
    assert!(fresh.iter().any(|(table, line)| table == "stale" && line.contains("new")), "{fresh:#?}");
    assert!(fresh.iter().any(|(table, _)| table == "never") && fresh.iter().any(|(table, _)| table == "moody"));
    sized_and_together(&world).await;
    let log = world.destination.log_text().unwrap();
    assert!(log.contains("pg_restore_attribute_stats"), "statements are logged");
    assert!(!log.contains("hush-hush"), "and values of rows with them");
}

/// Sizes are those that the destination has; what is known of columns together is
/// known there too.
async fn sized_and_together(world: &World) {
    let sized = "SELECT bool_and(reltuples >= 0 AND relpages = pg_relation_size(oid) / 8192) FROM pg_class
        WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
    let together = "SELECT EXISTS (SELECT FROM pg_stats_ext WHERE statistics_name = 'together')";
    let bare = "SELECT reltuples = 5000 FROM pg_class WHERE oid = 'public.bare'::regclass";
    for condition in [sized, together, bare] {
        world.destination.wait_until(&world.options.database, condition, Duration::from_secs(1)).await.unwrap();
    }
}

#[tokio::test]
async fn a_source_of_15_tells_all_but_ranges() {
    Box::pin(carried(PostgresVersion::V15, &["spans"])).await;
}

#[tokio::test]
async fn a_source_of_18_tells_everything() {
    Box::pin(carried(PostgresVersion::V18, &[])).await;
}

/// A destination that does not accept statistics makes all of them, without asking the source agent.
#[tokio::test]
async fn an_older_destination_looks_for_itself() {
    let world = world(PostgresVersion::V15, PostgresVersion::V17).await;
    copy(&world).await;
    let here = analysed(&world.destination, &world.options.database).await;
    for table in ["bare", "extended", "it's \\ \"odd\"", "never", "parted_2", "stale"] {
        assert!(here.iter().any(|name| name == table), "{table}: {here:?}");
    }
    let seen = known(&world.destination, &world.options.database, false).await;
    assert!(seen.iter().any(|(table, line)| table == "parent" && line.contains("unseen")), "{seen:#?}");
    sized_and_together(&world).await;
}

/// The destination's agent gets statistics of what is published and of nothing else.
#[tokio::test]
async fn nothing_is_told_of_what_is_not_published() {
    let world = world(PostgresVersion::V15, PostgresVersion::V18).await;
    let peer = world.destination_agent.peers.call(&world.on(Side::Destination)).await.unwrap();
    let name = RelationName::new;
    let unknown = [name("pg_catalog", "pg_class"), name("public", "parted_pkey"), name("nowhere", "nothing")];
    let mut told = peer.read_statistics(&unknown, Packing::Plain).await.unwrap();
    assert_eq!(told.conditions, [Condition::Unknown; 3]);
    assert_eq!(told.next().await.unwrap(), None);
    let asked = [name("public", "stale"), name("public", "parted"), name("public", "spans"), name("public", "patient")];
    let mut told = peer.read_statistics(&asked, Packing::Zstd).await.unwrap();
    assert_eq!(told.conditions, [Condition::Stale, Condition::Sent, Condition::Opaque, Condition::Sent]);
    let mut bytes = Vec::new();
    while let Some(chunk) = told.next().await.unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    assert!(bytes.starts_with(b"PGCOPY\n"));
}
