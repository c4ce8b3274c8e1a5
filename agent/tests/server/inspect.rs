//! Every finding, from real servers in the state that it is about.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use pgportage_agent::act::inspect::{CheckServer, CheckServerResult, Consent, Finding};
use pgportage_agent::act::{Act, Context};
use pgportage_link::Failure;
use pgportage_proto::{Reason, Side};
use pgportage_report::finding::Severity;
use pgportage_report::inventory::{Extension, Inventory};
use pgportage_report::progress::Progress;
use pgportage_tests::cluster::{Cluster, ClusterOptions};
use pgportage_tests::postgres_versions::PostgresVersion;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{Lone, Options};

/// What an act is given.
fn context(lone: &Lone) -> Context {
    Context {
        participation: lone.participation.clone(),
        command_id: Uuid::now_v7().to_string(),
        leader_epoch: 1,
        plan_digest: vec![0; 32],
        stall_timeout: Duration::from_secs(60),
        handles: lone.agent.handles.clone(),
        progress: watch::Sender::new(Progress::default()),
        cancel: CancellationToken::new(),
    }
}

async fn check(lone: &Lone, source: Option<&Inventory>, consents: &[Consent]) -> Result<CheckServerResult, Failure> {
    let act = CheckServer { source: source.cloned(), consents: consents.to_vec(), way_back: false };
    act.perform(&context(lone)).await
}

/// The finding of this code about this object.
fn find<'a>(result: &'a CheckServerResult, code: Reason, object: &str) -> &'a Finding {
    let found = result.findings.iter().find(|finding| finding.code == code && finding.object == object);
    found.unwrap_or_else(|| panic!("no {code} about {object:?} in {:#?}", result.findings))
}

fn codes(result: &CheckServerResult) -> BTreeSet<Reason> {
    result.findings.iter().map(|finding| finding.code).collect()
}

fn refusals(result: &CheckServerResult) -> Vec<&Finding> {
    result.findings.iter().filter(|finding| finding.severity == Severity::Refuse).collect()
}

fn consents(result: &CheckServerResult) -> Vec<Consent> {
    let consent = |finding: &Finding| Consent {
        code: finding.code,
        object: finding.object.clone(),
        evidence_digest: finding.evidence_digest().to_vec(),
    };
    result.findings.iter().filter(|finding| finding.severity == Severity::Consent).map(consent).collect()
}

/// Findings that every release of the tests' age has.
const OF_THE_RELEASE: &[Reason] = &[Reason::ServerDefect];

#[tokio::test]
async fn a_plain_pair_passes() {
    let source = Cluster::start(PostgresVersion::V15, &ClusterOptions::new()).await.unwrap();
    let destination = Cluster::start(PostgresVersion::V18, &ClusterOptions::new()).await.unwrap();
    for cluster in [&source, &destination] {
        cluster.execute("postgres", "CREATE ROLE keeper").await.unwrap();
        cluster.execute("postgres", "CREATE DATABASE shop").await.unwrap();
    }
    source
        .execute(
            "shop",
            "CREATE TABLE public.customer (id int PRIMARY KEY, name text);
             CREATE SCHEMA sales AUTHORIZATION keeper;
             CREATE TABLE sales.order_ (id int PRIMARY KEY); ALTER TABLE sales.order_ OWNER TO keeper",
        )
        .await
        .unwrap();
    let source = Lone::beside(&source, &Options::new(Side::Source));
    let result = check(&source, None, &[]).await.unwrap();
    assert!(codes(&result).iter().all(|code| OF_THE_RELEASE.contains(code)), "{:#?}", result.findings);
    assert!(result.findings.iter().all(|finding| finding.severity == Severity::Note), "{:#?}", result.findings);
    let inventory = &result.inventory;
    assert_eq!((inventory.table_count, inventory.encoding.as_str()), (2, "UTF8"));
    assert_eq!(inventory.role_names, ["keeper", "postgres"]);
    assert_eq!(inventory.owner_role_names, ["keeper", "postgres"]);
    assert!(inventory.relation_count >= 6, "{inventory:?}");
    assert!(inventory.pg_dump_version_num >= 150_000, "{inventory:?}");

    let destination = Lone::beside(&destination, &Options::new(Side::Destination));
    let result = check(&destination, Some(inventory), &[]).await.unwrap();
    assert!(codes(&result).iter().all(|code| OF_THE_RELEASE.contains(code)), "{:#?}", result.findings);
}

