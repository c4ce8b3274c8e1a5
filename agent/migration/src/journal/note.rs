//! Small durable notes of a migration: each is an intent, an outcome or a choice that one part of the agent
//! writes. This is the one list of all of them.

macro_rules! notes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)+) => {
        /// A note of a migration.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Note {
            $($(#[$doc])* $variant,)+
        }

        impl Note {
            /// Every note, in the order of this list.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Its key in the journal. Stable: journals outlive releases.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}

notes! {
    /// The port of the migration's tunnel.
    TunnelPort = "tunnel.port",
    /// The migration has a heartbeat: a restarted agent resumes it.
    Heartbeat = "heartbeat",

    // ---- The slot.
    /// The intent to have a slot, with its name. While it is there, the watch looks after the
    /// slot.
    Slot = "slot",
    /// The slot was given up: the reason, a line end, the detail.
    SlotGivenUp = "slot_given_up",
    /// The other cluster's system identifier: the slots that its table synchronisation makes
    /// here carry it in their names.
    SubscriberSystem = "destination.system_identifier",

    // ---- The source, for a migration's beginning.
    /// The agent granted CONNECT to a role that the server's owner made beforehand.
    ConnectGranted = "connect_granted",
    /// Replica identities as they were before the migration: a JSON list.
    ReplicaIdentityBefore = "replica_identity_before",
    /// How fast rows may be read, in bytes a second. None while there is no limit.
    MaxRate = "snapshot.max_rate",
    /// Every row of the snapshot of this consistent point has arrived. From then on no other
    /// snapshot is made: the subscription streams from that slot, or is about to.
    SnapshotReleased = "snapshot.released",

    // ---- The destination, for a migration's beginning.
    /// What the database held before the schema was restored, as JSON. There from the first attempt until
    /// the undo.
    SchemaBaseline = "schema.baseline",
    /// The intent: digest of the archive that is being restored.
    SchemaIntent = "schema.intent",
    /// The outcome: digest of the archive that was restored.
    SchemaRestored = "schema.restored",
    /// The destination agent asked the source agent for a new password, and the subscription may still
    /// carry the one before. While this stands, a subscription that looks finished is not: an attempt that
    /// died after asking left it without a login that works.
    SubscriptionAsksPassword = "subscription.password_asked",

    // ---- The way back.
    /// The same for the subscription on the source.
    WayBackAsksPassword = "way_back.password_asked",
    /// A heartbeat has arrived from the destination.
    WayBackProved = "way_back.proved",
    /// The epoch of the switchover whose beginning the slot has on disk.
    WayBackKept = "way_back.kept",

    // ---- The end.
    /// The statements that lift the fence: a JSON list.
    UnfenceStatements = "finish.unfence",
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_notes_have_one_key() {
        let keys: BTreeSet<_> = Note::ALL.iter().map(|note| note.as_str()).collect();
        assert_eq!(keys.len(), Note::ALL.len());
    }
}
