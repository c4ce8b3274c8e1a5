//! *connect*: the role that the subscription logs in as, and the first call
//! over the link.

mod reach_peer;
mod replication_role;

pub use reach_peer::{ReachPeer, ReachPeerResult};
pub use replication_role::{
    CreateReplicationRole, CreateReplicationRoleResult, ReplicationAccess, canary_password, replication_access,
    replication_role, role_names,
};
pub(crate) use replication_role::{DESTINATION_SYSTEM, hba_name, remove_roles};
