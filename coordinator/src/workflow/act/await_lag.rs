//! *Publisher*: waits until the lag has stayed under its limit for a while.

use std::time::Duration;

use pgportage_link::Failure;
use pgportage_proto::v1;
use serde::{Deserialize, Serialize};

use super::super::state::State;
use super::super::statement::{Basis, Statements, remark};
use super::super::{ActKind, ActRef};
use super::{Act, Input, Message, Outcome, Produced, something_else};
use crate::message::{reported, to_duration};

/// How long the lag must stay under its limit before a migration is ready: for a
/// beat or two. Whatever needs a low lag later looks at it again.
const STABLE_WINDOW: Duration = Duration::from_millis(250);

/// The same before rows are counted: for two beats at least, so that a break is
/// noticed.
const LEVEL_WINDOW: Duration = Duration::from_millis(500);

/// See the module.
pub static AWAIT_LAG: Act = Act {
    kind: ActKind::AwaitLag,
    input: |state, act, _| Some(input(state, act)),
    send,
    produces: |outcome| matches!(outcome, Outcome::AwaitLag(_)),
    receive,
    statements,
};

/// What is awaited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwaitLag {
    /// The limit.
    pub max_lag: Duration,
    /// For how long.
    pub stable_window: Duration,
}

/// The lag is under its limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwaitLagResult {
    /// What it is.
    pub lag: Duration,
}

fn input(state: &State, act: ActRef) -> Input {
    Input::AwaitLag(AwaitLag {
        max_lag: state.spec.max_lag,
        stable_window: if act.step.is_verification() { LEVEL_WINDOW } else { STABLE_WINDOW },
    })
}

fn send(input: &Input) -> Option<Message> {
    let Input::AwaitLag(AwaitLag { max_lag, stable_window }) = input else { return None };
    let (max_lag, stable_window) = (to_duration(*max_lag), to_duration(*stable_window));
    Some(Message::AwaitLag(v1::AwaitLag { max_lag, stable_window }))
}

fn receive(produced: Produced) -> Result<Outcome, Failure> {
    let Produced::AwaitLag(result) = produced else { return Err(something_else()) };
    Ok(Outcome::AwaitLag(AwaitLagResult { lag: reported(result.lag) }))
}

fn statements(basis: &Basis<'_>) -> Statements {
    vec![remark(format!("wait until the lag stays under {} ms", basis.spec.max_lag.as_millis()))].into()
}
