//! How the program ends.

use std::process::ExitCode;

use pgportage_link::Failure;

/// What a verb came to. The numbers are documented in `--help` and in
/// `docs/operating.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// What was asked for is done.
    Done,
    /// It could not be met, or was not waited for.
    NotMet,
    /// The command line is wrong.
    Usage,
    /// The migration waits for the operator.
    Waiting,
    /// It was rehearsed, and the budget would not be kept.
    OverBudget,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::NotMet => 1,
            Exit::Usage => 2,
            Exit::Waiting => 3,
            Exit::OverBudget => 4,
        })
    }
}

/// Why a verb did not run to its end.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Something failed.
    Failed(Box<Failure>),
    /// The command line asks for what cannot be: one clause, and what to type
    /// instead.
    Usage {
        /// What is wrong.
        message: String,
        /// What to type instead.
        hint: String,
    },
    /// The operator said no.
    Declined,
    /// The operator detached; the text says from what.
    Detached(String),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}
