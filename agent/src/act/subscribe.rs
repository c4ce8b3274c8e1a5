//! *subscribe*: the slot on the source and the subscription on the destination.

mod conninfo;
mod grants;
mod slot;
mod subscription;

pub(crate) use grants::revoke_reading;
pub(crate) use slot::remove_slots;
pub use slot::{CreateSlot, CreateSlotResult};
pub use subscription::CreateSubscription;
pub use subscription::CreateSubscriptionResult;
pub(crate) use subscription::{drop_subscription, make_subscription, prove_login, remove_subscription, subscription};
