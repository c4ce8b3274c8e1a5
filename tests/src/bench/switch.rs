//! Switches from one server to the other and back, under writers that hold both
//! addresses: ours, and the one that people make by hand.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pgportage_link::Clock;
use serde::Deserialize;
use tokio_postgres::Client;

use crate::checker;
use crate::cluster::{Cluster, ClusterOptions, SUPERUSER};
use crate::final_state;
use crate::ledger::{End, Ledger};
use crate::postgres_versions::PostgresVersion;
use crate::proxy::Proxy;
use crate::site::wires::Wires;
use crate::site::{APPLICATION, Site, SiteOptions};
use crate::wait::{self, Seen};
use crate::workload::{Workload, WorkloadOptions, spread_schema};

/// Tables that the writers write into; each has a sequence.
const TABLES: u32 = 100;
/// Longest that anything may take.
const LIMIT: Duration = Duration::from_secs(300);
/// How often whoever switches by hand looks at the counters.
const LOOK: Duration = Duration::from_millis(100);
/// What the recipe makes on the servers.
const RECIPE: &str = "recipe";

/// How applications get from one side to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A migration of ours for each switch.
    Pgportage,
    /// The recipe of many guides: a subscription made by hand; then the
    /// application's role loses its right to connect and its sessions, the source's
    /// position is compared with what the subscriber has confirmed until they are
    /// equal, sequences are set, and the role may connect on the other side.
    Recipe,
}

impl Way {
    /// What it is called on the page.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pgportage => "pgportage",
            Self::Recipe => "recipe",
        }
    }
}

/// What the coordinator says about a cutover.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Parts {
    /// From the first lock request to the decision.
    #[serde(rename = "outage_milliseconds")]
    pub outage: Option<u64>,
    /// Until the locks were granted.
    #[serde(rename = "lock_wait_milliseconds")]
    pub lock_wait: Option<u64>,
    /// Until the marker had arrived.
    #[serde(rename = "drain_milliseconds")]
    pub drain: Option<u64>,
}

/// Some switches in a row.
#[derive(Debug)]
pub struct Heat {
    /// What the writers were told. Checked.
    pub ledger: Ledger,
    /// What the coordinator said about each switch of ours.
    pub parts: Vec<Parts>,
    /// Cutovers that were taken back and tried again.
    pub taken_back: usize,
    /// Writes per second over all.
    pub rate: f64,
}

/// Two servers of one version, each of which can be left for the other.
#[derive(Debug)]
pub struct Arena {
    site: Site,
    _wires: Wires,
    /// The ways of the recipe's stream: to the source's server and to the other.
    servers: [Proxy; 2],
    writers: WorkloadOptions,
    switches: u32,
}

impl Arena {
    /// Starts the servers and the programs. Both sites and the coordinator are
    /// `round_trip` away from each other.
    ///
    /// # Errors
    ///
    /// When anything does not start.
    pub async fn start(round_trip: Duration) -> Result<Self> {
        let settings = |options: ClusterOptions| options.setting("shared_buffers", "256MB");
        let mut options = SiteOptions::new(PostgresVersion::V17, PostgresVersion::V17);
        options.source = settings(options.source);
        options.destination = settings(options.destination);
        let mut site = Site::prepare(options).await?;
        for config in [&mut site.source_config, &mut site.destination_config] {
            config.policy.sides = vec!["source", "destination"];
        }
        let wires = Wires::lay(&mut site).await?;
        wires.round_trip(round_trip);
        let servers = [Proxy::start(site.source.port).await?, Proxy::start(site.destination.port).await?];
        for server in &servers {
            server.delay(round_trip / 2);
        }
        site.start_programs().await?;
        let writers = WorkloadOptions {
            writers: 8,
            pause: Duration::from_millis(5),
            refusal_pause: Duration::from_millis(5),
            spread_over: Some(TABLES),
            ..WorkloadOptions::default()
        };
        Ok(Self { site, _wires: wires, servers, writers, switches: 0 })
    }

