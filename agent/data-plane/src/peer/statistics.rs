//! The source's statistics, on their way to the destination.

use bytes::Bytes;
use pgportage_link::status::from_status;
use pgportage_link::{Effect, Failure};
use pgportage_postgres::RelationName;
use pgportage_proto::{Reason, v1};
use tonic::Streaming;

use super::client::{CALL_TIMEOUT, PeerClient};
use super::packing::{Chunk, Packing, Unpacker};
use super::stream::stopped;
use crate::statistics::{Condition, Piece};

/// What the source's planner knows of some tables. Dropping it ends the reading on the source.
#[derive(Debug)]
pub struct SourceStatistics {
    /// What is sent of each table, in the order in which they were asked for.
    pub conditions: Vec<Condition>,
    messages: Streaming<v1::ReadStatisticsResponse>,
    unpacker: Unpacker,
    peer: String,
}

impl SourceStatistics {
    /// The next piece of binary COPY data; none when the source agent has said that everything was sent.
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// What the source reports. [`Reason::PeerUnreachable`] also for a stream that ends in order before
    /// that: so ends the stream of an agent that is stopped.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        match self.messages.message().await.map_err(from_status)? {
            Some(message) if message.complete => Ok(None),
            Some(message) => self.unpacker.unpack(Chunk { bytes: message.chunk, zstd: message.zstd }).map(Some),
            None => Err(stopped(&self.peer, "statistics")),
        }
    }
}

impl PeerClient {
    /// On the destination: begins to read what the source's planner knows of tables.
    pub async fn read_statistics(
        &self,
        tables: &[RelationName],
        packing: Packing,
    ) -> Result<SourceStatistics, Failure> {
        let request = v1::ReadStatisticsRequest {
            migration_id: self.migration.to_string(),
            tables: tables.iter().map(v1::RelationName::from).collect(),
            compression: packing.to_wire().into(),
        };
        let mut messages = self.within(CALL_TIMEOUT, self.client.clone().read_statistics(request)).await?;
        let first = messages.message().await.map_err(from_status)?.ok_or_else(|| stopped(&self.peer, "statistics"))?;
        let conditions: Vec<_> = first.conditions.into_iter().map(decode_condition).collect();
        if conditions.len() != tables.len() {
            let (said, asked) = (conditions.len(), tables.len());
            let message = format!("agent {} speaks of {said} tables and was asked for {asked}", self.peer);
            return Err(Failure::new(Reason::Internal, message).effect(Effect::None));
        }
        Ok(SourceStatistics { conditions, messages, unpacker: Unpacker::default(), peer: self.peer.clone() })
    }
}

fn decode_condition(wire: i32) -> Condition {
    use v1::read_statistics_response::Condition as Wire;

    match Wire::try_from(wire).unwrap_or_default() {
        Wire::Sent => Condition::Sent,
        Wire::Stale => Condition::Stale,
        Wire::Opaque => Condition::Opaque,
        Wire::Unspecified => Condition::Unknown,
    }
}

fn encode_condition(condition: Condition) -> v1::read_statistics_response::Condition {
    use v1::read_statistics_response::Condition as Wire;

    match condition {
        Condition::Sent => Wire::Sent,
        Condition::Stale => Wire::Stale,
        Condition::Opaque => Wire::Opaque,
        Condition::Unknown => Wire::Unspecified,
    }
}

/// The first message of an answer: what is sent of each table.
pub fn encode_conditions(conditions: &[Condition]) -> v1::ReadStatisticsResponse {
    let conditions = conditions.iter().map(|&condition| encode_condition(condition).into()).collect();
    v1::ReadStatisticsResponse { conditions, ..v1::ReadStatisticsResponse::default() }
}

/// A later message: a piece of the data.
pub fn encode_piece(piece: Piece) -> v1::ReadStatisticsResponse {
    let message = v1::ReadStatisticsResponse::default();
    match piece {
        Piece::Rows(Chunk { bytes, zstd }) => v1::ReadStatisticsResponse { chunk: bytes, zstd, ..message },
        Piece::Complete => v1::ReadStatisticsResponse { complete: true, ..message },
    }
}
