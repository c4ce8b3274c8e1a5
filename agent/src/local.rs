//! Verbs typed on the agent's own machine. They need neither the coordinator
//! nor a running agent, and work beside one: SQLite orders the writers of the
//! journal, and what is done on the server is decided in the server's own
//! transactions.

use std::sync::Arc;

use pgportage_link::Failure;

use crate::agent::Agent;
use crate::daemon;
use crate::journal::Journal;
use crate::migration::MigrationId;
use crate::settings::Settings;
use crate::step::cutover;

/// Lets applications back in on a fenced source.
///
/// # Errors
///
/// [`pgportage_proto::Reason::DestinationOpened`] when the destination took
/// over, [`pgportage_proto::Reason::CutoverInDoubt`] when it cannot be asked and
/// nobody states that it is destroyed.
pub async fn unfence(settings: Settings, migration: &str, destination_destroyed: bool) -> Result<String, Failure> {
    let migration = MigrationId::new(migration)?;
    let agent = beside(settings)?;
    cutover::unfence_locally(&agent, &migration, destination_destroyed).await?;
    Ok(format!("migration {migration}: the fence is lifted, applications can log in\n"))
}

/// An agent that works beside a running one.
fn beside(settings: Settings) -> Result<Arc<Agent>, Failure> {
    let (policy, identity) = daemon::check(&settings)?;
    let journal = Journal::open_beside(&settings.journal_path())?;
    Ok(Arc::new(Agent::new(settings, policy, journal, identity)))
}
