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
pub use subscription::{CreateSubscription, CreateSubscriptionResult};
pub(crate) use subscription::{drop_subscription, make_subscription, prove_login, remove_subscription, subscription};
