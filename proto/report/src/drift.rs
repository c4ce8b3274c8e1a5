//! How the schemas of both sides compare.

use pgportage_proto::{Side, Unspecified, v1};
use serde::Serialize;

/// What differs between the schemas of the two sides. The serde form is the CLI's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SchemaDrift {
    /// The side that follows, and whose agent compared: what is missing is missing
    /// there.
    pub follower: Side,
    /// How many objects differ. Zero when both schemas are equal.
    pub object_count: i32,
    /// Some of them, the most urgent first.
    pub objects: Vec<DriftedObject>,
}

/// One object that is not the same on both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DriftedObject {
    /// Its kind and name, such as `table public.orders`.
    pub identity: String,
    /// How it differs.
    pub change: Change,
}

/// How an object differs, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A table that was made after the publication: its rows do not travel.
    NotReplicated,
    /// Both sides have it, with different definitions.
    Different,
    /// The side that follows does not have it.
    Missing,
    /// Only the side that follows has it.
    Extra,
    /// Said by a newer release.
    Unrecognised,
}

impl SchemaDrift {
    /// Whether nothing differs.
    #[must_use]
    pub fn level(&self) -> bool {
        self.object_count == 0
    }
}

impl From<SchemaDrift> for v1::SchemaDrift {
    fn from(drift: SchemaDrift) -> Self {
        Self {
            follower: v1::Side::from(drift.follower).into(),
            object_count: drift.object_count,
            objects: drift.objects.into_iter().map(v1::DriftedObject::from).collect(),
            ..Self::default()
        }
    }
}

impl TryFrom<v1::SchemaDrift> for SchemaDrift {
    type Error = Unspecified;

    fn try_from(sent: v1::SchemaDrift) -> Result<Self, Unspecified> {
        Ok(Self {
            follower: sent.follower().try_into()?,
            object_count: sent.object_count.max(0),
            objects: sent.objects.into_iter().map(DriftedObject::from).collect(),
        })
    }
}

impl From<DriftedObject> for v1::DriftedObject {
    fn from(object: DriftedObject) -> Self {
        use v1::drifted_object::Change as Sent;
        let change = match object.change {
            Change::NotReplicated => Sent::NotReplicated,
            Change::Different => Sent::Different,
            Change::Missing => Sent::Missing,
            Change::Extra => Sent::Extra,
            Change::Unrecognised => Sent::Unspecified,
        };
        Self { identity: object.identity, change: change.into(), ..Self::default() }
    }
}

impl From<v1::DriftedObject> for DriftedObject {
    fn from(sent: v1::DriftedObject) -> Self {
        use v1::drifted_object::Change as Sent;
        Self {
            change: match sent.change() {
                Sent::NotReplicated => Change::NotReplicated,
                Sent::Different => Change::Different,
                Sent::Missing => Change::Missing,
                Sent::Extra => Change::Extra,
                Sent::Unspecified => Change::Unrecognised,
            },
            identity: sent.identity,
        }
    }
}
