//! The door to the database, on real servers.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use pgportage_link::{Clock, Remedy};
use pgportage_postgres::{
    Door, DoorSettings, Purpose, RelationName, Secret, Walsender, catalog, quote_ident, quote_literal, scram_verifier,
    sql_failure,
};
use pgportage_proto::Reason;
use pgportage_tests::cluster::{Cluster, ClusterOptions, SUPERUSER};
use pgportage_tests::postgres_versions::PostgresVersion;

const PATIENCE: Duration = Duration::from_secs(20);

fn settings(cluster: &Cluster) -> DoorSettings {
    DoorSettings {
        host: cluster.socket_directory().display().to_string(),
        port: cluster.port,
        user: SUPERUSER.to_owned(),
        password_file: None,
        passfile: None,
        lock_timeout: Duration::from_millis(700),
        max_sessions: 4,
    }
}

#[tokio::test]
async fn pins_what_a_session_depends_on() {
    for version in [PostgresVersion::V15, PostgresVersion::V18] {
        let cluster = Cluster::start(version, &ClusterOptions::new()).await.unwrap();
        cluster
            .execute(
                "postgres",
                "ALTER ROLE postgres SET search_path = public;
                 ALTER ROLE postgres SET default_transaction_read_only = on;
                 ALTER ROLE postgres SET statement_timeout = 1;
                 ALTER ROLE postgres SET standard_conforming_strings = off;
                 ALTER DATABASE postgres SET DateStyle = 'German';
                 ALTER DATABASE postgres SET row_security = on;
                 ALTER DATABASE postgres SET idle_session_timeout = '3s'",
            )
            .await
            .unwrap();
        let door = Door::new(settings(&cluster), Clock);
        let session = door.open("postgres", Purpose::Control).await.unwrap();
        for (name, value) in [
            ("search_path", "pg_catalog"),
            ("statement_timeout", "30s"),
            ("lock_timeout", "700ms"),
            ("idle_in_transaction_session_timeout", "1min"),
            ("idle_session_timeout", "0"),
            ("client_connection_check_interval", "5s"),
            ("row_security", "off"),
            ("default_transaction_read_only", "off"),
            ("default_transaction_isolation", "read committed"),
            ("standard_conforming_strings", "on"),
            ("application_name", "pgportage control"),
            ("DateStyle", "ISO, YMD"),
            ("IntervalStyle", "postgres"),
            ("TimeZone", "UTC"),
            ("extra_float_digits", "3"),
            ("bytea_output", "hex"),
            ("client_encoding", "UTF8"),
        ] {
            let row = session.query_one("SELECT current_setting($1)", &[&name]).await.unwrap();
            assert_eq!(row.get::<_, String>(0), value, "{name} on {version}");
        }
        assert_eq!(u32::try_from(session.version.major()).unwrap(), version.major());
        assert_eq!(door.own_sessions(), [session.identity()].into());

        // For the superuser of the test itself.
        session.batch_execute("ALTER ROLE postgres RESET ALL; ALTER DATABASE postgres RESET ALL").await.unwrap();

        // A dropped session leaves the server, even in the middle of a statement.
        let other = door.open("postgres", Purpose::Scan).await.unwrap();
        let pid = other.pid;
        tokio::select! {
            _ = other.batch_execute("SELECT pg_sleep(600)") => panic!("slept for ten minutes"),
            () = Clock.sleep(Duration::from_millis(100)) => {}
        }
        drop(other);
        let gone = format!("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid})");
        cluster.wait_until("postgres", &gone, PATIENCE).await.unwrap();
        assert_eq!(door.own_sessions().len(), 1);

        // A session that the server ends says so.
        cluster.execute("postgres", &format!("SELECT pg_terminate_backend({})", session.pid)).await.unwrap();
        Clock.timeout(PATIENCE, session.ended()).await.unwrap();
    }
}

