//! The same switchovers for applications that know a pooler only.

use std::time::Duration;

use anyhow::{Context, Result};
use pgportage_link::Clock;

use super::{Arena, LIMIT, TABLES};
use crate::ledger::End;
use crate::pooled::{self, Pooled};
use crate::site::APPLICATION;

/// Clients that keep their connections to the pooler.
const LASTING: u32 = 8;
/// Clients that log in for each transaction.
const BRIEF: u32 = 2;

/// Some switchovers in a row, as the pooler's clients saw them.
#[derive(Debug)]
pub struct Queue {
    /// For each switchover, the longest time in which no client's COMMIT was confirmed,
    /// until the next one began.
    pub pauses: Vec<Duration>,
    /// Switchovers that were taken back and tried again.
    pub taken_back: usize,
    /// Logins and transactions that failed.
    pub failures: Vec<String>,
    /// Transactions per second over all.
    pub rate: f64,
}

impl Arena {
    /// So many switchovers in a row, there and back, while the pooler's clients write.
    /// Every transaction that was acknowledged is there at the end, and, unless a client
    /// met an error, no other one.
    ///
    /// # Errors
    ///
    /// When a switchover fails, or something is lost.
    pub async fn queue(&mut self, switches: u32) -> Result<Queue> {
        let pooler = self.pooler.as_ref().context("the arena has no pooler")?;
        let database = self.site.database.clone();
        let entry = pooler.config(&database);
        self.begin_anew().await?;
        pooled::prepare(&self.site.source, &database, APPLICATION).await?;
        let clients = Pooled::start_spread(&entry, LASTING, BRIEF, TABLES);
        clients.wait_for_commits(200, LIMIT).await?;
        self.migrate().await?;
        let began = Clock.now();
        let (mut turns, mut taken_back) = (Vec::new(), 0);
        let mut home = End::Source;
        for _number in 0..switches {
            clients.wait_for_commits(200, LIMIT).await?;
            turns.push(Clock.now());
            let (_phases, again) = self.switch(home).await.with_context(|| self.site.last_words())?;
            taken_back += again;
            clients.wait_for_commits(200, LIMIT).await?;
            home = home.other();
        }
        let length = Clock.now().duration_since(began);
        let told = clients.stop().await?;
        let cluster = self.site.cluster(home);
        if told.failures.is_empty() {
            told.check(cluster, &database).await?;
        } else {
            told.check_kept(cluster, &database).await?;
        }
        self.end(home).await?;
        let rate = told.acknowledged.len() as f64 / length.as_secs_f64();
        Ok(Queue { pauses: told.pauses(&turns), taken_back, failures: told.failures, rate })
    }
}
