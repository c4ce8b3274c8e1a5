//! The switchover of many guides, as a person makes it.

use std::time::Duration;

use anyhow::{Result, ensure};
use pgportage_link::Clock;
use tokio_postgres::Client;

use super::{Arena, LIMIT, TABLES};
use crate::cluster::{Cluster, SUPERUSER};
use crate::ledger::End;
use crate::site::APPLICATION;
use crate::wait::{self, Seen};
use crate::workload::spread_schema;

/// How often a person who does it by hand looks at the counters.
const LOOK: Duration = Duration::from_millis(100);
/// What the recipe makes on the servers.
const RECIPE: &str = "recipe";

impl Arena {
    /// Everything until only the switchover is missing.
    pub(super) async fn subscribe(&self, home: End) -> Result<()> {
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

    pub(super) async fn switch_by_hand(&self, home: End) -> Result<()> {
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

    /// Takes the stream from the side that was entered, and leaves the other one as
    /// empty as at the beginning.
    pub(super) async fn clear_by_hand(&self, entered: End) -> Result<()> {
        let database = &self.site.database;
        self.site.cluster(entered).execute(database, &format!("DROP SUBSCRIPTION {RECIPE}")).await?;
        self.make_anew(entered.other()).await
    }

    fn admission(&self, verb: &str, preposition: &str) -> String {
        format!("{verb} CONNECT ON DATABASE {} {preposition} PUBLIC, {APPLICATION}", self.site.database)
    }
}

/// Ends the application's sessions, again and again until none is left.
async fn expel(cluster: &Cluster, database: &str) -> Result<()> {
    let client = cluster.connect("postgres").await?;
    let expel = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = $1 AND usename = $2";
    wait::until("no session left", LIMIT, async || {
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
