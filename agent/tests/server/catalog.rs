//! The catalog's objects, on real servers of different versions.

use std::process::Command;
use std::time::Duration;

use pgportage_link::Clock;
use pgportage_postgres::{Door, DoorSettings, Purpose, Session, catalog};
use pgportage_tests::cluster::{Cluster, ClusterOptions, SUPERUSER};
use pgportage_tests::postgres_versions::{PostgresVersion, tools_for};

mod drift;

const SCHEMA: &str = include_str!("catalog/schema.sql");

async fn open(cluster: &Cluster, database: &str) -> Session {
    let settings = DoorSettings {
        host: cluster.socket_directory().display().to_string(),
        port: cluster.port,
        user: SUPERUSER.to_owned(),
        password_file: None,
        passfile: None,
        lock_timeout: Duration::from_secs(1),
        max_sessions: 4,
    };
    Door::new(settings, Clock).open(database, Purpose::Control).await.unwrap()
}

/// Carries a schema over as the schema step does: pg_dump of the newer release.
fn carry(source: &Cluster, destination: &Cluster, database: &str) {
    let tools = tools_for(PostgresVersion::V18).unwrap();
    let connection = |cluster: &Cluster| {
        format!(
            "host={} port={} user={SUPERUSER} dbname={database}",
            cluster.socket_directory().display(),
            cluster.port
        )
    };
    let archive = tempfile::NamedTempFile::new().unwrap();
    let dump = Command::new(tools.program("pg_dump"))
        .args(["--schema-only", "--format=custom", "--no-publications", "--no-subscriptions"])
        .args(["--exclude-schema=pgportage", "--file"])
        .arg(archive.path())
        .arg(connection(source))
        .output()
        .unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let restore = Command::new(tools.program("pg_restore"))
        .args(["--exit-on-error", "--dbname"])
        .arg(connection(destination))
        .arg(archive.path())
        .output()
        .unwrap();
    assert!(restore.status.success(), "{}", String::from_utf8_lossy(&restore.stderr));
}

async fn versions_agree(from: PostgresVersion) {
    let source = Cluster::start(from, &ClusterOptions::new()).await.unwrap();
    let destination = Cluster::start(PostgresVersion::V18, &ClusterOptions::new()).await.unwrap();
    for cluster in [&source, &destination] {
        cluster.execute("postgres", "CREATE ROLE shop_owner; CREATE ROLE \"shop app\"").await.unwrap();
        cluster.execute("postgres", "CREATE DATABASE shop").await.unwrap();
    }
    source.execute("shop", SCHEMA).await.unwrap();
    carry(&source, &destination, "shop");

    let (source_session, destination_session) = (open(&source, "shop").await, open(&destination, "shop").await);
    let before = catalog::schema_objects(&source_session).await.unwrap();
    let after = catalog::schema_objects(&destination_session).await.unwrap();
    let names = |objects: &[catalog::SchemaObject], others: &[catalog::SchemaObject]| {
        let differing = objects.iter().filter(|object| !others.contains(object));
        differing.map(|object| object.identity.clone()).collect::<Vec<_>>()
    };
    let differences = (names(&before, &after), names(&after, &before));
    assert_eq!(differences, (vec![], vec![]), "from {from}");
    assert!(before.len() > 60, "only {} objects", before.len());
    assert_eq!(
        catalog::catalog_digest(&source_session).await.unwrap(),
        catalog::catalog_digest(&destination_session).await.unwrap()
    );

    // What is ours on one side only makes no difference.
    source
        .execute(
            "shop",
            "CREATE SCHEMA pgportage; CREATE TABLE pgportage.heartbeat (id int PRIMARY KEY);
             CREATE ROLE pgportage_shop; GRANT USAGE ON SCHEMA sales TO pgportage_shop;
             GRANT SELECT ON ALL TABLES IN SCHEMA sales TO pgportage_shop;
             CREATE PUBLICATION pgportage_shop FOR TABLE sales.customer, pgportage.heartbeat",
        )
        .await
        .unwrap();
    assert_eq!(catalog::schema_objects(&source_session).await.unwrap(), before);
}

#[tokio::test]
async fn objects_of_14_equal_those_of_18() {
    versions_agree(PostgresVersion::V14).await;
}

#[tokio::test]
async fn objects_of_15_equal_those_of_18() {
    versions_agree(PostgresVersion::V15).await;
}

#[tokio::test]
async fn objects_of_16_and_17_equal_those_of_18() {
    versions_agree(PostgresVersion::V16).await;
    versions_agree(PostgresVersion::V17).await;
}

/// Every statement changes the objects, and the identity says which.
#[tokio::test]
async fn drift_is_seen() {
    let cluster = Cluster::start(PostgresVersion::V18, &ClusterOptions::new()).await.unwrap();
    cluster.execute("postgres", "CREATE ROLE shop_owner; CREATE ROLE \"shop app\"").await.unwrap();
    cluster.execute("postgres", SCHEMA).await.unwrap();
    let session = open(&cluster, "postgres").await;
    for (statement, identity) in [
        ("ALTER TABLE sales.customer ADD COLUMN note text", "table sales.customer"),
        ("ALTER TABLE sales.customer ALTER COLUMN pause TYPE interval(2)", "table sales.customer"),
        ("ALTER TABLE sales.customer ALTER COLUMN name SET DEFAULT 'x'", "table sales.customer"),
        ("ALTER TABLE sales.customer ALTER COLUMN name DROP NOT NULL", "table sales.customer"),
        ("ALTER TABLE sales.customer REPLICA IDENTITY FULL", "table sales.customer"),
        ("ALTER TABLE sales.customer OWNER TO postgres", "table sales.customer"),
        ("GRANT DELETE ON sales.customer TO \"shop app\"", "table sales.customer"),
        ("GRANT REFERENCES (id) ON sales.customer TO \"shop app\"", "table sales.customer"),
        ("ALTER TABLE sales.customer ENABLE ROW LEVEL SECURITY", "table sales.customer"),
        ("CREATE TABLE sales.more ()", "table sales.more"),
        ("ALTER TABLE sales.event DETACH PARTITION sales.event_2025", "table sales.event_2025"),
        ("CREATE INDEX further ON sales.customer (name)", "index sales.further"),
        ("ALTER TABLE sales.customer ADD CONSTRAINT c CHECK (name <> '')", "constraint sales.c on sales.customer"),
        ("ALTER TABLE sales.\"order\" DISABLE TRIGGER stamp", "trigger stamp on sales.\"order\""),
        ("CREATE OR REPLACE VIEW sales.big AS SELECT id, total FROM sales.\"order\" WHERE total > 2", "view sales.big"),
        ("ALTER SEQUENCE sales.ticket INCREMENT 5", "sequence sales.ticket"),
        ("ALTER TYPE sales.colour ADD VALUE 'blue'", "type sales.colour"),
        ("ALTER FUNCTION sales.stamp() STABLE", "function sales.stamp()"),
        ("CREATE POLICY own ON sales.customer USING (id > 0)", "policy own on sales.customer"),
        ("CREATE SCHEMA more", "schema more"),
        ("ALTER SCHEMA sales OWNER TO postgres", "schema sales"),
    ] {
        let before = catalog::schema_objects(&session).await.unwrap();
        session.batch_execute(statement).await.unwrap();
        let after = catalog::schema_objects(&session).await.unwrap();
        let changed: Vec<_> = after.iter().filter(|object| !before.contains(object)).collect();
        assert!(changed.iter().any(|object| object.identity == identity), "{statement}: {changed:?}");
    }
}
