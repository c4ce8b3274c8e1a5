//! Whether anything in the catalog has changed since the last look: in milliseconds, where reading every
//! definition would take seconds.
//!
//! The fingerprint adds up the row versions of every catalog that [`super::schema_objects`] reads. A change
//! that leaves every definition as it was (REINDEX, TRUNCATE, a rewrite) shows here too, and only costs a
//! second look. A change in a shared catalog, such as the name of a role, does not show: a caller that
//! watches has to read the definitions from time to time.

use pgportage_link::Failure;
use tokio_postgres::Client;

use crate::sql_failure;

/// Temporary relations come and go with the applications' sessions and are no part of the schema. TOAST
/// tables come with their tables. Sums of hashes need no sorting.
const FINGERPRINT: &str = "\
WITH n AS MATERIALIZED (
    SELECT oid, xmin FROM pg_namespace
    WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'pgportage')
      AND nspname !~ '^pg_(toast_)?temp_'
), c AS MATERIALIZED (
    SELECT oid, xmin, relkind FROM pg_class WHERE relnamespace IN (SELECT oid FROM n)
), row (id, version) AS (
    SELECT oid::bigint, xmin FROM n
    UNION ALL SELECT oid::bigint, xmin FROM c
    UNION ALL SELECT (attrelid::bigint << 16) | attnum, xmin FROM pg_attribute
               WHERE attnum > 0 AND attrelid IN (SELECT oid FROM c WHERE relkind <> 'i')
    UNION ALL SELECT oid::bigint, xmin FROM pg_attrdef WHERE adrelid IN (SELECT oid FROM c)
    UNION ALL SELECT oid::bigint, xmin FROM pg_constraint WHERE connamespace IN (SELECT oid FROM n)
    UNION ALL SELECT indexrelid::bigint, xmin FROM pg_index WHERE indrelid IN (SELECT oid FROM c)
    UNION ALL SELECT (inhrelid::bigint << 16) | inhseqno, xmin FROM pg_inherits
               WHERE inhrelid IN (SELECT oid FROM c)
    UNION ALL SELECT seqrelid::bigint, xmin FROM pg_sequence WHERE seqrelid IN (SELECT oid FROM c)
    UNION ALL SELECT oid::bigint, xmin FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM c)
    UNION ALL SELECT oid::bigint, xmin FROM pg_rewrite WHERE ev_class IN (SELECT oid FROM c)
    UNION ALL SELECT oid::bigint, xmin FROM pg_policy
    UNION ALL SELECT oid::bigint, xmin FROM pg_proc WHERE pronamespace IN (SELECT oid FROM n)
    UNION ALL SELECT aggfnoid::oid::bigint, xmin FROM pg_aggregate WHERE aggfnoid::oid >= 16384
    UNION ALL SELECT oid::bigint, xmin FROM pg_type WHERE typnamespace IN (SELECT oid FROM n)
    UNION ALL SELECT oid::bigint, xmin FROM pg_enum
    UNION ALL SELECT rngtypid::bigint, xmin FROM pg_range WHERE rngtypid >= 16384
    UNION ALL SELECT oid::bigint, xmin FROM pg_statistic_ext
    UNION ALL SELECT oid::bigint, xmin FROM pg_operator WHERE oprnamespace IN (SELECT oid FROM n)
    UNION ALL SELECT oid::bigint, xmin FROM pg_opclass WHERE opcnamespace IN (SELECT oid FROM n)
    UNION ALL SELECT oid::bigint, xmin FROM pg_collation WHERE collnamespace IN (SELECT oid FROM n)
    UNION ALL SELECT oid::bigint, xmin FROM pg_ts_config WHERE cfgnamespace IN (SELECT oid FROM n)
    UNION ALL SELECT (mapcfg::bigint << 24) | (maptokentype << 12) | mapseqno, xmin FROM pg_ts_config_map
               WHERE mapcfg >= 16384
    UNION ALL SELECT oid::bigint, xmin FROM pg_ts_dict WHERE dictnamespace IN (SELECT oid FROM n)
    UNION ALL SELECT oid::bigint, xmin FROM pg_cast WHERE oid >= 16384
    UNION ALL SELECT oid::bigint, xmin FROM pg_language WHERE oid >= 16384
    UNION ALL SELECT oid::bigint, xmin FROM pg_extension
    UNION ALL SELECT oid::bigint, xmin FROM pg_event_trigger
    UNION ALL SELECT oid::bigint, xmin FROM pg_foreign_data_wrapper
    UNION ALL SELECT oid::bigint, xmin FROM pg_foreign_server
    UNION ALL SELECT ftrelid::bigint, xmin FROM pg_foreign_table
    UNION ALL SELECT umid::bigint, NULL::xid FROM pg_user_mappings
    UNION ALL SELECT oid::bigint, xmin FROM pg_default_acl
)
SELECT concat_ws(' ', count(*), sum(hashint8extended(id, coalesce(version::text::bigint, 0)))) FROM row";

/// A text that differs when anything in the catalog has changed.
pub async fn fingerprint(client: &Client) -> Result<String, Failure> {
    let row = client
        .query_one(FINGERPRINT, &[])
        .await
        .map_err(|error| sql_failure(error, "look whether the schema changed"))?;
    Ok(row.get(0))
}
