//! The contract between coordinator, agents and operators: generated messages
//! and services, the words that agents, coordinator and operators share, and the
//! stable reasons that failures and findings carry.

mod act_kind;
mod migration_id;
mod reason;
mod relation_name;
mod span;
mod words;

pub use act_kind::ActKind;
pub use migration_id::{InvalidMigrationId, MigrationId};
pub use reason::{Reason, UnknownReason};
pub use relation_name::{RelationName, quote_ident};
pub use span::{read_span, span};
pub use words::{ConnectionPath, CopyMethod, Side, Unspecified, Verb};

/// Generated messages and services of `pgportage.v1`. Their documentation is
/// the comments of the `.proto` files.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("pgportage.v1");
}

/// The compiled contract, as an encoded `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("pgportage");
