//! Places where a test may end the process.
//!
//! Compiled to nothing without the feature `fail-points`. With it, the variable
//! `PGPORTAGE_FAIL_POINT` names one point, optionally with a count
//! (`subscribe.perform.created=2` means at the second hit), at which the process
//! aborts at once: no destructor, no flush, as with `kill -9`. A test inside the
//! process arms a point with `arm` instead and gets a panic there.

#[cfg(feature = "fail-points")]
mod armed {
    use std::collections::HashMap;
    use std::sync::{LazyLock, Mutex, PoisonError};

    /// Name and remaining hits of the point at which the process aborts.
    static ABORT_AT: LazyLock<Mutex<Option<(String, u32)>>> = LazyLock::new(|| {
        Mutex::new(std::env::var("PGPORTAGE_FAIL_POINT").ok().map(|text| match text.rsplit_once('=') {
            Some((name, count)) => (name.to_owned(), count.parse().unwrap_or(1)),
            None => (text, 1),
        }))
    });

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
        if let Some((point, remaining)) = ABORT_AT.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
            && point == name
        {
            *remaining = remaining.saturating_sub(1);
            if *remaining == 0 {
                std::process::abort();
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
pub use armed::{arm, disarm, hit};

/// Passes the point `name`. Does nothing in this build.
#[cfg(not(feature = "fail-points"))]
pub fn hit(_name: &str) {}
