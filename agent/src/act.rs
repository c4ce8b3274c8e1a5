//! The closed set of acts that an agent can be told to do: one file for each.
//!
//! **Invariant:** nothing but an [`Act`] of the registry is ever carried out. No SQL, no path and no
//! address is part of one.
//!
//! Everything about an act is in its file: its input and its result, as values and as messages of the
//! contract; what the policy has to allow; its survey, its work and its undo. The registry lists them all.
//! The runner (`crate::runner`) gives every act the same life: policy, journal, survey, perform, journal,
//! fact.

mod any;
pub mod catch_up;
pub mod certify;
pub mod close;
pub mod connect;
mod context;
mod contract;
pub mod copy;
pub mod cutover;
pub(crate) mod fail_points;
pub mod finish;
pub mod identity;
pub mod inspect;
mod patience;
pub mod publication;
mod registry;
pub mod schema;
pub mod subscribe;
pub mod verify;
pub mod way_back;

pub use any::AnyAct;
pub use context::{Context, Handles, IndexBuild, Progress, ProgressPart, ProgressUnit};
pub use contract::{Act, Consequences, Survey};
pub use pgportage_proto::v1::command_result::Result as Produced;
pub(crate) use registry::decode;
