//! What a database holds beyond what a new one holds, and how it is emptied again.
//!
//! The destination was empty when `close` took it, except for extensions that its owner had installed
//! beforehand. What it held then is its *baseline*, written in the transaction that closes it, in the row of
//! our ledger: an agent that has lost its journal finds it there. Everything beyond the baseline came from
//! the agent and goes with `undo`. **Invariant:** a database that holds anything beyond its baseline is not
//! opened to applications again.

use std::collections::BTreeSet;

use pgportage_link::{Effect, Failure};
use pgportage_migration::ledger;
use pgportage_postgres::{quote_ident, quote_literal, sql_failure};
use pgportage_proto::Reason;
use serde::{Deserialize, Serialize};
use tokio_postgres::{GenericClient, Transaction};

/// Objects of the whole database, as kind and identity, both in the form that `DROP` accepts. Oids below
/// 16384 are the system's own. Objects that belong to an extension or depend on another object go with
/// that.
const DATABASE_OBJECTS: &str = "\
SELECT o.kind, o.identity FROM (
    SELECT 0 AS rank, 'EVENT TRIGGER' AS kind, 'pg_event_trigger'::regclass AS class, oid, quote_ident(evtname) AS identity
    FROM pg_event_trigger
    UNION ALL
    SELECT 1, 'TRANSFORM', 'pg_transform'::regclass, t.oid,
           'FOR ' || format_type(t.trftype, NULL) || ' LANGUAGE ' || quote_ident(l.lanname)
    FROM pg_transform t JOIN pg_language l ON l.oid = t.trflang
    UNION ALL
    SELECT 2, 'CAST', 'pg_cast'::regclass, oid, (pg_identify_object('pg_cast'::regclass, oid, 0)).identity FROM pg_cast
    UNION ALL
    SELECT 3, 'SERVER', 'pg_foreign_server'::regclass, oid, quote_ident(srvname) FROM pg_foreign_server
    UNION ALL
    SELECT 4, 'FOREIGN DATA WRAPPER', 'pg_foreign_data_wrapper'::regclass, oid, quote_ident(fdwname)
    FROM pg_foreign_data_wrapper
    UNION ALL
    SELECT 5, 'SCHEMA', 'pg_namespace'::regclass, oid, quote_ident(nspname) FROM pg_namespace
    WHERE nspname !~ '^pg_' AND nspname <> 'pgportage'
    UNION ALL
    SELECT 6, 'EXTENSION', 'pg_extension'::regclass, oid, quote_ident(extname) FROM pg_extension
    UNION ALL
    SELECT 7, 'LANGUAGE', 'pg_language'::regclass, oid, quote_ident(lanname) FROM pg_language
    UNION ALL
    SELECT 8, 'ACCESS METHOD', 'pg_am'::regclass, oid, quote_ident(amname) FROM pg_am
) AS o
WHERE o.oid >= 16384
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = o.class AND d.objid = o.oid AND d.deptype IN ('e', 'i'))
ORDER BY o.rank, o.identity";

/// Objects in schemas that stay (`public`, and those that belong to extensions). Objects that depend on
/// another object go with that one.
const SCHEMA_OBJECTS: &str = "\
WITH n AS (
    SELECT oid FROM pg_namespace
    WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'pgportage') AND nspname !~ '^pg_'
), o AS (
    SELECT 0 AS rank, 'pg_class'::regclass AS class, c.oid, NULL::text AS kind FROM pg_class c JOIN n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    UNION ALL
    SELECT 1, 'pg_proc'::regclass, p.oid, 'routine' FROM pg_proc p JOIN n ON n.oid = p.pronamespace
    UNION ALL
    SELECT 2, 'pg_type'::regclass, t.oid, 'type' FROM pg_type t JOIN n ON n.oid = t.typnamespace
    WHERE (t.typtype IN ('b', 'd', 'e', 'r', 'p')
           OR EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))
      AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
    UNION ALL
    SELECT 3, 'pg_operator'::regclass, x.oid, NULL FROM pg_operator x JOIN n ON n.oid = x.oprnamespace
    UNION ALL
    SELECT 4, 'pg_opclass'::regclass, x.oid, NULL FROM pg_opclass x JOIN n ON n.oid = x.opcnamespace
    UNION ALL
    SELECT 5, 'pg_opfamily'::regclass, x.oid, NULL FROM pg_opfamily x JOIN n ON n.oid = x.opfnamespace
    UNION ALL
    SELECT 6, 'pg_statistic_ext'::regclass, x.oid, 'statistics' FROM pg_statistic_ext x JOIN n ON n.oid = x.stxnamespace
    UNION ALL
    SELECT 7, 'pg_ts_config'::regclass, x.oid, NULL FROM pg_ts_config x JOIN n ON n.oid = x.cfgnamespace
    UNION ALL
    SELECT 8, 'pg_ts_dict'::regclass, x.oid, NULL FROM pg_ts_dict x JOIN n ON n.oid = x.dictnamespace
    UNION ALL
    SELECT 9, 'pg_ts_parser'::regclass, x.oid, NULL FROM pg_ts_parser x JOIN n ON n.oid = x.prsnamespace
    UNION ALL
    SELECT 10, 'pg_ts_template'::regclass, x.oid, NULL FROM pg_ts_template x JOIN n ON n.oid = x.tmplnamespace
    UNION ALL
    SELECT 11, 'pg_collation'::regclass, x.oid, NULL FROM pg_collation x JOIN n ON n.oid = x.collnamespace
    UNION ALL
    SELECT 12, 'pg_conversion'::regclass, x.oid, NULL FROM pg_conversion x JOIN n ON n.oid = x.connamespace
)
SELECT upper(coalesce(o.kind, i.type)) AS kind, i.identity
FROM o, pg_identify_object(o.class, o.oid, 0) AS i
WHERE o.oid >= 16384
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = o.class AND d.objid = o.oid AND d.objsubid = 0
                   AND d.deptype IN ('e', 'i'))
