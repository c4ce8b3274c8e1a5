//! Triggers that fire for replicated changes.

use pgportage_link::Failure;
use pgportage_postgres::catalog::user_relation;
use pgportage_postgres::{RelationName, quote_ident};
use pgportage_proto::Reason;
use pgportage_report::finding::Severity;

use super::Finding;
use super::examination::{Examination, each};

/// `ENABLE ALWAYS` and `ENABLE REPLICA` triggers and rules: on the destination they would do a second time
/// what they did on the source.
pub(super) async fn firing_on_apply(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    const TRIGGERS: &str = concat!(
        "
        SELECT 'TRIGGER', t.tgname::text, n.nspname::text, c.relname::text, t.tgenabled::text
          FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
         WHERE NOT t.tgisinternal AND t.tgenabled IN ('A', 'R') AND ",
        user_relation!(),
        "
        UNION ALL
        SELECT 'RULE', u.rulename::text, n.nspname::text, c.relname::text, u.ev_enabled::text
          FROM pg_rewrite AS u JOIN pg_class AS c ON c.oid = u.ev_class JOIN pg_namespace AS n ON n.oid = c.relnamespace
         WHERE u.ev_enabled IN ('A', 'R') AND ",
        user_relation!(),
        "
        ORDER BY 3, 4, 2"
    );
    each(x.in_database()?, TRIGGERS, &[], |row| {
        let (kind, name) = (row.get::<_, String>(0), quote_ident(row.get(1)));
        let table = RelationName::new(row.get::<_, String>(2), row.get::<_, String>(3));
        let mode = if row.get::<_, &str>(4) == "A" { "ALWAYS" } else { "REPLICA" };
        Finding::new(
            Reason::TriggerFiresOnApply,
            Severity::Consent,
            format!("{name} on {table}"),
            "what it does on the source it will do again on the destination",
        )
        .evidence(format!("{kind} ENABLE {mode}"))
        .remedy(format!("ALTER TABLE {table} ENABLE {kind} {name}"))
    })
    .await
}
