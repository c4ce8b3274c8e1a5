//! How the schemas of both sides compare.

use serde::Serialize;

use super::Side;

/// What differs between the schemas of the two sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SchemaDrift {
    /// The side that follows: what is missing is missing there.
    pub follower: Side,
    /// How many objects differ. Zero: both sides are level.
    pub object_count: i32,
    /// Some of them, the most urgent first.
    pub objects: Vec<DriftedObject>,
}

/// One object that is not the same on both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DriftedObject {
    /// What it is and its name.
    pub identity: String,
    /// How it differs.
    pub change: Change,
}

/// How an object differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The side that follows does not have it.
    Missing,
    /// Only the side that follows has it.
    Extra,
    /// Both have it, defined otherwise.
    Different,
    /// A table whose rows do not travel.
    NotReplicated,
    /// Sent by another release.
    Unrecognised,
}
