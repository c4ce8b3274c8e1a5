//! *subscribe*: the slot on the source and the subscription on the destination.

mod conninfo;
mod grants;
mod slot;
mod subscription;

pub(crate) use grants::revoke_reading;
pub use slot::{CreateSlot, CreateSlotResult};
pub(crate) use slot::{SLOT_NOTE, remove_slots, slot_session};
pub(crate) use subscription::remove_subscription;
pub use subscription::{ConnectionPath, CreateSubscription, CreateSubscriptionResult};
