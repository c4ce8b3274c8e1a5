//! Migrations in every state, as a coordinator would send them.

pub(crate) mod certificate;
mod explained;
mod switch;

use pgportage_proto::v1;
use prost_types::{Duration, Timestamp};

pub(crate) use explained::explained;
pub(crate) use switch::{
    cut_over, cutting_over, doubtful, doubtful_rollback, in_doubt, rehearsal_given_up, rehearsed, rehearsing,
    returnable, rolled_back, taken_back,
};

/// The present moment of all fixtures: 2026-11-22 09:00:00 UTC.
pub(crate) const NOW: i64 = 1_795_338_000;

const STEPS: [&str; 12] = [
    "inspect",
    "connect",
    "identity",
    "publication",
    "close",
    "schema",
    "copy",
    "subscribe",
    "catch-up",
    "verify",
    "cutover",
    "finish",
];

pub(crate) fn at(seconds_ago: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds: NOW - seconds_ago, nanos: 0 })
}

pub(crate) fn milliseconds(number: i64) -> Option<Duration> {
    Some(Duration { seconds: number / 1000, nanos: i32::try_from(number % 1000).unwrap() * 1_000_000 })
}

/// A migration whose first `done` steps are done; the rest have not begun.
pub(crate) fn migration(state: v1::migration::State, done: usize) -> v1::Migration {
    let steps = STEPS.iter().enumerate().map(|(number, name)| {
        let number = i64::try_from(number).unwrap();
        let over = usize::try_from(number).unwrap() < done;
        v1::Step {
            name: (*name).to_owned(),
            state: if over { v1::step::State::Succeeded } else { v1::step::State::Pending }.into(),
            attempt_count: i32::from(over),
            start_time: over.then(|| at(600 - number * 30)).flatten(),
            end_time: over.then(|| at(590 - number * 30)).flatten(),
            held: matches!(*name, "cutover" | "finish"),
            point_of_no_return: *name == "cutover",
            ..Default::default()
        }
    });
    v1::Migration {
        id: "shop".to_owned(),
        spec: Some(v1::MigrationSpec {
            source_agent_id: "alpha".to_owned(),
            destination_agent_id: "beta".to_owned(),
            database: "shop".to_owned(),
            ..Default::default()
        }),
        state: state.into(),
        steps: steps.collect(),
        etag: format!("{}-{done}", i32::from(state)),
        create_time: at(3600),
        update_time: at(5),
        ..Default::default()
    }
}

pub(crate) fn step<'a>(migration: &'a mut v1::Migration, name: &str) -> &'a mut v1::Step {
    migration.steps.iter_mut().find(|step| step.name == name).unwrap()
}

pub(crate) fn pending() -> v1::Migration {
    let mut migration = migration(v1::migration::State::Pending, 0);
    migration.waiting_for = "its start".to_owned();
    migration.next_commands = vec!["pgportage plan shop".to_owned(), "pgportage start shop".to_owned()];
    migration
}

fn part(table: &str, size_bytes: i64, total_bytes: i64, ready: bool) -> v1::ProgressPart {
    let (row_count, total_rows) = (size_bytes / 100, total_bytes / 100);
    v1::ProgressPart { table: table.to_owned(), row_count, size_bytes, total_bytes, ready, total_rows }
}

/// The agents copy the slot's snapshot, several tables at a time.
pub(crate) fn copying() -> v1::Migration {
    let mut migration = migration(v1::migration::State::Running, 6);
    migration.max_rate_bytes = 100 << 20;
    let running = step(&mut migration, "copy");
    running.state = v1::step::State::Running.into();
    running.attempt_count = 1;
    running.start_time = at(185);
    running.progress = Some(v1::CommandProgress {
        completed: 12 << 30,
        total: 40 << 30,
        unit: v1::command_progress::Unit::Bytes.into(),
        parts: vec![
            part("public.customers", 1 << 20, 1 << 20, true),
            part("public.orders", 1_288_490_188, 2_469_606_195, false),
            part("public.\"Order lines\"", 900 << 20, 9 << 30, false),
            // More than its size on the source's disk: large values are
            // compressed there.
            part("public.events", 700 << 20, 512 << 20, false),
            part("public.log_2024", 1 << 30, 3 << 30, false),
            part("public.log_2025", 1 << 29, 3 << 30, false),
            part("public.log_2026", 1 << 28, 3 << 30, false),
            part("public.waiting", 0, 5 << 30, false),
        ],
        builds: vec![
            v1::IndexBuild {
                table: "public.customers".to_owned(),
                phase: "building index: loading tuples in tree".to_owned(),
                percent: 45,
            },
            v1::IndexBuild { table: "public.tags".to_owned(), phase: "initializing".to_owned(), percent: -1 },
        ],
        ..Default::default()
    });
    let mut migration = replicating(migration);
    let figures = migration.figures.as_mut().unwrap();
    figures.reader_limit = 2;
    figures.held_back_by = "standby replica has fallen behind by 41s, the limit is 30s".to_owned();
    migration
}

