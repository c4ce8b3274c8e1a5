//! What an agent sees around a migration when the coordinator asks why it does not move.

use std::time::Duration;

use pgportage_agent::act::connect::CreateReplicationRole;
use pgportage_agent::act::publication::CreatePublication;
use pgportage_agent::act::subscribe::CreateSlot;
use pgportage_agent::situation;
use pgportage_link::Clock;
use pgportage_postgres::Purpose;
use pgportage_proto::{CopyMethod, MigrationId, Reason, Side};
use pgportage_report::situation::{Link, ServerSession, Situation};

use super::contract::{perform, perform_with};
use crate::world::{Options, PATIENCE, World, migration};

/// Enough on a busy machine; what it takes is asserted where it matters.
const LIMIT: Duration = Duration::from_secs(20);

async fn look(world: &World, side: Side) -> Situation {
    let agent = match side {
        Side::Source => &world.source_agent,
        Side::Destination => &world.destination_agent,
    };
    situation::look(agent, &migration(), Clock.now() + LIMIT).await.unwrap()
}

fn blocked(situation: &Situation) -> Vec<&ServerSession> {
    situation.own_sessions.iter().filter(|own| !own.blocked_by.is_empty()).collect()
}

const SLOT_IS_BEING_MADE: &str = "\
SELECT EXISTS (SELECT FROM pg_replication_slots s JOIN pg_stat_activity a ON a.pid = s.active_pid
                WHERE s.confirmed_flush_lsn IS NULL AND a.wait_event_type = 'Lock')";

#[tokio::test]
async fn the_transaction_that_the_slot_waits_for_is_seen_and_gone_when_it_ends() {
    for copy_method in [CopyMethod::Native, CopyMethod::Snapshot] {
        let world = World::start().await;
        perform(&world, Side::Source, &CreateReplicationRole).await;
        perform(&world, Side::Source, &CreatePublication).await;
        let database = world.options.database.clone();
        let mut writer = world.source.connect(&database).await.unwrap();
        writer.batch_execute("SET application_name = 'accounting'; CREATE TABLE t (id int)").await.unwrap();
        let pid: i32 = writer.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        let transaction = writer.transaction().await.unwrap();
        transaction.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();

        let cx = world.context(Side::Source);
        let making = tokio::spawn(async move { perform_with(&cx, &CreateSlot { copy_method }).await });
        world.source.wait_until(&database, SLOT_IS_BEING_MADE, PATIENCE).await.unwrap();
        let seen = look(&world, Side::Source).await;
        assert_eq!(seen.unchecked, []);
        let waiting = blocked(&seen);
        assert_eq!(waiting.len(), 1, "{seen:#?}");
        assert_eq!(waiting[0].blocked_by, [pid]);
        assert!(waiting[0].application.starts_with("pgportage "), "{waiting:?}");
        let [blocker] = seen.blockers.as_slice() else { panic!("{seen:#?}") };
        assert_eq!((blocker.pid, blocker.application.as_str(), blocker.database.as_str()), (pid, "accounting", "shop"));
        assert_eq!((blocker.state.as_str(), blocker.writes), ("idle in transaction", true));
        assert!(blocker.transaction_age.is_some() && !blocker.role.is_empty(), "{blocker:?}");
        let slot = seen.slot.as_ref().unwrap();
        assert_eq!((slot.complete, slot.active_pid), (false, Some(waiting[0].pid)));
        let used = |setting: &str| seen.capacities.iter().find(|it| it.setting == setting).map(|it| it.used);
        assert_eq!(used("max_replication_slots"), Some(1), "{:?}", seen.capacities);
        assert!(used("max_wal_senders").is_some());
        assert!(matches!(seen.link, Some(Link::Answers(_))), "{:?}", seen.link);
        assert!(seen.disk.is_some(), "the agent sees the server's disk here");

        transaction.commit().await.unwrap();
        making.await.unwrap().unwrap();
        let seen = look(&world, Side::Source).await;
        assert!(blocked(&seen).is_empty() && seen.blockers.is_empty(), "{seen:#?}");
        assert!(seen.slot.unwrap().complete);
    }
}

