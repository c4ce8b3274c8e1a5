//! The source is production: when nobody takes its WAL away, our slot goes before
//! its disk does, and its writers do not notice.

use std::time::Duration;

use pgportage_tests::journey::Journey;
use pgportage_tests::ledger::End;
use pgportage_tests::workload::WorkloadOptions;
use pgportage_tests::{PostgresVersion, Site, SiteOptions};

const LIMIT: Duration = Duration::from_secs(120);

/// The destination, its agent and the coordinator are away; the source agent
/// alone drops the slot at the limit of its policy.
#[tokio::test]
async fn the_slot_goes_before_the_disk_does() {
    let limit_bytes: i64 = 256 << 20;
    let options = SiteOptions::new(PostgresVersion::V16, PostgresVersion::V18)
        .limit("retained_wal_warn_bytes", &(limit_bytes / 2).to_string())
        .limit("retained_wal_abort_bytes", &limit_bytes.to_string());
    let site = Site::start(options).await.unwrap();
    let mut journey = Journey::begin(site, 1_000, &WorkloadOptions::default()).await.unwrap();
    journey.until_cutover().await.unwrap();
    let site = &mut journey.site;
    site.coordinator.kill9().unwrap();
    site.destination_agent.kill9().unwrap();
    site.destination.stop().await.unwrap();

    // A few times the limit of WAL, in pieces, while the slot holds it back. The
    // table is no part of the database that moves: WAL is the server's.
    let filler = "CREATE TABLE filler (piece text); ALTER TABLE filler ALTER COLUMN piece SET STORAGE EXTERNAL";
    site.source.execute("postgres", filler).await.unwrap();
    let slots = "SELECT count(*) FROM pg_replication_slots";
    let client = site.source.connect("postgres").await.unwrap();
    let mut retained = 0;
    let gone = "SELECT NOT EXISTS (SELECT 1 FROM pg_replication_slots)";
    for _piece in 0..100 {
        if client.query_one(slots, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            break;
        }
        let held = "SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn))::bigint FROM pg_replication_slots";
        retained = client.query_one(held, &[]).await.unwrap().get::<_, Option<i64>>(0).unwrap_or(retained);
        if retained > limit_bytes {
            break;
        }
        let write = "INSERT INTO filler SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 250000)";
        client.batch_execute(write).await.unwrap();
    }
    site.source.wait_until("postgres", gone, LIMIT).await.unwrap();
    assert!(retained < 2 * limit_bytes, "{retained} bytes were held back");

    let log = site.source_agent.log_text().unwrap();
    assert!(log.contains("WAL_LIMIT_EXCEEDED") || log.contains("retained"), "{log}");
    // The writers were not disturbed.
    journey.workload.wait_for_writes(End::Source, 200, LIMIT).await.unwrap();
    let ledger = journey.workload.stop().await.unwrap();
    assert!(ledger.longest_silence(End::Source) < Duration::from_secs(5), "{:?}", ledger.longest_silence(End::Source));
    assert_eq!(ledger.anomalies, Vec::<String>::new());
}
