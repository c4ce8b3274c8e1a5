//! Which server this is, and on which side of a failover.

use pgportage_link::Failure;
use tokio_postgres::GenericClient;

use crate::sql_failure;

/// The timeline is that of the WAL being written: the control file's is that of the last checkpoint, which
/// may be older than a promotion.
const HISTORY: &str = "\
SELECT format('%s/%s', system_identifier, substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)) FROM pg_control_system()";

/// The system identifier and the timeline, for example `7364951673046532219/00000001`. A promoted standby,
/// and a server that was restored from a backup, has another timeline than its predecessor.
pub async fn history(client: &impl GenericClient) -> Result<String, Failure> {
    let row = client.query_one(HISTORY, &[]).await;
    row.map(|row| row.get(0)).map_err(|error| sql_failure(error, "read the server's timeline"))
}
