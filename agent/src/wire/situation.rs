//! Questions of the coordinator, and the answers to them.

use std::time::Duration;

use pgportage_link::Failure;
use pgportage_proto::{MigrationId, v1};
use pgportage_report::situation::Situation;

use crate::message::{duration, some};

/// A question of the coordinator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The id that the answer refers to.
    pub id: String,
    /// The migration.
    pub migration: MigrationId,
    /// How long the coordinator waits for the answer.
    pub timeout: Duration,
}

/// Reads a question. None when a newer coordinator asks something that this release does not know.
///
/// # Errors
///
/// [`pgportage_proto::Reason::RequestInvalid`], naming the field.
pub fn question(message: v1::Question) -> Result<Option<Question>, Failure> {
    match message.question {
        Some(v1::question::Question::DescribeSituation(v1::DescribeSituation {})) => Ok(Some(Question {
            id: some(message.id, "id")?,
            migration: MigrationId::new(&message.migration_id)?,
            timeout: duration(message.timeout, "timeout")?,
        })),
        None => Ok(None),
    }
}

/// The answer to a question.
#[must_use]
pub fn answer(question_id: String, outcome: Result<Situation, Failure>) -> v1::Answer {
    use v1::answer::Answer as Said;
    let said = match outcome {
        Ok(situation) => Said::Situation(situation.into()),
        Err(failure) => Said::Failure(failure.into()),
    };
    v1::Answer { question_id, answer: Some(said) }
}
