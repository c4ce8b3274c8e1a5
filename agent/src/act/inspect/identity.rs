//! Whether UPDATE and DELETE can find their rows on the destination.

use std::collections::BTreeSet;

use pgportage_link::Failure;
use pgportage_postgres::catalog::{user_relation, user_tables};
use pgportage_postgres::{RelationName, quote_ident};
use pgportage_proto::{Reason, Side};
use pgportage_report::finding::Severity;

use super::examination::{Examination, each};
use super::{Consent, Finding};
use crate::policy::DestructiveAct;

/// Tables without a usable replica identity, and those whose whole row cannot
/// be compared.
const TABLES: &str = concat!(
    "
    WITH RECURSIVE candidate AS (
        SELECT c.oid, n.nspname, c.relname, c.relreplident
          FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
         WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND ",
    user_relation!(),
    "
           AND NOT EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
                             AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END)
    ), part (root, type) AS (
        -- The types that a column's type is made of.
        SELECT DISTINCT a.atttypid, a.atttypid FROM candidate AS c
          JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        UNION
        SELECT p.root, inner_type.oid FROM part AS p JOIN pg_type AS t ON t.oid = p.type
          CROSS JOIN LATERAL (
            SELECT t.typbasetype AS oid WHERE t.typtype = 'd'
            UNION ALL SELECT t.typelem WHERE t.typcategory = 'A' AND t.typelem <> 0
            UNION ALL SELECT r.rngsubtype FROM pg_range AS r WHERE r.rngtypid = t.oid
            UNION ALL SELECT a.atttypid FROM pg_attribute AS a
                       WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
          ) AS inner_type
    ), incomparable AS (
        SELECT DISTINCT p.root FROM part AS p JOIN pg_type AS t ON t.oid = p.type
         WHERE t.typtype = 'b' AND NOT (t.typcategory = 'A' AND t.typelem <> 0)
           AND NOT EXISTS (SELECT FROM pg_opclass AS o JOIN pg_am AS m ON m.oid = o.opcmethod
                            WHERE m.amname IN ('btree', 'hash') AND o.opcdefault
                              AND (o.opcintype = t.oid
                                   OR EXISTS (SELECT FROM pg_cast AS k
                                               WHERE k.castsource = t.oid AND k.casttarget = o.opcintype
                                                 AND k.castmethod = 'b' AND k.castcontext = 'i')))
    )
    SELECT c.nspname::text, c.relname::text, c.relreplident::text,
           (SELECT string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum)
              FROM pg_attribute AS a JOIN incomparable AS x ON x.root = a.atttypid
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
           (SELECT k.relname::text FROM pg_index AS i JOIN pg_class AS k ON k.oid = i.indexrelid
             WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid
               AND i.indpred IS NULL AND i.indexprs IS NULL
               AND NOT EXISTS (SELECT FROM unnest(i.indkey::int2[]) AS key (attnum)
                                 JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = key.attnum
                                WHERE NOT a.attnotnull)
             ORDER BY i.indnatts, k.relname LIMIT 1),
           (SELECT format('%I;%s', k.conname, pg_get_constraintdef(k.oid)) FROM pg_constraint AS k
             WHERE k.conrelid = c.oid AND k.contype = 'p' AND k.condeferrable)
      FROM candidate AS c
     ORDER BY c.nspname::text COLLATE \"C\", c.relname::text COLLATE \"C\""
);

/// One finding for each table that the operator has to correct or to agree to.
pub(super) async fn findings(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    let allowed = x.handles.policy.destructive().allows(DestructiveAct::ReplicaIdentityFull);
    let found = each(x.in_database()?, TABLES, &[], |row| {
        let table = RelationName::new(row.get::<_, String>(0), row.get::<_, String>(1));
        Table {
            table: &table,
            identity: row.get(2),
            incomparable: row.get(3),
            unique_index: row.get(4),
            deferrable_key: row.get(5),
        }
        .finding(allowed)
    })
    .await?;
    // A table that has FULL already and can be compared is fine.
    Ok(found.into_iter().filter(|finding| !finding.message.is_empty()).collect())
}

struct Table<'a> {
    table: &'a RelationName,
    identity: &'a str,
    incomparable: Option<&'a str>,
    unique_index: Option<&'a str>,
    deferrable_key: Option<&'a str>,
}

impl Table<'_> {
    fn finding(&self, full_allowed: bool) -> Finding {
        let table = self.table;
        let remedy = match (self.unique_index, self.deferrable_key.and_then(|key| key.split_once(';'))) {
            (Some(index), _) => format!("ALTER TABLE {table} REPLICA IDENTITY USING INDEX {}", quote_ident(index)),
            (None, Some((name, definition))) => {
                let immediate = definition.split(" DEFERRABLE").next().unwrap_or(definition);
                format!("ALTER TABLE {table} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} {immediate}")
            }
            (None, None) => format!("ALTER TABLE {table} ADD PRIMARY KEY (…)"),
        };
        let identity = match self.identity {
            "d" => "DEFAULT",
            "i" => "USING INDEX",
            "f" => "FULL",
            _ => "NOTHING",
        };
        let refuse = |message: &str| {
            Finding::new(Reason::ReplicaIdentityImpossible, Severity::Refuse, table.to_string(), message)
        };
        let finding = match (self.identity, self.incomparable) {
            ("f", None) => return Finding::new(Reason::ReplicaIdentityMissing, Severity::Note, "", ""),
            (_, Some(columns)) => {
                refuse("there is no key, and whole rows cannot be compared: a type has no equality operator")
                    .evidence(format!("replica identity {identity}; {columns}"))
            }
            (_, None) => {
                let (code, what) = match (self.identity, self.deferrable_key) {
                    ("d", Some(_)) => (Reason::PrimaryKeyDeferrable, "the primary key is deferrable"),
                    ("d", None) => (Reason::ReplicaIdentityMissing, "there is no primary key"),
                    ("i", _) => (Reason::ReplicaIdentityMissing, "the index of the replica identity is gone"),
                    _ => (Reason::ReplicaIdentityMissing, "the replica identity is switched off"),
                };
                let (severity, consequence) = if full_allowed {
                    (Severity::Consent, "with your consent the migration sets REPLICA IDENTITY FULL")
                } else {
                    (Severity::Refuse, "the agent's policy does not allow REPLICA IDENTITY FULL")
                };
                Finding::new(code, severity, table.to_string(), format!("{what}; {consequence}"))
                    .evidence(format!("replica identity {identity}; {what}"))
            }
        };
        finding.remedy(remedy)
    }
}

/// The tables that get `REPLICA IDENTITY FULL` because the operator agreed to
/// exactly these findings.
pub(super) async fn agreed_tables(
    x: &Examination<'_>,
    findings: &[Finding],
    consents: &[Consent],
) -> Result<Vec<RelationName>, Failure> {
    let (Side::Source, Some(session)) = (x.side, x.session) else { return Ok(vec![]) };
    let agreed: BTreeSet<_> = findings
        .iter()
        .filter(|finding| matches!(finding.code, Reason::ReplicaIdentityMissing | Reason::PrimaryKeyDeferrable))
        .filter(|finding| finding.severity == Severity::Consent && finding.agreed(consents))
        .map(|finding| finding.object.as_str())
        .collect();
    if agreed.is_empty() {
        return Ok(vec![]);
    }
    let tables = user_tables(session).await?;
    Ok(tables.into_iter().filter(|table| agreed.contains(table.to_string().as_str())).collect())
}
