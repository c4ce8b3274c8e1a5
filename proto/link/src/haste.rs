//! Taking turns before others while applications wait.
//!
//! A switchover is many short turns of three programs, and it makes its own load: the
//! applications whose sessions were ended log in again and again, each time a new process
//! of the server. Where every core is busy with these, every turn of ours would wait for
//! one. So the scheduler favours the threads of the process for as long as a switchover
//! takes, where the system allows that: with `LimitNICE=` in a unit, with
//! `--ulimit nice=` for a container, or to root. Never for a copy, which has time.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io;
use rustix::process::{Pid, Resource, geteuid, getpriority_process, getrlimit, setpriority_process};

/// The nice value of a process in haste.
pub(crate) const HASTY: i32 = -10;

/// What `RLIMIT_NICE` counts down from: it allows for nice values from 20 minus itself
/// (setrlimit(2)).
const LIMIT_COUNTS_FROM: i32 = 20;

#[derive(Debug)]
struct Holders {
    count: usize,
    /// The nice value before the first of them came.
    ordinary: i32,
}

/// The scheduler knows processes and threads, so there is one for all of this one.
static HOLDERS: Mutex<Holders> = Mutex::new(Holders { count: 0, ordinary: 0 });

/// Held while applications wait for this process. The priority ends when the last of these
/// is dropped.
#[derive(Debug)]
pub struct Haste(());

impl Haste {
    /// Applications wait from now on. Where haste is not allowed, nothing happens.
    pub fn begin() -> Self {
        let mut holders = holders();
        holders.count += 1;
        if holders.count == 1 && is_allowed() {
            holders.ordinary = getpriority_process(None).unwrap_or(0);
            favour_all(HASTY.min(holders.ordinary));
        }
        Self(())
    }
}

impl Drop for Haste {
    fn drop(&mut self) {
        let mut holders = holders();
        holders.count -= 1;
        if holders.count == 0 && is_allowed() {
            favour_all(holders.ordinary);
        }
    }
}

fn holders() -> MutexGuard<'static, Holders> {
    HOLDERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asked before anything is tried: a unit that forbids the call ends the process for it.
fn is_allowed() -> bool {
    // No limit at all is said as none.
    let limit = getrlimit(Resource::Nice).current.unwrap_or(u64::MAX);
    geteuid().is_root() || i32::try_from(limit).map_or(true, |limit| LIMIT_COUNTS_FROM - limit <= HASTY)
}

/// Threads that are begun later take after the one that begins them.
fn favour_all(nice: i32) {
    let favoured = threads().and_then(|threads| {
        threads.into_iter().try_for_each(|thread| match setpriority_process(Some(thread), nice) {
            // It has ended meanwhile.
            Err(io::Errno::SRCH) => Ok(()),
            favoured => favoured.map_err(Into::into),
        })
    });
    if let Err(error) = favoured {
        tracing::debug!(nice, %error, "the scheduler favours this process no more than others");
    }
}

fn threads() -> std::io::Result<Vec<Pid>> {
    let mut threads = Vec::new();
    for entry in std::fs::read_dir("/proc/self/task")? {
        threads.extend(entry?.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw));
    }
    Ok(threads)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nice_values() -> Vec<i32> {
        threads().unwrap().into_iter().filter_map(|thread| getpriority_process(Some(thread)).ok()).collect()
    }

    /// What the kernel says: root may lack the capability.
    fn is_possible(ordinary: i32) -> bool {
        let favoured = setpriority_process(None, HASTY).is_ok();
        setpriority_process(None, ordinary).unwrap();
        favoured
    }

    /// A thread that is there until what it is given is dropped.
    fn thread() -> std::sync::mpsc::Sender<()> {
        let (leave, left) = std::sync::mpsc::channel();
        std::thread::spawn(move || left.recv());
        leave
    }

    /// One test: there is one process.
    #[test]
    fn every_thread_is_in_haste_until_the_last_holder_goes() {
        let ordinary = getpriority_process(None).unwrap();
        let possible = is_possible(ordinary);
        let early = thread();
        let first = Haste::begin();
        let second = Haste::begin();
        let late = thread();
        drop(first);
        let expected = if possible { HASTY } else { ordinary };
        assert!(nice_values().iter().all(|nice| *nice == expected), "{:?}", nice_values());
        drop(second);
        assert!(nice_values().len() > 2 && nice_values().iter().all(|nice| *nice == ordinary), "{:?}", nice_values());
        drop((early, late));
    }
}