#[tokio::test]
async fn a_source_server_that_is_not_ready() {
    let options = ClusterOptions::new()
        .setting("wal_level", "replica")
        .setting("max_replication_slots", "1")
        .setting("max_wal_senders", "1")
        .setting("max_slot_wal_keep_size", "100MB")
        .setting("idle_replication_slot_timeout", "1h")
        .setting("synchronous_standby_names", "ANY 1 (*)")
        .setting("synchronous_commit", "local")
        .setting("max_connections", "20")
        .setting("max_locks_per_transaction", "10")
        .setting("output_plugin_libraries", "wal2json");
    let cluster = Cluster::start(PostgresVersion::V18, &options).await.unwrap();
    cluster.execute("postgres", "CREATE DATABASE shop").await.unwrap();
    let statement = "DO $$ BEGIN FOR i IN 1..170 LOOP
                        EXECUTE format('CREATE TABLE public.t%s (id int PRIMARY KEY)', i); COMMIT;
                     END LOOP; END $$";
    cluster.execute("shop", statement).await.unwrap();
    let guest = cluster.connect("shop").await.unwrap();
    let lone = Lone::beside(&cluster, &Options::new(Side::Source));
    let result = check(&lone, None, &[]).await.unwrap();
    for (code, object, severity, restart) in [
        (Reason::WalLevelTooLow, "wal_level", Severity::Refuse, true),
        (Reason::SlotsExhausted, "max_replication_slots", Severity::Refuse, true),
        (Reason::SendersExhausted, "max_wal_senders", Severity::Refuse, true),
        (Reason::SynchronousStandbyAny, "synchronous_standby_names", Severity::Refuse, false),
        (Reason::SlotSizeLimited, "max_slot_wal_keep_size", Severity::Consent, false),
        (Reason::SlotIdleTimeout, "idle_replication_slot_timeout", Severity::Consent, false),
        (Reason::LocksTooFew, "max_locks_per_transaction", Severity::Refuse, true),
        (Reason::OutputPluginForbidden, "output_plugin_libraries", Severity::Refuse, false),
        (Reason::SuperuserSession, "postgres", Severity::Note, false),
    ] {
        let finding = find(&result, code, object);
        assert_eq!((finding.severity, finding.needs_restart), (severity, restart), "{finding:?}");
        assert!(
            !finding.evidence.is_empty() && (!finding.remedy.is_empty() || severity == Severity::Note),
            "{finding:?}"
        );
    }
    let severities: Vec<_> = result.findings.iter().map(|finding| finding.severity).collect();
    assert!(severities.is_sorted(), "worst first: {severities:?}");
    drop(guest);
}

