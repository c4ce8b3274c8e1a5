//! Verification as an operator sees it: differences are found while writers
//! write, told, mended, and gone.

use std::os::unix::fs::PermissionsExt;

use pgportage_tests::journey::{Journey, MIGRATION};
use pgportage_tests::workload::WorkloadOptions;
use pgportage_tests::{PostgresVersion, Site, SiteOptions};
use serde_json::Value;

#[tokio::test]
async fn differences_are_found_told_and_mended() {
    let site = Site::start(SiteOptions::new(PostgresVersion::V15, PostgresVersion::V18)).await.unwrap();
    let journey = Journey::begin(site, 20_000, &WorkloadOptions::default()).await.unwrap();
    journey.until_cutover().await.unwrap();
    let (cli, database) = (&journey.site.cli, &journey.site.database);
    let rows =
        |output: &str| -> Value { serde_json::from_str::<Value>(output).unwrap()["verification"]["rows"].clone() };

    // Row by row, and nothing differs, while the writers write.
    let clean = cli.expect(0, &["verify", MIGRATION, "--json"]).await.unwrap();
    let clean = rows(&clean.stdout);
    assert_eq!((&clean["complete"], &clean["difference_count"]), (&Value::Bool(true), &Value::from(0)), "{clean}");
    // Only counted, when that is asked for.
    let counted = cli.expect(0, &["verify", MIGRATION, "--counts", "--json"]).await.unwrap();
    assert_eq!(rows(&counted.stdout), Value::Null);

    // Rows that were there before the writers are nobody's.
    let client = journey.site.destination.connect(database).await.unwrap();
    let planted = "SET session_replication_role = replica;
                   DELETE FROM events WHERE token BETWEEN -20 AND -11;
                   UPDATE events SET note = note || ' ' WHERE token BETWEEN -40 AND -31;
                   UPDATE documents SET body = overlay(body PLACING 'X' FROM 3000) WHERE token = -7";
    client.batch_execute(planted).await.unwrap();
    let differs = cli.expect(3, &["verify", MIGRATION, "--repair", "--json"]).await.unwrap();
    let differs = rows(&differs.stdout);
    assert_eq!(differs["difference_count"], Value::from(21), "{differs}");
    let status = cli.status(MIGRATION).await.unwrap();
    assert_eq!(status.failure().unwrap().reason, "ROWS_DIFFER");

    // The keys are on the destination agent's machine, for its user alone.
    let [report, repair] = ["report_path", "repair_path"].map(|path| differs[path].as_str().unwrap().to_owned());
    assert_eq!(std::fs::read_to_string(&report).unwrap().lines().count(), 21);
    for path in [&report, &repair] {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o077, 0, "{path}");
    }
    client.batch_execute(&std::fs::read_to_string(&repair).unwrap()).await.unwrap();
    cli.expect(0, &["verify", MIGRATION]).await.unwrap();

    // And every acknowledged write is there at the end.
    journey.cut_over().await.unwrap();
    journey.finish().await.unwrap();
}
