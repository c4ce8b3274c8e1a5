//! Places where a test may end the process or stop it, and what it may make it do
//! wrong.
//!
//! Compiled to nothing without the feature `fail-points`. With it, the variable
//! `PGPORTAGE_FAIL_POINT` names one point, optionally with a count
//! (`subscribe.perform.created=2` means at the second hit), at which the process
//! aborts at once: no destructor, no flush, as with `kill -9`. `PGPORTAGE_STOP_FILE`
//! names a file; once that holds the name of a point, the process stops there, as with
//! SIGSTOP, until the test sends SIGCONT, and the file is gone: a test that stops a
//! process again and again need not start it anew. A test inside the process arms a point
//! with `arm` instead and gets a panic there. `PGPORTAGE_SEEDED_BUG` names a
//! mistake to make; see [`seeded_bug`].

#[cfg(feature = "fail-points")]
mod armed {
    use std::collections::HashMap;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::sync::{LazyLock, Mutex, PoisonError};

    use rustix::process::{Signal, getpid, kill_process};

    /// A point that the variable names, and how many hits of it are left.
    struct Armed {
        name: String,
        remaining: u32,
    }

    impl Armed {
        fn by_variable() -> Option<Self> {
            let text = std::env::var("PGPORTAGE_FAIL_POINT").ok()?;
            let (name, remaining) = match text.rsplit_once('=') {
                Some((name, count)) => (name.to_owned(), count.parse().unwrap_or(1)),
                None => (text, 1),
            };
            Some(Self { name, remaining })
        }

        /// Whether this hit is the one.
        fn hit(&mut self, name: &str) -> bool {
            if self.name != name || self.remaining == 0 {
                return false;
            }
            self.remaining -= 1;
            self.remaining == 0
        }
    }

    static ABORT_AT: LazyLock<Mutex<Option<Armed>>> = LazyLock::new(|| Mutex::new(Armed::by_variable()));

    fn aborts_at(name: &str) -> bool {
        ABORT_AT.lock().unwrap_or_else(PoisonError::into_inner).as_mut().is_some_and(|armed| armed.hit(name))
    }

    static STOP_FILE: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("PGPORTAGE_STOP_FILE").map(PathBuf::from));

    /// Whether the file names this point. Of several tasks that pass it one removes the
    /// file, and only that one finds it named.
    fn is_named_in(file: Option<&Path>, name: &str) -> bool {
        let Some(file) = file else { return false };
        fs::read_to_string(file).is_ok_and(|named| named == name) && fs::remove_file(file).is_ok()
    }

    /// Whether the signal was sent to the process and no thread has taken it
    /// (`ShdPnd` of `proc_pid_status(5)`). The thread that takes SIGSTOP stops every other one.
    fn is_pending(signal: Signal) -> bool {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mut pending = status.lines().filter_map(|line| line.strip_prefix("ShdPnd:"));
        let is_in =
            |mask: &str| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask >> (signal.as_raw() - 1) & 1 == 1);
        pending.any(is_in)
    }

    static SEEDED_BUG: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("PGPORTAGE_SEEDED_BUG").ok());

    /// Whether a test wants this process to make the mistake `name`, to see that
    /// its checker notices. Never in a release build.
    #[must_use]
    pub fn seeded_bug(name: &str) -> bool {
        SEEDED_BUG.as_deref() == Some(name)
    }

    /// Points at which the hitting task panics, once each.
    static PANIC_AT: LazyLock<Mutex<HashMap<String, u32>>> = LazyLock::new(Mutex::default);

    /// Makes the next hit of `name` panic.
    pub fn arm(name: &str) {
        *PANIC_AT.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()).or_default() += 1;
    }

    /// Whether `name` is still armed: it was never hit.
    #[must_use]
    pub fn disarm(name: &str) -> bool {
        PANIC_AT.lock().unwrap_or_else(PoisonError::into_inner).remove(name).is_some()
    }

    /// Passes the point `name`.
    ///
    /// # Panics
    ///
    /// When a test armed it.
    pub fn hit(name: &str) {
        if aborts_at(name) {
            std::process::abort();
        }
        if is_named_in(STOP_FILE.as_deref(), name) {
            // From outside the test could not hit this very place.
            let _stopped = kill_process(getpid(), Signal::STOP);
            // The kernel may give the signal to another thread, and this one must not go on.
            while is_pending(Signal::STOP) {
                std::thread::yield_now();
            }
        }
        let armed = {
            let mut points = PANIC_AT.lock().unwrap_or_else(PoisonError::into_inner);
            match points.get_mut(name) {
                Some(1) => points.remove(name).is_some(),
                Some(count) => {
                    *count -= 1;
                    true
                }
                None => false,
            }
        };
        assert!(!armed, "killed at fail point {name}");
    }
}

#[cfg(feature = "fail-points")]
pub use armed::{arm, disarm, hit, seeded_bug};

/// Passes the point `name`. Does nothing in this build.
#[cfg(not(feature = "fail-points"))]
pub fn hit(_name: &str) {}

/// Whether this process is to make a mistake: never, in this build.
#[cfg(not(feature = "fail-points"))]
#[must_use]
pub const fn seeded_bug(_name: &str) -> bool {
    false
}
