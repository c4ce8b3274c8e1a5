//! Questions of the coordinator. They are answered beside everything else, at once or not at all, and never
//! stored.

use std::time::Duration;

use pgportage_link::{Effect, Failure};
use pgportage_proto::{Reason, v1};
use tokio::task::JoinSet;

use crate::act::Handles;
use crate::situation;
use crate::wire::{self, Question};

/// Most questions being answered at the same time. Each takes a session of the server for at most
/// [`LONGEST`].
const MOST: usize = 4;
/// Longest time for an answer, even if the coordinator allows more.
const LONGEST: Duration = Duration::from_secs(10);
/// The part of the coordinator's time limit that is left for sending the answer.
const WAY_BACK: Duration = Duration::from_millis(300);

/// The questions of one session that are being answered. Dropping it drops them.
#[derive(Debug)]
pub(super) struct Questions {
    handles: Handles,
    answering: JoinSet<v1::Answer>,
}

impl Questions {
    pub(super) fn new(handles: Handles) -> Self {
        Self { handles, answering: JoinSet::new() }
    }

    /// Begins to answer a question. Never waits.
    pub(super) fn take(&mut self, message: v1::Question) {
        let id = message.id.clone();
        let outcome = match wire::question(message) {
            Ok(Some(question)) if self.answering.len() < MOST => {
                let answer = answer(self.handles.clone(), question);
                self.answering.spawn(answer);
                return;
            }
            Ok(Some(_)) => Failure::new(Reason::CouldNotCheck, "the agent answers other questions at the moment")
                .hint("Ask again in a few seconds.")
                .effect(Effect::None),
            // A newer coordinator asks something that this release does not know, and gets no answer.
            Ok(None) => return,
            Err(failure) => failure,
        };
        self.answering.spawn(async move { wire::answer(id, Err(outcome)) });
    }

    /// The next answer. Never returns while no question is open; dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> v1::Answer {
        loop {
            match self.answering.join_next().await {
                Some(Ok(answer)) => return answer,
                Some(Err(error)) => tracing::error!(%error, "a question stays without an answer"),
                None => std::future::pending().await,
            }
        }
    }
}

async fn answer(handles: Handles, question: Question) -> v1::Answer {
    let Question { id, migration, timeout } = question;
    let until = handles.tasks.clock.now() + timeout.min(LONGEST).saturating_sub(WAY_BACK);
    let outcome = Box::pin(situation::look(&handles, &migration, until)).await;
    if let Err(failure) = &outcome {
        tracing::debug!(migration.id = %migration, "a question without an answer: {failure}");
    }
    wire::answer(id, outcome)
}
