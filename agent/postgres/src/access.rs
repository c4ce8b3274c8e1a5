//! Which roles may log in to a database, and how that right is taken away and given back.
//!
//! Two things use it: the destination is *closed* from before its schema is restored until the decision,
//! and the source is *fenced* at the cutover. Both revoke CONNECT from every role but ours, the owner
//! included, and keep what was granted before. Deciding which statements do that is pure; they run inside
//! the transactions of the acts that need it.

use pgportage_link::Failure;
use serde::{Deserialize, Serialize};
use tokio::try_join;
use tokio_postgres::GenericClient;

use super::{quote_ident, quote_literal, sql_failure};

/// The fence, in our schema. A row means: this side was left by a cutover or a
/// rollback, and is fenced.
pub const FENCE_TABLE_DDL: &str = "\
CREATE TABLE pgportage.fence (
    id int PRIMARY KEY CHECK (id = 1),
    cutover_epoch bigint NOT NULL,
    saved_access text NOT NULL,
    record_time timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
)";

/// The decision, in our schema. Its one row alone says whether this side has opened, and at which cutover
/// or rollback. The source has none until it is left.
///
/// `floor_epoch` is the lowest cutover that may still open: raising it is the durable promise that an
/// earlier one never will.
pub const DECISION_TABLE_DDL: &str = "\
CREATE TABLE pgportage.decision (
    id int PRIMARY KEY CHECK (id = 1),
    state text NOT NULL CHECK (state IN ('closed', 'opened')),
    floor_epoch bigint NOT NULL,
    opened_epoch bigint,
    saved_access text NOT NULL,
    record_time timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
)";

/// Every role that holds CONNECT on the current database. A NULL ACL is read as the default that it stands
/// for.
const CONNECT_GRANTS: &str = "\
SELECT CASE WHEN a.grantee = 0 THEN NULL ELSE pg_get_userbyid(a.grantee)::text END AS grantee,
       bool_or(a.is_grantable) AS grantable
FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
WHERE d.datname = current_database() AND a.privilege_type = 'CONNECT'
GROUP BY 1
ORDER BY 1 NULLS FIRST";

/// The database-wide default that makes transactions read-only, if one is set.
const READ_ONLY_DEFAULT: &str = "\
SELECT substr(setting, length('default_transaction_read_only=') + 1)
FROM pg_db_role_setting s, unnest(s.setconfig) AS setting
WHERE s.setrole = 0
  AND s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND setting LIKE 'default\\_transaction\\_read\\_only=%'";

/// Every change of the database's ACL makes a new version of its row.
const ROW_VERSION: &str = "SELECT xmin::text FROM pg_database WHERE datname = current_database()";

/// The roles that may log in to a database.
///
/// Kept in our own tables as JSON while the database is closed or fenced: that row is the source of truth
/// for giving access back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Holders of CONNECT.
    pub grants: Vec<ConnectGrant>,
    /// Value of the database's own `default_transaction_read_only`, if set.
    pub read_only_default: Option<String>,
}

/// One holder of CONNECT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectGrant {
    /// The role, unquoted. `None` is PUBLIC.
    pub grantee: Option<String>,
    /// Whether the role may grant CONNECT to others.
    pub grantable: bool,
}

impl ConnectGrant {
    fn target(&self) -> String {
        self.grantee.as_deref().map_or_else(|| "PUBLIC".to_owned(), quote_ident)
    }
}

impl Access {
    /// Reads which roles may log in to the session's database.
    pub async fn read(client: &impl GenericClient) -> Result<Self, Failure> {
        let (grants, read_only_default) =
            try_join!(client.query_typed(CONNECT_GRANTS, &[]), client.query_typed_opt(READ_ONLY_DEFAULT, &[]))
                .map_err(|error| sql_failure(error, "read who may log in to the database"))?;
        Ok(Self {
            grants: grants.iter().map(|row| ConnectGrant { grantee: row.get(0), grantable: row.get(1) }).collect(),
            read_only_default: read_only_default.map(|row| row.get(0)),
        })
    }

    /// The version of the database's row, which changes with every grant of CONNECT. In a transaction that
    /// grants or revokes it, this is the version that the transaction makes.
    pub async fn version(client: &impl GenericClient) -> Result<String, Failure> {
        let row = client
            .query_typed_one(ROW_VERSION, &[])
            .await
            .map_err(|error| sql_failure(error, "read who may log in to the database"))?;
        Ok(row.get(0))
    }

    /// The statements after which only `ours` hold CONNECT.
    ///
    /// The grants to our roles come last: a CASCADE before them may have revoked grants to our roles that
    /// another role had made.
    pub fn deny_statements(&self, database: &str, ours: &[String]) -> Vec<String> {
        let database = quote_ident(database);
        let foreign = self
            .grants
            .iter()
            .filter(|grant| grant.grantee.as_ref().is_none_or(|grantee| !ours.contains(grantee)))
            .map(|grant| format!("REVOKE CONNECT ON DATABASE {database} FROM {} CASCADE", grant.target()));
        let own = ours.iter().map(|role| format!("GRANT CONNECT ON DATABASE {database} TO {}", quote_ident(role)));
        foreign.chain(own).collect()
    }