#[tokio::test]
async fn tables_without_a_usable_identity() {
    let cluster = Cluster::start(PostgresVersion::V16, &ClusterOptions::new()).await.unwrap();
    cluster.execute("postgres", "CREATE DATABASE shop").await.unwrap();
    cluster
        .execute(
            "shop",
            "CREATE TYPE public.pair AS (a int, b text);
             CREATE TYPE public.place AS (a int, b point);
             CREATE TYPE public.mood AS ENUM ('good');
             CREATE DOMAIN public.document AS json;
             CREATE TABLE public.fine (id int PRIMARY KEY, p point, j json);
             CREATE TABLE public.full_ (a varchar(9), b text[], c public.pair, d int4range, e cidr, f \"char\", g name,
                                        h jsonb, i oid, j regclass, k interval, l bit(3), m public.mood[], n money,
                                        o uuid, p macaddr, q tsvector, r char(3), s timestamptz, t bytea, u xid8);
             ALTER TABLE public.full_ REPLICA IDENTITY FULL;
             CREATE TABLE public.\"order\" (a int);
             CREATE TABLE public.\"With Index\" (a int NOT NULL, b int);
             CREATE UNIQUE INDEX \"the index\" ON public.\"With Index\" (a);
             CREATE TABLE public.switched_off (id int PRIMARY KEY);
             ALTER TABLE public.switched_off REPLICA IDENTITY NOTHING;
             CREATE TABLE public.deferred (id int PRIMARY KEY DEFERRABLE);
             CREATE TABLE public.index_gone (id int NOT NULL);
             CREATE UNIQUE INDEX gone ON public.index_gone (id);
             ALTER TABLE public.index_gone REPLICA IDENTITY USING INDEX gone; DROP INDEX public.gone;
             CREATE TABLE public.points (p point);
             CREATE TABLE public.documents (d public.document[]);
             CREATE TABLE public.places (p public.place); ALTER TABLE public.places REPLICA IDENTITY FULL;
             CREATE TABLE public.parted (a int) PARTITION BY LIST (a);
             CREATE TABLE public.parted_1 PARTITION OF public.parted FOR VALUES IN (1);
             CREATE UNLOGGED TABLE public.scratch (a int)",
        )
        .await
        .unwrap();
    let lone = Lone::beside(&cluster, &Options::new(Side::Source));
    let result = check(&lone, None, &[]).await.unwrap();
    let found: Vec<_> = result
        .findings
        .iter()
        .filter(|finding| {
            matches!(
                finding.code,
                Reason::ReplicaIdentityMissing | Reason::ReplicaIdentityImpossible | Reason::PrimaryKeyDeferrable
            )
        })
        .map(|finding| (finding.severity, finding.code, finding.object.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            (Severity::Refuse, Reason::ReplicaIdentityImpossible, "public.documents"),
            (Severity::Refuse, Reason::ReplicaIdentityImpossible, "public.places"),
            (Severity::Refuse, Reason::ReplicaIdentityImpossible, "public.points"),
            (Severity::Consent, Reason::ReplicaIdentityMissing, "public.\"With Index\""),
            (Severity::Consent, Reason::ReplicaIdentityMissing, "public.\"order\""),
            (Severity::Consent, Reason::ReplicaIdentityMissing, "public.index_gone"),
            (Severity::Consent, Reason::ReplicaIdentityMissing, "public.parted_1"),
            (Severity::Consent, Reason::ReplicaIdentityMissing, "public.switched_off"),
            (Severity::Consent, Reason::PrimaryKeyDeferrable, "public.deferred"),
        ],
        "{:#?}",
        result.findings
    );
    // What the remedy says can be run, and mends it.
    for (code, object) in
        [(Reason::ReplicaIdentityMissing, "public.\"With Index\""), (Reason::PrimaryKeyDeferrable, "public.deferred")]
    {
        cluster.execute("shop", &find(&result, code, object).remedy).await.unwrap();
    }
    // Agreement becomes the list of tables; no agreement helps against a refusal.
    let mut agreed = consents(&result);
    agreed.extend(refusals(&result).iter().map(|finding| Consent {
        code: finding.code,
        object: finding.object.clone(),
        evidence_digest: finding.evidence_digest().to_vec(),
    }));
    let result = check(&lone, None, &agreed).await.unwrap();
    let tables: Vec<_> = result.inventory.identity_full_tables.iter().map(ToString::to_string).collect();
    assert_eq!(tables, ["public.index_gone", "public.\"order\"", "public.parted_1", "public.switched_off"]);
    assert_eq!(refusals(&result).len(), 3, "{:#?}", result.findings);

    let options = Options { policy: String::new(), ..Options::new(Side::Source) };
    let result = check(&Lone::beside(&cluster, &options), None, &agreed).await.unwrap();
    assert_eq!(find(&result, Reason::ReplicaIdentityMissing, "public.\"order\"").severity, Severity::Refuse);
    assert!(result.inventory.identity_full_tables.is_empty());
}

