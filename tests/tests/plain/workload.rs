//! The workload and its checker without any program of ours: they find nothing
//! when there is nothing, and what was planted.

use std::time::Duration;

use pgportage_tests::checker::{Violation, check, verdict};
use pgportage_tests::child::{Output, Program, RunAs};
use pgportage_tests::ledger::{End, Ledger};
use pgportage_tests::workload::{Ends, Workload, WorkloadOptions, prepare};
use pgportage_tests::{Cluster, ClusterOptions, PostgresVersion, final_state};

const LIMIT: Duration = Duration::from_secs(60);

/// Writes while the server is killed and comes back; the "destination" is nobody.
async fn run_through_a_crash(cluster: &mut Cluster) -> Ledger {
    cluster.execute("postgres", "CREATE ROLE app LOGIN PASSWORD 'app'").await.unwrap();
    cluster.execute("postgres", "CREATE DATABASE shop OWNER app").await.unwrap();
    prepare(cluster, "shop", "app", 500).await.unwrap();
    let source = cluster.tcp_config("shop", "app", "app");
    let mut destination = cluster.tcp_config("shop", "app", "app");
    destination.user("nobody");
    let options = WorkloadOptions { pause: Duration::from_millis(5), ..WorkloadOptions::default() };
    let workload = Workload::start(&Ends { source, destination }, &options);
    workload.wait_for_writes(End::Source, 500, LIMIT).await.unwrap();
    cluster.kill9().unwrap();
    cluster.start_again().await.unwrap();
    workload.wait_for_writes(End::Source, 500, LIMIT).await.unwrap();
    workload.stop().await.unwrap()
}

#[tokio::test]
async fn nothing_is_found_after_a_crash_and_everything_that_was_planted() {
    let mut cluster = Cluster::start(PostgresVersion::V16, &ClusterOptions::new()).await.unwrap();
    let ledger = run_through_a_crash(&mut cluster).await;
    // At work or at their login: the writers have met the crash.
    assert!(ledger.refused.keys().any(|code| code.ends_with("connection")), "{:?}", ledger.refused);
    let client = cluster.connect("shop").await.unwrap();
    let state = final_state::read(&client).await.unwrap();
    verdict(1, &ledger, &state).unwrap();
    assert!(final_state::compare(&client, &client).await.unwrap() > 500);

    client.batch_execute("DELETE FROM events WHERE token = (SELECT max(token) FROM events)").await.unwrap();
    let state = final_state::read(&client).await.unwrap();
    assert!(matches!(check(1, &ledger, &state)[..], [Violation::Lost(_)]));
    client
        .batch_execute(
            "UPDATE lists SET entries = entries || entries[1] WHERE id = 3;
             UPDATE documents SET body = body || 'x' WHERE token = (SELECT max(token) FROM documents);
             UPDATE accounts SET balance = balance + 1 WHERE id = 7",
        )
        .await
        .unwrap();
    let state = final_state::read(&client).await.unwrap();
    let violations = check(1, &ledger, &state);
    assert!(
        matches!(
            violations[..],
            [
                Violation::Lost(_),
                Violation::Lost(_),
                Violation::Duplicated(_),
                // The copy stands at the end.
                Violation::Reordered(_),
                Violation::WrongSum(_),
                Violation::WrongSum(_)
            ]
        ),
        "{violations:#?}"
    );
}

/// Two clusters with the application's tables and PostgreSQL's own replication.
async fn replicate_by_hand() -> (Cluster, Cluster, Ends) {
    let options = ClusterOptions::new();
    let source = Cluster::start(PostgresVersion::V16, &options).await.unwrap();
    let destination = Cluster::start(PostgresVersion::V18, &options).await.unwrap();
    for cluster in [&source, &destination] {
        cluster.execute("postgres", "CREATE ROLE app LOGIN PASSWORD 'app'").await.unwrap();
        cluster.execute("postgres", "CREATE DATABASE shop OWNER app").await.unwrap();
        cluster.execute("postgres", "REVOKE CONNECT ON DATABASE shop FROM PUBLIC, app").await.unwrap();
    }
    prepare(&source, "shop", "app", 500).await.unwrap();
    let dump = tempfile::NamedTempFile::new().unwrap();
    let tools = &destination.installation.tools;
    let at = |cluster: &Cluster| {
        let socket = cluster.socket_directory().to_string_lossy().into_owned();
        ["-h".to_owned(), socket, "-p".to_owned(), cluster.port.to_string(), "-U".to_owned(), "postgres".to_owned()]
    };
    let mut pg_dump =
        Program::new(tools.program("pg_dump")).arguments(at(&source)).arguments(["--schema-only", "shop"]);
    pg_dump.stdout = Output::File(dump.reopen().unwrap());
    let mut psql =
        Program::new(tools.program("psql")).arguments(at(&destination)).arguments(["-qX", "-d", "shop", "-f"]);
    psql = psql.argument(dump.path());
    for program in [pg_dump, psql] {
        assert_eq!(program.run_as, RunAs::Myself);
        assert!(program.spawn().unwrap().wait(LIMIT).await.unwrap().success());
    }
    source.execute("shop", "CREATE PUBLICATION all_of_it FOR ALL TABLES").await.unwrap();
    let subscription = format!(
        "CREATE SUBSCRIPTION all_of_it CONNECTION 'host=127.0.0.1 port={} user=postgres password={} dbname=shop'
         PUBLICATION all_of_it",
        source.port, source.superuser_password
    );
    destination.execute("shop", &subscription).await.unwrap();
    source.execute("postgres", "GRANT CONNECT ON DATABASE shop TO app").await.unwrap();
    let ends = Ends {
        source: source.tcp_config("shop", "app", "app"),
        destination: destination.tcp_config("shop", "app", "app"),
    };
    (source, destination, ends)
}

