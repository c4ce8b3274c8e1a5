//! *Destination*: the source's schema, restored in one transaction.

use pgportage_link::Failure;
use pgportage_proto::v1::command::Action as Message;
use pgportage_proto::v1::command_result::Result as Produced;
use pgportage_proto::{ActKind, CopyMethod, v1};
use pgportage_report::Digest;
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, remark, runs};
use super::kind::{Act, Input, Outcome, Payload, something_else};

/// See the module.
pub static ACT: Act = Act {
    kind: ActKind::RestoreSchema,
    input: |given| Some(Input::of(RestoreSchema { copy_method: given.spec.copy_method })),
    send,
    produces: |outcome| outcome.read::<RestoreSchemaResult>().is_some(),
    receive,
    statements,
};

/// How much of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreSchema {
    /// Whether indexes and constraints are left until the rows are in.
    pub copy_method: CopyMethod,
}

/// The schema is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreSchemaResult {
    /// SHA-256 of the archive.
    pub dump_digest: Digest,
    /// Relations that are there.
    pub object_count: i64,
}

impl Payload for RestoreSchema {
    const KIND: ActKind = ActKind::RestoreSchema;
}

impl Payload for RestoreSchemaResult {
    const KIND: ActKind = ActKind::RestoreSchema;
}

fn send(input: &Input) -> Option<Message> {
    let RestoreSchema { copy_method } = *input.read::<RestoreSchema>()?;
    Some(Message::RestoreSchema(v1::RestoreSchema { copy_method: v1::CopyMethod::from(copy_method).into() }))
}

fn receive(produced: Produced) -> Result<Outcome, Failure> {
    let Produced::RestoreSchema(result) = produced else { return Err(something_else()) };
    let (dump_digest, object_count) = (Digest(result.dump_digest), result.object_count);
    Ok(Outcome::of(RestoreSchemaResult { dump_digest, object_count }))
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
