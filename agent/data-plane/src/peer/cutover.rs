//! What the two agents tell and ask each other in a cutover.

use std::time::Duration;

/// What happens on the side that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// It is left, and its tables are locked next.
    LocksNext {
        /// What is left of the budget.
        time_left: Duration,
    },
    /// It was not left after all, and takes writes.
    GivenUp,
    /// It was entered, and has opened.
    Opened,
}

/// What the destination decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// It has opened.
    Opened,
    /// It will not open at this epoch, and has stored that.
    WillNotOpen,
}
