//! The migration as an agent sees it: which database, which side, with whom.

use std::fmt;

use pgportage_link::Failure;
use pgportage_proto::{Reason, v1};

/// The operator's name for a migration: 1 to 40 characters of `[a-z0-9-]`,
/// beginning with a letter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MigrationId(String);

impl MigrationId {
    /// Checks a name from outside.
    ///
    /// # Errors
    ///
    /// [`Reason::RequestInvalid`] when it has another form.
    pub fn new(text: &str) -> Result<Self, Failure> {
        let fits = (1..=40).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && text.starts_with(|first: char| first.is_ascii_lowercase());
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(Failure::new(Reason::RequestInvalid, format!("invalid migration name {text:?}"))
                .hint("Use 1 to 40 characters of a-z, 0-9 and -, beginning with a letter."))
        }
    }

    /// The name as typed.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An agent's part in a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// Beside the server moved from.
    Source,
    /// Beside the server moved to.
    Destination,
}

impl Side {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }

    /// The word used in the policy file, in logs and in our tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
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
    type Error = Failure;

    fn try_from(side: v1::Side) -> Result<Self, Failure> {
        match side {
            v1::Side::Source => Ok(Self::Source),
            v1::Side::Destination => Ok(Self::Destination),
            v1::Side::Unspecified => Err(Failure::new(Reason::RequestInvalid, "field `side` is missing")),
        }
    }
}

/// One agent's part in one migration. Stored in the journal when the first
/// command of the migration is accepted, and until the migration is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Participation {
    /// The migration.
    pub migration: MigrationId,
    /// Which side this agent has.
    pub side: Side,
    /// The database that moves, as PostgreSQL names it, unquoted.
    pub database: String,
    /// The other agent's name, as in its certificate.
    pub peer: String,
}
