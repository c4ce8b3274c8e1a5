//! Failures as data.
//!
//! What a step, a command or a request reports when it does not succeed. The
//! texts follow PostgreSQL's message style; programs act on `reason`, `remedy`
//! and `effect` and never parse the texts.

use std::collections::BTreeMap;
use std::fmt;

use pgportage_proto::{InvalidMigrationId, Reason, Unspecified, v1};
use serde::{Deserialize, Serialize};

/// Who has to act before another attempt can succeed. The serde form is the coordinator's
/// and the CLI's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Remedy {
    /// No person: the caller tries the same thing again after a pause.
    Wait,
    /// An operator: do what the hint says, then retry.
    Operator,
    /// No retry can help: the migration has to be aborted.
    Abort,
}

/// What the failed attempt left behind on the server. The serde form is the coordinator's
/// and the CLI's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// The attempt changed nothing.
    None,
    /// The attempt may have changed something: look before acting.
    Unknown,
}

/// Why something did not succeed, and what can be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Stable identifier.
    pub reason: Reason,
    /// One lowercase clause without a final period.
    pub message: String,
    /// Further facts, in full sentences. May be empty.
    pub detail: String,
    /// What the operator can do, in full sentences. May be empty.
    pub hint: String,
    /// The SQLSTATE, when PostgreSQL reported the error.
    pub sqlstate: Option<String>,
    /// The variable parts of the texts, for programs. Never row values.
    pub metadata: BTreeMap<String, String>,
    /// The chain of underlying errors, outermost first.
    pub causes: Vec<String>,
    /// Who has to act.
    pub remedy: Remedy,
    /// What was left behind.
    pub effect: Effect,
}

impl Failure {
    /// A failure that an operator has to look at, with an effect that is not
    /// known: the cautious defaults.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            detail: String::new(),
            hint: String::new(),
            sqlstate: None,
            metadata: BTreeMap::new(),
            causes: Vec::new(),
            remedy: Remedy::Operator,
            effect: Effect::Unknown,
        }
    }

    /// Adds facts, in full sentences.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// Adds what the operator can do, in full sentences.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Says who has to act.
    #[must_use]
    pub fn remedy(mut self, remedy: Remedy) -> Self {
        self.remedy = remedy;
        self
    }

    /// Says what was left behind.
    #[must_use]
    pub fn effect(mut self, effect: Effect) -> Self {
        self.effect = effect;
        self
    }

    /// Adds a variable part of the texts.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// Adds the chain of an underlying error.
    #[must_use]
    pub fn because(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            self.causes.push(error.to_string());
            next = error.source();
        }
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<Unspecified> for Failure {
    fn from(error: Unspecified) -> Self {
        Self::new(Reason::RequestInvalid, error.to_string()).effect(Effect::None).with("field", error.field)
    }
}

impl From<InvalidMigrationId> for Failure {
    fn from(error: InvalidMigrationId) -> Self {
        Self::new(Reason::RequestInvalid, error.to_string()).hint(InvalidMigrationId::FORM).effect(Effect::None)
    }
}

impl From<Effect> for v1::failure::Effect {
    fn from(effect: Effect) -> Self {
        match effect {
            Effect::None => Self::None,
            Effect::Unknown => Self::Unknown,
        }
    }
}

impl From<v1::failure::Effect> for Effect {
    fn from(sent: v1::failure::Effect) -> Self {
        match sent {
            v1::failure::Effect::None => Self::None,
            v1::failure::Effect::Unknown | v1::failure::Effect::Unspecified => Self::Unknown,
        }
    }
}

impl From<Failure> for v1::Failure {
    fn from(failure: Failure) -> Self {
        Self {
            reason: failure.reason.as_str().to_owned(),
            message: failure.message,
            detail: failure.detail,
            hint: failure.hint,
            sqlstate: failure.sqlstate.unwrap_or_default(),
            metadata: failure.metadata.into_iter().collect(),
            causes: failure.causes,
            remedy: match failure.remedy {
                Remedy::Wait => v1::failure::Remedy::Wait,
                Remedy::Operator => v1::failure::Remedy::Operator,
                Remedy::Abort => v1::failure::Remedy::Abort,
            }
            .into(),
            effect: v1::failure::Effect::from(failure.effect).into(),
        }
    }
}

impl From<v1::Failure> for Failure {
    /// An unknown reason of a newer release becomes [`Reason::Internal`] and
    /// keeps its text in the metadata; an unstated remedy or effect reads as
    /// the cautious one.
    fn from(failure: v1::Failure) -> Self {
        let mut metadata: BTreeMap<_, _> = failure.metadata.clone().into_iter().collect();
        let reason = failure.reason.parse().unwrap_or_else(|_| {
            metadata.insert("reason".to_owned(), failure.reason.clone());
            Reason::Internal
        });
        let remedy = match failure.remedy() {
            v1::failure::Remedy::Wait => Remedy::Wait,
            v1::failure::Remedy::Abort => Remedy::Abort,
            v1::failure::Remedy::Operator | v1::failure::Remedy::Unspecified => Remedy::Operator,
        };
        let effect = failure.effect().into();
        Self {
            reason,
            message: failure.message,
            detail: failure.detail,
            hint: failure.hint,
            sqlstate: Some(failure.sqlstate).filter(|state| !state.is_empty()),
            metadata,
            causes: failure.causes,
            remedy,
            effect,
        }
    }
}
