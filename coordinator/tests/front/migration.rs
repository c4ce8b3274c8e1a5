//! Whole migrations with simulated agents.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use pgportage_coordinator::settings::Settings;
use pgportage_link::status::from_status;
use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::v1::migration::State;
use pgportage_proto::{Reason, v1};

use crate::house::{House, NAME, Operator, Run, eventually, spec, step};
use crate::simulated::{Answer, World, passing};

const BUDGET: Duration = Duration::from_secs(20);

pub(crate) async fn attached(house: &House, world: &std::sync::Arc<World>) -> (Run, Operator) {
    attached_with(house, world, house.settings()).await
}

pub(crate) async fn attached_with(house: &House, world: &std::sync::Arc<World>, settings: Settings) -> (Run, Operator) {
    let run = house.start_with(settings).await;
    world.move_to(run.address);
    world.populate(house);
    let mut operator = house.operator(run.address).await;
    eventually("attached", async || {
        let agents = operator.agents.list_agents(v1::ListAgentsRequest::default()).await.unwrap().into_inner().agents;
        (agents.len() == 2 && agents.iter().all(|agent| agent.state() == v1::agent::State::Attached)).then_some(())
    })
    .await;
    (run, operator)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_moves() {
    let house = House::new();
    let world = World::quiet();
    let (_run, mut operator) = attached(&house, &world).await;
    let created = operator.create().await.unwrap();
    assert_eq!(created.state(), State::Pending);
    assert_eq!(created.next_commands[0], "pgportage start shop");
    operator.start().await.unwrap();
    let held = operator.until_waiting().await;
    assert_eq!(step(&held, "cutover").state(), v1::step::State::Held);
    assert_eq!(held.next_commands[0], "pgportage cutover shop");
    assert!(world.source_takes_writes() && !world.destination_takes_writes());
    let verification = held.verification.unwrap();
    assert_eq!((verification.table_count, verification.equal_count, verification.row_count), (1, 1, 7));

    operator.cut_over(BUDGET).await.unwrap();
    let open =
        operator.until("before finish", |migration| step(migration, "finish").state() == v1::step::State::Held).await;
    assert!(!world.source_takes_writes() && world.destination_takes_writes());
    let report = open.cutover.clone().unwrap();
    assert_eq!(report.phase(), v1::cutover_report::Phase::Open);
    assert!(Duration::try_from(report.outage.unwrap()).unwrap() < BUDGET);
    assert_eq!((report.fence_lsn.as_str(), report.marker_id.as_str()), ("0/F", "m"));
    assert_eq!(operator.abort().await.unwrap_err().reason, Reason::DestinationOpened);

    operator.finish().await.unwrap();
    // What both agents have signed is there when everything else is gone, as it came.
    let asked = v1::GetSwitchCertificateRequest { migration_id: NAME.to_owned(), cutover_epoch: 0 };
    let over = operator.until("over", |migration| migration.state() == State::Succeeded).await;
    assert_eq!(over.unfence_statements, ["GRANT CONNECT …"]);
    let answer = operator.migrations.get_switch_certificate(asked.clone()).await.unwrap().into_inner();
    assert_eq!(answer.cutover_epochs, [1]);
    let certificate = answer.certificate.unwrap();
    for signed in [certificate.left.unwrap(), certificate.entered.unwrap()] {
        assert_eq!((signed.statement.as_str(), signed.scheme), ("{\"epoch\": 1}", 1027));
        assert_eq!((signed.signature, signed.chain), (vec![0, 255], vec![vec![1], vec![2]]));
    }
    let of_another = v1::GetSwitchCertificateRequest { cutover_epoch: 2, ..asked };
    let refused = operator.migrations.get_switch_certificate(of_another).await.unwrap_err();
    assert_eq!(from_status(refused).reason, Reason::WrongState);
    assert!(over.next_commands.is_empty());
    assert!(world.left_behind().is_empty());
    assert!(!world.source_takes_writes(), "the source stays fenced");
    // Each act happened once.
    world.look(|servers| {
        assert_eq!(servers.done.len(), 35, "{:?}", servers.done);
        assert!(servers.done.iter().all(|(_, _, verb)| *verb == v1::Verb::Perform));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_copied_as_the_operator_asked() {
    use v1::CopyMethod::{Native, Snapshot, Unspecified};
    for (asked, told) in [(Unspecified, Snapshot), (Native, Native)] {
        let house = House::new();
        let world = World::quiet();
        let (run, mut operator) = attached(&house, &world).await;
        let wanted = v1::MigrationSpec { copy_method: asked.into(), ..spec() };
        let request =
            v1::CreateMigrationRequest { migration_id: NAME.to_owned(), spec: Some(wanted), ..Default::default() };
        let created = operator.migrations.create_migration(request).await.unwrap().into_inner().migration.unwrap();
        assert_eq!(created.spec.unwrap().copy_method(), told);
        operator.start().await.unwrap();
        let held = operator.until_waiting().await;
        assert_eq!(step(&held, "copy").state(), v1::step::State::Succeeded);
        let acts = ["restore_schema", "create_slot", "copy_tables", "create_subscription"];
        let mut expected = acts.map(|act| (act, told)).to_vec();
        // The way back copies nothing.
        expected.push(("create_slot", Native));
        world.look(|servers| assert_eq!(servers.copy_methods, expected));
        run.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn words_need_the_right_moment_and_the_right_picture() {
    let house = House::new();
    let world = World::quiet();
    let (_run, mut operator) = attached(&house, &world).await;
    let reason = |failure: Result<v1::Migration, Failure>| failure.unwrap_err().reason;
    assert_eq!(reason(operator.start().await), Reason::MigrationMissing);

    // The same request creates once; another one of the same name is refused.
    let request_id = uuid::Uuid::now_v7().to_string();
    let request = v1::CreateMigrationRequest {
        migration_id: NAME.to_owned(),
        spec: Some(spec()),
        request_id,
        validate_only: true,
    };
    let checked = operator.migrations.create_migration(request.clone()).await.unwrap().into_inner().migration.unwrap();
    assert_eq!(checked.id, NAME);
    assert_eq!(
        operator
            .migrations
            .list_migrations(v1::ListMigrationsRequest::default())
            .await
            .unwrap()
            .into_inner()
            .migrations
            .len(),
        0
    );
    let request = v1::CreateMigrationRequest { validate_only: false, ..request };
    let first = operator.migrations.create_migration(request.clone()).await.unwrap().into_inner();
    let second = operator.migrations.create_migration(request.clone()).await.unwrap().into_inner();
    assert_eq!(first, second);
    assert_eq!(reason(operator.create().await), Reason::MigrationExists);
    let other = v1::CreateMigrationRequest { migration_id: "other".to_owned(), ..request };
    let refused = operator.migrations.create_migration(other).await.map_err(from_status).unwrap_err();
    assert_eq!(refused.reason, Reason::MigrationExists, "its database is in hand");

    for (changed, field) in [
        (v1::MigrationSpec { source_agent_id: String::new(), ..spec() }, "source_agent_id"),
        (v1::MigrationSpec { destination_agent_id: "berlin".to_owned(), ..spec() }, "destination_agent_id"),
        (v1::MigrationSpec { database: String::new(), ..spec() }, "database"),
        (v1::MigrationSpec { max_lag: Some(prost_types::Duration { seconds: -1, nanos: 0 }), ..spec() }, "max_lag"),
        (v1::MigrationSpec { copy_method: 99, ..spec() }, "copy_method"),
        (v1::MigrationSpec { max_rate_bytes: 50, ..spec() }, "max_rate_bytes"),
        (
            v1::MigrationSpec { max_rate_bytes: 1 << 20, copy_method: v1::CopyMethod::Native.into(), ..spec() },
            "max_rate_bytes",
        ),
    ] {
        let request =
            v1::CreateMigrationRequest { migration_id: "x".to_owned(), spec: Some(changed), ..Default::default() };
        let refused = operator.migrations.create_migration(request).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert_eq!(from_status(refused).metadata["field"], field);
    }
    let unknown = v1::MigrationSpec { source_agent_id: "rome".to_owned(), ..spec() };
    let request =
        v1::CreateMigrationRequest { migration_id: "x".to_owned(), spec: Some(unknown), ..Default::default() };
    assert_eq!(
        from_status(operator.migrations.create_migration(request).await.unwrap_err()).reason,
        Reason::AgentUnknown
    );

    assert_eq!(reason(operator.cut_over(BUDGET).await), Reason::WrongState);
    assert_eq!(reason(operator.finish().await), Reason::WrongState);
    operator.start().await.unwrap();
    assert_eq!(reason(operator.start().await), Reason::WrongState);
    operator.until_waiting().await;

    // Nothing is copied any more, but rows may be compared.
    operator.tune(1 << 20).await.unwrap();
    let held = operator.tune(0).await.unwrap();

    // An old picture, no picture, an impossible budget.
    let mut cut_over = async |etag: &str, max_outage| {
        let request = v1::CutOverRequest {
            migration_id: NAME.to_owned(),
            etag: etag.to_owned(),
            max_outage: prost_types::Duration::try_from(max_outage).ok(),
            without_way_back: false,
            compare_limit: None,
        };
        operator.migrations.cut_over(request).await.unwrap_err()
    };
    let old = cut_over("shop-1", BUDGET).await;
    assert_eq!(old.code(), tonic::Code::Aborted);
    assert_eq!(from_status(old).metadata["currentEtag"], held.etag);
    assert_eq!(cut_over("", BUDGET).await.code(), tonic::Code::InvalidArgument);
    assert_eq!(cut_over(&held.etag, Duration::ZERO).await.code(), tonic::Code::InvalidArgument);
    assert_eq!(cut_over(&held.etag, Duration::from_secs(86_400)).await.code(), tonic::Code::InvalidArgument);

    // Verification can be asked for again here.
    use v1::verify_migration_request::Depth;
    let request =
        v1::VerifyMigrationRequest { migration_id: NAME.to_owned(), etag: held.etag.clone(), ..Default::default() };
    // Counts know no resuming.
    let odd = v1::VerifyMigrationRequest { resume: true, ..request.clone() };
    assert_eq!(operator.migrations.verify_migration(odd).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    operator.migrations.verify_migration(request.clone()).await.unwrap();
    let again = operator
        .until("held again", |migration| migration.etag != held.etag && migration.state() == State::Waiting)
        .await;
    assert_eq!(step(&again, "verify").attempt_count, 1);
    let found = again.verification.as_ref().unwrap();
    assert_eq!(found.rows, None);
    assert_ne!(found.record_time, held.verification.as_ref().unwrap().record_time);

    // Row by row, when that is asked for.
    let request = v1::VerifyMigrationRequest { etag: again.etag.clone(), depth: Depth::Rows.into(), ..request };
    operator.migrations.verify_migration(request).await.unwrap();
    let compared = operator
        .until("held once more", |migration| migration.etag != again.etag && migration.state() == State::Waiting)
        .await;
    let rows = compared.verification.unwrap().rows.unwrap();
    assert_eq!((rows.range_count, rows.complete), (1, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_can_be_read_before_it_runs() {
    let house = House::new();
    let world = World::quiet();
    let (_run, mut operator) = attached(&house, &world).await;
    operator.create().await.unwrap();
    let plan = operator
        .migrations
        .get_plan(v1::GetPlanRequest { migration_id: NAME.to_owned(), refresh: false })
        .await
        .unwrap()
        .into_inner();
    let held: Vec<_> = plan.steps.iter().filter(|step| step.held).map(|step| step.name.as_str()).collect();
    assert_eq!(held, ["cutover", "rollback", "finish"]);
    assert!(plan.steps.iter().all(|step| ["berlin", "oslo"].contains(&step.agent_id.as_str())));
    assert!(plan.steps.iter().any(|step| step.statements.iter().any(|line| line.contains("CREATE PUBLICATION"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_at_any_step_leaves_nothing() {
    // Each action hangs once, on its first attempt; there the operator gives up.
    for hanging in [
        ("berlin", "check_server"),
        ("berlin", "create_replication_role"),
        ("oslo", "reach_peer"),
        ("berlin", "set_replica_identity"),
        ("berlin", "create_publication"),
        ("oslo", "close_database"),
        ("oslo", "restore_schema"),
        ("berlin", "create_slot"),
        ("oslo", "copy_tables"),
        ("oslo", "create_subscription"),
        ("oslo", "await_copy"),
        ("berlin", "await_lag"),
        ("oslo", "count_rows"),
    ] {
        let house = House::new();
        let world =
            World::new(
                move |agent, action, verb| {
                    if verb == v1::Verb::Perform && (agent, action) == hanging { Answer::Hang } else { Answer::Do }
                },
            );
        let (run, mut operator) = attached(&house, &world).await;
        operator.create().await.unwrap();
        operator.start().await.unwrap();
        // Its command is accepted, and nothing else goes on.
        let id = pgportage_proto::MigrationId::new(NAME).unwrap();
        eventually("hanging", async || {
            let overview = run.engine.overview(&id).unwrap();
            overview
                .state
                .unanswered()
                .any(|known| {
                    let side = overview.state.side_of(known.issued.command).unwrap();
                    let here = (overview.state.spec.agent(side), known.issued.act.kind().unwrap().as_str());
                    here == hanging && known.last_sequence == 1
                })
                .then_some(())
        })
        .await;
        operator.abort().await.unwrap();
        operator.until("aborted", |migration| migration.state() == State::Aborted).await;
        assert_eq!(world.left_behind(), Vec::<&str>::new(), "{hanging:?}");
        assert!(world.source_takes_writes(), "{hanging:?}");
        run.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_that_help_themselves_are_tried_again() {
    let house = House::new();
    let failed: Mutex<BTreeMap<(String, &str), u32>> = Mutex::default();
    let world = World::new(move |agent, action, verb| {
        let mut failed = failed.lock().unwrap();
        let count = failed.entry((agent.to_owned(), action)).or_default();
        *count += 1;
        // In the cutover the operator is asked, so nothing fails there.
        let early = !["prepare_cutover", "raise_barrier", "drain_to_marker", "fence_source", "open_destination"]
            .contains(&action);
        if early && verb == v1::Verb::Perform && *count == 1 { Answer::Fail(passing()) } else { Answer::Do }
    });
    let (_run, mut operator) = attached(&house, &world).await;
    operator.create().await.unwrap();
    operator.start().await.unwrap();
    let held = operator.until_waiting().await;
    assert_eq!(step(&held, "cutover").state(), v1::step::State::Held);
    assert_eq!(step(&held, "schema").attempt_count, 2);
    operator.cut_over(BUDGET).await.unwrap();
    operator.until("before finish", |migration| step(migration, "finish").state() == v1::step::State::Held).await;
    operator.finish().await.unwrap();
    operator.until("over", |migration| migration.state() == State::Succeeded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_for_the_operator_is_shown_and_tried_again_at_a_word() {
    let house = House::new();
    let broken = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let mended = std::sync::Arc::clone(&broken);
    let world = World::new(move |_, action, verb| {
        let fails =
            action == "restore_schema" && verb == v1::Verb::Perform && broken.load(std::sync::atomic::Ordering::SeqCst);
        if fails {
            Answer::Fail(
                Failure::new(Reason::PgRestoreFailed, "pg_restore failed")
                    .hint("Mend the destination.")
                    .remedy(Remedy::Operator)
                    .effect(Effect::None),
            )
        } else {
            Answer::Do
        }
    });
    let (_run, mut operator) = attached(&house, &world).await;
    operator.create().await.unwrap();
    operator.start().await.unwrap();
    let stopped = operator.until_waiting().await;
    let failure = step(&stopped, "schema").failure.clone().unwrap();
    assert_eq!((failure.reason.as_str(), failure.hint.as_str()), ("PG_RESTORE_FAILED", "Mend the destination."));
    assert_eq!(stopped.waiting_for, "the operator: pg_restore failed");
    assert_eq!(stopped.next_commands, ["pgportage retry shop", "pgportage abort shop"]);
    mended.store(false, std::sync::atomic::Ordering::SeqCst);
    operator.retry("schema").await.unwrap();
    let held = operator.until("held", |migration| step(migration, "cutover").state() == v1::step::State::Held).await;
    assert_eq!(step(&held, "schema").failure, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cutover_over_its_budget_is_taken_back_by_itself() {
    let house = House::new();
    for hanging in ["raise_barrier", "drain_to_marker", "fence_source"] {
        let house = if hanging == "raise_barrier" { &house } else { &House::new() };
        let first = Mutex::new(true);
        let world = World::new(move |_, action, verb| {
            let hangs = action == hanging && verb == v1::Verb::Perform && std::mem::take(&mut *first.lock().unwrap());
            if hangs { Answer::Hang } else { Answer::Do }
        });
        let (run, mut operator) = attached(house, &world).await;
        operator.create().await.unwrap();
        operator.start().await.unwrap();
        operator.until_waiting().await;
        operator.cut_over(Duration::from_millis(200)).await.unwrap();
        let back = operator
            .until("taken back", |migration| {
                migration.state() == State::Waiting
                    && migration
                        .cutover
                        .as_ref()
                        .is_some_and(|cutover| cutover.phase() == v1::cutover_report::Phase::TakenBack)
            })
            .await;
        assert!(world.source_takes_writes() && !world.destination_takes_writes(), "{hanging}");
        let failure = step(&back, "cutover").failure.clone().unwrap();
        assert_eq!(failure.reason, "OUTAGE_BUDGET_EXCEEDED");
        operator.cut_over(BUDGET).await.unwrap();
        let open = operator
            .until("before finish", |migration| step(migration, "finish").state() == v1::step::State::Held)
            .await;
        assert_eq!(open.cutover.unwrap().cutover_epoch, 2);
        run.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_where_migrations_stand() {
    let house = House::new();
    let world = World::quiet();
    let (_run, mut operator) = attached(&house, &world).await;
    operator.create().await.unwrap();
    operator.start().await.unwrap();
    let held = operator
        .until("measured", |migration| {
            migration.state() == State::Waiting
                && migration.figures.as_ref().is_some_and(|figures| figures.lag.is_some())
        })
        .await;
    assert_eq!(held.figures.unwrap().lag, prost_types::Duration::try_from(Duration::from_millis(3)).ok());
}
