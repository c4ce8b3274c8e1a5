//! Switchovers from one server to the other and back, under writers that hold both
//! addresses, or that of a pooler only: ours, and the one that people make by hand.

mod by_hand;
mod phases;
mod pooled;

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::checker;
use crate::child::running_as_root;
use crate::cluster::ClusterOptions;
use crate::final_state;
use crate::journey::expect_level;
use crate::ledger::{End, Ledger};
use crate::pgbouncer::PgBouncer;
use crate::postgres_versions::PostgresVersion;
use crate::proxy::Proxy;
use crate::site::wires::Wires;
use crate::site::{APPLICATION, Site, SiteOptions};
use crate::wait::{self, Seen};
use crate::workload::{Workload, WorkloadOptions, spread_schema};

pub use phases::Phases;
pub use pooled::Queue;

/// Tables that the writers write into; each has a sequence.
const TABLES: u32 = 100;
/// Longest that anything may take.
const LIMIT: Duration = Duration::from_secs(300);
/// How applications get from one side to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// One migration of ours, by turns its cutover and its rollback.
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

/// Some switchovers in a row.
#[derive(Debug)]
pub struct Heat {
    /// What the writers were told. Checked.
    pub ledger: Ledger,
    /// What each switchover of ours was made of.
    pub phases: Vec<Phases>,
    /// Switchovers of ours that were taken back and tried again.
    pub taken_back: usize,
    /// Writes per second over all.
    pub rate: f64,
}

/// Who wants to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Writers that hold the addresses of both servers.
    OfBothServers,
    /// Clients of a PgBouncer beside the source, which know nothing else.
    OfAPooler,
}

/// Two servers of one version, each of which can be left for the other.
#[derive(Debug)]
pub struct Arena {
    site: Site,
    _wires: Option<Wires>,
    /// The ways of the recipe's stream: to the source's server and to the other.
    servers: [Proxy; 2],
    pooler: Option<PgBouncer>,
    writers: WorkloadOptions,
    migrations: u32,
}

impl Arena {
    /// Starts the servers and the programs. Both sites and the coordinator are
    /// `round_trip` away from each other.
    ///
    /// # Errors
    ///
    /// When anything does not start.
    pub async fn start(clients: Clients, round_trip: Duration) -> Result<Self> {
        let settings = |options: ClusterOptions| options.setting("shared_buffers", "256MB");
        let mut options = SiteOptions::new(PostgresVersion::V17, PostgresVersion::V17);
        options.source = settings(options.source);
        options.destination = settings(options.destination);
        let mut site = Site::prepare(options).await?;
        let pooler = match clients {
            Clients::OfBothServers => None,
            Clients::OfAPooler => Some(PgBouncer::start(&site.database, site.source.port).await?),
        };
        if let Some(pooler) = &pooler {
            site.source_config.policy.more = pooler.policy(&site.database, site.destination.port);
        }
        // Proxies only where they have something to delay.
        let wires = if round_trip.is_zero() { None } else { Some(Wires::lay(&mut site).await?) };
        if let Some(wires) = &wires {
            wires.round_trip(round_trip);
        }
        let servers = [Proxy::start(site.source.port).await?, Proxy::start(site.destination.port).await?];
        for server in &servers {
            server.delay(round_trip / 2);
        }
        site.write_agent_files()?;
        site.start_programs().await?;
        let writers = WorkloadOptions {
            writers: 8,
            pause: Duration::from_millis(5),
            refusal_pause: Duration::from_millis(5),
            spread_over: Some(TABLES),
            ..WorkloadOptions::default()
        };
        Ok(Self { site, _wires: wires, servers, pooler, writers, migrations: 0 })
    }

    /// Starts the programs anew: favoured by the scheduler during a switchover, or not.
    ///
    /// # Errors
    ///
    /// When one of them does not end or does not start; when this process is not root:
    /// then the scheduler would favour none of them.
    pub async fn haste(&mut self, allowed: bool) -> Result<()> {
        ensure!(running_as_root(), "only root's programs are favoured by the scheduler unless a limit says so");
        let Site { coordinator, source_agent, destination_agent, .. } = &mut self.site;
        for program in [source_agent, destination_agent, coordinator] {
            program.stop().await?;
            program.allow_haste(allowed);
        }
        self.site.start_programs().await
    }

