//! Tables that are allowed and that few programs expect.

use std::time::Duration;

use pgportage_agent::act::connect::CreateReplicationRole;
use pgportage_agent::act::copy::CopyTables;
use pgportage_proto::{CopyMethod, Reason, Side};
use pgportage_tests::postgres_versions::PostgresVersion;

use super::contract::perform_with;
use super::copy::contents;
use super::way::{arrive, copy, follow, lead_to_the_copy};
use crate::world::{Options, World};

const SCHEMA: &str = include_str!("odd/schema.sql");

/// Computed when it is read, and nowhere kept.
const VIRTUAL: &str = "\
CREATE TABLE public.seeming (id int PRIMARY KEY, a int, thrice int GENERATED ALWAYS AS (a * 3) VIRTUAL, b text);
INSERT INTO public.seeming (id, a, b) SELECT i, i, 'b' FROM generate_series(1, 20) i;";

/// As many columns as a table can have.
const MOST_COLUMNS: usize = 1600;
const LIMIT: Duration = Duration::from_secs(60);

/// A row of all columns, one of a few, one of none.
fn widest() -> String {
    let names: Vec<String> = (1..MOST_COLUMNS).map(|number| format!("c{number}")).collect();
    let every = |step: usize| {
        let value =
            |number: usize| if number.is_multiple_of(step) { (number % 7).to_string() } else { "NULL".to_owned() };
        (1..MOST_COLUMNS).map(value).collect::<Vec<_>>().join(", ")
    };
    format!(
        "CREATE TABLE public.widest (id int PRIMARY KEY, {} smallint);
         INSERT INTO public.widest VALUES (1, {}), (2, {}), (3, {});",
        names.join(" smallint, "),
        every(1),
        every(100),
        every(MOST_COLUMNS),
    )
}

async fn tour(source: PostgresVersion, more: &str) {
    let world = World::start_with(Options { source, ..Options::default() }).await;
    let database = &world.options.database;
    for statements in [SCHEMA, &widest(), more] {
        world.source.execute(database, statements).await.unwrap_or_else(|error| panic!("{error:#?}"));
    }
    world.destination.execute("postgres", "CREATE ROLE app").await.unwrap();
    lead_to_the_copy(&world).await;
    copy(&world).await;
    let in_parts = "SELECT count(*) > 1 FROM pgportage.copied WHERE relation = 'nothing'";
    world.destination.wait_until(database, in_parts, Duration::from_secs(1)).await.unwrap();
    assert_eq!(contents(&world.source, database).await, contents(&world.destination, database).await, "copied");

    follow(&world).await;
    let later = "
        INSERT INTO public.computed (id, a) VALUES (100, 1);
        UPDATE public.computed SET a = a + 1;
        INSERT INTO public.counted (v) VALUES ('late');
        INSERT INTO public.aged VALUES (100);
        UPDATE public.parted SET day = day + 400 WHERE id < 5;
        DELETE FROM public.parent WHERE id IN (1, 4);
        INSERT INTO public.child (id, extra) VALUES (30, 1);
        UPDATE public.guarded SET who = 'changed';
        UPDATE public.widest SET c1599 = 9;
        UPDATE public.hen SET egg = 11 - egg;
        INSERT INTO public.nothing DEFAULT VALUES;";
    world.source.execute(database, later).await.unwrap_or_else(|error| panic!("{error:#?}"));
    arrive(&world, LIMIT).await;
    assert_eq!(contents(&world.source, database).await, contents(&world.destination, database).await, "streamed");
}

#[tokio::test]
async fn odd_tables_arrive_from_15() {
    tour(PostgresVersion::V15, "").await;
}

#[tokio::test]
async fn odd_tables_arrive_from_18() {
    tour(PostgresVersion::V18, VIRTUAL).await;
}

/// A role that row-level security holds back gets an error, never fewer rows:
/// before anything is made, and when its owner enables it on the way.
#[tokio::test]
async fn hidden_rows_are_never_left_behind() {
    let role = "CREATE ROLE app; CREATE ROLE porter LOGIN REPLICATION CREATEROLE PASSWORD 'porter-password';
        GRANT pg_monitor, pg_signal_backend TO porter; GRANT app TO porter; ALTER DATABASE shop OWNER TO app";
    let options = Options {
        source: PostgresVersion::V16,
        source_user: Some(("porter".to_owned(), "porter-password".to_owned())),
        prepare: (role.to_owned(), "CREATE ROLE app".to_owned()),
        ..Options::default()
    };
    let world = World::start_with(options).await;
    let database = &world.options.database;
    let table = "
        CREATE TABLE public.guarded (id int PRIMARY KEY, who text);
        ALTER TABLE public.guarded OWNER TO app;
        INSERT INTO public.guarded VALUES (1, 'hidden'), (2, 'seen');
        CREATE POLICY few ON public.guarded USING (who = 'seen');";
    let guard = "
        ALTER TABLE public.guarded ENABLE ROW LEVEL SECURITY;
        ALTER TABLE public.guarded FORCE ROW LEVEL SECURITY;";
    world.source.execute(database, &format!("{table} {guard}")).await.unwrap();
    let refused = perform_with(&world.context(Side::Source), &CreateReplicationRole).await.unwrap_err();
    assert_eq!(refused.reason, Reason::PrivilegeMissing, "{refused:#?}");

    world.source.execute(database, "ALTER TABLE public.guarded DISABLE ROW LEVEL SECURITY").await.unwrap();
    lead_to_the_copy(&world).await;
    world.source.execute(database, guard).await.unwrap();
    let tables = CopyTables { copy_method: CopyMethod::Snapshot };
    let refused = perform_with(&world.context(Side::Destination), &tables).await.unwrap_err();
    assert_eq!(refused.sqlstate.as_deref(), Some("42501"), "{refused:#?}");
    let none = "SELECT count(*) = 0 FROM public.guarded";
    world.destination.wait_until(database, none, Duration::from_secs(1)).await.unwrap();
}
