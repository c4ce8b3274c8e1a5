//! Where a sequence stands: what a switch carries over.

use pgportage_link::Failure;
use pgportage_proto::{RelationName, v1};
use serde::{Deserialize, Serialize};

use crate::message::missing;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceState {
    pub sequence: RelationName,
    pub last_value: i64,
    /// Whether the last value was handed out.
    pub called: bool,
}

impl TryFrom<v1::SequenceState> for SequenceState {
    type Error = Failure;

    fn try_from(value: v1::SequenceState) -> Result<Self, Failure> {
        let sequence = value.sequence.ok_or_else(|| missing("sequence"))?.into();
        Ok(Self { sequence, last_value: value.last_value, called: value.called })
    }
}

impl From<&SequenceState> for v1::SequenceState {
    fn from(value: &SequenceState) -> Self {
        Self { sequence: Some((&value.sequence).into()), last_value: value.last_value, called: value.called }
    }
}
