//! Bad input: each with a clear error, and nothing left behind.

use std::time::Duration;

use pgportage_tests::journey::Journey;
use pgportage_tests::ledger::End;
use pgportage_tests::site::APPLICATION;
use pgportage_tests::workload::WorkloadOptions;
use pgportage_tests::{ClusterOptions, PostgresVersion, Site, SiteOptions, tools_for, traces};

use PostgresVersion::{V16, V18};

const LIMIT: Duration = Duration::from_secs(60);

/// Asks for a preflight that must be refused, with every one of `words` in what
/// the operator reads, and both servers as they were.
async fn expect_refusal(site: &Site, words: &[&str]) {
    expect_refusal_from(site, ["berlin", "oslo", &site.database], words).await;
}

async fn expect_refusal_from(site: &Site, [from, to, database]: [&str; 3], words: &[&str]) {
    let before = catalogs(site).await;
    let arguments = ["preflight", "--from", from, "--to", to, "--database", database];
    let output = site.cli.run(&arguments).await.unwrap();
    assert_ne!(output.code, Some(0), "{}", output.all());
    assert_ne!(output.code, None, "{}", output.all());
    for word in words {
        assert!(output.all().contains(word), "no {word:?} in:\n{}\n{}", output.all(), site.last_words());
    }
    let after = catalogs(site).await;
    for (before, after) in before.iter().zip(&after) {
        traces::expect_equal(before, after).unwrap();
    }
}

async fn catalogs(site: &Site) -> [std::collections::BTreeSet<String>; 2] {
    [
        traces::catalog(&site.source, &site.database).await.unwrap(),
        traces::catalog(&site.destination, &site.database).await.unwrap(),
    ]
}

#[tokio::test]
async fn a_source_without_logical_wal() {
    let mut options = SiteOptions::new(V16, V18);
    options.source = ClusterOptions::new().setting("wal_level", "replica");
    let site = Site::start(options).await.unwrap();
    expect_refusal(&site, &["wal_level", "logical", "restart"]).await;
}

#[tokio::test]
async fn what_a_preflight_refuses() {
    let site = Site::start(SiteOptions::new(V16, V18)).await.unwrap();
    let (source, destination, database) = (&site.source, &site.destination, &site.database);

    expect_refusal_from(&site, ["berlin", "lima", database], &["lima"]).await;
    expect_refusal_from(&site, ["lima", "oslo", database], &["lima"]).await;
    // The policy says which databases there are to talk about.
    expect_refusal_from(&site, ["berlin", "oslo", "elsewhere"], &["elsewhere", "policy"]).await;

    destination.execute(database, "CREATE TABLE already_here (id int PRIMARY KEY)").await.unwrap();
    expect_refusal(&site, &["DATABASE_NOT_EMPTY"]).await;
    destination.execute(database, "DROP TABLE already_here").await.unwrap();

    source.execute(database, "CREATE EXTENSION xml2").await.unwrap();
    expect_refusal(&site, &["xml2"]).await;
    source.execute(database, "DROP EXTENSION xml2").await.unwrap();

    source.execute("postgres", "CREATE ROLE only_here").await.unwrap();
    source
        .execute(database, "CREATE TABLE theirs (id int PRIMARY KEY); ALTER TABLE theirs OWNER TO only_here")
        .await
        .unwrap();
    expect_refusal(&site, &["only_here", "CREATE ROLE"]).await;
    source.execute(database, "DROP TABLE theirs").await.unwrap();

    let arguments = ["preflight", "--from", "berlin", "--to", "oslo", "--database", database];
    site.cli.expect(0, &arguments).await.unwrap();
}

#[tokio::test]
async fn an_unknown_database() {
    let mut site = Site::prepare(SiteOptions::new(V16, V18)).await.unwrap();
    for config in [&mut site.source_config, &mut site.destination_config] {
        config.policy.databases.push("missing".to_owned());
    }
    site.write_agent_files().unwrap();
    site.start_programs().await.unwrap();
    expect_refusal_from(&site, ["berlin", "oslo", "missing"], &["missing", "DATABASE_MISSING"]).await;
}

#[tokio::test]
async fn an_unreachable_server() {
    let mut site = Site::start(SiteOptions::new(V16, V18)).await.unwrap();
    site.source.stop().await.unwrap();
    let arguments = ["preflight", "--from", "berlin", "--to", "oslo", "--database", &site.database];
    let output = site.cli.run(&arguments).await.unwrap();
    assert_ne!(output.code, Some(0), "{}", output.all());
    assert!(output.all().contains("SERVER_UNREACHABLE"), "{}", output.all());
    site.source.start_again().await.unwrap();
    site.cli.expect(0, &arguments).await.unwrap();
}

