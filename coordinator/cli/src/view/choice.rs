//! What the operator chose when the migration was created.

use std::str::FromStr;

use clap::ValueEnum;
use pgportage_link::settings::ByteSize;
use serde::{Deserialize, Serialize};

/// How the destination server reaches the source server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Connection {
    /// Through the agents' link: no database port has to be reachable
    #[default]
    Tunnel,
    /// At the address in the destination agent's policy
    Direct,
}

/// How the rows that are there already get to the destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum CopyMethod {
    /// By the agents: several tables at a time, indexes afterwards
    #[default]
    Snapshot,
    /// By the subscription: one worker a table
    Native,
}

/// How fast a copy may read: table data in a second, or as fast as it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct MaxRate(pub Option<ByteSize>);

impl FromStr for MaxRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.eq_ignore_ascii_case("none") {
            return Ok(Self(None));
        }
        match text.trim_end_matches("/s").parse::<ByteSize>() {
            Ok(rate) => Ok(Self(Some(rate).filter(|rate| rate.as_bytes() > 0))),
            Err(_) => Err("write a whole number and one of kB, MB and GB, as in \"50MB\", or \"none\"".to_owned()),
        }
    }
}

impl TryFrom<String> for MaxRate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_size_in_a_second_or_none() {
        let read = |text: &str| text.parse::<MaxRate>().map(|rate| rate.0.map(ByteSize::as_bytes));
        assert_eq!(read("50MB"), Ok(Some(50 << 20)));
        assert_eq!(read("2 GiB/s"), Ok(Some(2 << 30)));
        for none in ["none", "None", "0"] {
            assert_eq!(read(none), Ok(None), "{none}");
        }
        for bad in ["", "fast", "1.5MB", "-1", "/s"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
