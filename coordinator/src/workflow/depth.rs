//! How closely a verification looks.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How closely a verification looks. The one that every migration makes by itself
/// counts, so that it is ready soon; an operator may ask for more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Depth {
    /// Schema objects, and how many rows each table has.
    #[default]
    Counts,
    /// Schema objects, and the hash of every row.
    Rows {
        /// The number of the fact with which this comparison began: by it the
        /// agent knows whether to go on with what it has, or to begin anew.
        comparison_id: i64,
        /// How long it may take. None: until it is done.
        time_limit: Option<Duration>,
        /// Whether the agent writes statements that mend what differs.
        repair: bool,
    },
}

/// What an operator asks of a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Look at every row.
    pub rows: bool,
    /// How long that may take. None: until it is done.
    pub time_limit: Option<Duration>,
    /// Go on where the comparison before left off.
    pub resume: bool,
    /// Let the agent write statements that mend what differs.
    pub repair: bool,
}

impl Depth {
    /// The next verification, which begins with the fact of this number.
    pub fn next(&self, look: &Look, sequence: i64) -> Self {
        if !look.rows {
            return Self::Counts;
        }
        let comparison_id = match self {
            Self::Rows { comparison_id, .. } if look.resume => *comparison_id,
            Self::Rows { .. } | Self::Counts => sequence,
        };
        Self::Rows { comparison_id, time_limit: look.time_limit, repair: look.repair }
    }

    /// The same once more, from the beginning.
    pub fn anew(&self, sequence: i64) -> Self {
        match self {
            Self::Counts => Self::Counts,
            Self::Rows { time_limit, repair, .. } => {
                Self::Rows { comparison_id: sequence, time_limit: *time_limit, repair: *repair }
            }
        }
    }

    /// Whether every row is looked at.
    pub fn is_of_rows(&self) -> bool {
        match self {
            Self::Counts => false,
            Self::Rows { .. } => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_is_gone_on_with_only_when_asked() {
        let look = Look { rows: true, ..Look::default() };
        let first = Depth::Counts.next(&look, 7);
        let id = |depth: &Depth| match depth {
            Depth::Counts => 0,
            Depth::Rows { comparison_id, .. } => *comparison_id,
        };
        assert_eq!(id(&first), 7);
        assert_eq!(id(&first.next(&look, 9)), 9);
        assert_eq!(id(&first.next(&Look { resume: true, ..look.clone() }, 9)), 7);
        assert_eq!(id(&Depth::Counts.next(&Look { resume: true, ..look }, 9)), 9, "there is nothing to go on with");
        assert_eq!(id(&first.anew(11)), 11);
        assert_eq!(first.next(&Look::default(), 9), Depth::Counts);
    }
}
