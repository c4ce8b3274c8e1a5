//! Cutovers behind a real PgBouncer: its clients see a pause and no error,
//! whatever becomes of the cutover.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgportage_link::Clock;
use pgportage_tests::cli::Status;
use pgportage_tests::cluster::connect;
use pgportage_tests::journey::MIGRATION;
use pgportage_tests::ledger::End;
use pgportage_tests::pgbouncer::PgBouncer;
use pgportage_tests::pooled::{self, Pooled};
use pgportage_tests::site::APPLICATION;
use pgportage_tests::wait::{self, Seen};
use pgportage_tests::{PostgresVersion, Site, SiteOptions, fail_points, traces, workload};

/// How long anything may take to come back by itself.
const LIMIT: Duration = Duration::from_secs(120);
/// What the outage may last where nobody is there to end it.
const BUDGET: Duration = Duration::from_secs(4);
/// How long they may wait after a death.
const RECOVERY: Duration = Duration::from_secs(10);
const CUTOVER: [&str; 3] = ["cutover", MIGRATION, "--yes"];
const ROLLBACK: [&str; 3] = ["rollback", MIGRATION, "--yes"];

/// A site with clients at work behind its pooler, ready for the cutover.
struct Pool {
    site: Site,
    pooler: PgBouncer,
    clients: Pooled,
}

