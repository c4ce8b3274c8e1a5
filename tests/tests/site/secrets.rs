//! Passwords and row values appear in no log, span, store, argument list or
//! environment, and in no answer of the programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgportage_tests::otlp::Receiver;
use pgportage_tests::site::{APPLICATION, APPLICATION_PASSWORD};
use pgportage_tests::{Cluster, ClusterOptions, PostgresVersion, Site, SiteOptions};

/// In a row that moves.
const CANARY_ROW: &str = "canary-row-value-4711";
/// In the definition of an object: DDL is nothing for the coordinator either.
const CANARY_DDL: &str = "canary-default-0815";

const LIMIT: Duration = Duration::from_secs(60);

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            // The clusters' own data is where rows belong.
            if !path.ends_with("data") {
                files(&path, found);
            }
        } else if path.is_file() {
            found.push(path);
        }
    }
}

/// What is not ours must not be in the server's log, which this test reads.
async fn execute_unlogged(cluster: &Cluster, database: &str, statements: &str) {
    let client = cluster.connect(database).await.unwrap();
    client.batch_execute("SET log_statement = none").await.unwrap();
    client.batch_execute(statements).await.unwrap();
}

fn contains(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

#[tokio::test]
async fn no_canary_is_anywhere() {
    let receiver = Receiver::start().await.unwrap();
    let mut options = SiteOptions::new(PostgresVersion::V16, PostgresVersion::V18);
    // What a careful administrator logs.
    options.source = ClusterOptions::new().setting("log_statement", "ddl").setting("log_connections", "on");
    options.destination = ClusterOptions::new().setting("log_statement", "ddl");
    let mut site = Site::prepare(options).await.unwrap();

    // The agents log in over TCP with a password from a file.
    let agent_password = "canary-agent-password";
    for (cluster, config) in
        [(&site.source, &mut site.source_config), (&site.destination, &mut site.destination_config)]
    {
        let role = format!("CREATE ROLE porter SUPERUSER LOGIN PASSWORD '{agent_password}'");
        execute_unlogged(cluster, "postgres", &role).await;
        let password_file = config.state_directory.with_extension("password");
        fs::write(&password_file, agent_password).unwrap();
        fs::set_permissions(&password_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        config.postgres_host = "127.0.0.1".to_owned();
        config.postgres_user = "porter".to_owned();
        config.password_file = Some(password_file);
    }
    site.write_agent_files().unwrap();
    for service in [&mut site.coordinator, &mut site.source_agent, &mut site.destination_agent] {
        service.set_variable("OTEL_EXPORTER_OTLP_ENDPOINT", &receiver.endpoint);
        for program in ["AGENT", "COORDINATOR"] {
            service.set_variable(&format!("PGPORTAGE_{program}_TELEMETRY__LOG_FILTER"), "debug");
        }
    }
    site.start_programs().await.unwrap();

    let database = site.database.clone();
    let rows = format!(
        "SET ROLE {APPLICATION};
         CREATE TABLE secrets (id int PRIMARY KEY, value text DEFAULT '{CANARY_DDL}');
         INSERT INTO secrets SELECT n, '{CANARY_ROW}' FROM generate_series(1, 10) n"
    );
    execute_unlogged(&site.source, &database, &rows).await;
    site.migrate_until_cutover("quiet").await.unwrap();

    // While it runs: what other users of the machine can see of our processes.
    let password = replication_password(&site).await;
    let secrets = [APPLICATION_PASSWORD, agent_password, CANARY_ROW, CANARY_DDL, password.as_str()];
    for service in [&site.coordinator, &site.source_agent, &site.destination_agent] {
        let pid = service.pid().unwrap();
        for file in ["cmdline", "environ"] {
            let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap();
            for secret in secrets {
                assert!(!contains(&bytes, secret), "{secret} in {file}");
            }
        }
    }
    let said = site.cli.run(&["status", "quiet", "--json"]).await.unwrap().all()
        + &site.cli.run(&["plan", "quiet"]).await.unwrap().all();
    site.cli.expect(0, &["cutover", "quiet", "--yes"]).await.unwrap();
    site.cli.expect(0, &["finish", "quiet", "--yes"]).await.unwrap();
    receiver.wait_for("spans", LIMIT, |spans| spans.len() > 10).await.unwrap();
    site.source_agent.stop().await.unwrap();
    site.destination_agent.stop().await.unwrap();
    site.coordinator.stop().await.unwrap();

    let spans = format!("{:?}", receiver.spans());
    let mut all = Vec::new();
    files(site.directory(), &mut all);
    assert!(all.iter().any(|path| path.ends_with("server.log")), "{all:?}");
    for secret in secrets {
        assert!(!spans.contains(secret), "{secret} in a span");
        assert!(!said.contains(secret), "{secret} in an answer");
        for path in all.iter().filter(|path| !path.to_string_lossy().ends_with("password")) {
            // A server told to log DDL logs the schema that is restored into it.
            if secret == CANARY_DDL && path.ends_with("server.log") {
                continue;
            }
            assert!(!contains(&fs::read(path).unwrap(), secret), "{secret} in {}", path.display());
        }
    }
}

/// The generated password, from the only place that may hold it.
async fn replication_password(site: &Site) -> String {
    let client = site.destination.connect(&site.database).await.unwrap();
    let row = client.query_one("SELECT subconninfo FROM pg_subscription", &[]).await.unwrap();
    let conninfo: String = row.get(0);
    let (_, rest) = conninfo.split_once("password=").unwrap();
    let password: String = rest.trim_start_matches('\'').chars().take_while(|c| !matches!(c, '\'' | ' ')).collect();
    assert!(password.len() > 15, "a short password");
    password
}
