//! Index builds as the server shows them, for operators. A look that fails shows none, and neither does a
//! build that the server hides.

use std::time::Duration;

use pgportage_link::Failure;
use pgportage_postgres::{Purpose, RelationName, Session, sql_failure};
use pgportage_report::progress::Build;

use crate::act::Context;

/// A look that takes longer is given up: the reports of the rows must not wait for it.
const LIMIT: Duration = Duration::from_secs(1);

/// Rows of other roles are empty unless the agent's role may read them. Phases that load a tree count
/// tuples; all phases before count blocks.
const BUILDS: &str = "\
SELECT n.nspname::text, c.relname::text, p.phase,
       CASE WHEN p.phase LIKE '%loading tuples%' AND p.tuples_total > 0 THEN 100 * p.tuples_done / p.tuples_total
            WHEN p.phase NOT LIKE '%loading tuples%' AND p.blocks_total > 0 THEN 100 * p.blocks_done / p.blocks_total
       END
  FROM pg_stat_progress_create_index p
  JOIN pg_class c ON c.oid = p.relid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE p.datname = current_database() AND p.phase IS NOT NULL
 ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\", p.pid";

/// Looks at builds on a session that it keeps between looks.
#[derive(Debug, Default)]
pub(super) struct Builds {
    session: Option<Session>,
}

impl Builds {
    pub(super) async fn look(&mut self, cx: &Context) -> Vec<Build> {
        match cx.tasks.clock.timeout(LIMIT, Box::pin(self.read(cx))).await {
            Ok(Ok(builds)) => builds,
            Ok(Err(failure)) => {
                tracing::debug!(%failure, "index builds cannot be looked at");
                self.session = None;
                Vec::new()
            }
            Err(_) => {
                self.session = None;
                Vec::new()
            }
        }
    }

    /// Closes the session while no index is being built.
    pub(super) fn rest(&mut self) {
        self.session = None;
    }

    async fn read(&mut self, cx: &Context) -> Result<Vec<Build>, Failure> {
        let session = match self.session.take() {
            Some(open) if !open.is_closed() => open,
            Some(_) | None => cx.door.open(&cx.participation.database, Purpose::Watch).await?,
        };
        let session = &*self.session.insert(session);
        let rows =
            session.query(BUILDS, &[]).await.map_err(|error| sql_failure(error, "look at the builds of indexes"))?;
        let percent = |share: Option<i64>| share.and_then(|share| u8::try_from(share.clamp(0, 100)).ok());
        Ok(rows
            .iter()
            .map(|row| Build {
                table: RelationName::new(row.get::<_, String>(0), row.get::<_, String>(1)).to_string(),
                phase: row.get(2),
                percent: percent(row.get(3)),
            })
            .collect())
    }
}
