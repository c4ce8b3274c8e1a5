//! What the two agents tell and ask each other in a cutover.

use std::time::Duration;

/// What an agent tells the other one about its own side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// Applications leave this side: its tables are locked next.
    LocksNext {
        /// How much of the budget is left.
        time_left: Duration,
    },
    /// The switchover was given up: this side takes writes again.
    GivenUp,
    /// Applications enter this side: it has opened.
    Opened,
}

/// What the agent of the entered side has decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Its side has opened.
    Opened,
    /// Its side will not open at this epoch; the promise is stored.
    WillNotOpen,
}
