//! *connect*: the role that the subscription logs in as, and the first call
//! over the link.

mod replication_role;

pub use replication_role::{
    CreateReplicationRole, CreateReplicationRoleResult, ReplicationAccess, prove_canary_refused, replication_access,
    replication_role, role_names,
};