ORDER BY o.rank, i.identity";

const PUBLIC: &str = "\
SELECT pg_get_userbyid(nspowner)::text, obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = 'public'";

const PUBLIC_GRANTS: &str = "\
SELECT CASE WHEN a.grantee = 0 THEN NULL ELSE pg_get_userbyid(a.grantee)::text END, a.privilege_type, a.is_grantable
FROM pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
WHERE n.nspname = 'public'
ORDER BY 1 NULLS FIRST, 2";

const DEFAULT_GRANTS: &str = "\
SELECT pg_get_userbyid(d.defaclrole)::text, n.nspname::text, d.defaclobjtype::text,
       CASE WHEN a.grantee = 0 THEN NULL ELSE pg_get_userbyid(a.grantee)::text END, a.privilege_type, a.is_grantable
FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace, aclexplode(d.defaclacl) a
ORDER BY 1, 2 NULLS FIRST, 3, 4 NULLS FIRST, 5";

/// The built-in privileges, which a default ACL for the whole database changes.
const BUILT_IN_GRANTS: &str = "\
SELECT CASE WHEN a.grantee = 0 THEN NULL ELSE pg_get_userbyid(a.grantee)::text END, a.privilege_type, a.is_grantable
FROM pg_roles r, aclexplode(acldefault((CASE $2 WHEN 'S' THEN 's' ELSE $2 END)::\"char\", r.oid)) a
WHERE r.rolname = $1";

/// Everything that an application could have made: relations, routines and types outside the system's
/// schemas, extensions and ours; and schemas other than `public`.
const APPLICATION_OBJECTS: &str = "\
WITH n AS (
    SELECT oid, nspname FROM pg_namespace
    WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'pgportage')
      AND nspname NOT LIKE 'pg\\_toast%' AND nspname NOT LIKE 'pg\\_temp%'
), member AS (
    SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
)
SELECT what FROM (
    SELECT 'relation ' || quote_ident(n.nspname) || '.' || quote_ident(c.relname) AS what
    FROM pg_class c JOIN n ON n.oid = c.relnamespace
    WHERE NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_class'::regclass AND m.objid = c.oid)
    UNION ALL
    SELECT 'routine ' || quote_ident(n.nspname) || '.' || quote_ident(p.proname)
    FROM pg_proc p JOIN n ON n.oid = p.pronamespace
    WHERE NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_proc'::regclass AND m.objid = p.oid)
    UNION ALL
    SELECT 'type ' || quote_ident(n.nspname) || '.' || quote_ident(t.typname)
    FROM pg_type t JOIN n ON n.oid = t.typnamespace
    WHERE t.typtype IN ('e', 'd', 'r')
      AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_type'::regclass AND m.objid = t.oid)
    UNION ALL
    SELECT 'schema ' || quote_ident(n.nspname) FROM n
    WHERE n.nspname <> 'public'
      AND NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_namespace'::regclass AND m.objid = n.oid)
) AS objects
LIMIT 10";

/// What a database held before the agent restored anything into it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Baseline {
    /// Kind and identity of each object beyond the system's.
    objects: BTreeSet<(String, String)>,
    public: Option<Public>,
    default_grants: BTreeSet<DefaultGrant>,
}

/// The schema `public` itself, without its objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Public {
    owner: String,
    comment: Option<String>,
    grants: BTreeSet<Grant>,
}