    /// So many switchovers in a row, there and back, and everything checked.
    ///
    /// # Errors
    ///
    /// When a switchover fails, or something is lost.
    pub async fn heat(&mut self, way: Way, switches: u32) -> Result<Heat> {
        self.begin_anew().await?;
        let workload = Workload::start(&self.site.ends(), &self.writers);
        workload.wait_for_writes(End::Source, 200, LIMIT).await?;
        if way == Way::Pgportage {
            self.migrate().await?;
        }
        let (mut phases, mut taken_back) = (Vec::new(), 0);
        let mut home = End::Source;
        for number in 1..=switches {
            if way == Way::Recipe {
                self.subscribe(home).await?;
            }
            workload.wait_for_writes(home, 200, LIMIT).await?;
            match way {
                Way::Pgportage => {
                    let (made_of, again) = self.switch(home).await.with_context(|| self.site.last_words())?;
                    phases.extend(made_of);
                    taken_back += again;
                }
                Way::Recipe => self.switch_by_hand(home).await?,
            }
            workload.wait_for_writes(home.other(), 200, LIMIT).await?;
            home = home.other();
            if way == Way::Recipe && number < switches {
                self.clear_by_hand(home).await?;
            }
        }
        let length = workload.start.elapsed();
        let ledger = workload.stop().await?;
        if way == Way::Pgportage {
            expect_level(&self.site).await?;
        }
        self.check(&ledger, switches as usize, home).await?;
        match way {
            Way::Pgportage => self.end(home).await?,
            Way::Recipe => self.clear_by_hand(home).await?,
        }
        ensure!(ledger.outages().len() == switches as usize, "a switchover without an outage: {:?}", ledger.outages());
        let written = ledger.acknowledged(End::Source) + ledger.acknowledged(End::Destination);
        let rate = written as f64 / length.as_secs_f64();
        Ok(Heat { ledger, phases, taken_back, rate })
    }

    /// Empty databases on both sides, and the writers' tables on the source.
    async fn begin_anew(&self) -> Result<()> {
        for end in [End::Source, End::Destination] {
            self.make_anew(end).await?;
        }
        let schema = format!("SET ROLE {APPLICATION}; {}", spread_schema(TABLES));
        self.site.source.execute(&self.site.database, &schema).await
    }

    async fn make_anew(&self, end: End) -> Result<()> {
        let (cluster, database) = (self.site.cluster(end), &self.site.database);
        cluster.execute("postgres", &format!("DROP DATABASE {database} WITH (FORCE)")).await?;
        cluster.execute("postgres", &format!("CREATE DATABASE {database} OWNER {APPLICATION}")).await
    }

    async fn check(&self, ledger: &Ledger, switches: usize, home: End) -> Result<()> {
        let database = &self.site.database;
        let (reached, left) = (self.site.cluster(home), self.site.cluster(home.other()));
        let reached = final_state::read_spread(&reached.connect(database).await?, TABLES).await?;
        let left = final_state::read_spread(&left.connect(database).await?, TABLES).await?;
        checker::verdict_on_both(switches, ledger, &reached, &left)
    }

    /// Everything until only the first cutover is missing.
    async fn migrate(&mut self) -> Result<()> {
        self.migrations += 1;
        self.site.migrate_until_cutover(&self.migration()).await
    }

    fn migration(&self) -> String {
        format!("switch-{}", self.migrations)
    }

    /// Leaves one side by a cutover or a rollback, again if it was taken back. Also
    /// returns how often it was.
    async fn switch(&self, home: End) -> Result<(Option<Phases>, usize)> {
        let verb = match home {
            End::Source => "cutover",
            End::Destination => "rollback",
        };
        let (cli, name) = (&self.site.cli, &self.migration());
        let (mut taken_back, mut before) = (0, phases::acts(&self.site, home).await?);
        wait::until(&format!("a {verb}"), LIMIT, async || {
            let said = cli.run(&[verb, name, "--yes"]).await?;
            if said.code == Some(0) {
                return Ok(Seen::Done(()));
            }
            taken_back += 1;
            before = phases::acts(&self.site, home).await?;
            Ok(Seen::NotYet(said.all()))
        })
        .await?;
        let after = phases::acts(&self.site, home).await?;
        let told = cli.json::<phases::Status>(&["status", name]).await?;
        Ok((told.cutover.and_then(|told| told.with(&before, &after)), taken_back))
    }

    /// Ends the migration where the applications are now.
    async fn end(&self, home: End) -> Result<()> {
        let verb = match home {
            End::Source => "abort",
            End::Destination => "finish",
        };
        self.site.cli.expect(0, &[verb, &self.migration(), "--yes"]).await.map(drop)
    }
}
