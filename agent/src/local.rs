//! Verbs that an operator types on the agent's own machine. They need neither the coordinator nor a running
//! agent, and work beside one: SQLite orders the writers of the journal, and what happens on the server is
//! decided in the server's own transactions.

use std::fmt::Write as _;
use std::future::Future;

use pgportage_link::{Failure, telemetry};
use pgportage_migration::journal::Journal;
use pgportage_proto::{MigrationId, Side};

use crate::act::{Handles, finish};
use crate::daemon::{self, Assembly};
use crate::reports;
use crate::settings::Settings;

/// Lets applications back in on a fenced side: a source in a cutover, a destination in a rollback.
///
/// # Errors
///
/// [`pgportage_proto::Reason::DestinationOpened`] when the other side took over,
/// [`pgportage_proto::Reason::CutoverInDoubt`] when its agent does not answer and the operator does not
/// state that it is `destroyed`.
pub async fn unfence(settings: Settings, migration: &str, destroyed: Option<Side>) -> Result<String, Failure> {
    let migration = MigrationId::new(migration)?;
    beside(settings, async |handles| {
        handles.switchovers.unfence_locally(&migration, destroyed).await?;
        Ok(format!("migration {migration}: the fence is lifted, applications can log in\n"))
    })
    .await
}

/// Removes everything of a migration that no coordinator will take back any more. A fence stays; the answer
/// says how to lift it.
///
/// # Errors
///
/// [`pgportage_proto::Reason::CutoverInDoubt`] and [`pgportage_proto::Reason::WrongState`] while the other
/// server may need what would be removed.
pub async fn clean_up(settings: Settings, migration: &str) -> Result<String, Failure> {
    let migration = MigrationId::new(migration)?;
    beside(settings, async |handles| {
        let cleaned = finish::clean_up_locally(&handles, &migration).await?;
        reports::remove(&handles.settings.state_dir, &migration);
        handles.journal.forget(&migration)?;
        let mut answer = format!("migration {migration}: nothing of ours is left on this server\n");
        if !cleaned.unfence_statements.is_empty() {
            answer.push_str("applications are still kept out; these statements let them in:\n");
        }
        for statement in &cleaned.unfence_statements {
            // Writing to a string cannot fail.
            let _written = writeln!(answer, "  {statement};");
        }
        Ok(answer)
    })
    .await
}

/// Does something as an agent that works beside a running one. Audit messages go to standard error.
async fn beside<T, F: Future<Output = Result<T, Failure>>>(
    settings: Settings,
    act: impl FnOnce(Handles) -> F,
) -> Result<T, Failure> {
    let telemetry = telemetry::init("pgportage-agent", &settings.telemetry)?;
    let outcome = async {
        let (policy, identity) = daemon::check(&settings)?;
        let journal = Journal::open_beside(&settings.journal_path())?;
        let handles = Assembly::new(settings, policy, journal, identity).handles;
        let done = act(handles.clone()).await;
        // Waits for hooks that are running; each has a limit.
        handles.tasks.tracker.close();
        handles.tasks.tracker.wait().await;
        done
    }
    .await;
    telemetry.shutdown().await;
    outcome
}
