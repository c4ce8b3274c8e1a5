//! Rows compared by their hashes while others write: what was planted is found,
//! nothing else is, and the statements that come with it mend it.

#![expect(clippy::print_stdout, reason = "they print what they measured")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use pgportage_agent::act::catch_up::{AwaitCopy, AwaitLag};
use pgportage_agent::act::close::CloseDatabase;
use pgportage_agent::act::connect::CreateReplicationRole;
use pgportage_agent::act::copy::CopyTables;
use pgportage_agent::act::identity::SetReplicaIdentity;
use pgportage_agent::act::publication::CreatePublication;
use pgportage_agent::act::schema::RestoreSchema;
use pgportage_agent::act::subscribe::{CreateSlot, CreateSubscription};
use pgportage_agent::act::verify::{CompareRows, CountRows};
use pgportage_link::Clock;
use pgportage_postgres::RelationName;
use pgportage_proto::{ConnectionPath, CopyMethod, Side};
use pgportage_report::comparison::{RowComparison, TableComparison};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::contract::perform;
use super::copy::contents;
use crate::world::{Options, World};

const METHOD: CopyMethod = CopyMethod::Snapshot;
const LOW_LAG: AwaitLag = AwaitLag { max_lag: Duration::from_secs(5), stable_window: Duration::from_secs(2) };

/// Tables of every shape. Rows with an odd number belong to the writers, the
/// others stand still.
const SCHEMA: &str = "\
CREATE TYPE public.mood AS ENUM ('sad', 'it''s \\ fine');
CREATE TABLE public.token (token bigint PRIMARY KEY);
CREATE TABLE public.hot (id int PRIMARY KEY, n bigint);
INSERT INTO public.hot VALUES (1, 0);
CREATE TABLE public.wide (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text DEFAULT 'x', at timestamptz, n numeric, f float8,
    doc jsonb, length int GENERATED ALWAYS AS (length(v)) STORED);