    /// So many switches in a row, there and back, and everything checked.
    ///
    /// # Errors
    ///
    /// When a switch fails, or something is lost.
    pub async fn heat(&mut self, way: Way, switches: u32) -> Result<Heat> {
        let database = self.site.database.clone();
        for end in [End::Source, End::Destination] {
            self.make_anew(end).await?;
        }
        let schema = format!("SET ROLE {APPLICATION}; {}", spread_schema(TABLES));
        self.site.source.execute(&database, &schema).await?;
        let workload = Workload::start(&self.site.ends(), &self.writers);
        workload.wait_for_writes(End::Source, 200, LIMIT).await?;
        let (mut parts, mut taken_back) = (Vec::new(), 0);
        let mut home = End::Source;
        for number in 1..=switches {
            self.switches += 1;
            self.prepare(way, home).await?;
            workload.wait_for_writes(home, 200, LIMIT).await?;
            match way {
                Way::Pgportage => {
                    let (part, again) = self.cut_over().await.with_context(|| self.site.last_words())?;
                    parts.extend(part);
                    taken_back += again;
                }
                Way::Recipe => self.switch_by_hand(home).await?,
            }
            workload.wait_for_writes(home.other(), 200, LIMIT).await?;
            if number < switches {
                self.clear(way, home).await?;
            }
            home = home.other();
        }
        let length = workload.start.elapsed();
        let ledger = workload.stop().await?;
        let reached = final_state::read_spread(&self.site.cluster(home).connect(&database).await?, TABLES).await?;
        let left = self.site.cluster(home.other()).connect(&database).await?;
        checker::verdict_on_both(
            switches as usize,
            &ledger,
            &reached,
            &final_state::read_spread(&left, TABLES).await?,
        )?;
        drop(left);
        self.clear(way, home.other()).await?;
        ensure!(ledger.outages().len() == switches as usize, "a switch without an outage: {:?}", ledger.outages());
        let written = ledger.acknowledged(End::Source) + ledger.acknowledged(End::Destination);
        let rate = written as f64 / length.as_secs_f64();
        Ok(Heat { ledger, parts, taken_back, rate })
    }

    /// Everything until only the switch is missing.
    async fn prepare(&self, way: Way, home: End) -> Result<()> {
        match way {
            Way::Pgportage => {
                let (from, to) = match home {
                    End::Source => ("berlin", "oslo"),
                    End::Destination => ("oslo", "berlin"),
                };
                let (cli, name) = (&self.site.cli, &self.migration());
                cli.expect(0, &["create", name, "--from", from, "--to", to, "--database", &self.site.database]).await?;
                cli.expect(0, &["start", name]).await?;
                Ok(())
            }
            Way::Recipe => self.subscribe(home).await,
        }
    }

    /// Cuts over, again if it was taken back. Also returns how often it was. What the
    /// coordinator refuses because of the lag costs nobody anything.
    async fn cut_over(&self) -> Result<(Option<Parts>, usize)> {
        let (cli, name) = (&self.site.cli, &self.migration());
        let mut taken_back = 0;
        wait::until("a cutover", LIMIT, async || {
            let said = cli.run(&["cutover", name, "--yes"]).await?;
            if said.code == Some(0) {
                return Ok(Seen::Done(()));
            }
            taken_back += usize::from(!said.all().contains("LAG_TOO_HIGH"));
            Ok(Seen::NotYet(said.all()))
        })
        .await?;
        let status: Status = cli.json(&["status", name]).await?;
        Ok((status.cutover, taken_back))
    }

    /// Leaves the side that was left as empty as at the beginning.
    async fn clear(&self, way: Way, left: End) -> Result<()> {
        match way {
            Way::Pgportage => {
                self.site.cli.expect(0, &["finish", &self.migration(), "--yes"]).await?;
            }
            Way::Recipe => {
                let database = &self.site.database;
                self.site.cluster(left.other()).execute(database, &format!("DROP SUBSCRIPTION {RECIPE}")).await?;
            }
        }
        self.make_anew(left).await
    }

