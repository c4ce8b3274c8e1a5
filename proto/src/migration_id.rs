//! What operators call a migration, and what is named after it on servers.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Side;

/// The operator's name for a migration: 1 to 40 characters of `[a-z0-9-]`,
/// beginning with a letter, because names on the servers are made from it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MigrationId(String);

/// A name that is not a [`MigrationId`]'s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidMigrationId(String);

impl InvalidMigrationId {
    /// What a name has to look like, as a sentence.
    pub const FORM: &'static str = "Use 1 to 40 characters of a-z, 0-9 and -, beginning with a letter.";
}

impl fmt::Display for InvalidMigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid migration name {:?}", self.0)
    }
}

impl std::error::Error for InvalidMigrationId {}

impl MigrationId {
    /// Checks a name from outside.
    pub fn new(text: &str) -> Result<Self, InvalidMigrationId> {
        let fits = (1..=40).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && text.starts_with(|first: char| first.is_ascii_lowercase());
        if fits { Ok(Self(text.to_owned())) } else { Err(InvalidMigrationId(text.to_owned())) }
    }

    /// The name as typed.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What is called `prefix` on a server and belongs to this migration. Names of
    /// migrations have `-` but no `_`, so turning one into the other never makes two
    /// of them equal.
    pub fn named(&self, prefix: &str) -> String {
        format!("{prefix}_{}", self.0.replace('-', "_"))
    }

    /// What the stream that a side publishes is called on both servers: publication,
    /// slot, subscription and replication role share the name. The destination's
    /// begins otherwise, because every ending could be that of another migration.
    pub fn stream_name(&self, publisher: Side) -> String {
        match publisher {
            Side::Source => self.named("pgportage"),
            Side::Destination => self.named("pgportageback"),
        }
    }

    /// The destination's publication of nothing but the heartbeat, by which the reverse
    /// direction is proved.
    pub fn proof_publication(&self) -> String {
        self.named("pgportageproof")
    }

    /// The slot that takes the place of a side's own for a moment, so that where it
    /// begins is on disk.
    pub fn slot_copy(&self, publisher: Side) -> String {
        match publisher {
            Side::Source => self.named("pgportagecopy"),
            Side::Destination => self.named("pgportagebackcopy"),
        }
    }
}

impl fmt::Display for MigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_fits_everywhere_or_is_refused() {
        for good in ["a", "shop-2", &"m".repeat(40)] {
            assert_eq!(MigrationId::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "2shop", "-a", "Shop", "shop_2", "größe", "a b", &"m".repeat(41)] {
            assert_eq!(MigrationId::new(bad), Err(InvalidMigrationId(bad.to_owned())));
        }
        assert_eq!(MigrationId::new("shop-2").unwrap().stream_name(Side::Destination), "pgportageback_shop_2");
    }
}
