//! The workload and its checker against one server: they find nothing when there
//! is nothing, and what was planted.

use std::time::Duration;

use pgportage_tests::checker::{Violation, check, verdict};
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
    assert!(ledger.refused.contains_key("connection"), "{:?}", ledger.refused);
    let client = cluster.connect("shop").await.unwrap();
    let state = final_state::read(&client).await.unwrap();
    verdict(&ledger, &state).unwrap();
    assert!(final_state::compare(&client, &client).await.unwrap() > 500);

    client.batch_execute("DELETE FROM events WHERE token = (SELECT max(token) FROM events)").await.unwrap();
    let state = final_state::read(&client).await.unwrap();
    assert!(matches!(check(&ledger, &state)[..], [Violation::Lost(_)]));
    client
        .batch_execute(
            "UPDATE lists SET entries = entries || entries[1] WHERE id = 3;
             UPDATE documents SET body = body || 'x' WHERE token = (SELECT max(token) FROM documents);
             UPDATE accounts SET balance = balance + 1 WHERE id = 7",
        )
        .await
        .unwrap();
    let state = final_state::read(&client).await.unwrap();
    let violations = check(&ledger, &state);
    assert!(
        matches!(
            violations[..],
            [
                Violation::Lost(_),
                Violation::Lost(_),
                Violation::Duplicated(_),
                Violation::WrongSum(_),
                Violation::WrongSum(_)
            ]
        ),
        "{violations:#?}"
    );
}
