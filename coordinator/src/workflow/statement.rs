//! The words that plans are written in: lines, and what they are written from.
//!
//! The statements of an act stand beside the act (`super::act`). **A line that runs is
//! the statement as the agent makes it**: `…` stands for what is secret or not known
//! before, and `/* … */` behind a statement says what its names stand for. What the
//! agents really run is held against this by `tests/tests/plan.rs`.

use std::fmt;

use pgportage_proto::{ActKind, MigrationId, RelationName, Side, quote_ident};
use pgportage_report::inventory::{Inventory, PlanMaterial, PlannedRole, PlannedTable};
pub(super) use pgportage_report::quantity::size;

use super::spec::Spec;

/// How many names a line shows before it says how many more there are.
const NAMES: usize = 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A statement or a program that runs.
    Runs(String),
    /// One that runs only under a condition.
    OnlyIf {
        when: String,
        statement: String,
    },
    Remark(String),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Runs(statement) => f.write_str(statement),
            Self::OnlyIf { when, statement } => write!(f, "-- only if {when}: {statement}"),
            Self::Remark(text) => write!(f, "-- {text}"),
        }
    }
}

pub(super) fn runs(statement: impl Into<String>) -> Line {
    Line::Runs(statement.into())
}

pub(super) fn only_if(when: impl Into<String>, statement: impl Into<String>) -> Line {
    Line::OnlyIf { when: when.into(), statement: statement.into() }
}

pub(super) fn remark(text: impl Into<String>) -> Line {
    Line::Remark(text.into())
}

/// What an act runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statements {
    /// On the other side's server, by its agent, which is asked over the link, or by
    /// the subscription.
    pub there: Vec<Line>,
    /// On its own side's server.
    pub here: Vec<Line>,
}

impl From<Vec<Line>> for Statements {
    fn from(here: Vec<Line>) -> Self {
        Self { there: Vec::new(), here }
    }
}

/// What the statements of an act are written from.
#[derive(Clone, Copy, Debug)]
pub struct Basis<'a> {
    pub id: &'a MigrationId,
    pub spec: &'a Spec,
    /// Whether applications can return to the source.
    pub reverse: bool,
    /// What the source's agent has read, if it was asked.
    pub source: Option<&'a Inventory>,
    /// What the destination's agent has read, if it was asked.
    pub destination: Option<&'a Inventory>,
    /// Whether the act's step is a rollback.
    pub rollback: bool,
    pub side: Side,
}

