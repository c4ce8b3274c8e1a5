//! One task at a time commands a pooler.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};

use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::policy::{PoolerRule, Repoint};

/// One lock for each console and each file: no task resumes the clients of a pooler while another pauses
/// them, changes the pooler's file, or has it loaded. **A pooler that does not answer delays only tasks
/// that need it.**
#[derive(Debug, Default)]
pub(super) struct Turns(std::sync::Mutex<HashMap<String, Arc<Mutex<()>>>>);

impl Turns {
    /// Waits until no other task commands any of these poolers. Dropping the future is safe; the turn ends
    /// when the returned guards are dropped.
    pub(super) async fn take(&self, rules: &[PoolerRule]) -> Vec<OwnedMutexGuard<()>> {
        // In one order, so that no two tasks wait for each other.
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

fn names(rule: &PoolerRule) -> Vec<String> {
    let console = format!("console {}", rule.console);
    match &rule.repoint {
        Repoint::File { config, .. } => vec![console, format!("file {}", config.display())],
        Repoint::Command { .. } => vec![console],
    }
}
