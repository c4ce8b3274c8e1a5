//! Whether the agent's role may do what the migration needs.

use pgportage_link::Failure;
use pgportage_postgres::catalog::user_relation;
use pgportage_postgres::quote_ident;
use pgportage_proto::Reason;
use pgportage_report::finding::Severity;

use super::Finding;
use super::examination::{Examination, each, one};

/// The attributes of the agent's role that matter here.
pub(super) struct Standing {
    pub(super) role: String,
    pub(super) superuser: bool,
    creates_roles: bool,
    replicates: bool,
    bypasses_row_security: bool,
}

pub(super) async fn standing(x: &Examination<'_>) -> Result<Standing, Failure> {
    const ROLE: &str = "
        SELECT rolname::text, rolsuper, rolcreaterole, rolreplication, rolbypassrls
          FROM pg_roles WHERE rolname = current_user";
    let row = one(x.server, ROLE, &[]).await?;
    Ok(Standing {
        role: quote_ident(row.get(0)),
        superuser: row.get(1),
        creates_roles: row.get(2),
        replicates: row.get(3),
        bypasses_row_security: row.get(4),
    })
}

pub(super) fn missing(object: impl Into<String>, message: impl Into<String>, statement: String) -> Finding {
    Finding::new(Reason::PrivilegeMissing, Severity::Refuse, object, message).remedy(statement)
}

/// The rights that both sides need: to see and to end sessions, and to act as the database's owner.
async fn common(x: &Examination<'_>, role: &str) -> Result<Vec<Finding>, Failure> {
    const LACKING: &str = "
        SELECT name, purpose FROM (VALUES
               ('pg_monitor', 'the agent cannot see what other sessions do'),
               ('pg_signal_backend', 'the agent cannot end sessions of applications')) AS needed (name, purpose)
         WHERE NOT pg_has_role(current_user, name, 'USAGE')";
    const DATABASE: &str = "
        SELECT pg_get_userbyid(datdba)::text, pg_has_role(current_user, datdba, 'USAGE'),
               has_database_privilege(current_user, oid, 'CREATE')
          FROM pg_database WHERE datname = current_database()";
    let session = x.in_database()?;
    let mut findings = each(session, LACKING, &[], |row| {
        let name: String = row.get(0);
        missing(name.clone(), row.get::<_, String>(1), format!("GRANT {name} TO {role}"))
    })
    .await?;
    let row = one(session, DATABASE, &[]).await?;
    let (owner, database) = (quote_ident(row.get(0)), quote_ident(x.database));
    if !row.get::<_, bool>(1) {
        findings.push(missing(
            database.clone(),
            "the agent's role does not act as the database's owner, so it cannot close the database",
            format!("GRANT {owner} TO {role}"),
        ));
    }
    if !row.get::<_, bool>(2) {
        findings.push(missing(
            database.clone(),
            "the agent's role may not create objects in the database",
            format!("GRANT CREATE ON DATABASE {database} TO {role}"),
        ));
    }
    Ok(findings)
}

/// The rights that a publisher's agent needs: to make a slot and the two roles.
fn publishing(x: &Examination<'_>, standing: &Standing) -> Vec<Finding> {
    let role = &standing.role;
    let mut findings = Vec::new();
    // A replication role made beforehand makes the slot itself.
    if !standing.replicates && x.handles.policy.roles().replication.is_none() {
        findings.push(missing(
            role.clone(),
            "the agent's role may not make a replication slot",
            format!("ALTER ROLE {role} REPLICATION"),
        ));
    }
    let roles = x.handles.policy.roles();
    if roles.replication.is_none() || roles.canary.is_none() {
        if x.major() < 16 {
            findings.push(missing(
                role.clone(),
                "before version 16 only a superuser makes roles that replicate",
                "make the replication and the canary role by hand and name them under [roles] in the agent's policy"
                    .to_owned(),
            ));
        } else if !standing.creates_roles {
            findings.push(missing(
                role.clone(),
                "the agent's role may not make roles",
                format!(
                    "ALTER ROLE {role} CREATEROLE, or name roles made beforehand under [roles] in the agent's policy"
                ),
            ));
        }
    }
    findings
}

/// On the destination, which publishes for the way back.
pub(super) async fn publisher(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    let standing = standing(x).await?;
    Ok(if standing.superuser { vec![] } else { publishing(x, &standing) })
}