/// A hook that writes its point, its side and its migration into a file, and
/// fails while another file names its point.
fn hook_script(directory: &Path) -> PathBuf {
    let directory = directory.join("hooks");
    fs::create_dir_all(&directory).unwrap();
    let script = directory.join("hook");
    let text = format!(
        "#!/bin/sh\necho \"$PGPORTAGE_HOOK $PGPORTAGE_SIDE $PGPORTAGE_MIGRATION $PGPORTAGE_DATABASE\" >> {0}/told\n\
         ! grep -qx \"$PGPORTAGE_HOOK\" {0}/fail 2>/dev/null\n",
        directory.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

impl Pool {
    async fn begin() -> Self {
        let options = SiteOptions::new(PostgresVersion::V16, PostgresVersion::V18);
        let mut site = Site::prepare(options).await.unwrap();
        let database = site.database.clone();
        workload::prepare(&site.source, &database, APPLICATION, 1_000).await.unwrap();
        pooled::prepare(&site.source, &database, APPLICATION).await.unwrap();
        let pooler = PgBouncer::start(&database, site.source.port).await.unwrap();
        let script = hook_script(site.directory());
        let hooks: String = ["before-barrier", "after-fence", "before-open", "after-open", "after-abort"]
            .map(|at| format!("\n[[hook]]\nat = \"{at}\"\ncommand = [\"{}\"]\n", script.display()))
            .concat();
        site.source_config.policy.more = pooler.policy(&database, site.destination.port) + &hooks;
        site.destination_config.policy.more = hooks;
        site.write_agent_files().unwrap();
        site.start_programs().await.unwrap();
        let clients = Pooled::start(&pooler.config(&database), 8, 2);
        clients.wait_for_commits(100, LIMIT).await.unwrap();
        site.migrate_until_cutover(MIGRATION).await.unwrap();
        Self { site, pooler, clients }
    }

    fn hooks(&self) -> PathBuf {
        self.site.directory().join("hooks")
    }

    /// What hooks were told since the last look.
    fn told(&self) -> Vec<String> {
        let file = self.hooks().join("told");
        let text = fs::read_to_string(&file).unwrap_or_default();
        let _removed = fs::remove_file(&file);
        text.lines().map(|line| line.replace(&format!(" {MIGRATION} {}", self.site.database), "")).collect()
    }

    /// Waits until hooks were told something since the last look at them.
    async fn await_told(&self, what: &str) -> Vec<String> {
        let mut all = Vec::new();
        wait::until(&format!("a hook to be told {what:?}"), LIMIT, async || {
            all.extend(self.told());
            let told = all.iter().any(|line| line == what);
            Ok(if told { Seen::Done(()) } else { Seen::NotYet(format!("{all:?}")) })
        })
        .await
        .unwrap();
        all
    }

    /// The clients go on where they were, the pooler is as it was, and the next
    /// cutover can be tried.
    async fn expect_return(&self, file_before: &str) {
        self.clients.wait_for_commits(100, LIMIT).await.unwrap_or_else(|error| self.give_up(&error));
        assert_eq!(self.pooler.config_text().unwrap(), file_before);
        let database = &self.site.database;
        assert_eq!(self.pooler.entry(database, "port").await.unwrap(), self.site.source.port.to_string());
        let ready = |status: &Status| status.ready_for_cutover;
        let returned = self.site.cli.wait_for(MIGRATION, "the cutover taken back", LIMIT, ready).await;
        returned.unwrap_or_else(|error| self.give_up(&error));
    }

    fn give_up(&self, error: &anyhow::Error) -> ! {
        panic!("{error:#}\n{}--- pooler\n{}", self.site.last_words(), self.pooler.log_text())
    }

    /// The cutover, its clients on the other side, and everything that has to
    /// hold afterwards.
    async fn arrive(self) -> (Site, PgBouncer) {
        let before = self.pooler.config_text().unwrap();
        let began = Clock.now();
        if let Err(error) = self.site.cli.expect(0, &CUTOVER).await {
            self.give_up(&error);
        }
        self.clients.wait_for_commits(200, LIMIT).await.unwrap_or_else(|error| self.give_up(&error));
        let Self { site, pooler, clients } = self;
        let (database, from, to) = (&site.database, site.source.port, site.destination.port);
        assert_eq!(pooler.entry(database, "port").await.unwrap(), to.to_string());
        assert_eq!(pooler.config_text().unwrap(), before.replace(&format!("port={from}"), &format!("port={to}")));
        site.cli.expect(0, &["finish", MIGRATION, "--yes"]).await.unwrap();
        clients.wait_for_commits(50, LIMIT).await.unwrap();
        let told = clients.stop().await.unwrap();
        told.check(&site.destination, database).await.unwrap();
        let here = pooled::written_on(&site.source, database, &site.source).await.unwrap();
        let there = pooled::written_on(&site.destination, database, &site.source).await.unwrap();
        assert!(here.len() > 100);
        assert_eq!(here, there);
        traces::expect_nothing(&site.source, database).await.unwrap();
        traces::expect_nothing(&site.destination, database).await.unwrap();
        let kept = site.source_config.state_directory.join("pooler");
        assert_eq!(fs::read_dir(kept).unwrap().count(), 0, "copies of the pooler's file are left");
        println!(
            "{} transactions through the pooler, {} errors, longest pause around the cutover {:?}",
            told.acknowledged.len(),
            told.failures.len(),
            told.longest_pause(began)
        );
        assert_eq!(told.failures, Vec::<String>::new(), "\n--- pooler\n{}", pooler.log_text());
        assert!(told.longest_pause(began) < Duration::from_secs(5), "{:?}", told.longest_pause(began));
        (site, pooler)
    }
}

#[tokio::test]
async fn its_clients_see_a_pause_and_no_error() {
    let pool = Pool::begin().await;
    let before = pool.pooler.config_text().unwrap();
    let cli = &pool.site.cli;

    // A pooler that somebody else has paused is not ours to resume.
    let console = pool.pooler.console().await.unwrap();
    console.batch_execute("PAUSE shop").await.unwrap();
    let refused = cli.expect(1, &CUTOVER).await.unwrap();
    assert!(refused.all().contains("POOLER_UNFIT"), "{}", refused.all());
    assert_eq!(pool.pooler.entry("shop", "paused").await.unwrap(), "1");
    console.batch_execute("RESUME shop").await.unwrap();
    pool.expect_return(&before).await;
    assert_eq!(pool.told(), Vec::<String>::new());

    // Clients that keep their servers never come to rest: said before anybody waits.
    console.batch_execute("SET pool_mode = 'session'").await.unwrap();
    pool.clients.wait_for_commits(50, LIMIT).await.unwrap();
    let refused = cli.expect(1, &CUTOVER).await.unwrap();
    assert!(refused.all().contains("POOLER_BUSY") && refused.all().contains("session mode"), "{}", refused.all());
    console.batch_execute("SET pool_mode = 'transaction'").await.unwrap();
    pool.expect_return(&before).await;
    assert_eq!(pool.told(), Vec::<String>::new());

    // A transaction that does not end: the cutover is given up, the transaction
    // is not.
    let holder = connect(&pool.pooler.config(&pool.site.database)).await.unwrap();
    holder.batch_execute("BEGIN").await.unwrap();
    holder.batch_execute("SELECT count(*) FROM pooled").await.unwrap();
    let refused = cli.expect(1, &CUTOVER).await.unwrap();
    assert!(refused.all().contains("POOLER_BUSY"), "{}", refused.all());
    assert!(refused.all().contains("transaction pooling"), "{}", refused.all());
    pool.expect_return(&before).await;
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(pool.await_told("after-abort source").await, ["before-barrier source", "after-abort source"]);

    // Over its budget.
    cli.expect(1, &["cutover", MIGRATION, "--yes", "--max-outage", "1ms"]).await.unwrap();
    pool.expect_return(&before).await;
    pool.await_told("after-abort source").await;

    // A hook that does not agree, on either side, before and behind the fence.
    for point in ["before-barrier", "after-fence", "before-open"] {
        fs::write(pool.hooks().join("fail"), format!("{point}\n")).unwrap();
        let refused = cli.expect(1, &CUTOVER).await.unwrap();
        assert!(refused.all().contains("HOOK_FAILED"), "{point}: {}", refused.all());
        fs::remove_file(pool.hooks().join("fail")).unwrap();
        pool.expect_return(&before).await;
        let told = pool.await_told("after-abort source").await;
        assert!(told.iter().any(|line| line.starts_with(point)), "{told:?}");
    }

    // Rehearsed: they wait a moment, twice, and no hook is told.
    let began = Clock.now();
    let rehearsed = cli.expect(0, &["cutover", MIGRATION, "--rehearse", "--rounds", "2", "--yes"]).await;
    let rehearsed = rehearsed.unwrap_or_else(|error| pool.give_up(&error));
    println!("{}in {:?}", rehearsed.stdout, began.elapsed());
    pool.expect_return(&before).await;
    assert_eq!(pool.told(), Vec::<String>::new());

    let hooks = pool.hooks();
    let _arrived = pool.arrive().await;
    let last: Vec<String> = fs::read_to_string(hooks.join("told")).unwrap().lines().map(str::to_owned).collect();
    let points: Vec<&str> = last.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(points[..3], ["before-barrier", "after-fence", "before-open"], "{last:?}");
    assert_eq!(points[3..], ["after-open", "after-open"], "{last:?}");
}

/// A rollback leads its clients back, whether at the first try or not, and the next
/// cutover finds it as the first one did. Nobody sees more than a pause.
#[tokio::test]
async fn its_clients_are_led_back_by_a_rollback() {
    let pool = Pool::begin().await;
    let before = pool.pooler.config_text().unwrap();
    let began = Clock.now();
    pool.site.cli.expect(0, &CUTOVER).await.unwrap();
    pool.clients.wait_for_commits(100, LIMIT).await.unwrap_or_else(|error| pool.give_up(&error));
    pool.told();

    // Given up before its locks, and behind the fence of the destination.
    let there = pool.pooler.config_text().unwrap();
    for point in ["before-barrier", "after-fence"] {
        fs::write(pool.hooks().join("fail"), format!("{point}\n")).unwrap();
        let refused = pool.site.cli.expect(1, &ROLLBACK).await.unwrap_or_else(|error| pool.give_up(&error));
        assert!(refused.all().contains(&format!("at {point} failed")), "{point}: {}", refused.all());
        fs::remove_file(pool.hooks().join("fail")).unwrap();
        pool.clients.wait_for_commits(100, LIMIT).await.unwrap_or_else(|error| pool.give_up(&error));
        assert_eq!(pool.pooler.config_text().unwrap(), there, "{point}");
        pool.await_told("after-abort destination").await;
    }

    pool.site.cli.expect(0, &ROLLBACK).await.unwrap_or_else(|error| pool.give_up(&error));
    pool.expect_return(&before).await;
    let told = pool.await_told("after-open destination").await;
    assert!(told.contains(&"before-barrier destination".to_owned()), "{told:?}");
    assert!(told.contains(&"before-open source".to_owned()), "{told:?}");
    assert!(!told.iter().any(|line| line.starts_with("after-abort")), "{told:?}");

    // Right behind it: the coordinator waits until the heartbeats have come the new way.
    pool.site.cli.expect(0, &CUTOVER).await.unwrap_or_else(|error| pool.give_up(&error));
    pool.clients.wait_for_commits(100, LIMIT).await.unwrap_or_else(|error| pool.give_up(&error));
    let Pool { site, mut pooler, clients } = pool;
    let told = clients.stop().await.unwrap();
    println!("{} transactions, longest pause {:?}", told.acknowledged.len(), told.longest_pause(began));
    assert_eq!(told.failures, Vec::<String>::new(), "\n--- pooler\n{}", pooler.log_text());
    told.check(&site.destination, &site.database).await.unwrap();

    // A pooler that is dead keeps nobody from going back who wants to without it. It is
    // led back when it is there again.
    pooler.kill9().unwrap();
    let refused = site.cli.expect(1, &ROLLBACK).await.unwrap();
    for word in ["POOLER_UNREACHABLE", &format!("127.0.0.1:{}", pooler.port), "--without-pooler"] {
        assert!(refused.all().contains(word), "{word}: {}", refused.all());
    }
    let without = [&ROLLBACK[..], &["--without-pooler"]].concat();
    site.cli.expect(0, &without).await.unwrap_or_else(|error| panic!("{error:#}\n{}", site.last_words()));
    told.check(&site.source, &site.database).await.unwrap();
    pooler.start_again().await.unwrap();
    let port = site.source.port.to_string();
    wait::until("the pooler to lead back", LIMIT, async || {
        let leads = pooler.entry(&site.database, "port").await?;
        Ok(if leads == port { Seen::Done(()) } else { Seen::NotYet(leads) })
    })
    .await
    .unwrap();
}

/// The coordinator dies behind the barrier, the agent that has paused the pooler
/// dies before the fence, behind it, and when the destination has opened.
#[tokio::test]
async fn its_clients_go_on_whoever_was_killed() {
    let mut pool = Pool::begin().await;
    let before = pool.pooler.config_text().unwrap();
    let paused = async |pool: &Pool| pool.pooler.entry(&pool.site.database, "paused").await.unwrap();

    // Nobody commands the agent any more: a pause ends with its budget.
    kill_coordinator_behind_the_barrier(&mut pool).await;
    assert_eq!(paused(&pool).await, "1");
    let died = Clock.now();
    pool.clients.wait_for_commits(10, LIMIT).await.unwrap_or_else(|error| pool.give_up(&error));
    let waited = Clock.now().duration_since(died);
    println!("went on {waited:?} after the coordinator's death, with a budget of {BUDGET:?}");
    assert!(waited < BUDGET + Duration::from_millis(500), "{waited:?}");
    pool.site.coordinator.start().unwrap();
    pool.expect_return(&before).await;

    // The agent is stopped meanwhile: it does not leave them waiting.
    kill_coordinator_behind_the_barrier(&mut pool).await;
    assert_eq!(paused(&pool).await, "1");
    pool.site.source_agent.stop().await.unwrap();
    assert_eq!(paused(&pool).await, "0");
    pool.site.coordinator.start().unwrap();
    pool.site.source_agent.start().unwrap();
    pool.expect_return(&before).await;

    for point in ["raise_barrier.perform.paused", "raise_barrier.perform.marked", "fence_source.perform.committed"] {
        kill_in_cutover(&mut pool, point).await;
        assert_eq!(paused(&pool).await, "1", "{point}");
        pool.site.source_agent.start().unwrap();
        pool.expect_return(&before).await;
    }
    kill_in_cutover(&mut pool, "release_barrier.perform.accepted").await;
    pool.site.source_agent.start().unwrap();
    let over = |status: &Status| status.ready_for_finish;
    pool.site.cli.wait_for(MIGRATION, "the end of the cutover", LIMIT, over).await.unwrap();
    pool.clients.wait_for_commits(100, LIMIT).await.unwrap_or_else(|error| pool.give_up(&error));
    let port = pool.site.destination.port.to_string();
    assert_eq!(pool.pooler.entry(&pool.site.database, "port").await.unwrap(), port);
    let Pool { site, pooler, clients } = pool;
    let told = clients.stop().await.unwrap();
    told.check(&site.destination, &site.database).await.unwrap();
    assert_eq!(told.failures, Vec::<String>::new(), "\n--- pooler\n{}", pooler.log_text());
}

/// An agent dies at every point of a rollback: the clients go on where the applications
/// belong, and see no error.
async fn clients_survive_kills_in_a_rollback(victim: End) {
    let mut pool = Pool::begin().await;
    let began = Clock.now();
    let mut open = End::Source;
    let points = fail_points::of_switch(victim, End::Destination).unwrap();
    let budget = format!("{}s", BUDGET.as_secs());
    let rollback = ["rollback", MIGRATION, "--yes", "--detach", "--max-outage", &budget];
    for point in &points {
        if open == End::Source {
            let cutover = pool.site.cli.run(&CUTOVER).await.unwrap();
            assert_eq!(cutover.code, Some(0), "{point}: {}\n{}", cutover.all(), pool.site.last_words());
        }
        let agent = pool.site.agent(victim);
        agent.stop().await.unwrap();
        agent.start_to_fail_at(point).unwrap();
        pool.site.wait_for_agents().await.unwrap();
        wait::until_told(&format!("death at {point}"), LIMIT, async || {
            if !pool.site.agent(victim).running()? {
                return Ok(Seen::Done(()));
            }
            // Refused while it runs already, or the agents still find each other.
            let said = pool.site.cli.run(&rollback).await?;
            Ok(Seen::NotYet(said.all()))
        })
        .await
        .unwrap_or_else(|error| pool.give_up(&error));
        let died = Clock.now();
        pool.site.agent(victim).start().unwrap();
        pool.clients.wait_for_commits(20, RECOVERY).await.unwrap_or_else(|error| pool.give_up(&error));
        let waited = died.elapsed();
        let over = |status: &Status| status.ready_for_cutover || status.ready_for_finish;
        let status = pool.site.cli.wait_for(MIGRATION, "the end of the rollback", LIMIT, over).await;
        let status = status.unwrap_or_else(|error| pool.give_up(&error));
        open = if status.ready_for_cutover { End::Source } else { End::Destination };
        println!("{point}: writes after {waited:?}, the {} is open", open.as_str());
        pool.clients.wait_for_commits(20, LIMIT).await.unwrap_or_else(|error| pool.give_up(&error));
        let port = pool.site.cluster(open).port.to_string();
        assert_eq!(pool.pooler.entry(&pool.site.database, "port").await.unwrap(), port, "{point}");
    }
    let Pool { site, pooler, clients } = pool;
    let told = clients.stop().await.unwrap();
    println!("{} transactions, longest pause {:?}", told.acknowledged.len(), told.longest_pause(began));
    assert_eq!(told.failures, Vec::<String>::new(), "\n--- pooler\n{}", pooler.log_text());
    told.check(site.cluster(open), &site.database).await.unwrap();
}

#[tokio::test]
#[ignore = "long; part of make test-all"]
async fn its_clients_survive_kills_of_the_source_agent_in_a_rollback() {
    Box::pin(clients_survive_kills_in_a_rollback(End::Source)).await;
}

#[tokio::test]
#[ignore = "long; part of make test-all"]
async fn its_clients_survive_kills_of_the_destination_agent_in_a_rollback() {
    Box::pin(clients_survive_kills_in_a_rollback(End::Destination)).await;
}

/// Two acts prepare, the third raises the barrier, and the fourth is never sent.
async fn kill_coordinator_behind_the_barrier(pool: &mut Pool) {
    pool.site.coordinator.stop().await.unwrap();
    pool.site.coordinator.start_to_fail_at("coordinator.before_send.command=4").unwrap();
    pool.site.wait_for_agents().await.unwrap();
    let budget = format!("{}s", BUDGET.as_secs());
    pool.site.cli.run(&["cutover", MIGRATION, "--yes", "--detach", "--max-outage", &budget]).await.unwrap();
    wait::until("the coordinator's death", LIMIT, async || {
        Ok(if pool.site.coordinator.running()? { Seen::NotYet("it lives".to_owned()) } else { Seen::Done(()) })
    })
    .await
    .unwrap();
}

async fn kill_in_cutover(pool: &mut Pool, point: &str) {
    pool.site.source_agent.stop().await.unwrap();
    pool.site.source_agent.start_to_fail_at(point).unwrap();
    pool.site.wait_for_agents().await.unwrap();
    pool.site.cli.run(&["cutover", MIGRATION, "--yes", "--detach"]).await.unwrap();
    wait::until(&format!("death at {point}"), LIMIT, async || {
        Ok(if pool.site.source_agent.running()? { Seen::NotYet("it lives".to_owned()) } else { Seen::Done(()) })
    })
    .await
    .unwrap();
}
