//! Questions to agents, their answers, and what is made of them.

use std::time::Duration;

use pgportage_link::Failure;
use pgportage_proto::v1;
use pgportage_report::situation::Situation;
use uuid::Uuid;

use super::{malformed, missing, to_duration};
use crate::engine::Explained;
use crate::explain::{Explanation, Report, Weight};
use crate::workflow::Side;
use crate::workflow::spec::MigrationId;

/// Asks an agent what is going on around a migration.
pub(crate) fn question(id: Uuid, migration: &MigrationId, timeout: Duration) -> v1::Question {
    v1::Question {
        id: id.to_string(),
        migration_id: migration.to_string(),
        timeout: to_duration(timeout),
        question: Some(v1::question::Question::DescribeSituation(v1::DescribeSituation {})),
    }
}

/// What an agent said, and to which question.
pub(crate) fn answer(value: v1::Answer) -> Result<(Uuid, Result<Situation, Failure>), Failure> {
    use v1::answer::Answer as Said;
    let question = Uuid::parse_str(&value.question_id).map_err(|_| malformed("question_id"))?;
    let said = match value.answer {
        Some(Said::Situation(situation)) => Ok(situation.into()),
        Some(Said::Failure(failure)) => Err(failure.into()),
        None => Err(missing("answer")),
    };
    Ok((question, said))
}

/// What operators are told. `migration` is the view of it.
pub(crate) fn explained(value: Explained, migration: v1::Migration) -> v1::ExplainMigrationResponse {
    let spec = &value.overview.state.spec;
    let report = |side, report| to_report(side, spec.agent(side).to_owned(), report);
    let reports = match value.reports {
        None => Vec::new(),
        Some((source, destination)) => vec![report(Side::Source, source), report(Side::Destination, destination)],
    };
    v1::ExplainMigrationResponse {
        migration: Some(migration),
        explanations: value.explanations.into_iter().map(to_explanation).collect(),
        reports,
    }
}

fn to_explanation(value: Explanation) -> v1::Explanation {
    v1::Explanation {
        weight: match value.weight {
            Weight::Cause => v1::explanation::Weight::Cause,
            Weight::Suspicion => v1::explanation::Weight::Suspicion,
            Weight::Unchecked => v1::explanation::Weight::Unchecked,
        }
        .into(),
        code: value.code.map(|code| code.as_str().to_owned()).unwrap_or_default(),
        side: value.side.map_or(v1::Side::Unspecified, v1::Side::from).into(),
        message: value.message,
        detail: value.detail,
        hint: value.hint,
        statements: value.statements,
    }
}

fn to_report(side: Side, agent_id: String, report: Report) -> v1::SideReport {
    let (situation, failure) = match report {
        Report::Answered(situation) => (Some((*situation).into()), None),
        Report::Silent(failure) => (None, Some(failure.into())),
    };
    v1::SideReport { side: v1::Side::from(side).into(), agent_id, situation, failure }
}

#[cfg(test)]
mod tests {
    use pgportage_proto::Reason;

    use super::*;

    #[test]
    fn an_answer_that_says_nothing_is_no_pass() {
        let id = Uuid::now_v7();
        let (question, said) = answer(v1::Answer { question_id: id.to_string(), answer: None }).unwrap();
        assert_eq!((question, said.unwrap_err().reason), (id, Reason::RequestInvalid));
        assert!(answer(v1::Answer::default()).is_err());
    }
}