/// On the source: slot, role, publication, locks, fence.
pub(super) async fn source(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    const OWNERS: &str = concat!(
        "SELECT pg_get_userbyid(c.relowner)::text, count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
          WHERE c.relkind IN ('r', 'p', 'S') AND NOT pg_has_role(current_user, c.relowner, 'USAGE') AND ",
        user_relation!(),
        " GROUP BY c.relowner ORDER BY 1"
    );
    const SCHEMAS: &str = concat!(
        "SELECT DISTINCT n.nspname::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
          WHERE NOT has_schema_privilege(current_user, n.oid, 'USAGE') AND ",
        user_relation!(),
        " ORDER BY 1"
    );
    let standing = standing(x).await?;
    if standing.superuser {
        return Ok(vec![]);
    }
    let role = &standing.role;
    let mut findings = common(x, role).await?;
    findings.extend(publishing(x, &standing));
    let session = x.in_database()?;
    findings.extend(
        each(session, OWNERS, &[], |row| {
            let owner = quote_ident(row.get(0));
            missing(
                format!("relations of {owner}"),
                "the agent's role does not act as the owner of tables, so it can neither publish nor lock them",
                format!("GRANT {owner} TO {role}"),
            )
            .evidence(format!("{} relations", row.get::<_, i64>(1)))
        })
        .await?,
    );
    findings.extend(
        each(session, SCHEMAS, &[], |row| {
            let schema = quote_ident(row.get(0));
            missing(
                format!("schema {schema}"),
                "the agent's role may not look into the schema",
                format!("GRANT USAGE ON SCHEMA {schema} TO {role}"),
            )
        })
        .await?,
    );
    Ok(findings)
}

/// On the destination: schema, subscription, decision.
pub(super) async fn destination(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    // ALTER … OWNER TO, and the apply worker, use SET ROLE to each owner (a right of its own from 16 on).
    const OWNERS: &str = "
        SELECT rolname::text FROM pg_roles WHERE rolname = ANY ($1) AND NOT pg_has_role(current_user, oid, 'SET') ORDER BY 1";
    let standing = standing(x).await?;
    if standing.superuser {
        return Ok(vec![]);
    }
    let role = &standing.role;
    let mut findings = common(x, role).await?;
    if x.major() < 16 {
        findings.push(missing(
            role.clone(),
            "before version 16 only a superuser makes subscriptions",
            format!("ALTER ROLE {role} SUPERUSER"),
        ));
        return Ok(findings);
    }
    let session = x.in_database()?;
    let subscribes = "SELECT pg_has_role(current_user, 'pg_create_subscription', 'USAGE')";
    if !one(session, subscribes, &[]).await?.get::<_, bool>(0) {
        findings.push(missing(
            role.clone(),
            "the agent's role may not make subscriptions",
            format!("GRANT pg_create_subscription TO {role}"),
        ));
    }
    let owners = x.source.map(|source| source.owner_role_names.clone()).unwrap_or_default();
    findings.extend(
        each(session, OWNERS, &[&owners], |row| {
            let owner = quote_ident(row.get(0));
            missing(
                format!("role {owner}"),
                "the agent's role cannot give objects to an owner that the schema names",
                format!("GRANT {owner} TO {role}"),
            )
        })
        .await?,
    );
    Ok(findings)
}

/// Whether the initial copy would see all rows of tables with row-level security. Without BYPASSRLS the
/// copy would leave rows out.
pub(super) async fn row_security(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    const TABLES: &str = concat!(
        "SELECT string_agg(format('%I.%I', n.nspname, c.relname), ', ' ORDER BY n.nspname, c.relname)
           FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
          WHERE c.relrowsecurity AND c.relkind IN ('r', 'p') AND ",
        user_relation!()
    );
    let Some(tables) = one(x.in_database()?, TABLES, &[]).await?.get::<_, Option<String>>(0) else {
        return Ok(vec![]);
    };
    let (reader, able) = match &x.handles.policy.roles().replication {
        Some(premade) => {
            const ABLE: &str =
                "SELECT coalesce((SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = $1), false)";
            (quote_ident(&premade.name), one(x.server, ABLE, &[&premade.name]).await?.get(0))
        }
        None => {
            // A role without BYPASSRLS cannot give it either; before 16 only a superuser can.
            let standing = standing(x).await?;
            let able = standing.superuser || (x.major() >= 16 && standing.bypasses_row_security);
            (standing.role, able)
        }
    };
    let finding = Finding::new(
        Reason::RowLevelSecurity,
        Severity::Refuse,
        reader.clone(),
        "row-level security would hide rows from the initial copy",
    )
    .evidence(format!("tables {tables}"))
    .remedy(format!("ALTER ROLE {reader} BYPASSRLS"));
    Ok((!able).then_some(finding).into_iter().collect())
}
