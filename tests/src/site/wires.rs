//! Every connection between the programs of a site laid through proxies.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Site;
use crate::ledger::End;
use crate::proxy::{Direction, Proxy};

/// Two programs that talk to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pair {
    /// The coordinator and the agent at one end.
    CoordinatorAnd(End),
    /// Both agents.
    Agents,
}

/// Which of them no longer hears the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deaf {
    /// Of a coordinator and an agent: the coordinator. Of two agents: the source's.
    First,
    /// The other one.
    Second,
    /// Neither hears the other.
    Both,
}

/// The wires of a site. Once they are dropped, no program can call another.
#[derive(Debug)]
pub struct Wires {
    /// The coordinator, as the source's agent calls it.
    from_source: Proxy,
    /// The coordinator, as the destination's agent calls it.
    from_destination: Proxy,
    /// The source's agent, as the other agent calls it: rows and the stream.
    pub to_source: Proxy,
    /// The destination's agent, as the other agent calls it.
    to_destination: Proxy,
}

impl Wires {
    /// Lays them in a site whose programs do not run yet.
    ///
    /// # Errors
    ///
    /// When a port cannot be had or a file cannot be written.
    pub async fn lay(site: &mut Site) -> Result<Self> {
        let coordinator = port_of(&site.source_config.coordinator)?;
        let wires = Self {
            from_source: Proxy::start(coordinator).await?,
            from_destination: Proxy::start(coordinator).await?,
            to_source: Proxy::start(site.source_config.link_port).await?,
            to_destination: Proxy::start(site.destination_config.link_port).await?,
        };
        let at = |proxy: &Proxy| format!("127.0.0.1:{}", proxy.port);
        site.source_config.coordinator = at(&wires.from_source);
        site.destination_config.coordinator = at(&wires.from_destination);
        for (config, way) in
            [(&mut site.source_config, &wires.to_destination), (&mut site.destination_config, &wires.to_source)]
        {
            for (_, address) in &mut config.policy.peers {
                *address = at(way);
            }
        }
        site.write_agent_files()?;
        Ok(wires)
    }

    /// Lets one of a pair, or both, hear nothing any more.
    pub fn deafen(&self, pair: Pair, deaf: Deaf) {
        let called = |proxy: &Proxy, deaf: Deaf| match deaf {
            Deaf::First => proxy.deafen(&[Direction::ToCalled]),
            Deaf::Second => proxy.deafen(&[Direction::ToCaller]),
            Deaf::Both => proxy.deafen(&[Direction::ToCalled, Direction::ToCaller]),
        };
        let calling = match deaf {
            Deaf::First => Deaf::Second,
            Deaf::Second => Deaf::First,
            Deaf::Both => Deaf::Both,
        };
        match pair {
            Pair::CoordinatorAnd(End::Source) => called(&self.from_source, deaf),
            Pair::CoordinatorAnd(End::Destination) => called(&self.from_destination, deaf),
            Pair::Agents => {
                called(&self.to_source, deaf);
                called(&self.to_destination, calling);
            }
        }
    }

    /// Makes every way so long, there and back together.
    pub fn round_trip(&self, length: Duration) {
        for proxy in self.all() {
            proxy.delay(length / 2);
        }
    }

    /// Every program hears every other one again.
    pub fn mend(&self) {
        for proxy in self.all() {
            proxy.mend();
        }
    }

    fn all(&self) -> [&Proxy; 4] {
        [&self.from_source, &self.from_destination, &self.to_source, &self.to_destination]
    }
}

fn port_of(address: &str) -> Result<u16> {
    let (_, port) = address.rsplit_once(':').context("an address without a port")?;
    Ok(port.parse()?)
}
