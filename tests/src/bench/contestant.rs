//! Ways to get a database from one server to the other: ours, and what users
//! would run instead.
//!
//! Each is measured until the destination has every row, every index valid, the
//! stream of changes level where the way has one, and statistics.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pgportage_link::Clock;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::bench::shares::{Shares, Watch};
use crate::child::{Output, Program};
use crate::postgres_versions::{Tools, tools_for};
use crate::site::Site;
use crate::wait::{self, Seen};

/// Longest a way may take.
const LIMIT: Duration = Duration::from_secs(3600);
/// What those who follow make on the servers.
const RECIPE: &str = "recipe";

/// A way to copy a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contestant {
    /// Ours, as users get it: from `start`, preflight included, until the stream
    /// was seen to be level for a while. What comes then, the comparison of both
    /// sides, no other way does.
    Pgportage,
    /// The recipe of the manual: whole schema, publication, subscription that
    /// copies; then `vacuumdb --analyze-only`.
    Native,
    /// `pg_dump` and `pg_restore` with two jobs each, then `vacuumdb
    /// --analyze-only`. Follows no changes.
    DumpRestore,
    /// `pgcopydb clone` with two jobs for tables and two for indexes. Follows no
    /// changes.
    Pgcopydb,
}

impl Contestant {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pgportage, Self::Native, Self::DumpRestore, Self::Pgcopydb];

    /// What it is called on the page.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pgportage => "pgportage",
            Self::Native => "native",
            Self::DumpRestore => "dump-restore",
            Self::Pgcopydb => "pgcopydb",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Result<Self> {
        let known = Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|contestant| contestant.name() == name).with_context(|| format!("one of {known}"))
    }

    /// Whether it is installed.
    #[must_use]
    pub fn is_there(self) -> bool {
        self != Self::Pgcopydb || std::process::Command::new("pgcopydb").arg("--version").output().is_ok()
    }
}

/// Two servers and what stands on them.
#[derive(Debug)]
pub struct Ring<'a> {
    site: &'a Site,
    tools: Tools,
    /// For directories and logs of those who need them.
    scratch: PathBuf,
    /// Migrations of before: a name is used once.
    migrations: AtomicU32,
}

impl<'a> Ring<'a> {
    /// Two servers of a site whose programs run.
    ///
    /// # Errors
    ///
    /// When PostgreSQL's client programs are not to be had.
    pub fn new(site: &'a Site) -> Result<Self> {
        let newest = site.source.installation.version.max(site.destination.installation.version);
        let scratch = site.directory().join("ring");
        fs::create_dir_all(&scratch)?;
        Ok(Self { site, tools: tools_for(newest)?, scratch, migrations: AtomicU32::new(0) })
    }

    /// Copies the database one way, from an empty one. Returns how long it took, and
    /// what the machine did meanwhile.
    pub async fn measure(&self, contestant: Contestant) -> Result<(Duration, Shares)> {
        let site = self.site;
        for cluster in [&site.source, &site.destination] {
            cluster.execute("postgres", "CHECKPOINT").await?;
        }
        let watch = Watch::begin();
        let begun = Clock.now();
        let taken = match contestant {
            Contestant::Pgportage => self.pgportage().await?,
            Contestant::Native => self.native().await.map(|()| begun.elapsed())?,
            Contestant::DumpRestore => self.dump_restore().await.map(|()| begun.elapsed())?,
            Contestant::Pgcopydb => self.pgcopydb().await.map(|()| begun.elapsed())?,
        };
        let shares = watch.end().await?;
        self.check().await?;
        Ok((taken, shares))
    }