#[tokio::test]
async fn an_agent_of_the_wrong_name() {
    let mut site = Site::prepare(SiteOptions::new(V16, V18)).await.unwrap();
    site.coordinator.start().unwrap();
    // Its certificate says berlin.
    site.source_config.name = "paris".to_owned();
    let settings = site.source_config.settings_text().replace("agent-paris", "agent-berlin");
    std::fs::write(site.directory().join("berlin.toml"), settings).unwrap();
    site.source_agent.start().unwrap();
    let status = site.source_agent.wait_for_end(LIMIT).await.unwrap();
    assert!(!status.success());
    let log = site.source_agent.log_text().unwrap();
    assert!(log.contains("paris") && log.contains("berlin"), "{log}");
}

#[tokio::test]
async fn a_coordinator_of_the_wrong_name() {
    let mut site = Site::prepare(SiteOptions::new(V16, V18)).await.unwrap();
    site.coordinator.start().unwrap();
    let settings = site.source_config.settings_text().replace("name = \"control\"", "name = \"somebody-else\"");
    std::fs::write(site.directory().join("berlin.toml"), settings).unwrap();
    site.source_agent.start().unwrap();
    pgportage_tests::wait::until("a refusal of the coordinator", LIMIT, async || {
        let log = site.source_agent.log_text()?;
        Ok(if log.contains("somebody-else") && log.contains("control") {
            pgportage_tests::wait::Seen::Done(())
        } else {
            pgportage_tests::wait::Seen::NotYet(log)
        })
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn no_pg_dump_or_an_old_one() {
    let mut site = Site::prepare(SiteOptions::new(V18, V18)).await.unwrap();
    site.source_config.tools = site.directory().join("nothing-here");
    site.write_agent_files().unwrap();
    site.start_programs().await.unwrap();
    expect_refusal(&site, &["PG_DUMP_MISSING"]).await;

    site.source_config.tools = tools_for(V16).unwrap().bin_dir;
    site.write_agent_files().unwrap();
    site.source_agent.stop().await.unwrap();
    site.source_agent.start().unwrap();
    site.wait_for_agents().await.unwrap();
    expect_refusal(&site, &["PG_DUMP_TOO_OLD"]).await;
}

#[tokio::test]
async fn five_mistakes_in_a_configuration() {
    let mut site = Site::prepare(SiteOptions::new(V16, V18)).await.unwrap();
    let settings = site
        .source_config
        .settings_text()
        .replace(&format!("port = {}", site.source_config.postgres_port), "port = \"many\"")
        .replace(&format!("listen = \"127.0.0.1:{}\"", site.source_config.link_port), "listen = \"nowhere\"")
        .replace(&format!("address = \"{}\"", site.source_config.coordinator), "address = \"\"")
        .replace(&format!("first_port = {}", site.source_config.tunnel_port), "first_port = 70000")
        .replace("[programs]", "[programs]\npg_dumpp = \"x\"");
    std::fs::write(site.directory().join("berlin.toml"), settings).unwrap();
    site.source_agent.start().unwrap();
    let status = site.source_agent.wait_for_end(LIMIT).await.unwrap();
    assert!(!status.success());
    let log = site.source_agent.log_text().unwrap();
    for key in ["postgres.port", "link.listen", "coordinator.address", "tunnel.first_port", "pg_dumpp"] {
        assert!(log.contains(key), "no {key} in:\n{log}");
    }
}

/// A table without a primary key is refused until the operator agrees to
/// `REPLICA IDENTITY FULL`; then it moves like the others.
#[tokio::test]
async fn a_table_without_a_primary_key() {
    let site = Site::start(SiteOptions::new(V16, V18)).await.unwrap();
    let create = format!(
        "CREATE TABLE keyless (token bigint, note text); ALTER TABLE keyless OWNER TO {APPLICATION};
                          INSERT INTO keyless SELECT n, 'x' FROM generate_series(1, 100) n"
    );
    site.source.execute(&site.database, &create).await.unwrap();
    let before = traces::catalog(&site.source, &site.database).await.unwrap();
    site.create("keyless").await.unwrap();
    let output = site.cli.run(&["start", "keyless"]).await.unwrap();
    assert_eq!(output.code, Some(3), "{}\n{}", output.all(), site.last_words());
    assert!(output.all().contains("keyless") && output.all().contains("REPLICA_IDENTITY_MISSING"), "{}", output.all());
    let after = traces::catalog(&site.source, &site.database).await.unwrap();
    traces::expect_equal(&before, &after).unwrap();

    site.cli.expect(0, &["consent", "keyless", "--all"]).await.unwrap();
    let output = site.cli.run(&["retry", "keyless"]).await.unwrap();
    let status = site.cli.status("keyless").await.unwrap();
    assert!(status.ready_for_cutover, "{}\n{}\n{}", status.summary(), output.all(), site.last_words());
    site.source.execute(&site.database, "UPDATE keyless SET note = 'y' WHERE token = 7").await.unwrap();
    site.cli.expect(0, &["cutover", "keyless", "--yes"]).await.unwrap();
    site.cli.expect(0, &["finish", "keyless", "--yes"]).await.unwrap();
    let moved = "SELECT count(*) = 100 AND count(*) FILTER (WHERE note = 'y') = 1 FROM keyless";
    site.destination.wait_until(&site.database, moved, LIMIT).await.unwrap();
    let as_before = "SELECT relreplident = 'd' FROM pg_class WHERE oid = 'keyless'::regclass";
    for cluster in [&site.source, &site.destination] {
        cluster.wait_until(&site.database, as_before, LIMIT).await.unwrap();
    }
}

/// Names with quotes, spaces, newlines and 63 bytes of UTF-8, for the database,
/// schemas, tables, columns and sequences, simply work.
#[tokio::test]
async fn names_that_need_quotes() {
    let long = "ä".repeat(31) + "x";
    assert_eq!(long.len(), 63);
    let database = "sh\"op ' né\\w";
    let mut options = SiteOptions::new(V16, V18);
    options.database = database.to_owned();
    let site = Site::start(options).await.unwrap();
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let schema = quoted("new\nline; DROP TABLE x; --");
    let names = ["select", "two words", "it's \"quoted\"", "back\\slash $1", "per%cent\ttab", long.as_str()];
    let mut statements = format!("SET ROLE {APPLICATION}; CREATE SCHEMA {schema};");
    for name in names {
        let name = quoted(name);
        statements += &format!(
            "CREATE TABLE {schema}.{name} ({name} bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, {schema} text UNIQUE);
             INSERT INTO {schema}.{name} ({schema}) VALUES ('before');"
        );
    }
    site.source.execute(database, &statements).await.unwrap();
    site.migrate_until_cutover("odd-names").await.unwrap();
    let insert = |schema: &str, value: &str| {
        names.map(|name| format!("INSERT INTO {schema}.{} ({schema}) VALUES ('{value}');", quoted(name))).concat()
    };
    site.source.execute(database, &insert(&schema, "during")).await.unwrap();
    site.cli.expect(0, &["verify", "odd-names"]).await.unwrap();
    site.cli.expect(0, &["cutover", "odd-names", "--yes"]).await.unwrap();
    // The sequences moved too: no id is handed out twice.
    site.destination.execute(database, &insert(&schema, "after")).await.unwrap();
    for name in names {
        let count = format!("SELECT count(*) = 3 FROM {schema}.{}", quoted(name));
        site.destination.wait_until(database, &count, LIMIT).await.unwrap();
    }
    site.cli.expect(0, &["finish", "odd-names", "--yes"]).await.unwrap();
    traces::expect_nothing(&site.source, database).await.unwrap();
    traces::expect_nothing(&site.destination, database).await.unwrap();
}

/// A destination server that stops in the middle is no reason to lose anything,
/// nor to bother the writers.
#[tokio::test]
async fn a_destination_that_is_away_for_a_while() {
    let site = Site::start(SiteOptions::new(V16, V18)).await.unwrap();
    let mut journey = Journey::begin(site, 1_000, &WorkloadOptions::default()).await.unwrap();
    journey.until_cutover().await.unwrap();
    journey.site.destination.stop().await.unwrap();
    journey.workload.wait_for_writes(End::Source, 300, LIMIT).await.unwrap();
    let output = journey.site.cli.run(&["cutover", "shop-move", "--yes"]).await.unwrap();
    assert_ne!(output.code, Some(0), "{}", output.all());
    journey.workload.wait_for_writes(End::Source, 300, LIMIT).await.unwrap();
    journey.site.destination.start_again().await.unwrap();
    let cli = &journey.site.cli;
    let ready = |status: &pgportage_tests::cli::Status| status.ready_for_cutover;
    cli.wait_for("shop-move", "the migration at its cutover", LIMIT, ready).await.unwrap();
    // Waits until the lag of the absence is gone.
    cli.expect(0, &["verify", "shop-move"]).await.unwrap();
    journey.cut_over().await.unwrap();
    journey.finish().await.unwrap();
}
