//! *connect*: the role that the subscription logs in as, and the first call
//! over the link.

mod reach_peer;
mod replication_role;

pub use reach_peer::{ReachPeer, ReachPeerResult};
pub(crate) use replication_role::remove_roles;
pub use replication_role::{CreateReplicationRole, CreateReplicationRoleResult};