    /// Takes everything away that a contestant has made.
    pub async fn clean_up(&self, contestant: Contestant) -> Result<()> {
        let (site, database) = (self.site, &self.site.database);
        match contestant {
            Contestant::Pgportage => {
                let name = self.migration();
                site.cli.run(&["abort", &name, "--yes"]).await?;
                wait::until("aborted", LIMIT, async || {
                    let status = site.cli.status(&name).await?;
                    Ok(if status.state == "aborted" { Seen::Done(()) } else { Seen::NotYet(status.summary()) })
                })
                .await?;
            }
            Contestant::Native => {
                site.destination.execute(database, &format!("DROP SUBSCRIPTION {RECIPE}")).await?;
                site.source.execute(database, &format!("DROP PUBLICATION {RECIPE}")).await?;
            }
            Contestant::DumpRestore | Contestant::Pgcopydb => fs::remove_dir_all(self.scratch.join("copy"))?,
        }
        let owner = crate::site::APPLICATION;
        for statement in
            [format!("DROP DATABASE {database} WITH (FORCE)"), format!("CREATE DATABASE {database} OWNER {owner}")]
        {
            site.destination.execute("postgres", &statement).await?;
        }
        Ok(())
    }

    async fn pgportage(&self) -> Result<Duration> {
        let (site, database) = (self.site, self.site.database.as_str());
        self.migrations.fetch_add(1, Ordering::Relaxed);
        let name = &self.migration();
        site.cli.expect(0, &["create", name, "--from", "berlin", "--to", "oslo", "--database", database]).await?;
        let begun = OffsetDateTime::from(Clock.wall());
        site.cli.expect(0, &["start", name]).await.with_context(|| site.last_words())?;
        // Looking all the time would cost what is to be measured.
        let steps = self.steps().await?;
        let level = steps.iter().find(|step| step.name == "catch-up").context("no step catch-up")?.end;
        Ok((level - begun).try_into()?)
    }

    /// How long each step of the latest migration took.
    pub async fn steps(&self) -> Result<Vec<StepTime>> {
        let status: Status = self.site.cli.json(&["status", &self.migration()]).await?;
        let moment = |text: &str| OffsetDateTime::parse(text, &Rfc3339);
        let time = |step: Step| -> Result<Option<StepTime>> {
            let (Some(start), Some(end)) = (step.start_time, step.end_time) else { return Ok(None) };
            let (start, end) = (moment(&start)?, moment(&end)?);
            Ok(Some(StepTime { name: step.name, taken: (end - start).try_into()?, end }))
        };
        status.steps.into_iter().filter_map(|step| time(step).transpose()).collect()
    }

    fn migration(&self) -> String {
        format!("race-{}", self.migrations.load(Ordering::Relaxed))
    }

    async fn native(&self) -> Result<()> {
        let (site, database) = (self.site, &self.site.database);
        let schema = self.scratch.join("schema.sql");
        self.run("pg_dump", &["--schema-only", "-f", &schema.to_string_lossy(), "-d", &self.source()]).await?;
        self.run("psql", &["-qX", "-v", "ON_ERROR_STOP=1", "-f", &schema.to_string_lossy(), "-d", &self.destination()])
            .await?;
        site.source.execute(database, &format!("CREATE PUBLICATION {RECIPE} FOR ALL TABLES")).await?;
        let connection = format!("{} password={}", self.source(), site.source.superuser_password);
        let subscribe = format!("CREATE SUBSCRIPTION {RECIPE} CONNECTION '{connection}' PUBLICATION {RECIPE}");
        site.destination.execute(database, &subscribe).await?;
        let level = "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel";
        site.destination.wait_until(database, level, LIMIT).await?;
        self.analyse().await
    }

    async fn dump_restore(&self) -> Result<()> {
        let copy = self.scratch.join("copy");
        let copy = copy.to_string_lossy();
        let dump = ["-Fd", "-j2", "--compress=none", "-f", &copy, "-d", &self.source()];
        self.run("pg_dump", &dump).await?;
        self.run("pg_restore", &["-j2", "-d", &self.destination(), &copy]).await?;
        self.analyse().await
    }

