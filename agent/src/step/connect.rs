//! *connect*: the role that the subscription logs in as, and the first call
//! over the link.

mod replication_role;

pub(crate) use replication_role::hba_name;
pub use replication_role::{
    CreateReplicationRole, CreateReplicationRoleResult, ReplicationAccess, canary_password, replication_access,
    replication_role, role_names,
};
