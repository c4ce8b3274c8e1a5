//! The conditions under which a cutover may rely on a pooler.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use pgportage_link::{Clock, Effect, Failure, Remedy};
use pgportage_migration::Participation;
use pgportage_proto::Reason;
use tokio::net::{TcpStream, UnixStream};

use super::Means;
use super::console::{Console, EntryState, Shown};
use super::{Unreachable, file, ini};
use crate::policy::{PoolerRule, Repoint, ServerAddress};

/// How long the destination may take to answer at the pooler's address.
const REACH: Duration = Duration::from_secs(5);

/// What an operator can do about a pooler that does not answer before a rollback.
const WITHOUT: &str = "\
Start the pooler, or mend `console`, `user` and `password_file` under [[pooler]] in the policy of the source's agent; then roll \
back again. If the applications reach the servers without it, `pgportage rollback NAME --without-pooler` goes on: clients of \
this pooler see errors until it answers and was led back.";

/// Checks every pooler of a database: it answers, its entries lead to this database and not to another
/// server yet, a pause will bring it to rest, and it can be led to the destination. Changes nothing.
pub(super) async fn check(means: &Means, participation: &Participation) -> Result<(), Failure> {
    for rule in means.policy.poolers(&participation.database) {
        let mut console = Console::open(rule, means.clock).await?;
        check_entries(rule, &mut console).await?;
        check_sessions(rule, &mut console).await?;
        check_way(rule, means.clock).await?;
    }
    Ok(())
}

/// As [`check`], before a rollback: the poolers lead to the destination, or to wherever their owner has led
/// them since.
pub(super) async fn check_back(
    means: &Means,
    participation: &Participation,
    unreachable: Unreachable,
) -> Result<(), Failure> {
    for rule in means.policy.poolers(&participation.database) {
        let reached = Console::open(rule, means.clock).await.map_err(|failure| match failure.reason {
            Reason::PoolerUnreachable => failure.hint(WITHOUT),
            _other => failure,
        });
        let Some(mut console) = unreachable.judge(rule, reached)? else { continue };
        let states = console.entries().await?;
        for entry in &rule.entries {
            check_entry(rule, &states, entry)?;
        }
        check_sessions(rule, &mut console).await?;
    }
    Ok(())
}

async fn check_entries(rule: &PoolerRule, console: &mut Console) -> Result<(), Failure> {
    let states = console.entries().await?;
    for entry in &rule.entries {
        let state = check_entry(rule, &states, entry)?;
        if destination(rule).is_some_and(|destination| *destination == state.address) {
            return Err(unfit(
                format!("the pooler's entry {entry:?} leads to the destination already"),
                "Lead it back to the source: its clients are refused as long as the destination is closed.",
            ));
        }
        if let Repoint::File { config, .. } = &rule.repoint {
            check_file(config, entry, &state.address)?;
        }
    }
    Ok(())
}

/// The entry is there, leads to the database that moves, and its clients do not wait.
fn check_entry<'a>(
    rule: &PoolerRule,
    states: &'a BTreeMap<String, EntryState>,
    entry: &str,
) -> Result<&'a EntryState, Failure> {
    let Some(state) = states.get(entry) else {
        return Err(unfit(
            format!("the pooler has no entry {entry:?}"),
            "Name the pooler's own entries in `entries` under [[pooler]].",
        ));
    };
    if state.database != rule.database {
        return Err(unfit(
            format!("the pooler's entry {entry:?} leads to database {:?}", state.database),
            "Name only entries that lead to the database that moves.",
        ));
    }
    if state.paused || state.disabled {
        return Err(unfit(
            format!("the pooler's entry {entry:?} is paused or disabled already"),
            "This agent has not done that; RESUME or ENABLE it on the pooler's console.",
        ));
    }
    Ok(state)
}

