//! What an agent can be told to do, by name.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)+) => {
        /// Which act, without its input. One for each arm of `Command.action`. Its
        /// text is the name used in the policy file, in logs, in metrics, in the
        /// ledger and in the coordinator's store.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum ActKind {
            $($(#[$doc])* $variant,)+
        }

        impl ActKind {
            /// Every kind, in the order of a migration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The stable text, for example `create_slot`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}

kinds! {
    /// Reads settings and catalogs; changes nothing.
    CheckServer = "check_server",
    /// Source, and destination for the way back: the role that the other side's
    /// subscription logs in as.
    CreateReplicationRole = "create_replication_role",
    /// Calls the other agent.
    ReachPeer = "reach_peer",
    /// Source: a replica identity for tables without one.
    SetReplicaIdentity = "set_replica_identity",
    /// Source: our schema and the publication. Destination: the publication of the
    /// way back.
    CreatePublication = "create_publication",
    /// Destination: applications are kept out.
    CloseDatabase = "close_database",
    /// Destination: the source's schema.
    RestoreSchema = "restore_schema",
    /// Source, and destination for the way back: the replication slot.
    CreateSlot = "create_slot",
    /// Destination: the rows of the slot's snapshot, then indexes.
    CopyTables = "copy_tables",
    /// Destination: the subscription.
    CreateSubscription = "create_subscription",
    /// Destination: the initial copy is ready.
    AwaitCopy = "await_copy",
    /// Source: the lag is under its limit.
    AwaitLag = "await_lag",
    /// Source: the subscription of the way back, proved and disabled.
    CreateWayBack = "create_way_back",
    /// Row counts and schema objects.
    CountRows = "count_rows",
    /// On the side that follows: rows compared with the other side by their hashes.
    CompareRows = "compare_rows",
    /// P0.
    PrepareCutover = "prepare_cutover",
    /// On the side that is left: P1 and P2.
    RaiseBarrier = "raise_barrier",
    /// On the side that is entered: P3.
    DrainToMarker = "drain_to_marker",
    /// On the side that is left: P4; its undo is P6a.
    FenceSource = "fence_source",
    /// On the side that is entered: P6, the decision.
    OpenDestination = "open_destination",
    /// On the side that is left: P7.
    ReleaseBarrier = "release_barrier",
    /// On the side that was entered: P8, where the way back begins.
    KeepStream = "keep_stream",
    /// On the side that was left: P8, it follows the other one.
    FollowStream = "follow_stream",
    /// On both sides, after the decision: what the agent saw of the switchover, signed.
    CertifySwitch = "certify_switch",
    /// Everything of ours is removed.
    FinishMigration = "finish_migration",
}

impl fmt::Display for ActKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde::de::value::{Error, StrDeserializer};

    use super::*;
    use crate::FILE_DESCRIPTOR_SET;

    #[test]
    fn what_a_store_holds_is_the_text() {
        for &kind in ActKind::ALL {
            let text: StrDeserializer<'_, Error> = StrDeserializer::new(kind.as_str());
            assert_eq!(ActKind::deserialize(text).unwrap(), kind);
        }
    }

    #[test]
    fn there_is_one_for_each_arm_of_the_command() {
        let files: prost_types::FileDescriptorSet = prost::Message::decode(FILE_DESCRIPTOR_SET).unwrap();
        let command = files.file.iter().flat_map(|file| &file.message_type).find(|message| message.name() == "Command");
        let arms: BTreeSet<_> = command
            .unwrap()
            .field
            .iter()
            .filter(|field| field.oneof_index.is_some() && !field.proto3_optional())
            .map(|field| field.name().to_owned())
            .collect();
        let kinds: BTreeSet<_> = ActKind::ALL.iter().map(|kind| kind.as_str().to_owned()).collect();
        assert_eq!(arms, kinds);
    }
}
