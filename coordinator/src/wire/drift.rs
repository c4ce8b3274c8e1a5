//! Schema drift, from the agent to the operator.

use pgportage_proto::v1;

use crate::workflow::Side;
use crate::workflow::drift::{Change, Drift, DriftedObject};

/// What an agent says of the two schemas. None when it does not say who follows.
pub(super) fn drift(value: v1::SchemaDrift) -> Option<Drift> {
    use v1::drifted_object::Change as Wire;
    let follower = Side::try_from(value.follower()).ok()?;
    let object = |object: v1::DriftedObject| DriftedObject {
        change: match object.change() {
            Wire::Missing => Change::Missing,
            Wire::Extra => Change::Extra,
            Wire::Different => Change::Different,
            Wire::NotReplicated => Change::NotReplicated,
            Wire::Unspecified => Change::Unrecognised,
        },
        identity: object.identity,
    };
    Some(Drift {
        follower,
        object_count: value.object_count.max(0),
        objects: value.objects.into_iter().map(object).collect(),
    })
}

pub(super) fn to_drift(drift: &Drift) -> v1::SchemaDrift {
    use v1::drifted_object::Change as Wire;
    let object = |object: &DriftedObject| v1::DriftedObject {
        identity: object.identity.clone(),
        change: match object.change {
            Change::Missing => Wire::Missing,
            Change::Extra => Wire::Extra,
            Change::Different => Wire::Different,
            Change::NotReplicated => Wire::NotReplicated,
            Change::Unrecognised => Wire::Unspecified,
        }
        .into(),
        ..v1::DriftedObject::default()
    };
    v1::SchemaDrift {
        follower: v1::Side::from(drift.follower).into(),
        object_count: drift.object_count,
        objects: drift.objects.iter().map(object).collect(),
        ..v1::SchemaDrift::default()
    }
}
