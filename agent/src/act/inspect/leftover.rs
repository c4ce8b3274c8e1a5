//! What an earlier migration left behind.

use pgportage_link::Failure;
use pgportage_postgres::{quote_ident, quote_literal};
use pgportage_proto::Reason;
use pgportage_report::finding::Severity;

use super::Finding;
use super::examination::{Examination, each};

/// Slots of ours for this database, and idle slots of table copies. Each keeps WAL for ever.
pub(super) async fn slots(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    const SLOTS: &str = "
        SELECT slot_name::text, slot_name ~ '^pgportage' FROM pg_replication_slots
         WHERE database = $1 AND NOT active
           AND (slot_name ~ '^pgportage' OR slot_name ~ '^pg_[0-9]+_sync_[0-9]+_[0-9]+$')
         ORDER BY 1";
    each(x.server, SLOTS, &[&x.database], |row| {
        let name: String = row.get(0);
        let remedy = format!("SELECT pg_drop_replication_slot({})", quote_literal(&name));
        if row.get(1) {
            left(format!("slot {}", quote_ident(&name)), remedy)
        } else {
            // It may belong to a subscription that is copying at the moment.
            Finding::new(
                Reason::ObjectLeftBehind,
                Severity::Note,
                format!("slot {}", quote_ident(&name)),
                "a replication slot of a table's copy is not in use; if its subscription is gone, it keeps WAL for ever",
            )
            .remedy(remedy)
        }
    })
    .await
}

/// Our schema, publications and subscriptions in the database.
pub(super) async fn in_database(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    const OBJECTS: &str = "
        SELECT 'SCHEMA', nspname::text FROM pg_namespace WHERE nspname = 'pgportage'
        UNION ALL
        SELECT 'PUBLICATION', pubname::text FROM pg_publication WHERE pubname ~ '^pgportage'
        UNION ALL
        SELECT 'SUBSCRIPTION', s.subname::text FROM pg_subscription AS s JOIN pg_database AS d ON d.oid = s.subdbid
         WHERE d.datname = current_database() AND s.subname ~ '^pgportage'
         ORDER BY 1, 2";
    each(x.in_database()?, OBJECTS, &[], |row| {
        let (kind, name) = (row.get::<_, String>(0), quote_ident(row.get(1)));
        let cascade = if kind == "SCHEMA" { " CASCADE" } else { "" };
        left(format!("{} {name}", kind.to_lowercase()), format!("DROP {kind} {name}{cascade}"))
    })
    .await
}

fn left(object: String, statement: String) -> Finding {
    Finding::new(
        Reason::ObjectLeftBehind,
        Severity::Refuse,
        object,
        "an earlier migration of this database is not over, or left this behind",
    )
    .remedy(format!(
        "abort or finish that migration; if it is forgotten, run `pgportage-agent cleanup` or: {statement}"
    ))
}
