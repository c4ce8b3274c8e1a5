//! Acts that cannot simply be taken back, or that applications feel.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::file::Problems;

/// Adding an act is a line here, and the place that asks for it.
macro_rules! destructive_acts {
    ($($(#[$doc:meta])* $variant:ident = $key:literal,)+) => {
        /// An act that the policy has to allow by a key of its own: forbidden unless the file does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DestructiveAct {
            $($(#[$doc])* $variant,)+
        }

        impl DestructiveAct {
            /// Every act, in the order of the file.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The key under `[destructive]`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $key,)+
                }
            }
        }
    };
}

destructive_acts! {
    /// Keeping applications off the source for good.
    Fence = "fence",
    /// Letting applications in on the destination: the point of no return.
    Open = "open",
    /// Dropping our replication slot.
    DropSlot = "drop_slot",
    /// Ending sessions of applications.
    TerminateSessions = "terminate_sessions",
    /// `REPLICA IDENTITY FULL` on tables without a key.
    ReplicaIdentityFull = "replica_identity_full",
    /// What lets a migration return after its cutover: on the destination a
    /// publication, a slot and a role that the source's agent may log in as; on the
    /// source a subscription that writes what the destination wrote.
    WayBack = "way_back",
}

impl fmt::Display for DestructiveAct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The acts that the file allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destructive(BTreeSet<DestructiveAct>);

impl Destructive {
    /// Whether an act is allowed.
    #[must_use]
    pub fn allows(&self, act: DestructiveAct) -> bool {
        self.0.contains(&act)
    }

    pub(super) fn read(problems: &mut Problems, table: &mut toml::Table) -> Self {
        let section: BTreeMap<String, bool> = problems.section(table, "destructive");
        let mut allowed = BTreeSet::new();
        for (key, yes) in section {
            match DestructiveAct::ALL.iter().find(|act| act.as_str() == key) {
                Some(act) if yes => drop(allowed.insert(*act)),
                Some(_) => {}
                None => {
                    let known: Vec<_> = DestructiveAct::ALL.iter().map(|act| act.as_str()).collect();
                    problems.add(&format!("destructive.{key}"), format_args!("unknown; expected {}", known.join(", ")));
                }
            }
        }
        Self(allowed)
    }
}
