//! *Both sides*: settings and catalogs are read; nothing is changed.

use pgportage_link::Failure;
use pgportage_proto::{ActKind, Side, v1};
use pgportage_report::inventory::Inventory;
use serde::{Deserialize, Serialize};

use super::super::finding::{Consent, Finding};
use super::super::statement::{Basis, Statements, remark};
use super::kind::{Act, Given, Kind, Message, Produced, something_else};
use crate::message::missing;

pub(crate) static ACT: Act = Act::of::<CheckServer>();

/// What a server is checked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CheckServer {
    /// What the source said about itself. For the destination only.
    pub source: Option<Inventory>,
    /// What the operator has agreed to.
    pub consents: Vec<Consent>,
    /// Whether each side takes the other's part, too.
    #[serde(default)]
    pub way_back: bool,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CheckServerResult {
    /// What the server is and holds.
    pub inventory: Inventory,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl Kind for CheckServer {
    const KIND: ActKind = ActKind::CheckServer;
    type Outcome = CheckServerResult;

    fn input(given: &Given<'_>) -> Option<Self> {
        Some(Self {
            source: match given.side {
                Side::Source => None,
                Side::Destination => Some(given.source?.for_the_destination()),
            },
            consents: given.consents.to_vec(),
            way_back: given.reverse,
        })
    }

    fn send(&self) -> Message {
        let Self { source, consents, way_back } = self;
        Message::CheckServer(v1::CheckServer {
            source: source.clone().map(v1::Inventory::from),
            consents: consents.iter().map(v1::Consent::from).collect(),
            way_back: *way_back,
        })
    }

    fn receive(produced: Produced) -> Result<Self::Outcome, Failure> {
        let Produced::CheckServer(result) = produced else { return Err(something_else()) };
        Ok(CheckServerResult {
            inventory: result.inventory.ok_or_else(|| missing("inventory"))?.into(),
            findings: result.findings.into_iter().map(Finding::from).collect(),
        })
    }

    fn statements(_basis: &Basis<'_>) -> Statements {
        vec![remark("read settings and catalogs; nothing is changed")].into()
    }
}