/// One privilege of one grantee. No grantee means PUBLIC.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Grant {
    grantee: Option<String>,
    privilege: String,
    grantable: bool,
}

/// One privilege that future objects will have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct DefaultGrant {
    role: String,
    schema: Option<String>,
    kind: String,
    grant: Grant,
}

impl Grant {
    fn target(&self) -> String {
        self.grantee.as_deref().map_or_else(|| "PUBLIC".to_owned(), quote_ident)
    }

    fn option(&self) -> &'static str {
        if self.grantable { " WITH GRANT OPTION" } else { "" }
    }
}

impl Baseline {
    /// What the ledger's first row says, that of the closing. None where an older release closed the
    /// database, or nothing is closed.
    ///
    /// # Errors
    ///
    /// What the server reports; [`Reason::Internal`] when the row cannot be read.
    pub(super) async fn of_closing(client: &impl GenericClient) -> Result<Option<Self>, Failure> {
        let row = ledger::first_result(client).await?;
        row.map(|row| serde_json::from_slice(&row).map_err(|error| unreadable(&error))).transpose()
    }

    /// Reads what the session's database holds now.
    pub(super) async fn read(client: &impl GenericClient) -> Result<Self, Failure> {
        Ok(Self {
            objects: objects(client).await?.into_iter().collect(),
            public: read_public(client).await?,
            default_grants: read_default_grants(client).await?,
        })
    }

    pub(super) fn to_json(&self) -> Result<String, Failure> {
        serde_json::to_string(self).map_err(|error| unreadable(&error))
    }

    pub(super) fn from_json(text: &str) -> Result<Self, Failure> {
        serde_json::from_str(text).map_err(|error| unreadable(&error))
    }

    /// Whether the database holds objects beyond the baseline.
    pub(super) async fn is_exceeded(&self, client: &impl GenericClient) -> Result<bool, Failure> {
        Ok(objects(client).await?.iter().any(|object| !self.objects.contains(object)))
    }

    /// Brings the database back to the baseline. Part of the caller's transaction; does nothing when
    /// nothing is beyond it.
    pub(super) async fn empty(&self, transaction: &Transaction<'_>) -> Result<(), Failure> {
        let doing = "take the restored schema back";
        let failure = |error| sql_failure(error, doing);
        let mut statements = Vec::new();
        for (kind, identity) in objects(transaction).await? {
            if !self.objects.contains(&(kind.clone(), identity.clone())) {
                statements.push(drop_statement(&kind, &identity));
            }
        }
        transaction.batch_execute(&statements.join(";\n")).await.map_err(failure)?;
        // Default privileges in schemas that were dropped went with them.
        let mut statements = Vec::new();
        let now = read_default_grants(transaction).await?;
        for grant in now.difference(&self.default_grants) {
            statements.extend(default_statement("REVOKE", grant));
        }
        for grant in self.default_grants.difference(&now) {
            statements.extend(default_statement("GRANT", grant));
        }
        transaction.batch_execute(&statements.join(";\n")).await.map_err(failure)?;
        self.reset_global_defaults(transaction, &now).await?;
        if let Some(public) = &self.public {
            let now = read_public(transaction).await?;
            transaction.batch_execute(&public.restore_statements(now.as_ref()).join(";\n")).await.map_err(failure)?;
        }
        Ok(())
    }

    /// A default ACL for the whole database replaces the built-in privileges. Where the baseline had no
    /// such ACL, the built-in ones come back.
    async fn reset_global_defaults(
        &self,
        transaction: &Transaction<'_>,
        before: &BTreeSet<DefaultGrant>,
    ) -> Result<(), Failure> {
        let failure = |error| sql_failure(error, "take the restored schema back");
        let key = |grant: &DefaultGrant| (grant.role.clone(), grant.schema.clone(), grant.kind.clone());
        let had: BTreeSet<_> = self.default_grants.iter().map(key).collect();
        let global: BTreeSet<_> = before.iter().filter(|grant| grant.schema.is_none()).map(key).collect();
        for (role, schema, kind) in global.difference(&had) {
            let rows = transaction.query(BUILT_IN_GRANTS, &[role, kind]).await.map_err(failure)?;
            let statements: Vec<String> = rows
                .iter()
                .filter_map(|row| {
                    let grant = Grant { grantee: row.get(0), privilege: row.get(1), grantable: row.get(2) };
                    let (role, schema, kind) = (role.clone(), schema.clone(), kind.clone());
                    default_statement("GRANT", &DefaultGrant { role, schema, kind, grant })
                })
                .collect();
            transaction.batch_execute(&statements.join(";\n")).await.map_err(failure)?;
        }
        Ok(())
    }
}