#[tokio::test]
async fn logins_that_fail_say_why() {
    let mut cluster = Cluster::start(PostgresVersion::V15, &ClusterOptions::new()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let password_file = directory.path().join("password");
    let mut settings = settings(&cluster);
    "127.0.0.1".clone_into(&mut settings.host);

    // No password at all.
    let failure = Door::new(settings.clone(), Clock).open("postgres", Purpose::Control).await.unwrap_err();
    assert_eq!(failure.reason, Reason::LoginRefused, "{failure:?}");

    settings.password_file = Some(password_file.clone());
    std::fs::write(&password_file, "wrong\n").unwrap();
    std::fs::set_permissions(&password_file, Permissions::from_mode(0o600)).unwrap();
    let door = Door::new(settings.clone(), Clock);
    let failure = door.open("postgres", Purpose::Control).await.unwrap_err();
    assert_eq!((failure.reason, failure.sqlstate.as_deref()), (Reason::LoginRefused, Some("28P01")), "{failure:?}");

    // The file is read at every login.
    std::fs::write(&password_file, &cluster.superuser_password).unwrap();
    door.open("postgres", Purpose::Control).await.unwrap();
    let failure = door.open("no such\n\"database\"", Purpose::Control).await.unwrap_err();
    assert_eq!(failure.reason, Reason::DatabaseMissing, "{failure:?}");

    settings.password_file = None;
    let passfile = directory.path().join("pgpass");
    std::fs::write(&passfile, format!("127.0.0.1:*:*:postgres:{}", cluster.superuser_password)).unwrap();
    std::fs::set_permissions(&passfile, Permissions::from_mode(0o600)).unwrap();
    settings.passfile = Some(passfile);
    Door::new(settings.clone(), Clock).open("postgres", Purpose::Watch).await.unwrap();

    cluster.stop().await.unwrap();
    let failure = door.open("postgres", Purpose::Control).await.unwrap_err();
    assert_eq!((failure.reason, failure.remedy), (Reason::ServerUnreachable, Remedy::Wait), "{failure:?}");
}

#[tokio::test]
async fn a_replication_login_by_verifier() {
    for version in [PostgresVersion::V14, PostgresVersion::V18] {
        let access =
            "local all postgres trust\nhost all trusted 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
        let cluster = Cluster::start(version, &ClusterOptions::new().access(access).setting("log_statement", "all"))
            .await
            .unwrap();
        let door = Door::new(settings(&cluster), Clock);
        let password = Secret::generate();
        let verifier = quote_literal(&scram_verifier(&password));
        cluster
            .execute(
                "postgres",
                &format!(
                    "CREATE ROLE mover LOGIN REPLICATION PASSWORD {verifier};
                     CREATE ROLE trusted LOGIN REPLICATION; CREATE ROLE plain LOGIN PASSWORD {verifier}"
                ),
            )
            .await
            .unwrap();
        let address = format!("127.0.0.1:{}", cluster.port);

        let session =
            door.open_replication_at(&address, "postgres", "mover", &password, Walsender::Trial).await.unwrap();
        let system = session.identify_system().await.unwrap();
        let control = door.open("postgres", Purpose::Control).await.unwrap();
        let row = control.query_one("SELECT system_identifier::text FROM pg_control_system()", &[]).await.unwrap();
        assert_eq!(system.system_identifier, row.get::<_, String>(0));
        assert_eq!(session.password_asked, Some(true));
        assert_eq!(u32::try_from(session.version.major()).unwrap(), version.major());

        let session =
            door.open_replication_at(&address, "postgres", "trusted", &password, Walsender::Trial).await.unwrap();
        session.identify_system().await.unwrap();
        assert_eq!(session.password_asked, Some(false));

        let failure = door
            .open_replication_at(&address, "postgres", "mover", &Secret::generate(), Walsender::Trial)
            .await
            .unwrap_err();
        assert_eq!(failure.sqlstate.as_deref(), Some("28P01"), "{failure:?}");
        let failure =
            door.open_replication_at(&address, "postgres", "plain", &password, Walsender::Trial).await.unwrap_err();
        assert_eq!(failure.reason, Reason::LoginRefused, "{failure:?}");

        // The same role by an ordinary login, as the canary does it.
        door.open_as(&address, "postgres", "plain", &password, Purpose::Control).await.unwrap();
        assert!(!cluster.log_text().unwrap().contains(password.expose()));
    }
}

#[tokio::test]
async fn any_name_works() {
    let cluster = Cluster::start(PostgresVersion::V18, &ClusterOptions::new()).await.unwrap();
    let names = [
        "say \"hi\"".to_owned(),
        "it's".to_owned(),
        "two\nlines".to_owned(),
        "back\\slash".to_owned(),
        "user".to_owned(),
        "ü".repeat(31) + "x",
        " ".to_owned(),
    ];
    let control = cluster.connect("postgres").await.unwrap();
    let door = Door::new(settings(&cluster), Clock);
    for name in &names {
        control.batch_execute(&format!("CREATE DATABASE {}", quote_ident(name))).await.unwrap();
        let session = door.open(name, Purpose::Control).await.unwrap();
        let table = RelationName::new(name, name);
        session
            .batch_execute(&format!(
                "CREATE SCHEMA {schema}; CREATE TABLE {table} (id int PRIMARY KEY); COMMENT ON TABLE {table} IS {text};
                 CREATE SEQUENCE {sequence}; SELECT setval({sequence_text}, 7);
                 CREATE PUBLICATION {schema} FOR TABLE {table}",
                schema = quote_ident(name),
                text = quote_literal(name),
                sequence = RelationName::new(name, "s"),
                sequence_text = quote_literal(&RelationName::new(name, "s").to_string()),
            ))
            .await
            .unwrap();
        assert_eq!(catalog::user_tables(&session).await.unwrap(), std::slice::from_ref(&table));
        assert_eq!(catalog::published_tables(&session, name).await.unwrap(), std::slice::from_ref(&table));
        let sequences = catalog::sequences(&session).await.unwrap();
        assert_eq!(sequences.len(), 1);
        assert_eq!((sequences[0].last_value, sequences[0].called), (7, true));
        let row = session.query_one("SELECT obj_description($1::text::regclass)", &[&table.to_string()]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), name);
    }
    // Every word that the server reserves is quoted.
    let words = control.query("SELECT word FROM pg_get_keywords() WHERE catcode <> 'U'", &[]).await.unwrap();
    for word in words {
        let word: String = word.get(0);
        let quoted = quote_ident(&word);
        assert!(quoted.starts_with('"'), "{word} needs quotes");
    }
}

#[tokio::test]
async fn errors_keep_values_to_themselves() {
    let cluster = Cluster::start(PostgresVersion::V18, &ClusterOptions::new()).await.unwrap();
    let session = Door::new(settings(&cluster), Clock).open("postgres", Purpose::Control).await.unwrap();
    session.batch_execute("CREATE TABLE public.t (id int PRIMARY KEY)").await.unwrap();
    for statement in ["SELECT 'canary-value'::int", "INSERT INTO public.t VALUES (424242), (424242)"] {
        let failure = sql_failure(session.batch_execute(statement).await.unwrap_err(), "try");
        assert_eq!(failure.reason, Reason::ServerError);
        let shown = format!("{failure:?}");
        assert!(!shown.contains("canary-value") && !shown.contains("424242"), "{shown}");
    }
}
