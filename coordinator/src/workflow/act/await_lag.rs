//! *Publisher*: waits until the lag has stayed under its limit for a while.

use std::time::Duration;

use pgportage_link::Failure;
use pgportage_proto::v1::command::Action as Message;
use pgportage_proto::v1::command_result::Result as Produced;
use pgportage_proto::{ActKind, v1};
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, remark};
use super::kind::{Act, Given, Input, Outcome, Payload, something_else};
use crate::message::{reported, to_duration};

/// How long the lag must stay under its limit before a migration is ready: for a
/// beat or two. Whatever needs a low lag later looks at it again.
const STABLE_WINDOW: Duration = Duration::from_millis(250);

/// The same before rows are counted: for two beats at least, so that a break is
/// noticed.
const LEVEL_WINDOW: Duration = Duration::from_millis(500);

/// See the module.
pub static ACT: Act = Act {
    kind: ActKind::AwaitLag,
    input: |given| Some(input(given)),
    send,
    produces: |outcome| outcome.read::<AwaitLagResult>().is_some(),
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

impl Payload for AwaitLag {
    const KIND: ActKind = ActKind::AwaitLag;
}

impl Payload for AwaitLagResult {
    const KIND: ActKind = ActKind::AwaitLag;
}

fn input(given: &Given<'_>) -> Input {
    Input::of(AwaitLag {
        max_lag: given.spec.max_lag,
        stable_window: if given.verification { LEVEL_WINDOW } else { STABLE_WINDOW },
    })
}

fn send(input: &Input) -> Option<Message> {
    let AwaitLag { max_lag, stable_window } = input.read::<AwaitLag>()?;
    let (max_lag, stable_window) = (to_duration(*max_lag), to_duration(*stable_window));
    Some(Message::AwaitLag(v1::AwaitLag { max_lag, stable_window }))
}

fn receive(produced: Produced) -> Result<Outcome, Failure> {
    let Produced::AwaitLag(result) = produced else { return Err(something_else()) };
    Ok(Outcome::of(AwaitLagResult { lag: reported(result.lag) }))
}

fn statements(basis: &Basis<'_>) -> Statements {
    vec![remark(format!("wait until the lag stays under {} ms", basis.spec.max_lag.as_millis()))].into()
}
