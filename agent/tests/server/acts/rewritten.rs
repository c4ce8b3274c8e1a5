//! Tables are rewritten while they wait to be copied. The slot's snapshot shows such a table
//! empty, and the stream says nothing of its rows: they come from another snapshot.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use pgportage_link::fail_point;
use pgportage_proto::Side;
use pgportage_tests::postgres_versions::PostgresVersion::{V14, V15, V16, V18};
use pgportage_tests::postgres_versions::{PostgresVersion, tools_for};

use super::contract::{perform, perform_with};
use super::copy::{COPY, follow_and_compare, ready_with};
use crate::world::{Options, World};

/// What is done to a table, by the table's name. Behind it the table is defined as before.
const REWRITES: [(&str, &str); 7] = [
    ("retyped", "ALTER TABLE retyped ALTER COLUMN v TYPE int USING v + 0"),
    ("widened", "ALTER TABLE widened ALTER COLUMN v TYPE bigint; ALTER TABLE widened ALTER COLUMN v TYPE int"),
    ("defaulted", "ALTER TABLE defaulted ADD COLUMN z float DEFAULT random(); ALTER TABLE defaulted DROP COLUMN z"),
    ("vacuumed", "VACUUM FULL vacuumed"),
    ("clustered", "CLUSTER clustered USING clustered_pkey; ALTER TABLE clustered SET WITHOUT CLUSTER"),
    (
        "emptied",
        "BEGIN; TRUNCATE emptied; INSERT INTO emptied SELECT i, 9 FROM generate_series(1, 1500) i; COMMIT",
    ),
    // What pg_repack does in C: another file with the same rows takes the table's place.
    (
        "exchanged",
        "SET allow_system_table_mods = on; BEGIN; LOCK TABLE exchanged;
         CREATE TABLE beside AS SELECT * FROM exchanged;
         UPDATE pg_class c SET relfilenode = o.relfilenode FROM pg_class o
         WHERE (c.oid, o.oid) IN (('exchanged'::regclass, 'beside'::regclass), ('beside'::regclass, 'exchanged'::regclass));
         DROP TABLE beside; COMMIT",
    ),
];

fn schema() -> String {
    let tables = REWRITES.iter().map(|(table, _)| {
        format!(
            "CREATE TABLE public.{table} (id int PRIMARY KEY, v int);
             INSERT INTO public.{table} SELECT i, i FROM generate_series(1, 2000) i;"
        )
    });
    let tables: String = tables.collect();
    format!("CREATE ROLE app; {tables} CREATE TABLE public.empty (id int PRIMARY KEY);")
}

async fn rewrite_all(world: &World) {
    let client = world.source.connect(&world.options.database).await.unwrap();
    for (table, statements) in REWRITES {
        // One at a time: VACUUM and CLUSTER are not for a block of statements.
        for statement in statements.split_inclusive(';') {
            client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{table}: {statement}: {error:?}"));
        }
    }
}

/// Rows of each table that are changed without an end, as in a queue.
async fn write(world: &World) {
    let client = world.source.connect(&world.options.database).await.unwrap();
    for round in 0.. {
        for (table, _) in REWRITES {
            let statement = format!(
                "INSERT INTO {table} VALUES ({0}, 0); UPDATE {table} SET v = v + 1 WHERE id = {0}; \
                 DELETE FROM {table} WHERE id = {0}",
                100_000 + round
            );
            client.batch_execute(&statement).await.unwrap();
        }
    }
}

async fn before_they_are_read(from: PostgresVersion, to: PostgresVersion, busy: bool) {
    let pg_dump = tools_for(to).unwrap().program("pg_dump");
    let options = Options { source: from, destination: to, pg_dump: Some(pg_dump), ..Options::default() };
    let world = ready_with(options, &schema()).await;
    rewrite_all(&world).await;
    let copying = perform(&world, Side::Destination, &COPY);
    if busy {
        tokio::select! {
            _ = copying => {}
            () = write(&world) => {}
        }
    } else {
        copying.await;
    }
    follow_and_compare(&world).await;
}

#[tokio::test]
async fn quiet_tables_that_were_rewritten_before_they_are_read() {
    Box::pin(before_they_are_read(V15, V18, false)).await;
}

#[tokio::test]
async fn busy_tables_that_were_rewritten_before_they_are_read() {
    Box::pin(before_they_are_read(V18, V18, true)).await;
}

#[tokio::test]
#[ignore = "make test-all"]
async fn tables_that_were_rewritten_before_they_are_read_in_every_version() {
    for (from, to) in [(V14, V16), (V16, V18)] {
        for busy in [false, true] {
            Box::pin(before_they_are_read(from, to, busy)).await;
        }
    }
}

/// A table of several parts, the first half of whose file is dead, moves between two parts.
#[tokio::test]
async fn a_table_that_is_vacuumed_between_its_parts() {
    let large = "CREATE ROLE app; CREATE TABLE public.large (id int PRIMARY KEY, v text);
        INSERT INTO public.large SELECT i, repeat('x', 900) FROM generate_series(1, 80000) i;
        DELETE FROM public.large WHERE id <= 40000;
        CREATE TABLE public.empty (id int PRIMARY KEY);";
    let world = ready_with(Options::default(), large).await;
    let point = "copy_tables.perform.committed";
    fail_point::arm(point);
    let cx = world.context(Side::Destination);
    assert!(AssertUnwindSafe(perform_with(&cx, &COPY)).catch_unwind().await.is_err());
    assert!(!fail_point::disarm(point), "{point} was not passed");
    // The readers hold the table's lock for as long as they live.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgportage scan'";
    world.source.execute(&world.options.database, end).await.unwrap();
    world.source.execute(&world.options.database, "VACUUM FULL large").await.unwrap();
    perform(&world, Side::Destination, &COPY).await;
    follow_and_compare(&world).await;
}
