//! The two ends of the link: what the agents of a migration call on each other.
//!
//! The caller finds the other agent in its own policy ([`Peers`]) and proves who
//! it is; the callee serves only the other agent of a migration that its own
//! journal knows ([`service`]).

mod client;
mod complaint;
mod dump;
mod login;
mod packing;
pub mod programs;
mod pump;
mod schema;
mod service;
mod snapshot;
mod speed;
mod statistics;
mod stream;

pub use client::{Greeting, PeerClient, Peers};
pub(crate) use complaint::{listen as listen_to_complaint, told as told_complaint};
pub(crate) use login::{Login, application_name};
pub(crate) use packing::{Chunk, Packer};
pub use packing::{Compression, Packing};
pub(crate) use pump::{CHUNK_BYTES, CHUNKS_WAITING, carry};
pub use schema::PublishedStream;
pub use service::{Service, service};
pub use snapshot::{Blocks, SourceSnapshot, Touched};
pub use statistics::SourceStatistics;
pub use stream::{ArchiveStream, HeartbeatStream, RangeStream, Tunnel};
