//! The contract between coordinator, agents and operators: generated messages
//! and services, and the stable reasons that failures and findings carry.

mod reason;

pub use reason::{Reason, UnknownReason};

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
