//! *Both sides of a switch*: the preconditions, without effects, and every connection
//! that is needed.

use std::time::Duration;

use pgportage_link::Failure;
use pgportage_proto::{ActKind, Side, quote_ident, v1};
use pgportage_report::Digest;
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, only_if, remark, runs};
use super::kind::{Act, Given, Kind, Message, Produced, something_else};
use crate::message::to_duration;

pub(crate) static ACT: Act = Act::of::<PrepareCutover>();

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PrepareCutover {
    pub cutover_epoch: i64,
    pub max_outage: Duration,
    #[serde(default)]
    pub rollback: bool,
    /// Whether the side that is left follows the other one behind it.
    #[serde(default)]
    pub way_back: bool,
    #[serde(default)]
    pub rehearsal: bool,
    /// Whether poolers that do not answer are left out.
    #[serde(default)]
    pub without_poolers: bool,
    /// Whether what is written in it is compared.
    #[serde(default)]
    pub compare_written: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PrepareCutoverResult {
    /// SHA-256 over the names of the tables.
    pub table_set_digest: Digest,
    pub catalog_digest: Digest,
    pub table_count: i32,
}

impl Kind for PrepareCutover {
    const KIND: ActKind = ActKind::PrepareCutover;
    type Outcome = PrepareCutoverResult;

    fn input(given: &Given<'_>) -> Option<Self> {
        let trial = given.trial?;
        Some(Self {
            cutover_epoch: trial.epoch,
            max_outage: trial.max_outage,
            rollback: given.rollback,
            way_back: given.reverse,
            rehearsal: given.rehearsal,
            without_poolers: trial.without_poolers,
            compare_written: trial.compare_limit.is_some(),
        })
    }

    fn send(&self) -> Message {
        Message::PrepareCutover(v1::PrepareCutover {
            cutover_epoch: self.cutover_epoch,
            max_outage: to_duration(self.max_outage),
            rollback: self.rollback,
            way_back: self.way_back,
            rehearsal: self.rehearsal,
            without_poolers: self.without_poolers,
            compare_written: self.compare_written,
        })
    }

    fn receive(produced: Produced) -> Result<Self::Outcome, Failure> {
        let Produced::PrepareCutover(result) = produced else { return Err(something_else()) };
        Ok(PrepareCutoverResult {
            table_set_digest: Digest(result.table_set_digest),
            catalog_digest: Digest(result.catalog_digest),
            table_count: result.table_count,
        })
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
}