#[tokio::test]
async fn a_queue_is_seen_to_its_end_and_a_prepared_transaction_in_it() {
    let mut world = World::start().await;
    world.source.execute("postgres", "ALTER SYSTEM SET max_prepared_transactions = 5").await.unwrap();
    world.source.restart().await.unwrap();
    let database = world.options.database.clone();
    let tables = "CREATE TABLE open (id int); CREATE TABLE prepared (id int)";
    world.source.execute(&database, tables).await.unwrap();
    let holder = world.source.connect(&database).await.unwrap();
    holder.batch_execute("BEGIN; LOCK TABLE open IN ACCESS SHARE MODE").await.unwrap();
    let holder_pid: i32 = holder.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    // A session alters the table and waits for the reader; ours waits for both.
    let alters = world.source.connect(&database).await.unwrap();
    let alters_pid: i32 = alters.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let altering = tokio::spawn(async move { alters.batch_execute("ALTER TABLE open ADD v text").await });
    let waits = |pid: i32| format!("SELECT EXISTS (SELECT FROM pg_locks WHERE pid = {pid} AND NOT granted)");
    world.source.wait_until(&database, &waits(alters_pid), PATIENCE).await.unwrap();
    let prepare = "BEGIN; LOCK TABLE prepared IN SHARE MODE; PREPARE TRANSACTION 'it''s'";
    world.source.execute(&database, prepare).await.unwrap();

    let mut ours = Vec::new();
    for table in ["open", "prepared"] {
        let session = world.source_agent.door.open(&database, Purpose::Cutover).await.unwrap();
        session.batch_execute("SET lock_timeout = 0").await.unwrap();
        let pid = session.pid;
        let statement = format!("LOCK TABLE public.{table} IN ROW EXCLUSIVE MODE");
        let locking = tokio::spawn(async move { session.batch_execute(&format!("BEGIN; {statement}; COMMIT")).await });
        world.source.wait_until(&database, &waits(pid), PATIENCE).await.unwrap();
        ours.push((pid, locking));
    }
    let seen = look(&world, Side::Source).await;
    assert_eq!(seen.unchecked, []);
    let behind = |pid: i32| {
        let all = seen.own_sessions.iter().chain(&seen.blockers);
        all.into_iter().find(|session| session.pid == pid).map(|session| session.blocked_by.clone())
    };
    assert_eq!(behind(ours[0].0), Some(vec![alters_pid]), "{seen:#?}");
    assert_eq!(behind(alters_pid), Some(vec![holder_pid]));
    assert_eq!(behind(holder_pid), Some(vec![]), "the end of the queue");
    assert_eq!(behind(ours[1].0), Some(vec![0]));
    let prepared: Vec<_> = seen.prepared_transactions.iter().map(|it| (it.gid.as_str(), it.awaited)).collect();
    assert_eq!(prepared, [("it's", true)]);

    holder.batch_execute("COMMIT").await.unwrap();
    altering.await.unwrap().unwrap();
    world.source.execute(&database, "ROLLBACK PREPARED 'it''s'").await.unwrap();
    for (_, locking) in ours {
        locking.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn what_is_away_or_hidden_is_said_in_time() {
    // A role that sees only its own sessions.
    let porter = "CREATE ROLE porter LOGIN PASSWORD 'porter-password'; GRANT ALL ON DATABASE shop TO porter";
    let mut world = World::start_with(Options {
        destination_user: Some(("porter".to_owned(), "porter-password".to_owned())),
        prepare: (String::new(), porter.to_owned()),
        ..Options::default()
    })
    .await;
    let seen = look(&world, Side::Destination).await;
    let hidden = |seen: &Situation| {
        let of = seen.unchecked.iter().find(|it| it.subject == "what other roles' sessions do");
        of.map(|it| (it.failure.reason, it.failure.hint.clone()))
    };
    let (reason, remedy) = hidden(&seen).unwrap();
    assert_eq!(reason, Reason::PrivilegeMissing);
    assert!(matches!(seen.link, Some(Link::Answers(_))), "{:?}", seen.link);
    assert_eq!((seen.subscription, seen.slot), (None, None));
    world.destination.execute("postgres", &remedy).await.unwrap();
    assert_eq!(hidden(&look(&world, Side::Destination).await), None, "{remedy}");

    // The other agent and the server are away.
    world.cut_link();
    world.destination.stop().await.unwrap();
    let seen = look(&world, Side::Destination).await;
    assert!(matches!(&seen.link, Some(Link::Broken(_))), "{:?}", seen.link);
    let [server] = seen.unchecked.as_slice() else { panic!("{seen:#?}") };
    assert_eq!((server.subject.as_str(), server.failure.reason), ("the server", Reason::ServerUnreachable));

    // No session is free: the coordinator gets its answer when the time is over.
    let sessions = whole_budget(&world).await;
    let asked = Clock.now();
    let limit = Duration::from_millis(500);
    let seen = situation::look(&world.source_agent, &migration(), asked + limit).await.unwrap();
    assert!(Clock.now().duration_since(asked) < Duration::from_secs(5));
    assert!(seen.unchecked.iter().any(|it| it.failure.reason == Reason::CouldNotCheck), "{seen:#?}");
    drop(sessions);

    // The coordinator cannot ask about a migration that this agent has no part in.
    let other = MigrationId::new("other").unwrap();
    let refused = situation::look(&world.source_agent, &other, Clock.now() + LIMIT).await.unwrap_err();
    assert_eq!(refused.reason, Reason::MigrationMissing);
}

/// Every session that the source's agent may have.
async fn whole_budget(world: &World) -> Vec<pgportage_postgres::Session> {
    let agent = world.source_agent.clone();
    let mut sessions = Vec::new();
    for _ in 0..agent.settings.postgres.max_sessions {
        sessions.push(agent.door.open("postgres", Purpose::Control).await.unwrap());
    }
    sessions
}