#[tokio::test]
async fn what_will_not_move() {
    let options = ClusterOptions::new().setting("max_prepared_transactions", "5");
    let cluster = Cluster::start(PostgresVersion::V17, &options).await.unwrap();
    cluster.execute("postgres", "CREATE DATABASE shop").await.unwrap();
    cluster
        .execute(
            "shop",
            "CREATE TABLE public.t (id serial PRIMARY KEY);
             SELECT lo_create(4711);
             CREATE UNLOGGED TABLE public.scratch (id int);
             CREATE MATERIALIZED VIEW public.summary AS SELECT count(*) FROM public.t;
             CREATE FOREIGN DATA WRAPPER elsewhere; CREATE SERVER far FOREIGN DATA WRAPPER elsewhere;
             CREATE FOREIGN TABLE public.remote (id int) SERVER far;
             CREATE PUBLICATION theirs FOR TABLE public.t;
             ALTER DATABASE shop SET work_mem = '8MB';
             CREATE ROLE app; ALTER ROLE app IN DATABASE shop SET search_path = 'a', 'b';
             CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
             CREATE TRIGGER always BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.f();
             ALTER TABLE public.t ENABLE ALWAYS TRIGGER always;
             CREATE TABLE public.hidden (id int PRIMARY KEY); ALTER TABLE public.hidden ENABLE ROW LEVEL SECURITY;
             CREATE SUBSCRIPTION incoming CONNECTION 'dbname=nowhere' PUBLICATION p
                 WITH (connect = false, slot_name = NONE);
             CREATE SCHEMA pgportage; CREATE PUBLICATION pgportage_old FOR TABLE public.t;
             CREATE INDEX broken ON public.t (id);
             UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'public.broken'::regclass;
             CREATE TABLE public.kept (id int PRIMARY KEY);
             UPDATE pg_extension SET extconfig = ARRAY['public.kept'::regclass::oid] WHERE extname = 'plpgsql'",
        )
        .await
        .unwrap();
    let far = cluster.connect("shop").await.unwrap();
    for statement in [
        "SET allow_in_place_tablespaces = on",
        "CREATE TABLESPACE far LOCATION ''",
        "CREATE TABLE public.away (id int PRIMARY KEY) TABLESPACE far",
    ] {
        far.batch_execute(statement).await.unwrap();
    }
    for slot in ["theirs", "pgportage_old"] {
        let statement = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
        cluster.execute("shop", &statement).await.unwrap();
    }
    cluster
        .execute("shop", "BEGIN; CREATE TABLE public.pending (id int); PREPARE TRANSACTION 'it''s open'")
        .await
        .unwrap();
    let lone = Lone::beside(&cluster, &Options::new(Side::Source));
    let result = check(&lone, None, &[]).await.unwrap();
    for (code, object, severity) in [
        (Reason::SequencesAtCutover, "", Severity::Note),
        (Reason::LargeObjectsNotMoved, "pg_largeobject", Severity::Consent),
        (Reason::UnloggedNotMoved, "public.scratch", Severity::Consent),
        (Reason::MaterializedViewEmpty, "public.summary", Severity::Consent),
        (Reason::ForeignTableNotMoved, "public.remote", Severity::Note),
        (Reason::PublicationNotMoved, "theirs", Severity::Note),
        (Reason::SlotNotMoved, "theirs", Severity::Note),
        (Reason::SettingNotMoved, "DATABASE shop", Severity::Note),
        (Reason::SettingNotMoved, "ROLE app IN DATABASE shop", Severity::Note),
        (Reason::TriggerFiresOnApply, "always on public.t", Severity::Consent),
        (Reason::SourceSubscribes, "incoming", Severity::Note),
        (Reason::ObjectLeftBehind, "schema pgportage", Severity::Refuse),
        (Reason::ObjectLeftBehind, "publication pgportage_old", Severity::Refuse),
        (Reason::ObjectLeftBehind, "slot pgportage_old", Severity::Refuse),
        (Reason::PreparedTransactions, "'it''s open'", Severity::Note),
        (Reason::IndexInvalid, "public.broken", Severity::Note),
        (Reason::ExtensionTableNotMoved, "public.kept", Severity::Consent),
        (Reason::TablespaceNotMoved, "far", Severity::Note),
    ] {
        assert_eq!(find(&result, code, object).severity, severity, "{code} {object}");
    }
    // A superuser makes a role that passes row-level security by.
    assert!(!codes(&result).contains(&Reason::RowLevelSecurity));
    // Agreed to, the consents become notes.
    let result = check(&lone, None, &consents(&result)).await.unwrap();
    assert!(result.findings.iter().all(|finding| finding.severity != Severity::Consent), "{:#?}", result.findings);
}

