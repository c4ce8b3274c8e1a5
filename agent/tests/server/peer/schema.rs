//! The schema, from one server through the link to the other, and back to
//! nothing.

use std::collections::BTreeSet;
use std::process::Stdio;

use pgportage_agent::act::schema::{RestoreSchema, RestoreSchemaResult};
use pgportage_agent::act::{Act, Context, Survey};
use pgportage_link::{Effect, Failure, Remedy, fail_point};
use pgportage_postgres::ServerVersion;
use pgportage_proto::{CopyMethod, Reason, Side};
use pgportage_tests::cluster::Cluster;
use pgportage_tests::postgres_versions::{PostgresVersion, tools_for};
use pgportage_tests::wait::{self, Seen};
use tokio::process::Command;

use crate::world::{Options, PATIENCE, World, migration, quoted, tools};

/// The schema at once: the subscription copies the rows.
const RESTORE: RestoreSchema = RestoreSchema { copy_method: CopyMethod::Native };

/// 63 bytes of UTF-8.
const LONG: &str = "Größe_αβγδε_日本語_ñandú_ошибка_grxxxxxxxxxxx";

/// Roles that both servers need; then the source's schema, with everything that
/// has ever broken a copy of one.
const ROLES: &str = "CREATE ROLE app NOLOGIN; CREATE ROLE \"Ro\"\"le\" NOLOGIN;";

fn schema() -> String {
    assert_eq!(LONG.len(), 63);
    SCHEMA.replace("{long}", LONG)
}

