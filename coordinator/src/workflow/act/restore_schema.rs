//! *Destination*: the source's schema, restored in one transaction.

use pgportage_link::Failure;
use pgportage_proto::{ActKind, CopyMethod, v1};
use pgportage_report::Digest;
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, remark, runs};
use super::kind::{Act, Given, Kind, Message, Produced, something_else};

pub(crate) static ACT: Act = Act::of::<RestoreSchema>();

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RestoreSchema {
    /// Whether indexes and constraints are left until the rows are in.
    pub copy_method: CopyMethod,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RestoreSchemaResult {
    pub dump_digest: Digest,
    /// Relations that are there.
    pub object_count: i64,
}

impl Kind for RestoreSchema {
    const KIND: ActKind = ActKind::RestoreSchema;
    type Outcome = RestoreSchemaResult;

    fn input(given: &Given<'_>) -> Option<Self> {
        Some(Self { copy_method: given.spec.copy_method })
    }

    fn send(&self) -> Message {
        Message::RestoreSchema(v1::RestoreSchema { copy_method: v1::CopyMethod::from(self.copy_method).into() })
    }

    fn receive(produced: Produced) -> Result<Self::Outcome, Failure> {
        let Produced::RestoreSchema(result) = produced else { return Err(something_else()) };
        Ok(RestoreSchemaResult { dump_digest: Digest(result.dump_digest), object_count: result.object_count })
    }

    fn statements(basis: &Basis<'_>) -> Statements {
        let sections = match basis.spec.copy_method {
            CopyMethod::Snapshot => "--section=pre-data",
            CopyMethod::Native => "--schema-only",
        };
        let mut here = vec![
            runs(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND usename = session_user AND application_name = 'pgportage restore'",
            ),
            runs(format!(
                "pg_restore --single-transaction --exit-on-error --no-publications --no-subscriptions {sections} \
                 --no-tablespaces --verbose …"
            )),
        ];
        if basis.spec.copy_method == CopyMethod::Snapshot {
            here.push(remark("indexes, constraints and triggers are made when the rows are in"));
        }
        here.extend(basis.first_heartbeats());
        here.extend(basis.ledger(ActKind::RestoreSchema, "perform"));
        let there = vec![runs(
            "pg_dump --format=custom --schema-only --no-publications --no-subscriptions --exclude-schema=pgportage …",
        )];
        Statements { there, here }
    }
}
