//! Certificates of switches, from the agents and to whoever wants one. Taken in and
//! handed out as they are.

use pgportage_link::Failure;
use pgportage_proto::{Reason, v1};

use crate::message::refusal;
use crate::workflow::act::SignedStatement;
use crate::workflow::state::State;
use crate::workflow::{Side, StepName};

fn to_signed(value: &SignedStatement) -> v1::SignedStatement {
    v1::SignedStatement {
        statement: value.statement.clone(),
        scheme: value.scheme,
        signature: value.signature.0.clone(),
        chain: value.chain.iter().map(|certificate| certificate.0.clone()).collect(),
    }
}

/// The certificate of the switch of that number; of the latest, for zero.
pub(crate) fn certificate(state: &State, cutover_epoch: i64) -> Result<v1::GetSwitchCertificateResponse, Failure> {
    let epoch = if cutover_epoch == 0 { state.certificates.keys().last().copied() } else { Some(cutover_epoch) };
    let found = epoch.and_then(|epoch| Some((epoch, state.certificates.get(&epoch)?)));
    let (epoch, certificate) = found.ok_or_else(|| missing(state, cutover_epoch))?;
    let leave = if certificate.step == StepName::Rollback { Side::Destination } else { Side::Source };
    let statement = |side: Side| match certificate.statements.get(&side) {
        Some(Ok(signed)) => Some(to_signed(signed)),
        Some(Err(_)) | None => None,
    };
    let failures = [leave, leave.other()].into_iter().filter_map(|side| match certificate.statements.get(&side) {
        Some(Err(failure)) => Some(failure.clone().into()),
        Some(Ok(_)) | None => None,
    });
    let certificate = v1::SwitchCertificate {
        migration_id: state.id.to_string(),
        cutover_epoch: epoch,
        rollback: certificate.step == StepName::Rollback,
        left: statement(leave),
        entered: statement(leave.other()),
        failures: failures.collect(),
    };
    Ok(v1::GetSwitchCertificateResponse {
        certificate: Some(certificate),
        cutover_epochs: state.certificates.keys().copied().collect(),
    })
}

fn missing(state: &State, cutover_epoch: i64) -> Failure {
    let known: Vec<_> = state.certificates.keys().map(ToString::to_string).collect();
    let none = known.is_empty() || cutover_epoch == 0;
    let which = if none { String::new() } else { format!(" of switch {cutover_epoch}") };
    let failure = refusal(Reason::WrongState, format!("migration {} has no certificate{which}", state.id))
        .hint("There is one for each cutover and rollback, once the other side is open.");
    if known.is_empty() { failure } else { failure.detail(format!("It has those of {}.", known.join(", "))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workflow::proof::Play;

    fn epochs(state: &State) -> Vec<i64> {
        certificate(state, 0).map(|answer| answer.cutover_epochs).unwrap_or_default()
    }

    #[test]
    fn every_switch_keeps_its_own() {
        let mut play = Play::at_cutover();
        assert_eq!(certificate(&play.state, 0).unwrap_err().reason, Reason::WrongState, "nothing is open yet");
        play.answer_all();
        assert_eq!(epochs(&play.state), [1]);
        let mut play = Play::at_rollback();
        assert_eq!(epochs(&play.state), [1]);
        play.answer_all();
        let latest = certificate(&play.state, 0).unwrap();
        assert_eq!(latest.cutover_epochs, [1, 2]);
        let latest = latest.certificate.unwrap();
        assert_eq!((latest.cutover_epoch, latest.rollback), (2, true));
        assert!(latest.left.is_some() && latest.entered.is_some() && latest.failures.is_empty());
        let first = certificate(&play.state, 1).unwrap().certificate.unwrap();
        assert_eq!((first.cutover_epoch, first.rollback), (1, false));
        let refused = certificate(&play.state, 3).unwrap_err();
        assert!(refused.detail.contains("1, 2"), "{refused:?}");
    }
}
