//! A whole migration as an operator would make it, under load, with everything
//! checked that must hold whatever happened on the way.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio_postgres::error::SqlState;

use crate::checker;
use crate::ledger::{End, Ledger};
use crate::site::{APPLICATION, APPLICATION_PASSWORD, Site};
use crate::wait::{self, Seen};
use crate::workload::{self, Workload, WorkloadOptions};
use crate::{final_state, traces};

/// How long the writers may take to get a few hundred writes through.
const PATIENCE: Duration = Duration::from_secs(120);

/// Name of the migration.
pub const MIGRATION: &str = "shop-move";

/// What a finished journey came to.
#[derive(Debug)]
pub struct Arrival {
    /// What the writers were told.
    pub ledger: Ledger,
    /// Rows compared on both sides.
    pub rows_compared: i64,
}

/// A site with writers at work on its source.
#[derive(Debug)]
pub struct Journey {
    /// The site.
    pub site: Site,
    /// The writers.
    pub workload: Workload,
}

impl Journey {
    /// Makes the workload's tables with `rows` rows and sets the writers to work.
    ///
    /// # Errors
    ///
    /// When the source does not take it.
    pub async fn begin(site: Site, rows: u32, options: &WorkloadOptions) -> Result<Self> {
        workload::prepare(&site.source, &site.database, APPLICATION, rows).await?;
        let workload = Workload::start(&site.ends(), options);
        workload.wait_for_writes(End::Source, 200, PATIENCE).await?;
        Ok(Self { site, workload })
    }

    /// Everything up to the cutover.
    pub async fn until_cutover(&self) -> Result<()> {
        self.site.migrate_until_cutover(MIGRATION).await?;
        self.workload.wait_for_writes(End::Source, 200, PATIENCE).await
    }

    /// The cutover, and a few writes on the other side.
    ///
    /// # Errors
    ///
    /// When a command fails or no writer can write on the destination.
    pub async fn cut_over(&self) -> Result<()> {
        let cutover = self.site.cli.expect(0, &["cutover", MIGRATION, "--yes"]).await;
        cutover.with_context(|| self.site.last_words())?;
        self.writes_arrive().await
    }

    /// The rollback, and a few writes on the source again.
    ///
    /// # Errors
    ///
    /// When a command fails or no writer can write on the source.
    pub async fn roll_back(&self) -> Result<()> {
        let rollback = self.site.cli.expect(0, &["rollback", MIGRATION, "--yes"]).await;
        rollback.with_context(|| self.site.last_words())?;
        self.workload.wait_for_writes(End::Source, 300, PATIENCE).await
    }

    /// Waits for writes on the destination.
    pub async fn writes_arrive(&self) -> Result<()> {
        self.workload.wait_for_writes(End::Destination, 300, PATIENCE).await
    }

    /// The end: finish, stop the writers, and check everything.
    ///
    /// # Errors
    ///
    /// When anything does not hold.
    pub async fn finish(self) -> Result<(Site, Arrival)> {
        let finish = self.site.cli.expect(0, &["finish", MIGRATION, "--yes"]).await;
        finish.with_context(|| self.site.last_words())?;
        self.check_arrival().await
    }

    /// As [`Journey::finish`], after a finish that the test has asked for already.
    pub async fn check_arrival(self) -> Result<(Site, Arrival)> {
        Box::pin(self.check_arrival_after(1)).await
    }

    /// As [`Journey::check_arrival`], after so many changes of side.
    pub async fn check_arrival_after(self, switches: usize) -> Result<(Site, Arrival)> {
        let Self { site, workload } = self;
        let ledger = workload.stop().await?;
        ledger.save(&site.directory().join("ledger.jsonl"))?;
        let destination = site.destination.connect(&site.database).await?;
        let source = site.source.connect(&site.database).await?;
        let (arrived, left) = (final_state::read(&destination).await?, final_state::read(&source).await?);
        checker::verdict_on_both(switches, &ledger, &arrived, &left)?;
        let rows_compared = final_state::compare(&source, &destination).await?;
        traces::expect_nothing(&site.source, &site.database).await?;
        traces::expect_nothing(&site.destination, &site.database).await?;
        expect_refused(&site, End::Source).await?;
        Ok((site, Arrival { ledger, rows_compared }))
    }

    /// The other end: the migration was taken back, the source is open, and every
    /// acknowledged write is there.
    ///
    /// # Errors
    ///
    /// When anything does not hold.
    pub async fn check_return(self) -> Result<(Site, Ledger)> {
        self.workload.wait_for_writes(End::Source, 100, PATIENCE).await?;
        let Self { site, workload } = self;
        let ledger = workload.stop().await?;
        ensure!(ledger.acknowledged(End::Destination) == 0, "the destination took writes");
        let source = site.source.connect(&site.database).await?;
        checker::verdict(1, &ledger, &final_state::read(&source).await?)?;
        Ok((site, ledger))
    }
}

/// Waits until both sides hold the same rows in every table. The writers have stopped.
///
/// # Errors
///
/// When they differ for longer than that takes; the error names the tables.
pub async fn expect_level(site: &Site) -> Result<i64> {
    let (source, destination) =
        (site.source.connect(&site.database).await?, site.destination.connect(&site.database).await?);
    wait::until("both sides to hold the same rows", PATIENCE, || async {
        Ok(match final_state::compare_whole(&source, &destination).await {
            Ok(rows) => Seen::Done(rows),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    })
    .await
}

/// Fails unless the application cannot log in at an end.
///
/// # Errors
///
/// When it can, or is refused for another reason.
pub async fn expect_refused(site: &Site, end: End) -> Result<()> {
    let cluster = site.cluster(end);
    match cluster.connect_as(&site.database, APPLICATION, APPLICATION_PASSWORD).await {
        Ok(_client) => anyhow::bail!("the application can log in on the {}", end.as_str()),
        Err(error) => {
            let code = error.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::code);
            ensure!(code == Some(&SqlState::INSUFFICIENT_PRIVILEGE), "refused for another reason: {error:?}");
            Ok(())
        }
    }
}