    /// Analyses by itself.
    async fn pgcopydb(&self) -> Result<()> {
        let copy = self.scratch.join("copy");
        let (source, destination) = (self.passing(&self.source(), true), self.passing(&self.destination(), false));
        let program = Program::new("pgcopydb").arguments([
            "clone",
            "--table-jobs",
            "2",
            "--index-jobs",
            "2",
            "--dir",
            &copy.to_string_lossy(),
            "--source",
            &source,
            "--target",
            &destination,
        ]);
        self.finish(program, "pgcopydb").await
    }

    async fn analyse(&self) -> Result<()> {
        self.run("vacuumdb", &["--analyze-only", "-q", "-j2", "-d", &self.destination()]).await
    }

    fn source(&self) -> String {
        self.site.source.libpq(&self.site.database)
    }

    fn destination(&self) -> String {
        self.site.destination.libpq(&self.site.database)
    }

    fn passing(&self, connection: &str, source: bool) -> String {
        let cluster = if source { &self.site.source } else { &self.site.destination };
        format!("{connection} password={}", cluster.superuser_password)
    }

    /// Runs one of PostgreSQL's programs. Which server it talks to is seen by the
    /// connection string, and gives the password.
    async fn run(&self, name: &str, arguments: &[&str]) -> Result<()> {
        let to_source = arguments.iter().any(|argument| **argument == self.source());
        let cluster = if to_source { &self.site.source } else { &self.site.destination };
        let program = Program::new(self.tools.program(name))
            .arguments(arguments.iter().copied())
            .variable("PGPASSWORD", &cluster.superuser_password);
        self.finish(program, name).await
    }

    async fn finish(&self, mut program: Program, name: &str) -> Result<()> {
        let log = self.scratch.join(format!("{name}.log"));
        let file = File::create(&log)?;
        program.stdout = Output::File(file.try_clone()?);
        program.stderr = Output::File(file);
        let path = std::env::var("PATH").unwrap_or_default();
        // What runs PostgreSQL's programs itself must find the same ones.
        let program = program.variable("PATH", format!("{}:{path}", self.tools.bin_dir.display()));
        let status = program.spawn()?.wait(LIMIT).await?;
        ensure!(status.success(), "{name} ended with {status}:\n{}", last_lines(&log)?);
        Ok(())
    }

    /// A way whose copy is not whole does not count.
    async fn check(&self) -> Result<()> {
        let counts = "SELECT 'SELECT sum(n)::bigint FROM ('
                || string_agg(format('SELECT count(*) AS n FROM %s', oid::regclass), ' UNION ALL ') || ') AS counts'
              FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
        let invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";
        let indexes = "SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'";
        let unknown = "SELECT count(*) FROM pg_class c WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
              AND NOT EXISTS (SELECT FROM pg_statistic WHERE starelid = c.oid)";
        let database = &self.site.database;
        let (source, destination) =
            (self.site.source.connect(database).await?, self.site.destination.connect(database).await?);
        let count: String = source.query_one(counts, &[]).await?.get(0);
        for query in [&count, indexes, invalid, unknown] {
            let there: i64 = source.query_one(query, &[]).await?.get(0);
            let here: i64 = destination.query_one(query, &[]).await?.get(0);
            if there != here {
                bail!("not a copy: {query}: {there} on the source, {here} on the destination");
            }
        }
        Ok(())
    }
}

/// When a step of a migration was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepTime {
    /// Its name.
    pub name: String,
    /// How long it took.
    pub taken: Duration,
    /// When it ended.
    pub end: OffsetDateTime,
}

/// What `status --json` says, as far as times are concerned.
#[derive(Debug, Deserialize)]
struct Status {
    steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
struct Step {
    name: String,
    start_time: Option<String>,
    end_time: Option<String>,
}

fn last_lines(log: &Path) -> Result<String> {
    let text = fs::read_to_string(log)?;
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(20)..].join("\n"))
}
