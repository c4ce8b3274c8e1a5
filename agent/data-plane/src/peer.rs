//! What the agents of a migration call on each other: the caller's half.
//!
//! The caller finds the other agent among the addresses of its own policy ([`Peers`]) and checks the other
//! agent's certificate. The half that answers is a layer above, in the agent's own crate.

mod client;
mod cutover;
mod packing;
mod pump;
mod schema;
mod snapshot;
mod speed;
mod statistics;
mod stream;

pub use client::{Greeting, PeerAddress, PeerClient, Peers};
pub use cutover::{Announcement, Resolution};
pub use packing::{Chunk, Packer};
pub use packing::{Compression, Packing};
pub use pump::{CHUNK_BYTES, CHUNKS_WAITING, carry};
pub use schema::PublishedStream;
pub use schema::encode_listing;
pub use snapshot::{Blocks, SourceSnapshot, Touched};
pub use snapshot::{decode_held_point, decode_range, encode_snapshot_table};
pub use speed::{make_noise, packing_speed};
pub use statistics::SourceStatistics;
pub use statistics::{encode_conditions, encode_piece};
pub use stream::{ArchiveStream, HeartbeatStream, RangeStream, Tunnel};