/// The file is the one that the pooler reads, and the agent can replace it.
fn check_file(config: &Path, entry: &str, used: &ServerAddress) -> Result<(), Failure> {
    let unusable = |error: &dyn std::error::Error| {
        unfit(
            "the pooler's file cannot be used".to_owned(),
            "The agent replaces the file, so it must be able to write in its directory and to give the new file the \
             same owner. Otherwise use `repoint_command`.",
        )
        .detail(format!("{}: {error}.", config.display()))
    };
    let text = std::fs::read_to_string(config).map_err(|error| unusable(&error))?;
    let written = ini::address(&text, entry).map_err(|error| unusable(&error))?;
    if written != *used {
        return Err(unfit(
            format!("the pooler's file leads {entry:?} to {written}, the pooler itself to {used}"),
            "Name the file that the pooler reads in `config` under [[pooler]], and RELOAD the pooler if it was changed.",
        ));
    }
    file::prove_replaceable(config).map_err(|error| unusable(&error))
}

/// A pool in session mode comes to rest only when its clients leave.
async fn check_sessions(rule: &PoolerRule, console: &mut Console) -> Result<(), Failure> {
    let pools = console.show("POOLS").await?;
    let bound: Vec<String> = pools
        .iter()
        .filter(|pool| is_ours(rule, pool) && field(pool, "pool_mode") == "session" && field(pool, "sv_active") != "0")
        .map(|pool| {
            format!("{} of role {:?}: {}", field(pool, "database"), field(pool, "user"), field(pool, "sv_active"))
        })
        .collect();
    if bound.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Reason::PoolerBusy, "the pooler binds servers to clients until they leave")
        .detail(format!("Servers bound in session mode: {}.", bound.join("; ")))
        .hint("Set pool_mode = transaction, or stop these clients for the cutover.")
        .remedy(Remedy::Operator)
        .effect(Effect::None))
}

/// The destination answers at the address that the pooler will be led to. While it is closed, the agent
/// cannot see whether it will let the pooler in.
async fn check_way(rule: &PoolerRule, clock: Clock) -> Result<(), Failure> {
    let Some(destination) = destination(rule) else { return Ok(()) };
    let reached = clock.timeout(REACH, async {
        if destination.host.starts_with('/') {
            let socket = format!("{}/.s.PGSQL.{}", destination.host, destination.port);
            UnixStream::connect(socket).await.map(drop)
        } else {
            TcpStream::connect((destination.host.as_str(), destination.port)).await.map(drop)
        }
    });
    let why = match reached.await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", REACH.as_secs()),
    };
    Err(unfit(
        format!("no server answers at {destination}, where the pooler would be led to"),
        "Correct `destination` under [[pooler]], or open the way to it for this machine.",
    )
    .detail(format!("{why}.")))
}

/// The server processes that work for the pooler's clients, for operators.
pub(super) async fn at_work(rule: &PoolerRule, clock: Clock) -> Result<Vec<String>, Failure> {
    let mut console = Console::open(rule, clock).await?;
    let modes = console.show("POOLS").await?;
    let servers = console.show("SERVERS").await?;
    let busy = servers.iter().filter(|server| is_ours(rule, server) && field(server, "state") == "active");
    Ok(busy
        .map(|server| {
            let (entry, user) = (field(server, "database"), field(server, "user"));
            let mode = modes
                .iter()
                .find(|pool| field(pool, "database") == entry && field(pool, "user") == user)
                .map_or("", |pool| field(pool, "pool_mode"));
            format!("pid {} for {entry:?} as role {user:?} ({mode} pooling)", field(server, "remote_pid"))
        })
        .collect())
}

fn destination(rule: &PoolerRule) -> Option<&ServerAddress> {
    match &rule.repoint {
        Repoint::File { destination, .. } => Some(destination),
        Repoint::Command { destination, .. } => destination.as_ref(),
    }
}

fn is_ours(rule: &PoolerRule, row: &Shown) -> bool {
    row.get("database").is_some_and(|entry| rule.entries.contains(entry))
}

fn field<'a>(row: &'a Shown, key: &str) -> &'a str {
    row.get(key).map_or("", String::as_str)
}

fn unfit(message: String, hint: &str) -> Failure {
    Failure::new(Reason::PoolerUnfit, message).hint(hint).remedy(Remedy::Operator).effect(Effect::None)
}
