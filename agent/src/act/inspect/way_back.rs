//! What the way back needs besides what the forward stream needs.

use pgportage_link::Failure;
use pgportage_postgres::catalog::user_relation;
use pgportage_postgres::quote_ident;
use pgportage_proto::Reason;
use pgportage_report::finding::Severity;

use super::Finding;
use super::examination::{Examination, each, one};
use super::privilege::{missing, standing};
use crate::policy::DestructiveAct;

/// Whether the owner of this server allows a way back.
#[expect(clippy::unused_async, reason = "every check has one form")]
pub(super) async fn policy(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    if x.handles.policy.destructive().allows(DestructiveAct::WayBack) {
        return Ok(vec![]);
    }
    let message = format!("the policy of the {}'s agent does not allow a way back", x.side);
    let finding = Finding::new(Reason::PolicyDenied, Severity::Refuse, "way_back", message).remedy(
        "set way_back = true under [destructive] in the agent's policy and restart it, or create the migration with \
         --no-way-back",
    );
    Ok(vec![finding])
}

/// On the source: a subscription that writes as each table's owner.
pub(super) async fn privileges(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    // The apply worker uses SET ROLE to each owner (a right of its own from 16 on).
    const OWNERS: &str = concat!(
        "SELECT DISTINCT pg_get_userbyid(c.relowner)::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
          WHERE c.relkind IN ('r', 'p') AND NOT pg_has_role(current_user, c.relowner, 'SET') AND ",
        user_relation!(),
        " ORDER BY 1"
    );
    let standing = standing(x).await?;
    if standing.superuser {
        return Ok(vec![]);
    }
    let role = &standing.role;
    if x.major() < 16 {
        let finding = missing(
            role.clone(),
            "before version 16 only a superuser makes subscriptions, and the way back needs one",
            format!("ALTER ROLE {role} SUPERUSER, or create the migration with --no-way-back"),
        );
        return Ok(vec![finding]);
    }
    let session = x.in_database()?;
    let mut findings = Vec::new();
    let subscribes = "SELECT pg_has_role(current_user, 'pg_create_subscription', 'USAGE')";
    if !one(session, subscribes, &[]).await?.get::<_, bool>(0) {
        findings.push(missing(
            role.clone(),
            "the agent's role may not make subscriptions, and the way back needs one",
            format!("GRANT pg_create_subscription TO {role}"),
        ));
    }
    findings.extend(
        each(session, OWNERS, &[], |row| {
            let owner = quote_ident(row.get(0));
            missing(
                format!("role {owner}"),
                "the way back writes as the owner of each table, and the agent's role cannot act as this one",
                format!("GRANT {owner} TO {role}"),
            )
        })
        .await?,
    );
    Ok(findings)
}
