//! Whose turn it is to command a pooler.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};

use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::policy::{PoolerRule, Repoint};

/// Nobody lets clients of a pooler on while somebody else makes them wait, changes the
/// file that leads them, or has it loaded: one lock for each console and each file.
/// **A pooler that does not answer keeps nobody waiting who has no use for it.**
#[derive(Debug, Default)]
pub(super) struct Turns(std::sync::Mutex<HashMap<String, Arc<Mutex<()>>>>);

impl Turns {
    /// Waits until nobody else commands any of these poolers. Dropping the future is
    /// safe; the turn ends with what it returns.
    pub(super) async fn take(&self, rules: &[PoolerRule]) -> Vec<OwnedMutexGuard<()>> {
        // In one order, so that no two wait for each other.
        let names: BTreeSet<String> = rules.iter().flat_map(names).collect();
        let locks: Vec<_> = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            names.into_iter().map(|name| Arc::clone(all.entry(name).or_default())).collect()
        };
        let mut turn = Vec::with_capacity(locks.len());
        for lock in locks {
            turn.push(lock.lock_owned().await);
        }
        turn
    }
}

/// What is locked for a pooler.
fn names(rule: &PoolerRule) -> Vec<String> {
    let console = format!("console {}", rule.console);
    match &rule.repoint {
        Repoint::File { config, .. } => vec![console, format!("file {}", config.display())],
        Repoint::Command { .. } => vec![console],
    }
}
