//! *Both sides of a switch*: the preconditions, without effects, and every connection
//! that is needed.

use std::time::Duration;

use pgportage_link::Failure;
use pgportage_proto::v1::command::Action as Message;
use pgportage_proto::v1::command_result::Result as Produced;
use pgportage_proto::{ActKind, Side, quote_ident, v1};
use pgportage_report::Digest;
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, only_if, remark, runs};
use super::kind::{Act, Given, Input, Outcome, Payload, something_else};
use crate::message::to_duration;

/// See the module.
pub static ACT: Act = Act {
    kind: ActKind::PrepareCutover,
    input,
    send,
    produces: |outcome| outcome.read::<PrepareCutoverResult>().is_some(),
    receive,
    statements,
};

/// Which switch, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrepareCutover {
    /// Its number.
    pub cutover_epoch: i64,
    /// Its budget.
    pub max_outage: Duration,
    /// Whether it is a rollback.
    #[serde(default)]
    pub rollback: bool,
    /// Whether the side that is left follows the other one behind it.
    #[serde(default)]
    pub way_back: bool,
    /// Whether it is only rehearsed.
    #[serde(default)]
    pub rehearsal: bool,
    /// Whether poolers that do not answer are left out.
    #[serde(default)]
    pub without_poolers: bool,
    /// Whether what is written in it is compared.
    #[serde(default)]
    pub compare_written: bool,
}

/// The preconditions hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrepareCutoverResult {
    /// SHA-256 over the names of the tables.
    pub table_set_digest: Digest,
    /// SHA-256 over the catalog.
    pub catalog_digest: Digest,
    /// How many tables there are.
    pub table_count: i32,
}

impl Payload for PrepareCutover {
    const KIND: ActKind = ActKind::PrepareCutover;
}

impl Payload for PrepareCutoverResult {
    const KIND: ActKind = ActKind::PrepareCutover;
}

fn input(given: &Given<'_>) -> Option<Input> {
    let trial = given.trial?;
    Some(Input::of(PrepareCutover {
        cutover_epoch: trial.epoch,
        max_outage: trial.max_outage,
        rollback: given.rollback,
        way_back: given.reverse,
        rehearsal: given.rehearsal,
        without_poolers: trial.without_poolers,
        compare_written: trial.compare_limit.is_some(),
    }))
}

fn send(input: &Input) -> Option<Message> {
    let given = input.read::<PrepareCutover>()?;
    Some(Message::PrepareCutover(v1::PrepareCutover {
        cutover_epoch: given.cutover_epoch,
        max_outage: to_duration(given.max_outage),
        rollback: given.rollback,
        way_back: given.way_back,
        rehearsal: given.rehearsal,
        without_poolers: given.without_poolers,
        compare_written: given.compare_written,
    }))
}

fn receive(produced: Produced) -> Result<Outcome, Failure> {
    let Produced::PrepareCutover(result) = produced else { return Err(something_else()) };
    Ok(Outcome::of(PrepareCutoverResult {
        table_set_digest: Digest(result.table_set_digest),
        catalog_digest: Digest(result.catalog_digest),
        table_count: result.table_count,
    }))
}

fn statements(basis: &Basis<'_>) -> Statements {
    let leaves = if basis.rollback { Side::Destination } else { Side::Source };
    let side = basis.side;
    if side != leaves {
        return vec![remark("check every precondition; what opens this side is tried and rolled back")].into();
    }
    let mut lines = vec![remark("check every precondition; what fences this side is tried and rolled back")];
    let canary = basis.canary_role(side);
    if !canary.premade {
        lines.push(runs(format!("ALTER ROLE {} PASSWORD '…'", quote_ident(&canary.role_name))));
    }
    lines.push(only_if(
        "you type --compare",
        "SELECT pg_create_logical_replication_slot('…', 'pgoutput', true) /* temporary */",
    ));
    lines.into()
}
