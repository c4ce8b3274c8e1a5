//! A server that stands still, as on a machine whose disk hangs.

use std::collections::HashSet;
use std::fs;

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::Cluster;

impl Cluster {
    /// Stops every process of the server where it stands.
    ///
    /// # Errors
    ///
    /// When the server does not run or the kernel refuses.
    pub fn freeze(&mut self) -> Result<()> {
        // The postmaster first, so that no process is added meanwhile.
        self.signal(Signal::STOP)?;
        // The kernel leaves children out of its list while others end.
        let mut frozen = HashSet::new();
        loop {
            let seen = frozen.len();
            for child in self.children()? {
                if frozen.insert(child) {
                    signal_child(child, Signal::STOP)?;
                }
            }
            if frozen.len() == seen {
                return Ok(());
            }
        }
    }

    /// Lets a frozen server go on.
    ///
    /// # Errors
    ///
    /// As [`Cluster::freeze`].
    pub fn thaw(&mut self) -> Result<()> {
        for child in self.children()? {
            signal_child(child, Signal::CONT)?;
        }
        self.signal(Signal::CONT)
    }

    fn children(&self) -> Result<Vec<Pid>> {
        let postmaster = self.pid().context("the server does not run")?;
        let children = fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"))?;
        let pid = |child: &str| Pid::from_raw(child.parse()?).context("a process id that is none");
        children.split_whitespace().map(pid).collect()
    }
}

fn signal_child(child: Pid, signal: Signal) -> Result<()> {
    match kill_process(child, signal) {
        // It has ended meanwhile.
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
