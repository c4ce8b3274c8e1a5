//! Commands, facts, heartbeats and answers, as the session with the coordinator carries them.
//!
//! An incoming message is checked here and becomes a domain type, or a failure that names the missing
//! field. An outgoing one is a domain type up to here. Each act reads and writes its own messages
//! ([`crate::act`]).

mod situation;

use std::collections::BTreeMap;
use std::time::SystemTime;

use pgportage_data_plane::figures::Gauge;
use pgportage_link::Failure;
use pgportage_migration::Participation;
use pgportage_migration::journal::FactEntry;
use pgportage_proto::{MigrationId, Reason, Side, Verb, v1};
use prost::Message;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::act;
use crate::command::{Command, Fact};
use crate::message::{duration, int32, int64, missing, some, span};

pub use situation::{Question, answer, question};

/// A larger fact would not fit into one message, and is not sent as it is.
const MAX_FACT_BYTES: usize = 3 << 20;

/// A command as it came in: the parts that are stored in any case, and its content if that can be
/// understood.
#[derive(Debug)]
pub struct Received {
    /// Its id, a UUID.
    pub id: String,
    /// The migration, as sent.
    pub migration: String,
    /// SHA-256 of its content, without the fields that may differ when it is sent again: the trace context,
    /// the coordinator's epoch, the heartbeat, and the step, which a coordinator of another release leaves
    /// out.
    pub digest: [u8; 32],
    /// The encoded message.
    pub message: Vec<u8>,
    /// Its content.
    pub command: Result<Command, Failure>,
}

/// Reads a command from its message.
///
/// # Errors
///
/// [`Reason::RequestInvalid`] when it has no usable id: then there is nothing that an answer could refer
/// to.
pub fn receive(message: v1::Command) -> Result<Received, Failure> {
    let id = message.id.parse::<Uuid>().map_err(|_| missing("id"))?.to_string();
    let bytes = message.encode_to_vec();
    let content = v1::Command {
        id: id.clone(),
        trace_context: Default::default(),
        leader_epoch: 0,
        heartbeat_sequence: 0,
        step: String::new(),
        ..message.clone()
    };
    Ok(Received {
        id,
        migration: message.migration_id.clone(),
        digest: Sha256::digest(content.encode_to_vec()).into(),
        message: bytes,
        command: command(message),
    })
}

/// Reads a command back from the journal.
///
/// # Errors
///
/// [`Reason::StoreUnwritable`] when the journal holds something else; [`Reason::UnknownAction`] and
/// [`Reason::RequestInvalid`] when an older release wrote what this one does not accept.
pub fn stored(bytes: &[u8]) -> Result<Received, Failure> {
    let message = v1::Command::decode(bytes).map_err(|error| {
        Failure::new(Reason::StoreUnwritable, "the journal holds a command that cannot be read").because(&error)
    })?;
    receive(message)
}

fn command(message: v1::Command) -> Result<Command, Failure> {
    let verb = Verb::try_from(message.verb())?;
    let participation = Participation {
        migration: MigrationId::new(&message.migration_id)?,
        side: Side::try_from(message.side())?,
        database: some(message.database, "database")?,
        peer: some(message.peer_agent_id, "peer_agent_id")?,
    };
    if participation.database.contains('\0') {
        return Err(missing("database"));
    }
    Ok(Command {
        id: message.id,
        participation,
        attempt: u32::try_from(message.attempt).map_err(|_| missing("attempt"))?,
        stall_timeout: duration(message.stall_timeout, "stall_timeout")?,
        trace_context: message.trace_context,
        leader_epoch: message.leader_epoch,
        plan_digest: message.plan_digest,
        heartbeat_sequence: message.heartbeat_sequence,
        step: step_name(message.step)?,
        verb,
        act: act::decode(message.action)?,
    })
}

/// The name becomes a label and a field of spans, so any other text is refused.
fn step_name(text: String) -> Result<String, Failure> {
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    if text.len() <= 64 && text.bytes().all(is_name) { Ok(text) } else { Err(missing("step")) }
}

/// A fact as the journal keeps it. The journal gives it its number.
#[must_use]
pub fn encode_fact(command_id: &str, fact: Fact, at: SystemTime) -> Vec<u8> {
    use v1::command_fact::Fact as Wire;
    let message = |fact| v1::CommandFact {
        command_id: command_id.to_owned(),
        sequence: 0,
        record_time: Some(at.into()),
        fact: Some(fact),
    };
    let bytes = message(match fact {
        Fact::Accepted => Wire::Accepted(v1::CommandAccepted {}),
        Fact::Succeeded(result) => Wire::Succeeded(result),
        Fact::Failed(failure) => Wire::Failed(failure.into()),
        Fact::Cancelled(effect) => {
            Wire::Cancelled(v1::CommandCancelled { effect: v1::failure::Effect::from(effect).into() })
        }
    })
    .encode_to_vec();
    if bytes.len() <= MAX_FACT_BYTES {
        return bytes;
    }
    // A message of that size would end every session that tries to send it.
    let failure = Failure::new(Reason::Internal, "the outcome is too large to be reported")
        .detail(format!("It has {} bytes, the limit is {MAX_FACT_BYTES}.", bytes.len()));
    message(Wire::Failed(failure.into())).encode_to_vec()
}

/// A fact as it is sent.
///
/// # Errors
///
/// [`Reason::StoreUnwritable`] when the journal holds something else.
pub fn fact(entry: &FactEntry) -> Result<v1::CommandFact, Failure> {
    let fact = v1::CommandFact::decode(entry.message.as_slice()).map_err(|error| {
        Failure::new(Reason::StoreUnwritable, "the journal holds a fact that cannot be read").because(&error)
    })?;
    Ok(v1::CommandFact { sequence: entry.sequence, ..fact })
}

/// The report that a command's id is taken. It belongs to no history, so it has no number and is not
/// repeated.
#[must_use]
pub fn conflict(command_id: String, failure: Failure, at: SystemTime) -> v1::CommandFact {
    v1::CommandFact {
        command_id,
        sequence: 0,
        record_time: Some(at.into()),
        fact: Some(v1::command_fact::Fact::Failed(failure.into())),
    }
}

/// A heartbeat.
#[must_use]
pub fn heartbeat(sequence: i64, gauges: BTreeMap<MigrationId, Gauge>) -> v1::Heartbeat {
    let figure = |figure: Option<u64>| figure.map_or(-1, int64);
    let gauges = gauges
        .into_iter()
        .map(|(migration, gauge)| v1::MigrationGauge {
            schema_drift: gauge.schema_drift.map(Into::into),
            migration_id: migration.to_string(),
            lag: gauge.lag.map(span),
            lag_bytes: figure(gauge.lag_bytes),
            retained_wal_bytes: figure(gauge.retained_wal_bytes),
            xmin_age: figure(gauge.xmin_age),
            free_disk_bytes: figure(gauge.free_disk_bytes),
            warning: gauge.warning,
            wal_forecast: gauge.wal_forecast.map(Into::into),
            reader_limit: gauge.held_back.as_ref().map_or(0, |held_back| int32(held_back.reader_limit)),
            held_back_by: gauge.held_back.map(|held_back| held_back.cause).unwrap_or_default(),
        })
        .collect();
    v1::Heartbeat { sequence, gauges }
}
