//! Verification as an operator sees it: differences are found while writers
//! write, told, mended, and gone.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use pgportage_tests::journey::{Journey, MIGRATION};
use pgportage_tests::ledger::End;
use pgportage_tests::wait::{self, Seen};
use pgportage_tests::workload::WorkloadOptions;
use pgportage_tests::{PostgresVersion, Site, SiteOptions};
use serde_json::Value;

#[tokio::test]
async fn differences_are_found_told_and_mended() {
    let site = Site::start(SiteOptions::new(PostgresVersion::V15, PostgresVersion::V18)).await.unwrap();
    let journey = Journey::begin(site, 20_000, &WorkloadOptions::default()).await.unwrap();
    // Nobody uses it but this test.
    let sequence = "CREATE SEQUENCE public.coupons; SELECT nextval('public.coupons') FROM generate_series(1, 10)";
    journey.site.source.execute(&journey.site.database, sequence).await.unwrap();
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
    // A superuser's session: no fence keeps it out, so none may be there.
    drop(client);
    cli.expect(0, &["verify", MIGRATION]).await.unwrap();

    rehearse_and_compare(&journey).await;
    switch_and_compare(&journey, "cutover", End::Destination).await;
    behind_the_cutover(&journey).await;
    switch_and_compare(&journey, "rollback", End::Source).await;
    switch_and_compare(&journey, "cutover", End::Destination).await;

    // And every acknowledged write is there at the end, and no key is left on a machine.
    cli.expect(0, &["finish", MIGRATION, "--yes"]).await.unwrap();
    let (site, _) = journey.check_arrival_after(3).await.unwrap();
    for agent in ["berlin", "oslo"] {
        let directory = site.directory().join(format!("{agent}-state/comparison"));
        let left = std::fs::read_dir(&directory).into_iter().flatten().count();
        assert_eq!(left, 0, "{}", directory.display());
    }
}

/// The outage that is expected holds the comparison.
async fn rehearse_and_compare(journey: &Journey) {
    let rehearse = ["cutover", MIGRATION, "--rehearse", "--rounds", "2", "--max-outage", "10s", "--compare", "5s"];
    journey.site.cli.expect(0, &[&rehearse[..], &["--yes"]].concat()).await.unwrap();
    let status = journey.site.cli.expect(0, &["status", MIGRATION, "--json"]).await.unwrap();
    let rehearsal = serde_json::from_str::<Value>(&status.stdout).unwrap()["rehearsal"].clone();
    let [compare, drain] = ["compare", "drain"].map(|span| rehearsal[span]["p50_milliseconds"].as_f64().unwrap());
    assert!(0.0 < compare && compare < drain, "{rehearsal}");
    journey.workload.wait_for_writes(End::Source, 300, Duration::from_secs(60)).await.unwrap();
}

/// What is written while the applications are moved is compared before they arrive.
async fn switch_and_compare(journey: &Journey, verb: &str, reached: End) {
    let switch = [verb, MIGRATION, "--yes", "--max-outage", "10s", "--compare", "5s", "--json"];
    let switched = journey.site.cli.expect(0, &switch).await.unwrap();
    let switched: Value = serde_json::from_str(&switched.stdout).unwrap();
    let compared = &switched["cutover"]["comparison"];
    assert!(compared["row_count"].as_i64().unwrap() > 0, "the writers wrote: {compared}");
    assert_eq!(compared["left_out"], Value::Array(Vec::new()));
    journey.workload.wait_for_writes(reached, 300, Duration::from_secs(60)).await.unwrap();
}

/// The sides have changed their parts: the source follows, and is compared while the
/// writers write on the destination.
async fn behind_the_cutover(journey: &Journey) {
    let (site, cli) = (&journey.site, &journey.site.cli);
    let verified = |output: &str| -> Value { serde_json::from_str::<Value>(output).unwrap()["verification"].clone() };
    let clean = verified(&cli.expect(0, &["verify", MIGRATION, "--json"]).await.unwrap().stdout);
    assert_eq!((&clean["follower"], &clean["rows"]["complete"]), (&"source".into(), &Value::Bool(true)), "{clean}");

    // Handed out before, and handed out again if nobody sees it.
    let set = |value: i64| format!("SELECT setval('public.coupons', {value})");
    site.destination.execute(&site.database, &set(3)).await.unwrap();
    let behind = verified(&cli.expect(3, &["verify", MIGRATION, "--counts", "--json"]).await.unwrap().stdout);
    let expected = "sequence public.coupons stands at 3 on the destination, behind 10 on the source";
    assert_eq!(behind["differences"], serde_json::json!([expected]));
    assert_eq!(cli.status(MIGRATION).await.unwrap().failure().unwrap().reason, "SEQUENCES_BEHIND");
    site.destination.execute(&site.database, &set(11)).await.unwrap();

    // Rows that were there before the writers are nobody's.
    let client = site.source.connect(&site.database).await.unwrap();
    // In a message of its own: what is sent together is one transaction.
    client.batch_execute("SET default_transaction_read_only = off").await.unwrap();
    let planted = "SET session_replication_role = replica; DELETE FROM events WHERE token BETWEEN -60 AND -51";
    client.batch_execute(planted).await.unwrap();
    let differs = verified(&cli.expect(3, &["verify", MIGRATION, "--repair", "--json"]).await.unwrap().stdout);
    assert_eq!(differs["rows"]["difference_count"], Value::from(10), "{differs}");
    let repair = std::fs::read_to_string(differs["rows"]["repair_path"].as_str().unwrap()).unwrap();
    client.batch_execute(&repair).await.unwrap();
    cli.expect(0, &["verify", MIGRATION]).await.unwrap();
}

