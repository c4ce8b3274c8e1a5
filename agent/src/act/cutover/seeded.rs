//! Mistakes that other tools have shipped, made here on purpose. With them the tests prove that their
//! checker would notice.
//!
//! **Invariant:** [`Bug::is_seeded`] is a constant `false` without the feature `fail-points` of the link,
//! which no release build has. So none of this is in a release.

use pgportage_link::{Failure, fail_point};
use pgportage_postgres::access::Access;
use pgportage_postgres::{quote_ident, sql_failure};
use tokio_postgres::{Client, GenericClient};

use super::sequence::positions;
use crate::switchover::{FenceSourceResult, LeavingSide};

/// A mistake that a test can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bug {
    /// The position to drain to is taken before the writers are stopped.
    MarkerBeforeBarrier,
    /// What the stream has received counts as applied.
    DrainByCounters,
    /// The destination commits without waiting for its disk.
    NoFlush,
    /// Sequences are set by the largest value of the column that owns them.
    SequencesByMax,
    /// Only the database's owner is kept out of the source.
    FenceOfOneRole,
}

impl Bug {
    /// Whether a test has asked for this mistake.
    pub(super) fn is_seeded(self) -> bool {
        fail_point::seeded_bug(match self {
            Self::MarkerBeforeBarrier => "marker_before_barrier",
            Self::DrainByCounters => "drain_by_counters",
            Self::NoFlush => "no_flush",
            Self::SequencesByMax => "sequences_by_max",
            Self::FenceOfOneRole => "fence_of_one_role",
        })
    }
}

/// The stream has received everything that was sent.
pub(super) const LEVEL_BY_COUNTERS: &str =
    "SELECT 1 FROM pg_stat_subscription WHERE received_lsn >= latest_end_lsn AND $1::uuid IS NOT NULL";

const SET_BY_MAX: &str = "\
DO $$
DECLARE owned record;
BEGIN
    FOR owned IN
        SELECT d.objid::regclass AS sequence, d.refobjid::regclass AS relation, a.attname
        FROM pg_depend d
        JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S'
        JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
    LOOP
        EXECUTE format('SELECT setval(%L, greatest(max(%I), 1)) FROM %s', owned.sequence, owned.attname, owned.relation);
    END LOOP;
END
$$";

/// [`Bug::SequencesByMax`].
pub(super) async fn set_by_max(client: &Client) -> Result<(), Failure> {
    client.batch_execute(SET_BY_MAX).await.map_err(|error| sql_failure(error, "set the sequences"))
}

/// [`Bug::NoFlush`], for every commit of a session.
pub(super) async fn forget_the_disk(client: &impl GenericClient) -> Result<(), Failure> {
    let off = "SET synchronous_commit = off";
    client.batch_execute(off).await.map_err(|error| sql_failure(error, "prepare the cutover"))
}

/// [`Bug::FenceOfOneRole`]. Proves nothing either.
pub(super) async fn fence_owner(
    epoch: i64,
    database: &str,
    cutover: &mut LeavingSide,
) -> Result<FenceSourceResult, Failure> {
    let doing = "fence the owner";
    let writer = &cutover.writer;
    let access = Access::read(&**writer).await?.to_json()?;
    let insert = "INSERT INTO pgportage.fence (id, cutover_epoch, saved_access) VALUES (1, $1, $2)";
    writer.execute(insert, &[&epoch, &access]).await.map_err(|error| sql_failure(error, doing))?;
    let owner = "SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = $1";
    let owner: String = writer.query_one(owner, &[&database]).await.map_err(|error| sql_failure(error, doing))?.get(0);
    let keep_out = format!("ALTER ROLE {} NOLOGIN", quote_ident(&owner));
    writer.batch_execute(&keep_out).await.map_err(|error| sql_failure(error, doing))?;
    let expel = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1";
    let expelled = writer.query(expel, &[&owner]).await.map_err(|error| sql_failure(error, doing))?;
    Ok(FenceSourceResult {
        fence_lsn: super::current_lsn(writer).await?.to_string(),
        sequences: positions(writer, &cutover.sequences).await?,
        terminated_session_count: u32::try_from(expelled.len()).unwrap_or(u32::MAX),
        catalog_digest: cutover.catalog_digest.clone(),
    })
}
