//! A real PgBouncer, paused, led away and led back, with clients who take every
//! error for an incident.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use pgportage_agent::pooler::Unreachable;
use pgportage_link::{Clock, Failure};
use pgportage_proto::{Reason, Side};
use pgportage_tests::PostgresVersion;
use pgportage_tests::cluster::{Cluster, ClusterOptions};
use pgportage_tests::pgbouncer::{KEEPER, PgBouncer};
use pgportage_tests::pooled::{self, Pooled};
use pgportage_tests::site::{APPLICATION, APPLICATION_PASSWORD};
use pgportage_tests::wait::{self, Seen};
use tokio::net::TcpSocket;

use crate::support::{Lone, Options};

const DATABASE: &str = "shop";
const LIMIT: Duration = Duration::from_secs(60);
const BUDGET: Duration = Duration::from_secs(20);

async fn server() -> Cluster {
    let cluster = Cluster::start(PostgresVersion::V18, &ClusterOptions::new()).await.unwrap();
    let role = format!("CREATE ROLE {APPLICATION} LOGIN PASSWORD '{APPLICATION_PASSWORD}'");
    cluster.execute("postgres", &role).await.unwrap();
    cluster.execute("postgres", &format!("CREATE DATABASE {DATABASE} OWNER {APPLICATION}")).await.unwrap();
    pooled::prepare(&cluster, DATABASE, APPLICATION).await.unwrap();
    cluster
}

fn agent_beside(source: &Cluster, policy: &str) -> Lone {
    let mut options = Options::new(Side::Source);
    options.policy.push_str(policy);
    Lone::beside(source, &options)
}

async fn pause(lone: &Lone) -> Result<(), Failure> {
    let Lone { agent, participation, .. } = lone;
    let approached = agent.poolers.approach(participation, Unreachable::Refuse).await?;
    agent.poolers.pause(participation, approached, Clock.now() + BUDGET, || Ok(())).await
}

async fn try_to_let_on(lone: &Lone, towards: Option<Side>) -> Result<(), Failure> {
    lone.agent.poolers.let_on(&lone.participation, towards, || Ok(true)).await.map(drop)
}

async fn let_on(lone: &Lone, towards: Option<Side>) {
    try_to_let_on(lone, towards)
        .await
        .unwrap_or_else(|failure| panic!("{failure}: {} {:?}", failure.detail, failure.causes));
}

#[tokio::test]
async fn there_and_back_again() {
    let (source, destination) = tokio::join!(server(), server());
    let mut pooler = PgBouncer::start(DATABASE, source.port).await.unwrap();
    let before = pooler.config_text().unwrap();
    let there = before.replace(&format!("port={}", source.port), &format!("port={}", destination.port));
    let lone = agent_beside(&source, &pooler.policy(DATABASE, destination.port));
    let clients = Pooled::start(&pooler.config(DATABASE), 8, 3);
    clients.wait_for_commits(50, LIMIT).await.unwrap();
    let begin = Clock.now();

    for _round in 0..5 {
        // Given up.
        pause(&lone).await.unwrap();
        let_on(&lone, None).await;
        assert_eq!(pooler.config_text().unwrap(), before);
        clients.wait_for_commits(30, LIMIT).await.unwrap();
        // There.
        pause(&lone).await.unwrap();
        let_on(&lone, Some(Side::Destination)).await;
        assert_eq!(pooler.config_text().unwrap(), there);
        clients.wait_for_commits(30, LIMIT).await.unwrap();
        // And back.
        pause(&lone).await.unwrap();
        let_on(&lone, Some(Side::Source)).await;
        assert_eq!(pooler.config_text().unwrap(), before);
        clients.wait_for_commits(30, LIMIT).await.unwrap();
    }
    let told = clients.stop().await.unwrap();
    // A pool that was led away while it logged in somewhere would connect nowhere
    // for the 15 s of `server_login_retry`.
    assert!(told.longest_pause(begin) < Duration::from_secs(5), "{:?}", told.longest_pause(begin));
    assert_eq!(told.failures, Vec::<String>::new(), "\n--- pooler\n{}", pooler.log_text());

    let mut found = BTreeSet::new();
    for cluster in [&source, &destination] {
        // Everything on this server was written here, and nothing twice.
        for token in pooled::written_on(cluster, DATABASE, cluster).await.unwrap() {
            assert!(found.insert(token), "{token} is on both servers");
        }
    }
    assert_eq!(found, told.acknowledged);
    assert!(!pooled::written_on(&destination, DATABASE, &destination).await.unwrap().is_empty());

    // A pooler that was restarted has forgotten that it was paused. It goes where
    // it has to all the same.
    pause(&lone).await.unwrap();
    pooler.kill9_and_start().await.unwrap();
    let_on(&lone, Some(Side::Destination)).await;
    assert_eq!(pooler.entry(DATABASE, "port").await.unwrap(), destination.port.to_string());
    // Twice is once.
    let_on(&lone, Some(Side::Destination)).await;
    assert_eq!(pooler.config_text().unwrap(), there);
}