impl<'a> Basis<'a> {
    pub(super) fn inventory(&self, side: Side) -> Option<&'a Inventory> {
        match side {
            Side::Source => self.source,
            Side::Destination => self.destination,
        }
    }

    pub(super) fn material(&self, side: Side) -> Option<&'a PlanMaterial> {
        self.inventory(side)?.plan_material.as_deref()
    }

    /// `server_version_num`, where the server was read.
    pub(super) fn version(&self, side: Side) -> Option<i32> {
        self.inventory(side).map(|inventory| inventory.server_version_num).filter(|version| *version > 0)
    }

    /// The database, as an identifier.
    pub(super) fn database(&self) -> String {
        quote_ident(&self.spec.database)
    }

    /// Publication, slot and subscription of what a side publishes.
    pub(super) fn stream(&self, publisher: Side) -> String {
        self.id.stream_name(publisher)
    }

    /// The table whose arrival measures the lag of what a side publishes.
    pub(super) fn heartbeat(&self, publisher: Side) -> &'static str {
        match publisher {
            Side::Source => "pgportage.heartbeat",
            Side::Destination => "pgportage.heartbeat_back",
        }
    }

    /// The role that the other side replicates from this one as.
    pub(super) fn replication_role(&self, side: Side) -> PlannedRole {
        let known = self.material(side).map(|material| material.replication_role.clone());
        known.unwrap_or_else(|| PlannedRole { role_name: self.stream(side), ..PlannedRole::default() })
    }

    /// The role whose refused login proves a fence on this side.
    pub(super) fn canary_role(&self, side: Side) -> PlannedRole {
        let known = self.material(side).map(|material| material.canary_role.clone());
        known.unwrap_or_else(|| PlannedRole {
            role_name: format!("{}_canary", self.stream(side)),
            ..PlannedRole::default()
        })
    }

    /// The role that the agent of a side logs in as, as an identifier.
    pub(super) fn agent_role(&self, side: Side) -> String {
        self.material(side).map_or_else(|| "…".to_owned(), |material| quote_ident(&material.agent_role_name))
    }

    /// The tables that move, where the source was read.
    pub(super) fn tables(&self) -> Option<&'a [PlannedTable]> {
        self.material(Side::Source).map(|material| material.tables.as_slice())
    }

    /// Tables as a list in SQL, each behind `prefix`.
    pub(super) fn table_list(&self, prefix: &str) -> String {
        match self.tables() {
            Some(tables) => names(tables.iter().map(|table| format!("{prefix}{}", table.name))),
            None => format!("{prefix}…"),
        }
    }

    /// Sequences, for a remark.
    pub(super) fn sequences(&self) -> Option<&'a [RelationName]> {
        self.material(Side::Source).map(|material| material.sequences.as_slice())
    }

    /// The row of the ledger that is committed with an act's effect.
    pub(super) fn ledger(&self, kind: ActKind, verb: &str) -> [Line; 2] {
        [
            runs("LOCK TABLE pgportage.ledger IN SHARE ROW EXCLUSIVE MODE"),
            runs(format!(
                "INSERT INTO pgportage.ledger (…) VALUES ('…', '{}', '{verb}', …) ON CONFLICT …",
                kind.as_str()
            )),
        ]
    }

    /// Our schema, made.
    pub(super) fn own_schema(&self) -> Vec<Line> {
        let table = |name: &str| runs(format!("CREATE TABLE pgportage.{name} (…)"));
        let mut lines = vec![runs("CREATE SCHEMA pgportage"), table("migration")];
        lines.push(runs(format!(
            "INSERT INTO pgportage.migration (migration_id, side, format) VALUES ('{}', '{}', …)",
            self.id, self.side
        )));
        lines.extend(["ledger", "heartbeat", "heartbeat_back", "marker", "fence", "decision"].map(table));
        lines.extend(self.first_heartbeats());
        lines
    }

    /// The rows that heartbeats change. Written wherever our schema is looked after.
    pub(super) fn first_heartbeats(&self) -> Vec<Line> {
        let tables: &[&str] = match self.side {
            Side::Source => &["heartbeat_back", "heartbeat"],
            Side::Destination => &["heartbeat_back"],
        };
        let row = |table: &&str| {
            runs(format!("INSERT INTO pgportage.{table} (id, sequence) VALUES (1, 0) ON CONFLICT (id) DO NOTHING"))
        };
        tables.iter().map(row).collect()
    }

    /// Everybody but our roles loses CONNECT on this side.
    pub(super) fn deny(&self, ours: &[String]) -> Vec<Line> {
        let database = self.database();
        let Some(material) = self.material(self.side) else {
            return vec![
                runs(format!("REVOKE CONNECT ON DATABASE {database} FROM … CASCADE")),
                runs(format!("GRANT CONNECT ON DATABASE {database} TO …")),
            ];
        };
        let others = material.connect_grants.iter().filter(|grant| !ours.contains(&grant.grantee()));
        let revoked =
            others.map(|grant| runs(format!("REVOKE CONNECT ON DATABASE {database} FROM {} CASCADE", grant.grantee())));
        let granted = ours.iter().map(|role| runs(format!("GRANT CONNECT ON DATABASE {database} TO {role}")));
        revoked.chain(granted).collect()
    }

    /// CONNECT is given back to those who held it on this side, and kept by our roles.
    pub(super) fn let_in(&self, ours: &[String], kept: &[String]) -> Vec<Line> {
        let database = self.database();
        let Some(material) = self.material(self.side) else {
            return vec![runs(format!("GRANT CONNECT ON DATABASE {database} TO …"))];
        };
        let held = |role: &String| material.connect_grants.iter().any(|grant| grant.grantee() == *role);
        let mut lines: Vec<Line> = Vec::new();
        for grant in &material.connect_grants {
            let grantee = grant.grantee();
            let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
            if !ours.contains(&grantee) || grant.grantable {
                lines.push(runs(format!("GRANT CONNECT ON DATABASE {database} TO {grantee}{option}")));
            }
        }
        let foreign = ours.iter().filter(|role| !held(role));
        lines.extend(foreign.map(|role| runs(format!("REVOKE CONNECT ON DATABASE {database} FROM {role} CASCADE"))));
        lines.extend(kept.iter().map(|role| runs(format!("GRANT CONNECT ON DATABASE {database} TO {role}"))));
        lines
    }

    /// Every other session of the database is ended.
    pub(super) fn end_sessions(&self) -> Vec<Line> {
        let statement = runs("SELECT a.pid, …, pg_terminate_backend(a.pid) FROM pg_stat_activity a WHERE …");
        let Some(material) = self.material(self.side) else { return vec![statement] };
        let sessions: Vec<String> = material
            .sessions
            .iter()
            .map(|group| {
                let application = match group.application_name.as_str() {
                    "" => String::new(),
                    name => format!(" ({name})"),
                };
                format!("{} of {}{application}", group.session_count, quote_ident(&group.role_name))
            })
            .collect();
        let seen = match sessions.as_slice() {
            [] => "no other session of the database was open".to_owned(),
            sessions => format!("sessions of the database that were open: {}", names(sessions.iter().cloned())),
        };
        vec![statement, remark(format!("{seen}; those that are open then are ended"))]
    }

    /// Our roles of this side are dropped, or lose what they were given.
    pub(super) fn drop_roles(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        let (replication, canary) = (self.replication_role(self.side), self.canary_role(self.side));
        let connects = match self.side {
            Side::Source => replication.connects,
            // Closing took it.
            Side::Destination => false,
        };
        if replication.premade && !connects {
            lines.push(runs(format!(
                "REVOKE CONNECT ON DATABASE {} FROM {}",
                self.database(),
                quote_ident(&replication.role_name)
            )));
        }
        for role in [replication, canary].into_iter().filter(|role| !role.premade) {
            let name = quote_ident(&role.role_name);
            lines.push(only_if("the agent's role is no member of it", format!("GRANT {name} TO CURRENT_USER")));
            lines.push(runs(format!("DROP OWNED BY {name}")));
            lines.push(runs(format!("DROP ROLE {name}")));
        }
        lines
    }

    /// The slot of what this side publishes is dropped, with all that streams from it.
    pub(super) fn drop_slot(&self) -> Vec<Line> {
        let role = self.replication_role(self.side).role_name;
        vec![
            runs(format!(
                "SELECT pg_terminate_backend(r.pid) FROM pg_stat_replication r … WHERE r.usename = '{role}' …"
            )),
            only_if("somebody still streams from it", "SELECT pg_terminate_backend('…')"),
            runs(format!("SELECT pg_drop_replication_slot('{}')", self.stream(self.side))),
        ]
    }
}

/// A list of names, and how many more there are.
pub(super) fn names(all: impl ExactSizeIterator<Item = String>) -> String {
    let more = all.len().saturating_sub(NAMES);
    let shown: Vec<String> = all.take(NAMES).collect();
    match more {
        0 => shown.join(", "),
        more => format!("{}, … /* {more} more */", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_are_counted() {
        assert_eq!(names(["a", "b"].map(str::to_owned).into_iter()), "a, b");
        let many: Vec<String> = (0..25).map(|number| format!("t{number}")).collect();
        assert!(names(many.into_iter()).ends_with(", t19, … /* 5 more */"));
    }

    #[test]
    fn sizes_have_their_unit() {
        assert_eq!([size(10), size(2048), size(3 << 30)], ["10 bytes", "2.0 kB", "3.0 GB"]);
    }

    #[test]
    fn only_what_runs_is_no_comment() {
        assert_eq!(runs("SELECT 1").to_string(), "SELECT 1");
        assert_eq!(only_if("a", "SELECT 1").to_string(), "-- only if a: SELECT 1");
        assert_eq!(remark("wait").to_string(), "-- wait");
    }
}