const SCHEMA: &str = r#"
CREATE SCHEMA "odd "" schema
with a line break" AUTHORIZATION app;
CREATE SCHEMA "{long}";
CREATE EXTENSION citext;
CREATE EXTENSION btree_gist SCHEMA "{long}";
CREATE TYPE mood AS ENUM ('sad', 'it''s', 'ha"ppy');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE pair AS (a int, b text);
CREATE TYPE float_range AS RANGE (subtype = float8);
CREATE COLLATION "Deutsch" (provider = libc, locale = 'C');
CREATE SEQUENCE lonely START 100 INCREMENT 7;
CREATE TABLE "odd "" schema
with a line break"."new
line ; DROP TABLE t; --" (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "q""c" text COLLATE "Deutsch" DEFAULT 'x;
ALTER TABLE ONLY public.items ALTER COLUMN a SET (pg_attver=7);',
    computed int GENERATED ALWAYS AS (1 + 2) STORED,
    m mood DEFAULT 'sad', p positive, pr pair, r float_range, c public.citext UNIQUE,
    "{long}" text NOT NULL DEFAULT $$;ALTER TABLE x ALTER COLUMN a SET (pg_attver=7);$$
);
CREATE TABLE "{long}"."{long}" (id serial PRIMARY KEY, parent int REFERENCES "{long}"."{long}" DEFERRABLE);
CREATE TABLE events (id int, at date NOT NULL, kind mood, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE events_2024 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') PARTITION BY HASH (id);
CREATE TABLE events_2024_0 PARTITION OF events_2024 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE events_2024_1 PARTITION OF events_2024 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE events_rest PARTITION OF events DEFAULT;
CREATE INDEX ON events (kind, at DESC);
CREATE TABLE items (a int PRIMARY KEY, b text, during tstzrange, EXCLUDE USING gist (a WITH =, during WITH &&));
ALTER TABLE items ALTER COLUMN b SET (n_distinct = -0.5);
ALTER TABLE items ALTER COLUMN b SET STATISTICS 500;
ALTER TABLE items ALTER COLUMN b SET STORAGE EXTERNAL;
ALTER TABLE items OWNER TO app;
ALTER TABLE items ADD CONSTRAINT later CHECK (length(b) > 2) NOT VALID;
CREATE TABLE child () INHERITS (items);
CREATE UNLOGGED TABLE scratch (x int);
CREATE TABLE pg_attver (pg_attver int);
CREATE INDEX partial ON items (lower(b)) WHERE a > 3;
CREATE STATISTICS item_stats (dependencies) ON a, b FROM items;
CREATE VIEW shown AS SELECT a, b FROM items WITH CHECK OPTION;
CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM items;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    -- ;ALTER TABLE ONLY public.items ALTER COLUMN a SET (pg_attver=7);
    RETURN new; END $$;
CREATE TRIGGER touched BEFORE INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TRIGGER always AFTER INSERT ON items FOR EACH STATEMENT EXECUTE FUNCTION touch();
ALTER TABLE items ENABLE ALWAYS TRIGGER always;
CREATE FUNCTION add(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + $2';
CREATE FUNCTION newer(a int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT a; SELECT a + 1; END;
CREATE PROCEDURE proc() LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE total (int) (SFUNC = add, STYPE = int, INITCOND = '0');
CREATE OPERATOR ### (LEFTARG = int, RIGHTARG = int, FUNCTION = add);
CREATE CAST (pair AS text) WITH INOUT;
CREATE RULE redirect AS ON DELETE TO pg_attver DO INSTEAD NOTHING;
CREATE TEXT SEARCH DICTIONARY simple_dict (TEMPLATE = pg_catalog.simple);
CREATE TEXT SEARCH CONFIGURATION own_config (COPY = pg_catalog.simple);
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER far FOREIGN DATA WRAPPER nowhere;
CREATE FOREIGN TABLE distant (x int) SERVER far;
CREATE FUNCTION on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE EVENT TRIGGER watcher ON ddl_command_start EXECUTE FUNCTION on_ddl();
ALTER TABLE items ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON items USING (a > 0);
COMMENT ON TABLE items IS 'it''s
ALTER TABLE ONLY public.items ALTER COLUMN a SET (pg_attver=7);';
COMMENT ON SCHEMA public IS 'ours';
GRANT SELECT (a) ON items TO "Ro""le";
GRANT USAGE ON SCHEMA public TO "Ro""le" WITH GRANT OPTION;
ALTER SCHEMA public OWNER TO app;
ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA public GRANT SELECT ON TABLES TO "Ro""le";
ALTER DEFAULT PRIVILEGES FOR ROLE app REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
CREATE PUBLICATION existing FOR TABLE items;
CREATE SCHEMA pgportage;
CREATE TABLE pgportage.heartbeat (id int PRIMARY KEY, sequence bigint NOT NULL);
"#;

/// What servers of November 2026 do to each column, for a server of before.
const MARK_COLUMNS: &str = r"
SET allow_system_table_mods = on;
UPDATE pg_attribute SET attoptions = array_cat(ARRAY['pg_attver=' || (attrelid::bigint * 7)], attoptions)
WHERE attrelid >= 16384 AND attnum > 0 AND attrelid IN (SELECT oid FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'c'))";

async fn prepared(options: Options, statements: &str) -> World {
    let world = World::start_with(options).await;
    for cluster in [&world.source, &world.destination] {
        cluster.execute("postgres", ROLES).await.unwrap();
    }
    world.source.execute(&world.options.database, statements).await.unwrap();
    world.close_destination().await;
    world
}

/// The schema as `pg_dump` tells it, ours and what cannot be compared left out.
async fn dumped(cluster: &Cluster, database: &str, migrated: bool) -> String {
    let mut command = Command::new(tools().program("pg_dump"));
    command
        .arg(format!("--host={}", cluster.socket_directory().display()))
        .args([&format!("--port={}", cluster.port), "--username=postgres", "--schema-only"])
        .env("PGDATABASE", database)
        .stdin(Stdio::null());
    if migrated {
        command.args(["--no-publications", "--exclude-schema=pgportage"]);
    }
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let told = |line: &&str| {
        !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict") && !line.starts_with("-- Dumped ")
    };
    comparable(&text.lines().filter(told).map(|line| format!("{line}\n")).collect::<String>())
}

/// Takes out what two versions say differently about the same thing: up to 17 a
/// NOT NULL has no name, and views name their columns' tables more often.
fn comparable(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("CONSTRAINT \"") {
        let Some((_, after)) = after.split_once("_not_null\" NOT NULL").filter(|(name, _)| !name.contains('(')) else {
            plain.push_str(before);
            plain.push_str("CONSTRAINT \"");
            rest = after;
            continue;
        };
        plain.push_str(before);
        plain.push_str("NOT NULL");
        rest = after;
    }
    (plain + rest).replace("items.a", "a").replace("items.b", "b")
}

async fn perform(cx: &Context) -> Result<RestoreSchemaResult, Failure> {
    match RESTORE.survey(cx).await? {
        Survey::Done(result) => Ok(result),
        Survey::Ready => RESTORE.perform(cx).await,
    }
}

fn shown(failure: &Failure) -> String {
    format!("{failure:#?}")
}

/// Runs a verb in a task that a fail point kills.
async fn killed_at(world: &World, point: &str, undo: bool) {
    fail_point::arm(point);
    let cx = world.context(Side::Destination);
    let killed = tokio::spawn(async move {
        if undo { RESTORE.undo(&cx).await.map(|()| None) } else { perform(&cx).await.map(Some) }
    });
    let error = killed.await.expect_err(point);
    assert!(error.is_panic(), "{point}");
}

#[tokio::test]
async fn a_schema_of_awkward_names_is_the_same_on_the_other_side() {
    let database = "data \"base\" a=b\\c 'd'\nline";
    for (source, destination) in
        [(PostgresVersion::V15, PostgresVersion::V18), (PostgresVersion::V14, PostgresVersion::V18)]
    {
        let options = Options { source, destination, database: database.to_owned(), ..Options::default() };
        let world = prepared(options, &schema()).await;
        let before = dumped(&world.destination, database, true).await;
        let expected = dumped(&world.source, database, true).await;
        let result =
            perform(&world.context(Side::Destination)).await.unwrap_or_else(|failure| panic!("{}", shown(&failure)));
        assert_eq!(result.dump_digest.len(), 32);
        assert!(result.object_count > 30, "{result:?}");
        similar(&expected, &dumped(&world.destination, database, true).await);
        let client = world.destination.connect(database).await.unwrap();
        for (what, question) in [
            ("no publication", "SELECT count(*) = 0 FROM pg_publication"),
            (
                "our two tables",
                "SELECT to_regclass('pgportage.heartbeat') IS NOT NULL AND to_regclass('pgportage.marker') IS NOT NULL",
            ),
            (
                "the ledger",
                "SELECT count(*) = 1 FROM pgportage.ledger WHERE action = 'restore_schema' AND verb = 'perform'",
            ),
        ] {
            assert!(client.query_one(question, &[]).await.unwrap().get::<_, bool>(0), "{what}");
        }
        // Done is seen, and the answer is the same.
        assert_eq!(RESTORE.survey(&world.context(Side::Destination)).await, Ok(Survey::Done(result.clone())));
        assert_eq!(perform(&world.context(Side::Destination)).await, Ok(result));

        RESTORE.undo(&world.context(Side::Destination)).await.unwrap_or_else(|failure| panic!("{}", shown(&failure)));
        similar(&before, &dumped(&world.destination, database, true).await);
        RESTORE.undo(&world.context(Side::Destination)).await.unwrap();
        assert_eq!(RESTORE.survey(&world.context(Side::Destination)).await, Ok(Survey::Ready));
        // And it can be done again.
        perform(&world.context(Side::Destination)).await.unwrap();
        similar(&expected, &dumped(&world.destination, database, true).await);
        nothing_left_in(&world);
    }
}

fn similar(expected: &str, found: &str) {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (expected_lines, found_lines) = (lines(expected), lines(found));
    let missing: Vec<_> = expected_lines.difference(&found_lines).collect();
    let new: Vec<_> = found_lines.difference(&expected_lines).collect();
    assert!(missing.is_empty() && new.is_empty(), "missing: {missing:#?}\nnew: {new:#?}");
}

/// No passfile, no archive.
fn nothing_left_in(world: &World) {
    for agent in [&world.source_agent, &world.destination_agent] {
        for directory in ["login", "schema"] {
            let path = agent.settings.state_dir.join(directory);
            let left: Vec<_> =
                std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

#[tokio::test]
async fn an_attempt_killed_anywhere_is_taken_up() {
    let world = prepared(Options::default(), &schema()).await;
    let database = &world.options.database.clone();
    let before = dumped(&world.destination, database, true).await;
    let expected = dumped(&world.source, database, true).await;
    for point in ["intended", "restored", "tables_made"] {
        killed_at(&world, &format!("restore_schema.perform.{point}"), false).await;
        let result = perform(&world.context(Side::Destination))
            .await
            .unwrap_or_else(|failure| panic!("{point}: {}", shown(&failure)));
        assert_eq!(result.dump_digest.len(), 32, "{point}");
        similar(&expected, &dumped(&world.destination, database, true).await);
        killed_at(&world, "restore_schema.undo.emptied", true).await;
        RESTORE.undo(&world.context(Side::Destination)).await.unwrap();
        similar(&before, &dumped(&world.destination, database, true).await);
        // Killed half way and taken back without going on.
        killed_at(&world, &format!("restore_schema.perform.{point}"), false).await;
        RESTORE.undo(&world.context(Side::Destination)).await.unwrap();
        similar(&before, &dumped(&world.destination, database, true).await);
    }
    nothing_left_in(&world);
}

#[tokio::test]
async fn private_options_of_newer_servers_are_left_out() {
    let world = prepared(Options::default(), &format!("{}{MARK_COLUMNS}", schema())).await;
    let database = &world.options.database.clone();
    assert!(dumped(&world.source, database, true).await.contains("SET (pg_attver="), "the trap is set");
    perform(&world.context(Side::Destination)).await.unwrap_or_else(|failure| panic!("{}", shown(&failure)));
    let client = world.destination.connect(database).await.unwrap();
    let marked = "SELECT count(*) FROM pg_attribute WHERE array_to_string(attoptions, ',') LIKE '%pg_attver%'";
    assert_eq!(client.query_one(marked, &[]).await.unwrap().get::<_, i64>(0), 0);
    let kept = "SELECT attoptions = '{n_distinct=-0.5}' FROM pg_attribute WHERE attrelid = 'items'::regclass AND attname = 'b'";
    assert!(client.query_one(kept, &[]).await.unwrap().get::<_, bool>(0));
    // Without the mark on the source, both are equal: nothing else was lost.
    world
        .source
        .execute(
            database,
            "SET allow_system_table_mods = on;
             UPDATE pg_attribute SET attoptions = NULLIF(attoptions[2:], '{}') WHERE attoptions[1] LIKE 'pg_attver=%'",
        )
        .await
        .unwrap();
    similar(&dumped(&world.source, database, true).await, &dumped(&world.destination, database, true).await);
}

#[tokio::test]
async fn a_failing_restore_leaves_nothing_and_says_why_without_statements() {
    let world = prepared(
        Options::default(),
        "CREATE ROLE missing; CREATE TABLE first (secret_column text DEFAULT 'hidden-default');
         CREATE TABLE second (id int); ALTER TABLE second OWNER TO missing",
    )
    .await;
    let database = &world.options.database.clone();
    let before = dumped(&world.destination, database, true).await;
    let failure = perform(&world.context(Side::Destination)).await.unwrap_err();
    assert_eq!((failure.reason, failure.effect), (Reason::PgRestoreFailed, Effect::None), "{}", shown(&failure));
    assert!(failure.detail.contains("role \"missing\" does not exist"), "{}", shown(&failure));
    for secret in ["hidden-default", "ALTER TABLE", "OWNER TO", "Command was"] {
        assert!(!shown(&failure).contains(secret), "{secret}: {}", shown(&failure));
    }
    similar(&before, &dumped(&world.destination, database, true).await);
    world.destination.execute("postgres", "CREATE ROLE missing").await.unwrap();
    perform(&world.context(Side::Destination)).await.unwrap();
}

#[tokio::test]
async fn a_dump_that_cannot_be_made_says_why() {
    let options = Options { pg_dump: Some("/nowhere/pg_dump".into()), ..Options::default() };
    let world = prepared(options, "CREATE TABLE t (id int)").await;
    let failure = perform(&world.context(Side::Destination)).await.unwrap_err();
    assert_eq!((failure.reason, failure.effect), (Reason::PgDumpMissing, Effect::None), "{}", shown(&failure));
    drop(world);

    let old = std::path::PathBuf::from("/usr/lib/postgresql/15/bin/pg_dump");
    if old.exists() {
        let options = Options { source: PostgresVersion::V16, pg_dump: Some(old), ..Options::default() };
        let world = prepared(options, "CREATE TABLE t (id int)").await;
        let failure = perform(&world.context(Side::Destination)).await.unwrap_err();
        assert_eq!((failure.reason, failure.effect), (Reason::PgDumpTooOld, Effect::None), "{}", shown(&failure));
    }
}

#[tokio::test]
async fn a_dump_waits_for_a_lock_for_a_bounded_time_and_ends_with_its_reader() {
    let world = prepared(Options::default(), "CREATE TABLE held (id int)").await;
    let database = &world.options.database.clone();
    let blocker = world.source.connect(database).await.unwrap();
    blocker.batch_execute("BEGIN; LOCK TABLE held IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let peer = world.destination_agent.peers.call(&world.on(Side::Destination)).await.unwrap();
    let mut stream = peer.dump_schema(ServerVersion::from_num(180_006)).await.unwrap();
    let dumping = "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'pgportage dump'";
    world.source.wait_until(database, dumping, PATIENCE).await.unwrap();
    let failure = stream.next().await.unwrap_err();
    assert_eq!(failure.reason, Reason::PgDumpFailed, "{}", shown(&failure));
    assert!(!shown(&failure).contains("LOCK TABLE"), "{}", shown(&failure));

    let stream = peer.dump_schema(ServerVersion::from_num(180_006)).await.unwrap();
    world.source.wait_until(database, dumping, PATIENCE).await.unwrap();
    drop(stream);
    wait::until("the passfile and the program to be gone", PATIENCE, || async {
        let client = world.source.connect(database).await?;
        let row = client.query_one("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgportage dump' AND wait_event_type <> 'Lock'", &[]).await?;
        Ok(if row.get::<_, i64>(0) == 0 { Seen::Done(()) } else { Seen::NotYet("there".to_owned()) })
    })
    .await
    .unwrap();
    nothing_left_in(&world);
}

/// An agent that is stopped in order ends its streams in order.
#[tokio::test]
async fn an_archive_that_ends_early_is_not_a_whole_one() {
    let world = prepared(Options::default(), "CREATE TABLE held (id int)").await;
    let blocker = world.source.connect(&world.options.database).await.unwrap();
    blocker.batch_execute("BEGIN; LOCK TABLE held IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let peer = world.destination_agent.peers.call(&world.on(Side::Destination)).await.unwrap();
    let mut stream = peer.dump_schema(ServerVersion::from_num(180_006)).await.unwrap();
    world.source_agent.tasks.stop.cancel();
    let failure = stream.next().await.unwrap_err();
    assert_eq!((failure.reason, failure.remedy), (Reason::PeerUnreachable, Remedy::Wait), "{}", shown(&failure));
}

#[tokio::test]
async fn the_session_of_a_killed_restore_is_ended_first() {
    let world = prepared(Options::default(), "CREATE TABLE t (id int)").await;
    let database = &world.options.database.clone();
    let leftover = {
        let mut config = tokio_postgres::Config::new();
        config.host_path(world.destination.socket_directory()).port(world.destination.port).user("postgres");
        config.dbname(database).application_name("pgportage restore");
        pgportage_tests::cluster::connect(&config).await.unwrap()
    };
    leftover.batch_execute("BEGIN; CREATE TABLE half_done (id int)").await.unwrap();
    perform(&world.context(Side::Destination)).await.unwrap();
    assert!(leftover.batch_execute("COMMIT").await.is_err());
    let client = world.destination.connect(database).await.unwrap();
    let row = client
        .query_one("SELECT to_regclass('half_done') IS NULL AND to_regclass('t') IS NOT NULL", &[])
        .await
        .unwrap();
    assert!(row.get::<_, bool>(0));
}

#[tokio::test]
async fn what_somebody_else_put_there_is_neither_overwritten_nor_dropped() {
    let world = prepared(Options::default(), "CREATE TABLE t (id int)").await;
    let database = &world.options.database.clone();
    let cx = world.context(Side::Destination);
    // Opened: an application has written.
    perform(&cx).await.unwrap();
    world
        .destination
        .execute(database, "UPDATE pgportage.decision SET state = 'opened'; INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    let failure = RESTORE.undo(&cx).await.unwrap_err();
    assert_eq!(failure.reason, Reason::DestinationOpened, "{}", shown(&failure));
    // Without our schema the agent cannot tell.
    world.destination.execute(database, "DROP SCHEMA pgportage CASCADE").await.unwrap();
    let failure = RESTORE.undo(&cx).await.unwrap_err();
    assert_eq!(failure.reason, Reason::DestinationNotClosed, "{}", shown(&failure));
    let client = world.destination.connect(database).await.unwrap();
    assert_eq!(client.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get::<_, i64>(0), 1);
    // A migration that never restored anything takes nothing back.
    world.destination_agent.journal.forget(&migration()).unwrap();
    RESTORE.undo(&cx).await.unwrap();
    assert_eq!(client.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get::<_, i64>(0), 1);
}

#[tokio::test]
async fn no_superuser_is_needed_on_the_destination() {
    let options = Options {
        source: PostgresVersion::V16,
        destination: PostgresVersion::V18,
        destination_user: Some(("mover".to_owned(), "se:cr\\et pass".to_owned())),
        ..Options::default()
    };
    let world = World::start_with(options).await;
    let database = world.options.database.clone();
    for cluster in [&world.source, &world.destination] {
        cluster.execute("postgres", "CREATE ROLE app NOLOGIN; CREATE ROLE reader NOLOGIN").await.unwrap();
    }
    world
        .destination
        .execute(
            "postgres",
            &format!(
                "CREATE ROLE mover LOGIN PASSWORD 'se:cr\\et pass' IN ROLE app; ALTER DATABASE {} OWNER TO app;",
                quoted(&database)
            ),
        )
        .await
        .unwrap();
    // An untrusted extension has to be there already, with a comment that only a
    // superuser could set again.
    world.destination.execute(&database, "CREATE EXTENSION pageinspect; CREATE EXTENSION citext").await.unwrap();
    world
        .source
        .execute(
            &database,
            "CREATE EXTENSION pageinspect; CREATE EXTENSION citext; CREATE EXTENSION hstore;
             ALTER DATABASE shop OWNER TO app;
             SET ROLE app; CREATE SCHEMA sales; CREATE TABLE sales.orders (id int PRIMARY KEY, name public.citext, h public.hstore);
             CREATE TABLE public.plain (id int REFERENCES sales.orders); GRANT SELECT ON sales.orders TO reader",
        )
        .await
        .unwrap();
    world.close_destination().await;
    let before = dumped(&world.destination, &database, true).await;
    perform(&world.context(Side::Destination)).await.unwrap_or_else(|failure| panic!("{}", shown(&failure)));
    similar(&dumped(&world.source, &database, true).await, &dumped(&world.destination, &database, true).await);
    RESTORE.undo(&world.context(Side::Destination)).await.unwrap_or_else(|failure| panic!("{}", shown(&failure)));
    similar(&before, &dumped(&world.destination, &database, true).await);
    let log = world.destination.log_text().unwrap();
    assert!(!log.contains("se:cr"), "the password is in the server's log");
}

#[tokio::test]
async fn the_archive_fits_the_older_of_two_branches() {
    let options = Options { source: PostgresVersion::V16, destination: PostgresVersion::V17, ..Options::default() };
    // pg_dump 18 only: pg_restore 17 could not read its archive.
    let world = prepared(options.clone(), &schema()).await;
    let failure = perform(&world.context(Side::Destination)).await.unwrap_err();
    assert_eq!((failure.reason, failure.effect), (Reason::PgDumpTooOld, Effect::None), "{}", shown(&failure));
    drop(world);
    let pg_dump = tools_for(PostgresVersion::V17).unwrap().program("pg_dump");
    let world = prepared(Options { pg_dump: Some(pg_dump), ..options }, &schema()).await;
    let database = &world.options.database.clone();
    perform(&world.context(Side::Destination)).await.unwrap_or_else(|failure| panic!("{}", shown(&failure)));
    similar(&dumped(&world.source, database, true).await, &dumped(&world.destination, database, true).await);
}