/// What the owner's command does is the owner's business; what it says is not
/// taken for granted.
#[tokio::test]
async fn led_by_a_command() {
    let (source, destination) = tokio::join!(server(), server());
    let pooler = PgBouncer::start(DATABASE, source.port).await.unwrap();
    let before = pooler.config_text().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("lead");
    let write = |body: &str| {
        std::fs::write(&script, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    };
    write("exit 3");
    let (config, from, to) = (pooler.config_path(), source.port, destination.port);
    let by_file = format!("config = \"{}\"", config.display());
    let by_command = format!("repoint_command = [\"{}\", \"argument\"]", script.display());
    let policy = pooler.policy(DATABASE, to).replace(&by_file, &by_command);
    let lone = agent_beside(&source, &policy);

    pause(&lone).await.unwrap();
    for does_not_lead in ["exit 3", "true"] {
        write(does_not_lead);
        let led = try_to_let_on(&lone, Some(Side::Destination)).await;
        assert_eq!(led.unwrap_err().reason, Reason::PoolerUnfit, "{does_not_lead}");
        assert_eq!(pooler.entry(DATABASE, "paused").await.unwrap(), "1", "{does_not_lead}");
    }
    // Written in place, so that the pooler may read it as before.
    write(&format!(
        "case \"$PGPORTAGE_TOWARDS $1\" in\n'destination argument') change=s/port={from}/port={to}/ ;;\n\
         'source argument') change=s/port={to}/port={from}/ ;;\nesac\n\
         changed=$(sed \"$change\" {0}) && printf '%s\\n' \"$changed\" > {0}",
        config.display()
    ));
    let_on(&lone, Some(Side::Destination)).await;
    assert_eq!(pooler.entry(DATABASE, "port").await.unwrap(), to.to_string());
    assert_eq!(pooler.entry(DATABASE, "paused").await.unwrap(), "0");
    pause(&lone).await.unwrap();
    let_on(&lone, Some(Side::Source)).await;
    assert_eq!(pooler.config_text().unwrap(), before);
    assert_eq!(pooler.entry(DATABASE, "port").await.unwrap(), from.to_string());
}

/// Of two poolers one is dead, and later takes connections and says nothing.
#[tokio::test]
async fn one_that_does_not_answer_keeps_no_other_from_being_led() {
    let (source, destination) = tokio::join!(server(), server());
    let pooler = PgBouncer::start(DATABASE, source.port).await.unwrap();
    // No process listens on this port yet, and no other can.
    let silent = TcpSocket::new_v4().unwrap();
    silent.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let dead = silent.local_addr().unwrap().port();
    // The dead one first.
    let policy = format!(
        "\n[[pooler]]\ndatabase = \"{DATABASE}\"\nconsole = \"127.0.0.1:{dead}\"\nuser = \"{KEEPER}\"\n\
         entries = [\"{DATABASE}\"]\nrepoint_command = [\"/bin/true\"]\n{}",
        pooler.policy(DATABASE, destination.port)
    );
    let lone = agent_beside(&source, &policy);
    let Lone { agent, participation, .. } = &lone;
    let clients = Pooled::start(&pooler.config(DATABASE), 4, 3);
    clients.wait_for_commits(20, LIMIT).await.unwrap();

    let refused = agent.poolers.approach(participation, Unreachable::Refuse).await.unwrap_err();
    assert_eq!(refused.reason, Reason::PoolerUnreachable);
    assert!(refused.detail.contains(&dead.to_string()), "{refused:?}");
    let approached = agent.poolers.approach(participation, Unreachable::LeaveOut).await.unwrap();
    agent.poolers.pause(participation, approached, Clock.now() + BUDGET, || Ok(())).await.unwrap();
    assert_eq!(pooler.entry(DATABASE, "paused").await.unwrap(), "1");

    let silent = silent.listen(8).unwrap();
    let there = (destination.port.to_string(), "0".to_owned());
    // While the silent one is waited for: that is all that has to happen in this time.
    let led_there = wait::until("the other one to be led", LIMIT, async || {
        let now = (pooler.entry(DATABASE, "port").await?, pooler.entry(DATABASE, "paused").await?);
        Ok(if now == there { Seen::Done(()) } else { Seen::NotYet(format!("{now:?}")) })
    });
    tokio::select! {
        biased;
        led = led_there => led.unwrap(),
        told = try_to_let_on(&lone, Some(Side::Destination)) => panic!("the other one is not led: {told:?}"),
    }
    clients.wait_for_commits(20, LIMIT).await.unwrap();
    // Again, because that was dropped; and once more, for the one that is left.
    let unreachable = async || try_to_let_on(&lone, Some(Side::Destination)).await.unwrap_err().reason;
    drop(silent);
    assert_eq!(unreachable().await, Reason::PoolerUnreachable);
    let reloads = pooler.log_text().matches("RELOAD").count();
    assert_eq!(unreachable().await, Reason::PoolerUnreachable);
    assert_eq!(pooler.log_text().matches("RELOAD").count(), reloads, "it was led already");
    assert!(reloads > 0);
    assert_eq!(clients.stop().await.unwrap().failures, Vec::<String>::new());
}