const ALL_READY: &str = "SELECT count(*) > 10 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel";
const REFUSE: &str = "REVOKE CONNECT ON DATABASE shop FROM app";
const EXPEL: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'";
const ALLOW: &str = "GRANT CONNECT ON DATABASE shop TO app";
const SEQUENCES: &str = "SELECT setval('order_numbers', 1000000), setval('events_id_seq', 1000000),
    setval('tickets', 1000000), setval('countdown', 900000000)";

#[tokio::test]
async fn a_careful_migration_by_hand_is_sound() {
    let (source, destination, ends) = replicate_by_hand().await;
    let workload = Workload::start(&ends, &WorkloadOptions::default());
    workload.wait_for_writes(End::Source, 300, LIMIT).await.unwrap();
    destination.wait_until("shop", ALL_READY, LIMIT).await.unwrap();
    workload.wait_for_writes(End::Source, 300, LIMIT).await.unwrap();

    source.execute("postgres", REFUSE).await.unwrap();
    source.execute("postgres", EXPEL).await.unwrap();
    let nobody = "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE usename = 'app')";
    source.wait_until("postgres", nobody, LIMIT).await.unwrap();
    source.execute("shop", "INSERT INTO registers (writer, value) VALUES (-1, 42)").await.unwrap();
    let marker = "SELECT EXISTS (SELECT 1 FROM registers WHERE writer = -1)";
    destination.wait_until("shop", marker, LIMIT).await.unwrap();
    destination.execute("shop", SEQUENCES).await.unwrap();
    destination.execute("postgres", ALLOW).await.unwrap();

    workload.wait_for_writes(End::Destination, 300, LIMIT).await.unwrap();
    let ledger = workload.stop().await.unwrap();
    let client = destination.connect("shop").await.unwrap();
    verdict(1, &ledger, &final_state::read(&client).await.unwrap()).unwrap();
    let rows = final_state::compare(&source.connect("shop").await.unwrap(), &client).await.unwrap();
    assert!(rows > 1_000, "{rows}");
    assert!(ledger.outage().unwrap().length() > Duration::ZERO);
}

/// What people do who are in a hurry: the destination is opened while the source
/// still takes writes, and its sequences are forgotten.
#[tokio::test]
async fn a_careless_migration_by_hand_is_found_out() {
    let (source, destination, ends) = replicate_by_hand().await;
    let workload = Workload::start(&ends, &WorkloadOptions::default());
    destination.wait_until("shop", ALL_READY, LIMIT).await.unwrap();
    workload.wait_for_writes(End::Source, 300, LIMIT).await.unwrap();

    destination.execute("shop", "ALTER SUBSCRIPTION all_of_it DISABLE").await.unwrap();
    let stopped = "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_subscription WHERE pid IS NOT NULL)";
    destination.wait_until("shop", stopped, LIMIT).await.unwrap();
    workload.wait_for_writes(End::Source, 100, LIMIT).await.unwrap();
    destination.execute("postgres", ALLOW).await.unwrap();
    source.execute("postgres", REFUSE).await.unwrap();
    source.execute("postgres", EXPEL).await.unwrap();

    workload.wait_for_writes(End::Destination, 300, LIMIT).await.unwrap();
    let ledger = workload.stop().await.unwrap();
    let client = destination.connect("shop").await.unwrap();
    let violations = check(1, &ledger, &final_state::read(&client).await.unwrap());
    let lost = violations.iter().filter(|violation| matches!(violation, Violation::Lost(_))).count();
    assert!(lost >= 50, "{lost} losses found");
    assert!(
        violations.iter().any(|violation| matches!(violation, Violation::Anomaly(_))),
        "no id was handed out twice"
    );
    final_state::compare(&source.connect("shop").await.unwrap(), &client).await.unwrap_err();
}