/// The subscription copies, one worker a table.
pub(crate) fn copying_natively() -> v1::Migration {
    let mut migration = migration(v1::migration::State::Running, 8);
    migration.spec.as_mut().unwrap().copy_method = v1::CopyMethod::Native.into();
    let running = step(&mut migration, "catch-up");
    running.state = v1::step::State::Running.into();
    running.attempt_count = 1;
    running.start_time = at(185);
    running.progress = Some(v1::CommandProgress {
        completed: 12,
        total: 40,
        unit: v1::command_progress::Unit::Tables.into(),
        parts: vec![
            part("public.customers", 1 << 20, 0, true),
            part("public.orders", 1_288_490_188, 0, false),
            part("public.\"Order lines\"", 900 << 20, 0, false),
            part("public.waiting", 0, 0, false),
        ],
        ..Default::default()
    });
    replicating(migration)
}

fn replicating(mut migration: v1::Migration) -> v1::Migration {
    migration.figures = Some(v1::MigrationFigures {
        lag: None,
        lag_bytes: 4_404_019,
        retained_wal_bytes: 125_829_120,
        warning: "10.0 GB free on the source's disk, below 2.0 GB the slot is dropped".to_owned(),
        record_time: at(1),
        wal_forecast: Some(v1::WalForecast {
            written_bytes_per_second: 900_000,
            growth_bytes_per_second: 750_000,
            limit: v1::wal_forecast::Limit::Disk.into(),
            left_bytes: 8 << 30,
            time_left: milliseconds(11_453_000),
        }),
        ..Default::default()
    });
    migration
}

pub(crate) fn verification() -> v1::VerificationReport {
    v1::VerificationReport {
        table_count: 40,
        equal_count: 37,
        moving_count: 3,
        row_count: 8_512_345,
        not_replicated: vec![v1::Finding {
            code: "LARGE_OBJECTS".to_owned(),
            severity: v1::finding::Severity::Note.into(),
            message: "12 large objects are not carried by replication".to_owned(),
            evidence: "pg_largeobject_metadata has 12 rows".to_owned(),
            ..Default::default()
        }],
        record_time: at(20),
        ..Default::default()
    }
}

pub(crate) fn ready() -> v1::Migration {
    let mut migration = migration(v1::migration::State::Waiting, 10);
    step(&mut migration, "cutover").state = v1::step::State::Held.into();
    migration.waiting_for = "your word to move the applications".to_owned();
    migration.next_commands = vec!["pgportage cutover shop".to_owned(), "pgportage verify shop".to_owned()];
    migration.figures = Some(v1::MigrationFigures {
        lag: milliseconds(120),
        lag_bytes: 52_000,
        retained_wal_bytes: 16_777_216,
        warning: String::new(),
        record_time: at(1),
        wal_forecast: None,
        ..Default::default()
    });
    migration.verification = Some(verification());
    migration
}

/// Ready, but for a column that an application added on the source.
pub(crate) fn drifted() -> v1::Migration {
    let mut migration = ready();
    migration.etag = "drifted".to_owned();
    let object = |identity: &str, change: v1::drifted_object::Change| v1::DriftedObject {
        identity: identity.to_owned(),
        change: change.into(),
        ..Default::default()
    };
    migration.schema_drift = Some(v1::SchemaDrift {
        follower: v1::Side::Destination.into(),
        object_count: 2,
        objects: vec![
            object("table public.orders", v1::drifted_object::Change::Different),
            object("index public.orders_note", v1::drifted_object::Change::Missing),
        ],
        ..Default::default()
    });
    migration.held_by = Some(v1::Failure {
        reason: "SCHEMA_DIFFERS".to_owned(),
        message: "2 schema objects differ between the two sides".to_owned(),
        detail: "table public.orders is defined otherwise on the destination; index \
                 public.orders_note is missing on the destination."
            .to_owned(),
        hint: "Make the same change on both sides, or take it back where it was made; the hold ends by itself."
            .to_owned(),
        remedy: v1::failure::Remedy::Operator.into(),
        effect: v1::failure::Effect::None.into(),
        ..Default::default()
    });
    migration.waiting_for =
        "the schemas of both sides to be level: 2 schema objects differ between the two sides".to_owned();
    migration.next_commands =
        ["explain", "verify", "abort"].into_iter().map(|verb| format!("pgportage {verb} shop")).collect();
    migration
}

