//! The small words of the contract: which side, do or take back, by which way.
//!
//! Agent, coordinator and CLI use these; the generated enums are turned into them
//! where a message is read. Their `serde` forms stand in the coordinator's store and
//! never change.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::v1;

/// A message leaves out a word that it cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unspecified {
    /// The field.
    pub field: &'static str,
}

impl fmt::Display for Unspecified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "field `{}` is missing", self.field)
    }
}

impl std::error::Error for Unspecified {}

/// An agent's part in a migration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Beside the server moved from.
    #[default]
    Source,
    /// Beside the server moved to.
    Destination,
}

impl Side {
    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }

    /// The word used in policy files, in logs and in our tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TryFrom<v1::Side> for Side {
    type Error = Unspecified;

    fn try_from(side: v1::Side) -> Result<Self, Unspecified> {
        match side {
            v1::Side::Source => Ok(Self::Source),
            v1::Side::Destination => Ok(Self::Destination),
            v1::Side::Unspecified => Err(Unspecified { field: "side" }),
        }
    }
}

impl From<Side> for v1::Side {
    fn from(side: Side) -> Self {
        match side {
            Side::Source => Self::Source,
            Side::Destination => Self::Destination,
        }
    }
}

/// Whether an act is carried out or taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Carry it out.
    Perform,
    /// Take it back. Succeeds when there is nothing to take back.
    Undo,
}

impl Verb {
    /// Both verbs.
    pub const ALL: [Self; 2] = [Self::Perform, Self::Undo];

    /// The word used in logs and in the ledger.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Perform => "perform",
            Self::Undo => "undo",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TryFrom<v1::Verb> for Verb {
    type Error = Unspecified;

    fn try_from(verb: v1::Verb) -> Result<Self, Unspecified> {
        match verb {
            v1::Verb::Perform => Ok(Self::Perform),
            v1::Verb::Undo => Ok(Self::Undo),
            v1::Verb::Unspecified => Err(Unspecified { field: "verb" }),
        }
    }
}

impl From<Verb> for v1::Verb {
    fn from(verb: Verb) -> Self {
        match verb {
            Verb::Perform => Self::Perform,
            Verb::Undo => Self::Undo,
        }
    }
}

/// How a subscription reaches its publisher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionPath {
    /// Through the link between the two agents.
    #[default]
    Tunnel,
    /// To the source server's address in the destination agent's policy.
    Direct,
}

impl From<v1::ConnectionPath> for ConnectionPath {
    fn from(path: v1::ConnectionPath) -> Self {
        match path {
            v1::ConnectionPath::Unspecified | v1::ConnectionPath::Tunnel => Self::Tunnel,
            v1::ConnectionPath::Direct => Self::Direct,
        }
    }
}

impl From<ConnectionPath> for v1::ConnectionPath {
    fn from(path: ConnectionPath) -> Self {
        match path {
            ConnectionPath::Tunnel => Self::Tunnel,
            ConnectionPath::Direct => Self::Direct,
        }
    }
}

/// How the rows that are there already get to the destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyMethod {
    /// By the agents: many readers of the slot's snapshot, over the link.
    #[default]
    Snapshot,
    /// By the subscription itself: one worker a table.
    Native,
}

impl From<v1::CopyMethod> for CopyMethod {
    fn from(method: v1::CopyMethod) -> Self {
        match method {
            v1::CopyMethod::Unspecified | v1::CopyMethod::Snapshot => Self::Snapshot,
            v1::CopyMethod::Native => Self::Native,
        }
    }
}

impl From<CopyMethod> for v1::CopyMethod {
    fn from(method: CopyMethod) -> Self {
        match method {
            CopyMethod::Snapshot => Self::Snapshot,
            CopyMethod::Native => Self::Native,
        }
    }
}