#[tokio::test]
async fn a_role_with_few_privileges() {
    let cluster = Cluster::start(PostgresVersion::V16, &ClusterOptions::new()).await.unwrap();
    cluster.execute("postgres", "CREATE DATABASE shop").await.unwrap();
    cluster
        .execute(
            "shop",
            "CREATE ROLE mover LOGIN PASSWORD 'secret'; CREATE ROLE keeper;
             CREATE SCHEMA sales; CREATE TABLE sales.t (id int PRIMARY KEY); ALTER TABLE sales.t OWNER TO keeper;
             ALTER TABLE sales.t ENABLE ROW LEVEL SECURITY",
        )
        .await
        .unwrap();
    let user = Some(("mover".to_owned(), "secret".to_owned()));
    let source = Lone::beside(&cluster, &Options { user: user.clone(), ..Options::new(Side::Source) });
    let result = check(&source, None, &[]).await.unwrap();
    assert_eq!(
        codes(&result).into_iter().filter(|code| !OF_THE_RELEASE.contains(code)).collect::<Vec<_>>(),
        [Reason::PrivilegeMissing, Reason::RowLevelSecurity],
        "{:#?}",
        result.findings
    );
    // What the remedies say is enough.
    let mut statements: Vec<_> = refusals(&result).iter().map(|finding| finding.remedy.clone()).collect();
    for statement in &mut statements {
        if let Some((statement_alone, _)) = statement.split_once(", or ") {
            *statement = statement_alone.to_owned();
        }
    }
    cluster.execute("shop", &statements.join(";")).await.unwrap();
    let result = check(&source, None, &[]).await.unwrap();
    assert_eq!(refusals(&result), Vec::<&Finding>::new());

    let inventory = result.inventory;
    let destination = Lone::beside(&cluster, &Options { user, ..Options::new(Side::Destination) });
    let result = check(&destination, Some(&inventory), &[]).await.unwrap();
    let missing: Vec<_> =
        refusals(&result).into_iter().filter(|finding| finding.code == Reason::PrivilegeMissing).collect();
    assert_eq!(missing.len(), 1, "{missing:#?}");
    cluster.execute("shop", &missing[0].remedy).await.unwrap();
    let result = check(&destination, Some(&inventory), &[]).await.unwrap();
    assert!(refusals(&result).iter().all(|finding| finding.code == Reason::DatabaseNotEmpty), "{:#?}", result.findings);
    // The same server as the source's.
    assert!(codes(&result).contains(&Reason::SameServer));
}

#[tokio::test]
async fn a_destination_that_does_not_fit() {
    let options = ClusterOptions::new()
        .setting("max_logical_replication_workers", "1")
        .setting("max_worker_processes", "2")
        .setting("max_active_replication_origins", "1")
        .setting("max_sync_workers_per_subscription", "0")
        .setting("max_connections", "20")
        .setting("max_locks_per_transaction", "10");
    let cluster = Cluster::start(PostgresVersion::V18, &options).await.unwrap();
    let lone = Lone::beside(&cluster, &Options::new(Side::Destination));
    let source = Inventory {
        server_version_num: 190_000,
        system_identifier: "1".to_owned(),
        encoding: "UTF8".to_owned(),
        collation: "libc de_DE.UTF-8".to_owned(),
        extensions: [("no_such_thing", "1"), ("plpgsql", "0.9")]
            .map(|(name, version)| Extension { name: name.to_owned(), version: version.to_owned() })
            .to_vec(),
        role_names: vec!["postgres".to_owned(), "role \"a\"\nb".to_owned()],
        owner_role_names: vec!["role \"a\"\nb".to_owned()],
        relation_count: 100_000,
        size_bytes: i64::MAX,
        ..Inventory::default()
    };
    let result = check(&lone, Some(&source), &[]).await.unwrap();
    cluster.execute("postgres", &find(&result, Reason::DatabaseMissing, "shop").remedy).await.unwrap();
    cluster.execute("postgres", &find(&result, Reason::RoleMissing, "\"role \"\"a\"\"\nb\"").remedy).await.unwrap();
    cluster.execute("shop", "CREATE TABLE public.t (id int)").await.unwrap();
    let result = check(&lone, Some(&source), &[]).await.unwrap();
    for (code, object, severity) in [
        (Reason::VersionUnsupported, "18.6", Severity::Refuse),
        (Reason::WorkersExhausted, "max_logical_replication_workers", Severity::Refuse),
        (Reason::WorkersExhausted, "max_worker_processes", Severity::Refuse),
        (Reason::WorkersExhausted, "max_sync_workers_per_subscription", Severity::Refuse),
        (Reason::OriginsExhausted, "max_active_replication_origins", Severity::Refuse),
        (Reason::LocksTooFew, "max_locks_per_transaction", Severity::Refuse),
        (Reason::ExtensionMissing, "no_such_thing", Severity::Refuse),
        (Reason::ExtensionVersionDiffers, "plpgsql", Severity::Note),
        (Reason::CollationDiffers, "shop", Severity::Consent),
        (Reason::DatabaseNotEmpty, "shop", Severity::Refuse),
        (Reason::DiskSpaceLow, "data_directory", Severity::Refuse),
    ] {
        assert_eq!(find(&result, code, object).severity, severity, "{code} {object}");
    }
    let gone = [Reason::DatabaseMissing, Reason::RoleMissing, Reason::CouldNotCheck];
    assert!(gone.iter().all(|code| !codes(&result).contains(code)), "{:#?}", result.findings);
    // The encoding too, once the database has another one.
    cluster.execute("postgres", "DROP DATABASE shop").await.unwrap();
    cluster.execute("postgres", "CREATE DATABASE shop TEMPLATE template0 ENCODING LATIN1 LOCALE 'C'").await.unwrap();
    let result = check(&lone, Some(&source), &[]).await.unwrap();
    assert_eq!(find(&result, Reason::EncodingDiffers, "shop").severity, Severity::Refuse);
}

