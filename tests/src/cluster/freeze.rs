//! A server that stands still, as on a machine whose disk hangs.

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
        self.signal_children(Signal::STOP)
    }

    /// Lets a frozen server go on.
    ///
    /// # Errors
    ///
    /// As [`Cluster::freeze`].
    pub fn thaw(&mut self) -> Result<()> {
        self.signal_children(Signal::CONT)?;
        self.signal(Signal::CONT)
    }

    fn signal_children(&self, signal: Signal) -> Result<()> {
        let postmaster = self.pid().context("the server does not run")?;
        let children = fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"))?;
        for child in children.split_whitespace() {
            let pid = Pid::from_raw(child.parse()?).context("a process id that is none")?;
            match kill_process(pid, signal) {
                // It has ended meanwhile.
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
