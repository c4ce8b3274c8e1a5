//! *subscribe*: the slot on the source and the subscription on the destination.

mod conninfo;
mod grants;
mod maker;
mod slot;
mod subscription;

pub(crate) use grants::revoke_reading;
pub(crate) use maker::{SlotMaker, slot_maker, slot_session};
pub use slot::{CreateSlot, CreateSlotResult};
pub(crate) use slot::{SLOT_NOTE, SlotUse, remove_slots, slot_use};
pub(crate) use subscription::remove_subscription;
pub use subscription::{ConnectionPath, CreateSubscription, CreateSubscriptionResult};