/// Table data read from the source in a second: so little that there is time to kill
/// both agents before the comparison is over.
const RATE: &str = "4MB";

const BALLAST: &str = "\
CREATE TABLE public.ballast (id int PRIMARY KEY, v text NOT NULL);
INSERT INTO public.ballast SELECT i, repeat(md5(i::text), 32) FROM generate_series(1, 100000) i";

/// How far the comparison is by the file that outlives its agent.
fn position(site: &Site) -> Option<i64> {
    let notes = site.directory().join("oslo-state/comparison").join(MIGRATION).join("progress.json");
    let notes: Value = serde_json::from_slice(&std::fs::read(notes).ok()?).ok()?;
    let ballast = notes["tables"].as_array()?.iter().find(|table| table[1] == "ballast")?;
    ballast[2]["position"][0].as_str()?.parse().ok()
}

async fn position_beyond(site: &Site, known: i64) -> i64 {
    wait::until("the comparison to be noted", Duration::from_secs(60), async || {
        Ok(match position(site) {
            Some(position) if position > known => Seen::Done(position),
            other => Seen::NotYet(format!("{other:?}, and {known} is known")),
        })
    })
    .await
    .unwrap()
}

#[tokio::test]
#[ignore = "make test-all"]
async fn a_comparison_outlives_either_agent() {
    let site = Site::start(SiteOptions::new(PostgresVersion::V16, PostgresVersion::V17)).await.unwrap();
    site.source.execute(&site.database, BALLAST).await.unwrap();
    let mut journey = Journey::begin(site, 1_000, &WorkloadOptions::default()).await.unwrap();
    journey.until_cutover().await.unwrap();
    // Two rows are wrong: one where it is compared before the first death, and one
    // behind the last.
    let planted = "SET session_replication_role = replica; DELETE FROM ballast WHERE id IN (17, 99990)";
    journey.site.destination.execute(&journey.site.database, planted).await.unwrap();
    let cli = journey.site.cli.clone();
    cli.expect(0, &["verify", MIGRATION, "--max-rate", RATE, "--detach"]).await.unwrap();

    let first = position_beyond(&journey.site, 0).await;
    journey.site.agent(End::Destination).kill9_and_start().unwrap();
    let second = position_beyond(&journey.site, first).await;
    journey.site.agent(End::Source).kill9_and_start().unwrap();
    let third = position_beyond(&journey.site, second).await;
    println!("noted at {first}, {second} and {third} of 100000");
    cli.expect(0, &["tune", MIGRATION, "--max-rate", "2GB"]).await.unwrap();
    let status = cli
        .wait_for(MIGRATION, "the comparison to end", Duration::from_secs(120), |status| status.settled())
        .await
        .unwrap();
    assert_eq!(status.failure().unwrap().reason, "ROWS_DIFFER");
    let told: Value = cli.json(&["status", MIGRATION]).await.unwrap();
    let rows = &told["verification"]["rows"];
    assert_eq!((&rows["difference_count"], &rows["complete"]), (&Value::from(2), &Value::Bool(true)), "{rows}");
    // Each is told once, and none that is not.
    let report = std::fs::read_to_string(rows["report_path"].as_str().unwrap()).unwrap();
    let mut keys: Vec<_> =
        report.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["key"]["id"].clone()).collect();
    keys.sort_by_key(|key| key.as_str().map(str::len));
    assert_eq!(keys, ["17", "99990"]);
    cli.expect(0, &["abort", MIGRATION, "--yes"]).await.unwrap();
    assert_eq!(position(&journey.site), None, "what was written about rows went with the migration");
    journey.check_return().await.unwrap();
}
