//! What the operator chose when the migration was created.

use std::str::FromStr;

use clap::{Args, ValueEnum};
use pgportage_link::settings::ByteSize;
use pgportage_proto::{ConnectionPath, CopyMethod};
use serde::{Deserialize, Serialize};

/// What moves the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// The agents, over the link between them
    #[default]
    Agents,
    /// PostgreSQL by itself, as by hand
    Postgresql,
}

/// How the servers reach each other, and what copies the rows that are there already.
/// Two ways of four are a [`Method`]; the other two were chosen with a release that
/// asked for both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Way {
    /// How the destination server reaches the source server.
    pub connection: ConnectionPath,
    /// How the rows that are there already are copied.
    pub copy_method: CopyMethod,
    /// The choice that both are, if they are one.
    pub method: Option<Method>,
}

impl Way {
    /// From its two halves.
    #[must_use]
    pub fn new(connection: ConnectionPath, copy_method: CopyMethod) -> Self {
        let method = match (connection, copy_method) {
            (ConnectionPath::Tunnel, CopyMethod::Snapshot) => Some(Method::Agents),
            (ConnectionPath::Direct, CopyMethod::Native) => Some(Method::Postgresql),
            (ConnectionPath::Tunnel, CopyMethod::Native) | (ConnectionPath::Direct, CopyMethod::Snapshot) => None,
        };
        Self { connection, copy_method, method }
    }

    /// For people, unless it is the usual one.
    #[must_use]
    pub fn clause(&self) -> &'static str {
        match (self.connection, self.copy_method) {
            (ConnectionPath::Tunnel, CopyMethod::Snapshot) => "",
            (ConnectionPath::Direct, CopyMethod::Native) => ", by PostgreSQL itself",
            (ConnectionPath::Tunnel, CopyMethod::Native) => ", copied by the subscription",
            (ConnectionPath::Direct, CopyMethod::Snapshot) => ", without the agents' link",
        }
    }
}

impl From<Method> for Way {
    fn from(method: Method) -> Self {
        match method {
            Method::Agents => Self::new(ConnectionPath::Tunnel, CopyMethod::Snapshot),
            Method::Postgresql => Self::new(ConnectionPath::Direct, CopyMethod::Native),
        }
    }
}

/// The choice as it is typed: the method, or its halves as they were typed before there
/// was one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Args)]
pub struct Chosen {
    /// What moves the rows: agents (over the link between them; no database port has to
    /// be reachable) or postgresql (as by hand: the subscription connects to the
    /// address in the destination agent's policy and copies, one worker a table)
    /// [default: agents]
    #[arg(long, value_enum, value_name = "METHOD", hide_possible_values = true)]
    pub method: Option<Method>,
    /// Of the release before: tunnel or direct.
    #[arg(long, hide = true, conflicts_with = "method", value_parser = connection)]
    pub connection: Option<ConnectionPath>,
    /// Of the release before: snapshot or native.
    #[arg(long, hide = true, conflicts_with = "method", value_parser = copy_method)]
    pub copy_method: Option<CopyMethod>,
}

impl Chosen {
    /// Both halves.
    #[must_use]
    pub fn way(&self) -> Way {
        match self.method {
            Some(method) => method.into(),
            None => Way::new(self.connection.unwrap_or_default(), self.copy_method.unwrap_or_default()),
        }
    }
}

fn connection(text: &str) -> Result<ConnectionPath, &'static str> {
    match text {
        "tunnel" => Ok(ConnectionPath::Tunnel),
        "direct" => Ok(ConnectionPath::Direct),
        _ => Err("write tunnel or direct; better, choose with --method"),
    }
}

fn copy_method(text: &str) -> Result<CopyMethod, &'static str> {
    match text {
        "snapshot" => Ok(CopyMethod::Snapshot),
        "native" => Ok(CopyMethod::Native),
        _ => Err("write snapshot or native; better, choose with --method"),
    }
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
    fn every_way_that_was_chosen_once_is_still_one() {
        use ConnectionPath::{Direct, Tunnel};
        use CopyMethod::{Native, Snapshot};
        assert_eq!(Chosen::default().way(), Way::from(Method::Agents));
        for (connection, copy_method, method) in [
            (Tunnel, Snapshot, Some(Method::Agents)),
            (Direct, Native, Some(Method::Postgresql)),
            (Tunnel, Native, None),
            (Direct, Snapshot, None),
        ] {
            let halves = Chosen { method: None, connection: Some(connection), copy_method: Some(copy_method) }.way();
            assert_eq!((halves.connection, halves.copy_method, halves.method), (connection, copy_method, method));
            if let Some(method) = method {
                assert_eq!(Chosen { method: Some(method), ..Chosen::default() }.way(), halves);
            }
        }
    }

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
