//! *Publisher*: waits until the lag has stayed under its limit for a while.

use std::time::Duration;

use pgportage_link::Failure;
use pgportage_proto::{ActKind, v1};
use serde::{Deserialize, Serialize};

use super::super::statement::{Basis, Statements, remark};
use super::kind::{Act, Given, Kind, Message, Produced, something_else};
use crate::message::{reported, to_duration};

/// How long the lag must stay under its limit before a migration is ready: for a
/// beat or two. Whatever needs a low lag later looks at it again.
const STABLE_WINDOW: Duration = Duration::from_millis(250);

/// The same before rows are counted: for two beats at least, so that a break is
/// noticed.
const LEVEL_WINDOW: Duration = Duration::from_millis(500);

pub(crate) static ACT: Act = Act::of::<AwaitLag>();

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AwaitLag {
    pub max_lag: Duration,
    pub stable_window: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AwaitLagResult {
    pub lag: Duration,
}

impl Kind for AwaitLag {
    const KIND: ActKind = ActKind::AwaitLag;
    type Outcome = AwaitLagResult;

    fn input(given: &Given<'_>) -> Option<Self> {
        Some(Self {
            max_lag: given.spec.max_lag,
            stable_window: if given.verification { LEVEL_WINDOW } else { STABLE_WINDOW },
        })
    }

    fn send(&self) -> Message {
        let (max_lag, stable_window) = (to_duration(self.max_lag), to_duration(self.stable_window));
        Message::AwaitLag(v1::AwaitLag { max_lag, stable_window })
    }

    fn receive(produced: Produced) -> Result<Self::Outcome, Failure> {
        let Produced::AwaitLag(result) = produced else { return Err(something_else()) };
        Ok(AwaitLagResult { lag: reported(result.lag) })
    }

    fn statements(basis: &Basis<'_>) -> Statements {
        vec![remark(format!("wait until the lag stays under {} ms", basis.spec.max_lag.as_millis()))].into()
    }
}