impl Public {
    /// The statements that give `public` its former owner, comment and privileges.
    fn restore_statements(&self, now: Option<&Self>) -> Vec<String> {
        let mut statements = Vec::new();
        let Some(now) = now else {
            // Only a restore can have dropped it, and pg_dump never writes a statement that does.
            return vec![format!("CREATE SCHEMA public AUTHORIZATION {}", quote_ident(&self.owner))];
        };
        let changes_owner = now.owner != self.owner;
        for grant in now.grants.difference(&self.grants) {
            statements.push(format!("REVOKE {} ON SCHEMA public FROM {} CASCADE", grant.privilege, grant.target()));
        }
        for grant in self.grants.difference(&now.grants) {
            statements.push(format!(
                "GRANT {} ON SCHEMA public TO {}{}",
                grant.privilege,
                grant.target(),
                grant.option()
            ));
        }
        if now.comment != self.comment {
            let comment = self.comment.as_deref().map_or_else(|| "NULL".to_owned(), quote_literal);
            statements.push(format!("COMMENT ON SCHEMA public IS {comment}"));
        }
        // Last, because afterwards the agent's role may not own it any more. The change moves the old
        // owner's own privileges to the new one, so it was right to revoke them above.
        if changes_owner {
            statements.push(format!("ALTER SCHEMA public OWNER TO {}", quote_ident(&self.owner)));
        }
        statements
    }
}

/// Some of what an application, or a restore, has made in the database. Empty only if there is nothing.
pub(super) async fn application_objects(client: &impl GenericClient) -> Result<Vec<String>, Failure> {
    let rows = client.query(APPLICATION_OBJECTS, &[]).await;
    let rows = rows.map_err(|error| sql_failure(error, "look whether the destination is empty"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn objects(client: &impl GenericClient) -> Result<Vec<(String, String)>, Failure> {
    let failure = |error| sql_failure(error, "look at what the database holds");
    let mut found = Vec::new();
    for query in [DATABASE_OBJECTS, SCHEMA_OBJECTS] {
        let rows = client.query(query, &[]).await.map_err(failure)?;
        found.extend(rows.iter().map(|row| (row.get(0), row.get(1))));
    }
    Ok(found)
}

async fn read_public(client: &impl GenericClient) -> Result<Option<Public>, Failure> {
    let failure = |error| sql_failure(error, "look at schema public");
    let Some(row) = client.query_opt(PUBLIC, &[]).await.map_err(failure)? else { return Ok(None) };
    let grants = client
        .query(PUBLIC_GRANTS, &[])
        .await
        .map_err(failure)?
        .iter()
        .map(|row| Grant { grantee: row.get(0), privilege: row.get(1), grantable: row.get(2) })
        .collect();
    Ok(Some(Public { owner: row.get(0), comment: row.get(1), grants }))
}

async fn read_default_grants(client: &impl GenericClient) -> Result<BTreeSet<DefaultGrant>, Failure> {
    let rows = client.query(DEFAULT_GRANTS, &[]).await;
    let rows = rows.map_err(|error| sql_failure(error, "look at default privileges"))?;
    Ok(rows
        .iter()
        .map(|row| DefaultGrant {
            role: row.get(0),
            schema: row.get(1),
            kind: row.get(2),
            grant: Grant { grantee: row.get(3), privilege: row.get(4), grantable: row.get(5) },
        })
        .collect())
}

/// The server has quoted the identity.
fn drop_statement(kind: &str, identity: &str) -> String {
    // The catalogs call a domain a `type`, and `DROP TYPE` drops it.
    format!("DROP {kind} IF EXISTS {identity} CASCADE")
}

fn default_statement(verb: &str, default: &DefaultGrant) -> Option<String> {
    let objects = match default.kind.as_str() {
        "r" => "TABLES",
        "S" => "SEQUENCES",
        "f" => "FUNCTIONS",
        "T" => "TYPES",
        "n" => "SCHEMAS",
        "L" => "LARGE OBJECTS",
        _ => return None,
    };
    let schema =
        default.schema.as_deref().map_or_else(String::new, |schema| format!(" IN SCHEMA {}", quote_ident(schema)));
    let (preposition, option) = if verb == "GRANT" { ("TO", default.grant.option()) } else { ("FROM", "") };
    Some(format!(
        "ALTER DEFAULT PRIVILEGES FOR ROLE {}{schema} {verb} {} ON {objects} {preposition} {}{option}",
        quote_ident(&default.role),
        default.grant.privilege,
        default.grant.target()
    ))
}

fn unreadable(error: &serde_json::Error) -> Failure {
    Failure::new(Reason::Internal, "what the database held when it was closed cannot be read")
        .effect(Effect::None)
        .because(error)
}
