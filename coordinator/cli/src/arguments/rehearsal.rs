//! Whether a cutover or rollback is only tried.

use clap::Args;

/// Whether a cutover or rollback is rehearsed, and how.
#[derive(Clone, Copy, Debug, Args)]
pub struct Rehearsal {
    /// Only try it, under load: writers wait a few times for a moment, then say what
    /// outage to expect and whether it is within --max-outage
    #[arg(long, group = "rehearsing")]
    pub rehearse: bool,
    /// Rehearse, and go on with it if that expects an outage within --max-outage
    #[arg(long, group = "rehearsing", conflicts_with = "detach")]
    pub rehearse_first: bool,
    /// How often to rehearse, from 1 to 50 [default: 5]
    #[arg(long, value_name = "N", requires = "rehearsing", value_parser = clap::value_parser!(u32).range(1..=50))]
    pub rounds: Option<u32>,
}

/// How much of a cutover or rollback is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// It is carried out.
    Whole,
    /// It is rehearsed.
    Rehearsal,
    /// It is rehearsed, and carried out if that went well.
    RehearsalFirst,
}

impl Rehearsal {
    /// What the flags ask for.
    pub(crate) fn extent(self) -> Extent {
        match self {
            Self { rehearse: true, .. } => Extent::Rehearsal,
            Self { rehearse_first: true, .. } => Extent::RehearsalFirst,
            Self { rehearse: false, rehearse_first: false, .. } => Extent::Whole,
        }
    }
}