    /// The statements that lead from the access in `current` back to that in `self`. None when both are
    /// equal.
    pub fn restore_statements(&self, database: &str, current: &Self) -> Vec<String> {
        let name = quote_ident(database);
        let mut statements = Vec::new();
        for grant in &self.grants {
            let now = current.grants.iter().find(|other| other.grantee == grant.grantee);
            match (now, grant.grantable) {
                (Some(now), grantable) if now.grantable == grantable => {}
                (Some(_), false) => statements.push(format!(
                    "REVOKE GRANT OPTION FOR CONNECT ON DATABASE {name} FROM {} CASCADE",
                    grant.target()
                )),
                (_, true) => {
                    statements.push(format!("GRANT CONNECT ON DATABASE {name} TO {} WITH GRANT OPTION", grant.target()))
                }
                (None, false) => statements.push(format!("GRANT CONNECT ON DATABASE {name} TO {}", grant.target())),
            }
        }
        for grant in &current.grants {
            if !self.grants.iter().any(|other| other.grantee == grant.grantee) {
                statements.push(format!("REVOKE CONNECT ON DATABASE {name} FROM {} CASCADE", grant.target()));
            }
        }
        if self.read_only_default != current.read_only_default {
            statements.push(match &self.read_only_default {
                Some(value) => {
                    format!("ALTER DATABASE {name} SET default_transaction_read_only = {}", quote_literal(value))
                }
                None => format!("ALTER DATABASE {name} RESET default_transaction_read_only"),
            });
        }
        statements
    }

    /// The text kept in our tables.
    ///
    /// # Errors
    ///
    /// Never in practice: names are strings.
    pub fn to_json(&self) -> Result<String, Failure> {
        serde_json::to_string(self).map_err(|error| {
            Failure::new(pgportage_proto::Reason::Internal, "cannot encode the saved access").because(&error)
        })
    }

    /// Reads the text kept in our tables.
    ///
    /// # Errors
    ///
    /// [`pgportage_proto::Reason::ObjectConflict`] when it was changed by hand.
    pub fn from_json(text: &str) -> Result<Self, Failure> {
        serde_json::from_str(text).map_err(|error| {
            Failure::new(pgportage_proto::Reason::ObjectConflict, "the saved access in schema pgportage is unreadable")
                .hint("The table was changed by hand. Grant CONNECT to the application's roles by hand.")
                .because(&error)
        })
    }
}

/// The agent's own role, which must be able to log in while the database is closed or fenced.
pub async fn own_role(client: &impl GenericClient) -> Result<String, Failure> {
    let row = client
        .query_one("SELECT current_user::text", &[])
        .await
        .map_err(|error| sql_failure(error, "read the agent's own role"))?;
    Ok(row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(grantee: Option<&str>, grantable: bool) -> ConnectGrant {
        ConnectGrant { grantee: grantee.map(str::to_owned), grantable }
    }

    fn access(grants: Vec<ConnectGrant>) -> Access {
        Access { grants, read_only_default: None }
    }

    #[test]
    fn denies_everyone_but_ours_and_grants_ours_last() {
        let before = access(vec![grant(None, false), grant(Some("Owner \"x\""), false), grant(Some("agent"), false)]);
        assert_eq!(
            before.deny_statements("my db", &["agent".to_owned(), "pgportage_shop".to_owned()]),
            [
                "REVOKE CONNECT ON DATABASE \"my db\" FROM PUBLIC CASCADE",
                "REVOKE CONNECT ON DATABASE \"my db\" FROM \"Owner \"\"x\"\"\" CASCADE",
                "GRANT CONNECT ON DATABASE \"my db\" TO agent",
                "GRANT CONNECT ON DATABASE \"my db\" TO pgportage_shop",
            ]
        );
    }

    #[test]
    fn restores_exactly_the_difference() {
        let before = access(vec![grant(None, false), grant(Some("app"), true), grant(Some("agent"), false)]);
        let fenced = Access {
            grants: vec![grant(Some("agent"), false), grant(Some("pgportage_shop"), false)],
            read_only_default: Some("on".to_owned()),
        };
        assert_eq!(
            before.restore_statements("shop", &fenced),
            [
                "GRANT CONNECT ON DATABASE shop TO PUBLIC",
                "GRANT CONNECT ON DATABASE shop TO app WITH GRANT OPTION",
                "REVOKE CONNECT ON DATABASE shop FROM pgportage_shop CASCADE",
                "ALTER DATABASE shop RESET default_transaction_read_only",
            ]
        );
        assert!(before.restore_statements("shop", &before).is_empty());
    }

    #[test]
    fn takes_a_grant_option_back() {
        let before = access(vec![grant(Some("app"), false)]);
        let now = access(vec![grant(Some("app"), true)]);
        assert_eq!(
            before.restore_statements("shop", &now),
            ["REVOKE GRANT OPTION FOR CONNECT ON DATABASE shop FROM app CASCADE"]
        );
    }

    #[test]
    fn survives_its_text_form() {
        let before = Access { grants: vec![grant(Some("a\"\n"), true)], read_only_default: Some("off".to_owned()) };
        assert_eq!(Access::from_json(&before.to_json().unwrap()).unwrap(), before);
    }
}