#[tokio::test]
async fn a_standby_is_no_source() {
    let mut cluster = Cluster::start(PostgresVersion::V16, &ClusterOptions::new()).await.unwrap();
    cluster.execute("postgres", "CREATE DATABASE shop").await.unwrap();
    cluster.stop().await.unwrap();
    std::fs::write(cluster.data_directory().join("standby.signal"), "").unwrap();
    cluster.start_again().await.unwrap();
    let lone = Lone::beside(&cluster, &Options::new(Side::Source));
    let result = check(&lone, None, &[]).await.unwrap();
    assert_eq!(find(&result, Reason::ServerInRecovery, "").severity, Severity::Refuse);
}

/// A time limit of a replication role that was made beforehand is not ours to
/// lift.
#[tokio::test]
async fn a_time_limit_of_a_role_made_beforehand() {
    let cluster = Cluster::start(PostgresVersion::V15, &ClusterOptions::new()).await.unwrap();
    let statements = "CREATE DATABASE shop; CREATE ROLE mover LOGIN REPLICATION PASSWORD 'secret'";
    for statement in statements.split("; ").chain(["ALTER ROLE mover SET statement_timeout = '1min'"]) {
        cluster.execute("postgres", statement).await.unwrap();
    }
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("mover");
    std::fs::write(&file, "secret").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut options = Options::new(Side::Source);
    options.policy += &format!("[roles]\nreplication = {{ name = \"mover\", password_file = {file:?} }}\n");
    let lone = Lone::beside(&cluster, &options);
    let result = check(&lone, None, &[]).await.unwrap();
    let finding = find(&result, Reason::TimeLimitSet, "role mover");
    assert_eq!(finding.severity, Severity::Consent);
    cluster.execute("postgres", &finding.remedy).await.unwrap();
    let result = check(&lone, None, &[]).await.unwrap();
    assert!(!codes(&result).contains(&Reason::TimeLimitSet), "{:#?}", result.findings);
}

/// A question that cannot be answered refuses.
#[tokio::test]
async fn could_not_check_is_never_a_pass() {
    let cluster = Cluster::start(PostgresVersion::V15, &ClusterOptions::new()).await.unwrap();
    cluster.execute("postgres", "CREATE DATABASE shop").await.unwrap();
    cluster
        .execute(
            "postgres",
            "CREATE ROLE mover LOGIN PASSWORD 'secret' IN ROLE pg_monitor;
             REVOKE SELECT ON pg_replication_slots FROM PUBLIC",
        )
        .await
        .unwrap();
    let user = Some(("mover".to_owned(), "secret".to_owned()));
    let lone = Lone::beside(&cluster, &Options { user, ..Options::new(Side::Source) });
    let result = check(&lone, None, &[]).await.unwrap();
    let finding = find(&result, Reason::CouldNotCheck, "free replication slots");
    assert_eq!(finding.severity, Severity::Refuse);
    assert!(finding.evidence.contains("42501"), "{finding:?}");
}
