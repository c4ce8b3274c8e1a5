//! The two ends of the link: what the agents of a migration call on each other.
//!
//! The caller finds the other agent in its own policy ([`Peers`]) and proves who
//! it is; the callee serves only the other agent of a migration that its own
//! journal knows ([`service`]).

mod client;
mod complaint;
mod dump;
mod login;
pub mod programs;
mod pump;
mod service;

pub use client::{
    ArchiveStream, Blocks, Greeting, HeartbeatStream, PeerClient, Peers, RangeStream, SourceSnapshot, Tunnel,
};
pub(crate) use complaint::{listen as listen_to_complaint, told as told_complaint};
pub(crate) use login::{Login, application_name};
pub(crate) use pump::{CHUNK_BYTES, CHUNKS_WAITING, carry};
pub use service::{Service, service};
