//! Schema drift, as the contract has it.

use pgportage_proto::v1;

use super::explained::side;
use crate::view::{Change, DriftedObject, SchemaDrift};

impl From<v1::SchemaDrift> for SchemaDrift {
    fn from(message: v1::SchemaDrift) -> Self {
        Self {
            follower: side(message.follower()),
            object_count: message.object_count,
            objects: message.objects.into_iter().map(DriftedObject::from).collect(),
        }
    }
}

impl From<v1::DriftedObject> for DriftedObject {
    fn from(message: v1::DriftedObject) -> Self {
        use v1::drifted_object::Change as Wire;
        Self {
            change: match message.change() {
                Wire::Missing => Change::Missing,
                Wire::Extra => Change::Extra,
                Wire::Different => Change::Different,
                Wire::NotReplicated => Change::NotReplicated,
                Wire::Unspecified => Change::Unrecognised,
            },
            identity: message.identity,
        }
    }
}
