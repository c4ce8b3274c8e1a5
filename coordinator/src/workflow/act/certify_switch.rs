//! *Both sides of a switch*: what was seen of it, stated and signed.

use pgportage_link::Failure;
use pgportage_proto::{ActKind, v1};
use pgportage_report::Digest;
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, remark};
use super::kind::{Act, Given, Kind, Message, Produced, something_else};
use crate::message::missing;

pub(crate) static ACT: Act = Act::of::<CertifySwitch>();

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CertifySwitch {
    pub cutover_epoch: i64,
    pub rollback: bool,
}

/// What one agent states about a switch, as it was signed. Kept and handed out;
/// nothing here reads it, and nobody has to believe that nothing here changed it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedStatement {
    pub statement: String,
    /// Number of the signature scheme.
    pub scheme: u32,
    pub signature: Digest,
    /// The signer's certificate, then those up to the authority.
    pub chain: Vec<Digest>,
}

impl Kind for CertifySwitch {
    const KIND: ActKind = ActKind::CertifySwitch;
    type Outcome = SignedStatement;

    fn input(given: &Given<'_>) -> Option<Self> {
        Some(Self { cutover_epoch: given.cutover_epoch?, rollback: given.rollback })
    }

    fn send(&self) -> Message {
        Message::CertifySwitch(v1::CertifySwitch { cutover_epoch: self.cutover_epoch, rollback: self.rollback })
    }

    fn receive(produced: Produced) -> Result<Self::Outcome, Failure> {
        let Produced::CertifySwitch(result) = produced else { return Err(something_else()) };
        Ok(result.signed.ok_or_else(|| missing("signed"))?.into())
    }

    fn statements(_basis: &Basis<'_>) -> Statements {
        vec![remark("state what was seen of the switch, signed with the key of the agent's certificate")].into()
    }
}

impl From<v1::SignedStatement> for SignedStatement {
    fn from(value: v1::SignedStatement) -> Self {
        Self {
            statement: value.statement,
            scheme: value.scheme,
            signature: Digest(value.signature),
            chain: value.chain.into_iter().map(Digest).collect(),
        }
    }
}
