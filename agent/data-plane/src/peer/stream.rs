//! Streams that the other agent sends over a longer time.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use pgportage_link::status::from_status;
use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::{Reason, v1};
use tokio::sync::mpsc;
use tonic::Streaming;

use super::packing::{Chunk, Packer, Unpacker};

/// Pieces of a schema archive. Dropping it ends the dump on the source.
#[derive(Debug)]
pub struct ArchiveStream {
    messages: Streaming<v1::DumpSchemaResponse>,
    peer: String,
}

impl ArchiveStream {
    pub(super) fn new(messages: Streaming<v1::DumpSchemaResponse>, peer: &str) -> Self {
        Self { messages, peer: peer.to_owned() }
    }

    /// The next piece; none when the source agent has said that the archive is whole. Dropping the future
    /// loses nothing.
    ///
    /// # Errors
    ///
    /// What the source reports. [`Reason::PeerUnreachable`] also for a stream that ends in order before
    /// that: so ends the stream of an agent that is stopped.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        match self.messages.message().await.map_err(from_status)? {
            Some(message) if message.complete => Ok(None),
            Some(message) => Ok(Some(message.chunk)),
            None => Err(stopped(&self.peer, "an archive")),
        }
    }
}

/// COPY data of one range. Dropping it ends the reading on the source.
#[derive(Debug)]
pub struct RangeStream {
    messages: Streaming<v1::CopyRangeResponse>,
    unpacker: Unpacker,
    peer: String,
}

impl RangeStream {
    pub(super) fn new(messages: Streaming<v1::CopyRangeResponse>, peer: &str) -> Self {
        Self { messages, unpacker: Unpacker::default(), peer: peer.to_owned() }
    }

    /// The next piece; none when the source agent has said that every row was sent. Dropping the future
    /// loses nothing.
    ///
    /// # Errors
    ///
    /// What the source reports. [`Reason::PeerUnreachable`] also for a stream that ends in order before
    /// that: so ends the stream of an agent that is stopped.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        match self.messages.message().await.map_err(from_status)? {
            Some(message) if message.complete => Ok(None),
            Some(message) => self.unpacker.unpack(Chunk { bytes: message.chunk, zstd: message.zstd }).map(Some),
            None => Err(stopped(&self.peer, "a range")),
        }
    }
}

/// The failure of a stream that ended in order before its closing message.
pub(super) fn stopped(peer: &str, what: &str) -> Failure {
    Failure::new(Reason::PeerUnreachable, format!("agent {peer} stopped in the middle of {what}"))
        .remedy(Remedy::Wait)
        .effect(Effect::None)
        .with("peer", peer)
}

/// Numbers of heartbeats as they arrive on the destination.
#[derive(Debug)]
pub struct HeartbeatStream(Streaming<v1::WatchHeartbeatResponse>);

impl HeartbeatStream {
    pub(super) fn new(messages: Streaming<v1::WatchHeartbeatResponse>) -> Self {
        Self(messages)
    }

    /// The next number; none when the destination's agent ends.
    pub async fn next(&mut self) -> Result<Option<i64>, Failure> {
        self.0.message().await.map(|message| message.map(|message| message.sequence)).map_err(from_status)
    }
}

/// One connection to the source's server, through the link.
#[derive(Debug)]
pub struct Tunnel {
    /// Bytes for the server. Dropping it tells the server that there are no more.
    pub outbound: mpsc::Sender<Chunk>,
    /// Bytes from the server.
    pub inbound: TunnelStream,
    /// Packs the bytes for the server.
    pub packer: Packer,
}

/// Bytes from the source's server.
#[derive(Debug)]
pub struct TunnelStream(Streaming<v1::OpenTunnelResponse>);

impl TunnelStream {
    pub(super) fn new(messages: Streaming<v1::OpenTunnelResponse>) -> Self {
        Self(messages)
    }
}

impl Stream for TunnelStream {
    type Item = Result<Chunk, String>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(cx).map(|item| {
            item.map(|item| match item {
                Ok(message) => Ok(Chunk { bytes: message.chunk, zstd: message.zstd }),
                Err(status) => Err(from_status(status).message),
            })
        })
    }
}