pub(crate) fn differing() -> v1::Migration {
    let mut migration = ready();
    let report = migration.verification.as_mut().unwrap();
    report.equal_count = 36;
    report.differences = vec!["table public.orders has 2 rows less on the destination".to_owned()];
    report.rows = Some(v1::RowComparison {
        range_count: 812,
        recheck_count: 94,
        difference_count: 2,
        complete: true,
        elapsed: milliseconds(61_500),
        report_path: "/var/lib/pgportage-agent/comparison/shop/differences.jsonl".to_owned(),
        repair_path: "/var/lib/pgportage-agent/comparison/shop/repair.sql".to_owned(),
        ..Default::default()
    });
    migration.etag = "differing".to_owned();
    migration.relayed = true;
    migration
}

pub(crate) fn findings() -> Vec<v1::Finding> {
    vec![
        v1::Finding {
            code: "SEQUENCES_ADVANCE".to_owned(),
            severity: v1::finding::Severity::Note.into(),
            message: "3 sequences are set at cutover".to_owned(),
            ..Default::default()
        },
        v1::Finding {
            code: "REPLICA_IDENTITY_MISSING".to_owned(),
            severity: v1::finding::Severity::Consent.into(),
            object: "public.audit_log".to_owned(),
            message: "the table has no primary key, so its whole rows would identify changes".to_owned(),
            evidence: "relreplident = d, no primary key, 1200000 rows".to_owned(),
            evidence_digest: vec![1],
            remedy: "ALTER TABLE public.audit_log\n  ADD PRIMARY KEY (id);".to_owned(),
            ..Default::default()
        },
        v1::Finding {
            code: "WAL_LEVEL_TOO_LOW".to_owned(),
            severity: v1::finding::Severity::Refuse.into(),
            message: "wal_level does not allow logical replication".to_owned(),
            evidence: "wal_level = replica".to_owned(),
            remedy: "ALTER SYSTEM SET wal_level = 'logical';".to_owned(),
            needs_restart: true,
            ..Default::default()
        },
    ]
}

pub(crate) fn destination_findings() -> Vec<v1::Finding> {
    vec![v1::Finding {
        code: "ROLE_MISSING".to_owned(),
        severity: v1::finding::Severity::Consent.into(),
        object: "reporting".to_owned(),
        message: "the schema names a role that the destination lacks".to_owned(),
        evidence: "grantee of 14 tables".to_owned(),
        remedy: "CREATE ROLE reporting;".to_owned(),
        evidence_digest: vec![2],
        ..Default::default()
    }]
}

pub(crate) fn consent_wanted() -> v1::Migration {
    let mut migration = migration(v1::migration::State::Waiting, 0);
    let inspect = step(&mut migration, "inspect");
    inspect.state = v1::step::State::Failed.into();
    inspect.attempt_count = 1;
    inspect.failure = Some(v1::Failure {
        reason: "CONSENT_REQUIRED".to_owned(),
        message: "2 findings need your consent".to_owned(),
        hint: "Read them, then agree to each with `pgportage consent`.".to_owned(),
        remedy: v1::failure::Remedy::Operator.into(),
        effect: v1::failure::Effect::None.into(),
        ..Default::default()
    });
    migration.source_findings = findings().into_iter().filter(|finding| finding.code != "WAL_LEVEL_TOO_LOW").collect();
    migration.destination_findings = destination_findings();
    migration.waiting_for = "your consent to 2 findings".to_owned();
    migration.next_commands = vec!["pgportage consent shop --all".to_owned(), "pgportage retry shop".to_owned()];
    migration
}

pub(crate) fn failure() -> v1::Failure {
    v1::Failure {
        reason: "REPLICATION_LOGIN_FAILED".to_owned(),
        message: "the replication role cannot log in through the link".to_owned(),
        detail: "The source's server said: no pg_hba.conf entry for replication connection.".to_owned(),
        hint: "Add this line to pg_hba.conf of the source and reload it:\nhost shop pgportage_shop 127.0.0.1/32 scram-sha-256"
            .to_owned(),
        sqlstate: "28000".to_owned(),
        causes: vec![
            "the replication role cannot log in through the link".to_owned(),
            "no pg_hba.conf entry for host \"127.0.0.1\"".to_owned(),
        ],
        remedy: v1::failure::Remedy::Operator.into(),
        effect: v1::failure::Effect::Unknown.into(),
        ..Default::default()
    }
}