INSERT INTO public.wide (v, at, n, f, doc)
SELECT md5(i::text), now() - i * interval '1 s', i / 7.0, i / 7.0::float8, jsonb_build_object('i', i)
FROM generate_series(1, 30000) i;
CREATE INDEX wide_by_v ON public.wide (v);
CREATE TABLE public.named (name text PRIMARY KEY, n int);
INSERT INTO public.named SELECT E'it''s \\\\ ' || md5(i::text), i FROM generate_series(1, 4000) i;
CREATE TABLE public.pairs (a int, b text, n int, PRIMARY KEY (a, b));
INSERT INTO public.pairs SELECT i % 100, 'b' || i, i FROM generate_series(1, 4000) i;
CREATE TABLE public.moods (mood public.mood, day date, n int, PRIMARY KEY (mood, day));
INSERT INTO public.moods SELECT 'sad', '2020-01-01'::date + i, i FROM generate_series(1, 100) i;
CREATE TABLE public.keyless (v text, n int);
INSERT INTO public.keyless SELECT 'twice', i FROM generate_series(2, 200, 2) i, generate_series(1, 2);
CREATE TABLE public.bodies (id int PRIMARY KEY, body bytea, kind \"char\");
ALTER TABLE public.bodies ALTER COLUMN body SET STORAGE EXTERNAL;
INSERT INTO public.bodies SELECT i, decode(repeat(md5(i::text), 100000), 'hex'), 'a' FROM generate_series(2, 10, 2) i;
CREATE TABLE public.parted (id int, day date, n int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE public.parted_1 PARTITION OF public.parted FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE public.parted_2 (n int, day date NOT NULL, id int NOT NULL);
ALTER TABLE public.parted ATTACH PARTITION public.parted_2 FOR VALUES FROM ('2021-01-01') TO ('2022-01-01');
INSERT INTO public.parted SELECT i, '2020-06-01'::date + i, i FROM generate_series(2, 500, 2) i;
CREATE TABLE public.nothing ();
CREATE TABLE public.empty (id int PRIMARY KEY);";

/// From nothing to a level stream.
async fn replicate() -> World {
    let world = World::start_with(Options::default()).await;
    world.source.execute(&world.options.database, SCHEMA).await.unwrap_or_else(|error| panic!("{error:#?}"));
    let keyless = ["keyless", "nothing"].map(|name| RelationName::new("public", name)).to_vec();
    perform(&world, Side::Source, &CreateReplicationRole).await;
    perform(&world, Side::Source, &SetReplicaIdentity { tables: keyless }).await;
    perform(&world, Side::Source, &CreatePublication).await;
    perform(&world, Side::Destination, &CloseDatabase).await;
    perform(&world, Side::Destination, &RestoreSchema { copy_method: METHOD }).await;
    perform(&world, Side::Source, &CreateSlot { copy_method: METHOD }).await;
    perform(&world, Side::Destination, &CopyTables { copy_method: METHOD }).await;
    let subscribe = CreateSubscription { path: ConnectionPath::Tunnel, copy_method: METHOD };
    perform(&world, Side::Destination, &subscribe).await;
    perform(&world, Side::Destination, &AwaitCopy).await;
    perform(&world, Side::Source, &LOW_LAG).await;
    world
}

/// What a writer does in one transaction. Each leaves a token.
const WRITES: [&str; 6] = [
    "UPDATE public.hot SET n = n + 1",
    "UPDATE public.wide SET v = md5(v), n = n + 1 WHERE id = (SELECT 1 + 2 * (random() * 14999)::int)",
    "INSERT INTO public.wide (v) VALUES ('new'); \
     UPDATE public.named SET n = n + 20000 WHERE name = (SELECT E'it''s \\\\ ' || md5((1 + 2 * (random() * 1999)::int)::text))",
    "DELETE FROM public.pairs WHERE (a, b) = (SELECT i % 100, 'b' || i FROM (SELECT 1 + 2 * (random() * 200)::int) AS x (i))",
    "INSERT INTO public.pairs SELECT i % 100, 'b' || i, i FROM (SELECT 1 + 2 * (random() * 200)::int) AS x (i) ON CONFLICT DO NOTHING",
    "INSERT INTO public.keyless VALUES ('busy', 1 + 2 * (random() * 20)::int); \
     DELETE FROM public.keyless WHERE n = (SELECT 1 + 2 * (random() * 20)::int)",
];

/// Writers at work, and the tokens whose commit was acknowledged.
struct Writers {
    tasks: JoinSet<Vec<i64>>,
    stop: CancellationToken,
    committed: Arc<AtomicI64>,
}

impl Writers {
    /// So many, each with a transaction as soon as the one before is over, or
    /// `pause` after it.
    async fn start(world: &World, count: i64, pause: Duration) -> Self {
        let (mut tasks, stop, committed) = (JoinSet::new(), CancellationToken::new(), Arc::default());
        for writer in 0..count {
            let client = world.source.connect(&world.options.database).await.unwrap();
            client.batch_execute("SET synchronous_commit = off").await.unwrap();
            let (stop, committed) = (stop.clone(), Arc::<AtomicI64>::clone(&committed));
            tasks.spawn(async move {
                let mut tokens = Vec::new();
                for number in 0.. {
                    if stop.is_cancelled() {
                        break;
                    }
                    let token = number * count + writer;
                    let write = WRITES[usize::try_from(token).unwrap() % WRITES.len()];
                    let text = format!("BEGIN; INSERT INTO public.token VALUES ({token}); {write}; COMMIT");
                    client.batch_execute(&text).await.unwrap();
                    tokens.push(token);
                    committed.fetch_add(1, Ordering::Relaxed);
                    Clock.sleep(pause).await;
                }
                tokens
            });
        }
        Self { tasks, stop, committed }
    }

    fn committed(&self) -> i64 {
        self.committed.load(Ordering::Relaxed)
    }

    async fn stop(self) -> Vec<i64> {
        self.stop.cancel();
        self.tasks.join_all().await.concat()
    }
}

/// What is found, as the report tells it: table, difference, key.
fn told(result: &RowComparison) -> Vec<String> {
    if result.report_path.is_empty() {
        return Vec::new();
    }
    let text = std::fs::read_to_string(&result.report_path).unwrap();
    let line = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let key = if line["key"]["row_hash"].is_array() { "?".to_owned() } else { line["key"].to_string() };
        format!("{} {} {key}", line["table"].as_str().unwrap(), line["difference"].as_str().unwrap())
    };
    text.lines().map(line).collect()
}

/// Wrong things of every kind, before those that are many of a kind.
const BY_HAND: usize = 9;

/// Does `count` wrong things to rows of the destination that stand still. Returns
/// what ought to be told of them.
async fn plant(world: &World, count: usize) -> Vec<String> {
    let client = world.destination.connect(&world.options.database).await.unwrap();
    client.batch_execute("SET session_replication_role = replica").await.unwrap();
    let (mut statements, mut expected) = (Vec::new(), Vec::new());
    let mut wrong = |statement: String, told: String| {
        statements.push(statement);
        expected.push(told);
    };
    let bit = "UPDATE public.bodies SET body = set_bit(body, 12345678, 1 - get_bit(body, 12345678)) WHERE id = 4";
    wrong(bit.to_owned(), "public.bodies changed {\"id\":\"4\"}".to_owned());
    let kind = "UPDATE public.bodies SET kind = 'b' WHERE id = 6".to_owned();
    wrong(kind, "public.bodies changed {\"id\":\"6\"}".to_owned());
    let mood = "UPDATE public.moods SET n = NULL WHERE day = '2020-02-01'".to_owned();
    wrong(mood, "public.moods changed {\"day\":\"2020-02-01\",\"mood\":\"sad\"}".to_owned());
    let day = "DELETE FROM public.parted WHERE id = 300".to_owned();
    wrong(day, "public.parted_2 missing {\"day\":\"2021-03-28\",\"id\":\"300\"}".to_owned());
    let one = "DELETE FROM public.keyless WHERE ctid = (SELECT min(ctid) FROM public.keyless WHERE n = 20)".to_owned();
    wrong(one, "public.keyless changed ?".to_owned());
    wrong("DELETE FROM public.keyless WHERE n = 40".to_owned(), "public.keyless missing ?".to_owned());
    wrong("INSERT INTO public.keyless VALUES ('', 60)".to_owned(), "public.keyless extra ?".to_owned());
    wrong("INSERT INTO public.keyless VALUES (NULL, 60)".to_owned(), "public.keyless extra ?".to_owned());
    wrong("INSERT INTO public.nothing DEFAULT VALUES".to_owned(), "public.nothing extra ?".to_owned());
    let names = client.query("SELECT n, name FROM public.named WHERE n % 2 = 0 ORDER BY n", &[]).await.unwrap();
    for (number, row) in names.iter().enumerate().take(count).skip(BY_HAND) {
        let id = 2 * i64::try_from(number).unwrap();
        match number % 6 {
            0 => wrong(
                format!("UPDATE public.wide SET f = f + 1e-9 WHERE id = {id}"),
                format!("public.wide changed {{\"id\":\"{id}\"}}"),
            ),
            1 => wrong(
                format!("DELETE FROM public.wide WHERE id = {id}"),
                format!("public.wide missing {{\"id\":\"{id}\"}}"),
            ),
            2 => wrong(
                format!("INSERT INTO public.wide (id, v) OVERRIDING SYSTEM VALUE VALUES ({}, 'x')", 10_000_000 + id),
                format!("public.wide extra {{\"id\":\"{}\"}}", 10_000_000 + id),
            ),
            3 => wrong(
                format!("UPDATE public.wide SET v = NULL WHERE id = {id}"),
                format!("public.wide changed {{\"id\":\"{id}\"}}"),
            ),
            4 => {
                let key = serde_json::json!({ "name": row.get::<_, String>(1) });
                let n: i32 = row.get(0);
                wrong(format!("DELETE FROM public.named WHERE n = {n}"), format!("public.named missing {key}"));
            }
            _ => wrong(
                format!("UPDATE public.pairs SET n = -n WHERE b = 'b{id}'"),
                format!("public.pairs changed {{\"a\":\"{}\",\"b\":\"b{id}\"}}", id % 100),
            ),
        }
    }
    client.batch_execute(&statements.join(";\n")).await.unwrap();
    expected.sort();
    expected
}

/// Waits until the destination has everything.
async fn level(world: &World) {
    perform(world, Side::Source, &LOW_LAG).await;
    let database = &world.options.database;
    let token = "INSERT INTO public.token VALUES (-1)";
    world.source.execute(database, token).await.unwrap();
    let arrived = "SELECT EXISTS (SELECT FROM public.token WHERE token = -1)";
    world.destination.wait_until(database, arrived, Duration::from_secs(60)).await.unwrap();
}

fn counts(result: &RowComparison) -> (i64, i64) {
    let differing = |table: &TableComparison| table.missing_count + table.extra_count + table.changed_count;
    let obstacles: Vec<_> = result.tables.iter().map(|table| table.obstacle.as_str()).collect();
    assert_eq!(obstacles, vec![""; result.tables.len()]);
    (result.tables.iter().map(differing).sum(), result.tables.iter().map(|table| table.unsettled_count).sum())
}

/// Everything that was planted is found, nothing else, nothing before and nothing
/// after it was mended, all while writers write.
async fn find(planted: usize, writers: i64, pause: Duration) {
    let world = replicate().await;
    let database = world.options.database.clone();
    let writing = Writers::start(&world, writers, pause).await;
    let begun = Clock.now();

    // The time is over before the first table: nothing is claimed, and the next
    // command goes on.
    let whole = CompareRows { comparison_id: 1, time_limit: None, repair: true };
    let none = CompareRows { time_limit: Some(Duration::ZERO), ..whole.clone() };
    let cut_short = perform(&world, Side::Destination, &none).await;
    assert!(!cut_short.complete && cut_short.tables.iter().all(|table| !table.complete));
    let clean = perform(&world, Side::Destination, &whole).await;
    assert_eq!((counts(&clean), told(&clean)), ((0, 0), vec![]), "{clean:?}");
    assert!(clean.complete && clean.tables.len() == 12, "{clean:?}");

    let expected = plant(&world, planted).await;
    assert_eq!(expected.len(), planted);
    let found = perform(&world, Side::Destination, &CompareRows { comparison_id: 2, ..whole.clone() }).await;
    let mut seen = told(&found);
    seen.sort();
    let (seen_set, expected_set): (BTreeSet<_>, BTreeSet<_>) = (seen.iter().collect(), expected.iter().collect());
    let unseen: Vec<_> = expected_set.difference(&seen_set).collect();
    let invented: Vec<_> = seen_set.difference(&expected_set).collect();
    assert!(unseen.is_empty() && invented.is_empty(), "unseen {unseen:?}, invented {invented:?}");
    assert_eq!((seen.len(), counts(&found)), (planted, (planted as i64, 0)), "each once");
    let rate = writing.committed() as f64 / Clock.now().duration_since(begun).as_secs_f64();
    println!(
        "{planted} planted and found in {:?}, {} parts, {} rows looked at again, {rate:.0} transactions a second",
        found.elapsed, found.range_count, found.recheck_count
    );

    // The same number again looks at nothing: it is complete.
    let same = perform(&world, Side::Destination, &CompareRows { comparison_id: 2, ..whole.clone() }).await;
    assert_eq!((same.range_count, told(&same).len()), (found.range_count, planted));

    let repair = std::fs::read_to_string(&found.repair_path).unwrap();
    let client = world.destination.connect(&database).await.unwrap();
    client.batch_execute(&repair).await.unwrap_or_else(|error| panic!("{error:?}"));
    // What has no key is for people.
    let by_hand = "DELETE FROM public.nothing; DELETE FROM public.keyless WHERE n = 60 AND (v IS NULL OR v = '');
                   INSERT INTO public.keyless VALUES ('twice', 20), ('twice', 40), ('twice', 40)";
    client.batch_execute(by_hand).await.unwrap();
    let mended = perform(&world, Side::Destination, &CompareRows { comparison_id: 3, ..whole }).await;
    assert_eq!((counts(&mended), told(&mended)), ((0, 0), vec![]), "{mended:?}");

    let tokens = writing.stop().await;
    level(&world).await;
    assert_eq!(contents(&world.source, &database).await, contents(&world.destination, &database).await);
    let missing = "SELECT count(*) FROM unnest($1::bigint[]) AS t (token) \
                   WHERE NOT EXISTS (SELECT FROM public.token WHERE token.token = t.token)";
    let missing: i64 = client.query_one(missing, &[&tokens]).await.unwrap().get(0);
    assert_eq!((missing, tokens.is_empty()), (0, false), "every acknowledged write is there");
}

#[tokio::test]
async fn what_was_planted_is_found_while_others_write() {
    Box::pin(find(90, 4, Duration::from_millis(2))).await;
}

/// At the rate that the machine gives, above a thousand transactions a second.
#[tokio::test]
#[ignore = "make test-all"]
async fn a_thousand_planted_differences_are_found_under_load() {
    Box::pin(find(1_000, 8, Duration::ZERO)).await;
}

#[tokio::test]
async fn objects_that_differ_are_named() {
    let world = replicate().await;
    let database = &world.options.database;
    let planted = "DROP INDEX public.wide_by_v;
                   ALTER TABLE public.wide ALTER COLUMN v SET DEFAULT 'y';
                   ALTER SEQUENCE public.wide_id_seq INCREMENT 2;
                   ALTER TABLE public.bodies ADD CONSTRAINT small CHECK (id < 100)";
    world.destination.execute(database, planted).await.unwrap();
    let count = CountRows { objects_only: true, ..CountRows::default() };
    let there = perform(&world, Side::Source, &count).await;
    let here = perform(&world, Side::Destination, &count).await;
    assert!(here.tables.is_empty(), "no row is read");
    let (there, here): (BTreeSet<_>, BTreeSet<_>) =
        (there.objects.into_iter().collect(), here.objects.into_iter().collect());
    let differing: BTreeSet<_> = there.symmetric_difference(&here).map(|object| object.identity.as_str()).collect();
    let expected = [
        "constraint public.small on public.bodies",
        "index public.wide_by_v",
        "sequence public.wide_id_seq",
        "table public.wide",
    ];
    assert_eq!(differing.into_iter().collect::<Vec<_>>(), expected);
}

/// A column that only one side has: said, not passed over.
#[tokio::test]
async fn a_table_that_cannot_be_compared_is_no_pass() {
    let world = replicate().await;
    let database = &world.options.database;
    world.destination.execute(database, "ALTER TABLE public.moods ADD COLUMN more int").await.unwrap();
    let result = perform(&world, Side::Destination, &CompareRows { comparison_id: 1, ..CompareRows::default() }).await;
    let obstacles: Vec<_> = result
        .tables
        .iter()
        .filter(|table| !table.obstacle.is_empty())
        .map(|table| format!("{}: {}", table.table, table.obstacle))
        .collect();
    assert_eq!(obstacles, ["public.moods: column more is on the destination only"]);
}