    async fn make_anew(&self, end: End) -> Result<()> {
        let (cluster, database) = (self.site.cluster(end), &self.site.database);
        cluster.execute("postgres", &format!("DROP DATABASE {database} WITH (FORCE)")).await?;
        cluster.execute("postgres", &format!("CREATE DATABASE {database} OWNER {APPLICATION}")).await
    }

    fn migration(&self) -> String {
        format!("switch-{}", self.switches)
    }

    fn admission(&self, verb: &str, preposition: &str) -> String {
        format!("{verb} CONNECT ON DATABASE {} {preposition} PUBLIC, {APPLICATION}", self.site.database)
    }

    async fn subscribe(&self, home: End) -> Result<()> {
        let (from, to, database) = (self.site.cluster(home), self.site.cluster(home.other()), &self.site.database);
        to.execute("postgres", &self.admission("REVOKE", "FROM")).await?;
        to.execute(database, &format!("SET ROLE {APPLICATION}; {}", spread_schema(TABLES))).await?;
        from.execute(database, &format!("CREATE PUBLICATION {RECIPE} FOR ALL TABLES")).await?;
        let way = match home {
            End::Source => &self.servers[0],
            End::Destination => &self.servers[1],
        };
        let create = format!(
            "CREATE SUBSCRIPTION {RECIPE} CONNECTION 'host=127.0.0.1 port={} user={SUPERUSER} dbname={database} password={}'
             PUBLICATION {RECIPE}",
            way.port, from.superuser_password
        );
        to.execute(database, &create).await?;
        let ready = "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel";
        to.wait_until(database, ready, LIMIT).await
    }

    async fn switch_by_hand(&self, home: End) -> Result<()> {
        let (from, to, database) = (self.site.cluster(home), self.site.cluster(home.other()), &self.site.database);
        let (left, reached) = (from.connect(database).await?, to.connect(database).await?);
        left.batch_execute(&self.admission("REVOKE", "FROM")).await?;
        expel(from, database).await?;
        until_level(&left).await?;
        let sequences =
            "SELECT string_agg(format('setval(%L, %s)', format('%I.%I', schemaname, sequencename), last_value), ', ')
            FROM pg_sequences WHERE last_value IS NOT NULL AND schemaname = 'public'";
        let set: String = left.query_one(sequences, &[]).await?.try_get(0)?;
        reached.batch_execute(&format!("SELECT {set}")).await?;
        reached.batch_execute(&self.admission("GRANT", "TO")).await?;
        Ok(reached.batch_execute(&format!("ALTER SUBSCRIPTION {RECIPE} DISABLE")).await?)
    }
}

/// Ends the application's sessions, again and again until none is left.
async fn expel(cluster: &Cluster, database: &str) -> Result<()> {
    let client = cluster.connect("postgres").await?;
    let expel = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = $1 AND usename = $2";
    wait::until("nobody left", LIMIT, async || {
        let left: i64 = client.query_one(expel, &[&database, &APPLICATION]).await?.try_get(0)?;
        Ok(if left == 0 { Seen::Done(()) } else { Seen::NotYet(format!("{left} sessions")) })
    })
    .await
}

/// Waits until the subscriber has confirmed everything, by the counters.
async fn until_level(client: &Client) -> Result<()> {
    let position = "SELECT pg_current_wal_lsn()::text";
    let position: String = client.query_one(position, &[]).await?.try_get(0)?;
    let level =
        "SELECT bool_and(confirmed_flush_lsn >= $1::text::pg_lsn) FROM pg_replication_slots WHERE slot_name = $2";
    let deadline = Clock.now() + LIMIT;
    while client.query_one(level, &[&position, &RECIPE]).await?.try_get::<_, Option<bool>>(0)? != Some(true) {
        ensure!(Clock.now() < deadline, "the subscriber does not get level");
        Clock.sleep(LOOK).await;
    }
    Ok(())
}

/// What `status --json` says, as far as the cutover is concerned.
#[derive(Debug, Deserialize)]
struct Status {
    cutover: Option<Parts>,
}