pub(crate) fn failed() -> v1::Migration {
    let mut migration = migration(v1::migration::State::Waiting, 7);
    let subscribe = step(&mut migration, "subscribe");
    subscribe.state = v1::step::State::Failed.into();
    subscribe.attempt_count = 3;
    subscribe.start_time = at(60);
    subscribe.end_time = at(30);
    subscribe.failure = Some(failure());
    migration.waiting_for = "step subscribe to be mended".to_owned();
    migration.next_commands = vec!["pgportage retry shop".to_owned(), "pgportage abort shop".to_owned()];
    migration
}

pub(crate) fn succeeded() -> v1::Migration {
    let mut migration = cut_over();
    migration.state = v1::migration::State::Succeeded.into();
    migration.etag = "succeeded".to_owned();
    migration.waiting_for.clear();
    migration.next_commands.clear();
    let finish = step(&mut migration, "finish");
    finish.state = v1::step::State::Succeeded.into();
    finish.attempt_count = 1;
    finish.start_time = at(12);
    finish.end_time = at(10);
    migration.figures = ready().figures;
    migration.unfence_statements = vec![
        "GRANT CONNECT ON DATABASE shop TO PUBLIC".to_owned(),
        "ALTER DATABASE shop RESET default_transaction_read_only;".to_owned(),
    ];
    migration
}

pub(crate) fn aborting() -> v1::Migration {
    let mut migration = migration(v1::migration::State::Aborting, 6);
    for name in ["schema", "close"] {
        step(&mut migration, name).state = v1::step::State::Undone.into();
    }
    step(&mut migration, "publication").state = v1::step::State::Running.into();
    migration
}

pub(crate) fn aborted() -> v1::Migration {
    let mut migration = migration(v1::migration::State::Aborted, 6);
    migration.spec.as_mut().unwrap().connection_path = v1::ConnectionPath::Direct.into();
    for name in ["schema", "close", "publication", "identity", "connect"] {
        step(&mut migration, name).state = v1::step::State::Undone.into();
    }
    migration
}

pub(crate) fn plan() -> v1::GetPlanResponse {
    let step = |name: &str, agent: &str, statements: &[&str], held, undoable| v1::PlannedStep {
        name: name.to_owned(),
        agent_id: agent.to_owned(),
        statements: statements.iter().map(|text| (*text).to_owned()).collect(),
        held,
        undoable,
    };
    v1::GetPlanResponse {
        steps: vec![
            step("inspect", "alpha", &["read settings and catalogs"], false, true),
            step("inspect", "beta", &["read settings and catalogs"], false, true),
            step(
                "publication",
                "alpha",
                &["CREATE SCHEMA pgportage", "CREATE PUBLICATION pgportage_shop\n  FOR TABLE public.orders"],
                false,
                true,
            ),
            step("cutover", "alpha", &["LOCK TABLE public.orders IN SHARE MODE"], true, true),
            step("cutover", "beta", &["GRANT CONNECT ON DATABASE shop TO PUBLIC"], false, false),
            step("finish", "beta", &["DROP SUBSCRIPTION pgportage_shop"], true, false),
        ],
        plan_digest: vec![0xab; 32],
        summary: vec![
            "source alpha: publishes 1 table with 5.0 MB".to_owned(),
            "destination beta: receives 1 table with 5.0 MB".to_owned(),
        ],
        record_time: at(60),
        obstacle: None,
        changes: vec!["+ on alpha: GRANT SELECT ON TABLE public.orders TO pgportage_shop".to_owned()],
    }
}

pub(crate) fn agents() -> Vec<v1::Agent> {
    vec![
        v1::Agent {
            id: "alpha".to_owned(),
            state: v1::agent::State::Attached.into(),
            software_version: "0.1.0".to_owned(),
            revision: 1,
            session_epoch: 3,
            attach_time: at(7_200),
            contact_time: at(0),
            server_version_num: 150_008,
        },
        v1::Agent {
            id: "beta".to_owned(),
            state: v1::agent::State::Lost.into(),
            software_version: "0.1.0".to_owned(),
            revision: 1,
            session_epoch: 1,
            attach_time: at(7_200),
            contact_time: at(95),
            server_version_num: 0,
        },
    ]
}
