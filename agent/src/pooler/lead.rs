//! Letting a pooler's clients go on, at either server.
//!
//! The order is safe against a crash at any instant: a copy of the file is kept before the file is changed;
//! the file is changed before the pooler loads it; and the pooler loads it in the same turn of its loop in
//! which its clients go on. A pooler that loads another address while it is paused would open connections
//! for clients that log in, break them off, and then connect nowhere for a while.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_migration::Participation;
use pgportage_proto::{Reason, Side};
use sha2::{Digest, Sha256};

use super::Means;
use super::console::{Console, command};
use super::{file, ini};
use crate::policy::{PoolerRule, Repoint, ServerAddress};
use crate::program;

/// How long the pooler may take to load its file and resume its clients.
const COMMAND_LIMIT: Duration = Duration::from_secs(5);

/// Lets a pooler's clients go on, at one of the sides or where they were. Towards the source this restores
/// the entries exactly as they were before they were led away. Doing it twice does no harm.
///
/// # Errors
///
/// [`Reason::PoolerUnfit`] when file or command do not lead to that side, [`Reason::PoolerUnreachable`].
/// The clients wait on then.
pub(super) async fn lead(
    means: &Means,
    participation: &Participation,
    rule: &PoolerRule,
    towards: Option<Side>,
    console: Option<Console>,
) -> Result<(), Failure> {
    let Some(towards) = towards else {
        return carry_out(means, rule, console, Load::AsItIs).await;
    };
    let addresses = match &rule.repoint {
        Repoint::File { config, destination } => {
            let text = change_file(means, participation, rule, config, destination, towards)?;
            rule.entries.iter().map(|entry| ini::address(&text, entry).ok()).collect()
        }
        Repoint::Command { command, destination } => {
            let mut variables = program::variables(participation);
            variables.push(("PGPORTAGE_TOWARDS", towards.as_str().to_owned()));
            program::run(command, command.timeout, &variables, means.clock).await.map_err(|error| {
                unfit("the command that leads the pooler elsewhere failed")
                    .detail(format!("`repoint_command` of the agent's policy: {error}."))
                    .hint("What it said is in the agent's log. It is run again by itself.")
            })?;
            let expected = destination.clone().filter(|_| towards == Side::Destination);
            vec![expected; rule.entries.len()]
        }
    };
    carry_out(means, rule, console, Load::Anew(addresses)).await?;
    match towards {
        Side::Source => forget(means, participation, rule),
        Side::Destination => Ok(()),
    }
}

/// Changes the file, and returns the addresses that it has from now on.
fn change_file(
    means: &Means,
    participation: &Participation,
    rule: &PoolerRule,
    config: &Path,
    destination: &ServerAddress,
    towards: Side,
) -> Result<String, Failure> {
    let text = read(config)?;
    let copy = copy_path(means, participation, rule);
    let changed = match towards {
        Side::Destination => {
            file::keep(&copy, &text).map_err(|error| unusable(&copy, &error))?;
            ini::lead_to(&text, &rule.entries, destination)
        }
        // Without a copy the pooler was never led away, or was led back already.
        Side::Source if copy.exists() => ini::take_back(&text, &read(&copy)?, &rule.entries),
        Side::Source => Ok(text.clone()),
    };
    let changed = changed.map_err(|error| unusable(config, &error))?;
    if changed != text {
        file::replace(config, &changed).map_err(|error| unusable(config, &error))?;
    }
    Ok(changed)
}

/// What the pooler does before its clients go on.
enum Load {
    /// Nothing: it leads to the same server as before.
    AsItIs,
    /// It loads its file again. Then its entries lead to these addresses, as far as they are known.
    Anew(Vec<Option<ServerAddress>>),
}

/// Sends everything in one packet, then checks: each entry must have resumed, and lead to its address if
/// one is expected.
async fn carry_out(means: &Means, rule: &PoolerRule, console: Option<Console>, load: Load) -> Result<(), Failure> {
    let (reload, addresses) = match load {
        Load::AsItIs => (None, vec![None; rule.entries.len()]),
        Load::Anew(addresses) => (Some("RELOAD".to_owned()), addresses),
    };
    let commands: Vec<String> =
        reload.into_iter().chain(rule.entries.iter().map(|entry| command("RESUME", entry))).collect();
    // A session that was opened before may have ended meanwhile, together with the pooler.
    let told = match console {
        Some(mut console) => console.command(&commands, COMMAND_LIMIT).await.ok().map(|told| (console, told)),
        None => None,
    };
    let (mut console, told) = match told {
        Some(answered) => answered,
        None => {
            let mut console = Console::open(rule, means.clock).await?;
            let told = console.command(&commands, COMMAND_LIMIT).await?;
            (console, told)
        }
    };
    let states = console.entries().await?;
    for (entry, expected) in rule.entries.iter().zip(addresses) {
        let Some(state) = states.get(entry) else {
            return Err(unfit("the pooler has lost an entry").detail(format!("Its entry {entry:?} is gone.")));
        };
        if let Some(expected) = expected.filter(|expected| *expected != state.address) {
            // It is better that the clients wait than that they are refused.
            let pauses: Vec<String> = rule.entries.iter().map(|entry| command("PAUSE", entry)).collect();
            let _paused = console.command(&pauses, COMMAND_LIMIT).await;
            return Err(unfit("the pooler does not lead where it should")
                .detail(format!(
                    "Its entry {entry:?} leads to {}, not to {expected}.{}",
                    state.address,
                    complaints(&told)
                ))
                .hint("Its log says why it did not load its file. It is tried again by itself."));
        }
        if state.paused {
            return Err(unfit("the pooler does not let its clients on")
                .detail(format!("Entry {entry:?}.{}", complaints(&told))));
        }
    }
    Ok(())
}

fn complaints(told: &[Result<(), String>]) -> String {
    told.iter().filter_map(|told| told.as_ref().err()).map(|error| format!(" It says: {error}.")).collect()
}

/// Removes the copy that leading the pooler back would need.
pub(super) fn forget(means: &Means, participation: &Participation, rule: &PoolerRule) -> Result<(), Failure> {
    let copy = copy_path(means, participation, rule);
    match std::fs::remove_file(&copy) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::new(Reason::StoreUnwritable, "cannot remove the copy of the pooler's file")
                .because(&error)
                .effect(Effect::None))
        }
        _ => Ok(()),
    }
}

/// The path of a file's copy: one for each file and migration.
fn copy_path(means: &Means, participation: &Participation, rule: &PoolerRule) -> PathBuf {
    let config = match &rule.repoint {
        Repoint::File { config, .. } => config.as_os_str().as_encoded_bytes(),
        Repoint::Command { .. } => &[],
    };
    let digest: String = Sha256::digest(config)[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    means.state_dir.join("pooler").join(format!("{}.{digest}.ini", participation.migration))
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| unusable(path, &error))
}

fn unusable(path: &Path, error: &dyn std::error::Error) -> Failure {
    unfit("the pooler's file cannot be used")
        .detail(format!("{}: {error}.", path.display()))
        .hint("Mend it on the agent's machine. It is tried again by itself.")
}

/// The pooler stays paused, and the agent tries again: whatever is wrong, its clients wait.
fn unfit(message: &str) -> Failure {
    Failure::new(Reason::PoolerUnfit, message).remedy(Remedy::Wait).effect(Effect::Unknown)
}
