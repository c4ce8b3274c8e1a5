//! What an agent can be told to do, by name. The contract lists it.

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
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}

// `kinds! { … }` with a line for each arm: `build.rs` reads them from the contract.
include!(concat!(env!("OUT_DIR"), "/act_kinds.rs"));

impl fmt::Display for ActKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use serde::de::value::{Error, StrDeserializer};

    use super::*;

    #[test]
    fn what_a_store_holds_is_the_text() {
        for &kind in ActKind::ALL {
            let text: StrDeserializer<'_, Error> = StrDeserializer::new(kind.as_str());
            assert_eq!(ActKind::deserialize(text).unwrap(), kind);
        }
    }
}
