//! *Subscriber*: rows compared with the other side by their hashes, where an operator
//! asks for it.

use std::time::Duration;

use pgportage_link::Failure;
use pgportage_proto::{ActKind, v1};
use pgportage_report::comparison::RowComparison;
use serde::{Deserialize, Serialize};

use super::super::depth::Depth;
use super::super::statement::{Basis, Statements, only_if, remark};
use super::kind::{Act, Given, Kind, Message, Produced, something_else};
use crate::message::to_duration;

pub(crate) static ACT: Act = Act::of::<CompareRows>();

/// Which comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CompareRows {
    /// Its number: the same for one that is resumed.
    pub comparison_id: i64,
    /// How long it may take.
    pub time_limit: Option<Duration>,
    /// Whether statements that mend differences are written down.
    pub repair: bool,
}

impl Kind for CompareRows {
    const KIND: ActKind = ActKind::CompareRows;
    type Outcome = RowComparison;

    fn input(given: &Given<'_>) -> Option<Self> {
        match *given.depth {
            Depth::Rows { comparison_id, time_limit, repair } => Some(Self { comparison_id, time_limit, repair }),
            Depth::Counts => None,
        }
    }

    fn send(&self) -> Message {
        let Self { comparison_id, time_limit, repair } = *self;
        let time_limit = time_limit.and_then(to_duration);
        Message::CompareRows(v1::CompareRows { comparison_id, time_limit, repair })
    }

    fn receive(produced: Produced) -> Result<Self::Outcome, Failure> {
        let Produced::CompareRows(result) = produced else { return Err(something_else()) };
        RowComparison::try_from(result)
    }

    fn statements(_basis: &Basis<'_>) -> Statements {
        let failed_over =
            |statement: &str| only_if("this server was failed over, and no row differs", statement.to_owned());
        vec![
            remark(
                "where you ask for it: hashes of all rows, part by part, compared between both sides; it reads only",
            ),
            failed_over("LOCK TABLE pgportage.ledger IN SHARE ROW EXCLUSIVE MODE"),
            failed_over("INSERT INTO pgportage.ledger (…) VALUES ('…', 'compare_rows', 'perform', …) ON CONFLICT …"),
        ]
        .into()
    }
}
