//! Where a process runs, and a slow network between two such places.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::child::running_as_root;

/// A network that processes run in, and where others reach them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The network namespace; that of the test if none.
    pub namespace: Option<String>,
    /// The address of what listens there.
    pub address: IpAddr,
}

impl Default for Place {
    fn default() -> Self {
        Self { namespace: None, address: Ipv4Addr::LOCALHOST.into() }
    }
}

impl Place {
    /// `host:port` of something that listens here.
    #[must_use]
    pub fn at(&self, port: u16) -> String {
        format!("{}:{port}", self.address)
    }
}

/// A namespace behind a pair of interfaces that let no more through than they are
/// told to. Removed when dropped.
#[derive(Debug)]
pub struct Network {
    name: String,
    /// On this side, in the namespace of the test.
    pub near: Place,
    /// On the other side.
    pub far: Place,
}

impl Network {
    /// Makes one. Needs root, and the programs `ip` and `tc`.
    ///
    /// # Errors
    ///
    /// When one of them fails; the error carries its words.
    pub fn start(megabits_per_second: u32) -> Result<Self> {
        ensure!(running_as_root(), "network namespaces need root");
        let id = std::process::id();
        let name = format!("pgportage-{id}");
        let (near, far) = (format!("pgp{}n", id % 100_000), format!("pgp{}f", id % 100_000));
        let [third, fourth] = [(id / 64 % 256), (id % 64 * 4)];
        let (near_address, far_address) = (
            Ipv4Addr::new(10, 213, third as u8, fourth as u8 + 1),
            Ipv4Addr::new(10, 213, third as u8, fourth as u8 + 2),
        );
        run(&format!("ip netns add {name}"))?;
        let network = Self {
            near: Place { namespace: None, address: near_address.into() },
            far: Place { namespace: Some(name.clone()), address: far_address.into() },
            name,
        };
        let inside = format!("ip netns exec {}", network.name);
        // A bucket larger than what the kernel hands over at once, a queue of a
        // tenth of a second: what a line of a provider has.
        let limit = format!("tbf rate {megabits_per_second}mbit burst 256kb latency 100ms");
        for command in [
            format!("ip link add {near} type veth peer name {far} netns {}", network.name),
            format!("ip addr add {near_address}/30 dev {near}"),
            format!("ip link set {near} up"),
            format!("{inside} ip addr add {far_address}/30 dev {far}"),
            format!("{inside} ip link set {far} up"),
            format!("{inside} ip link set lo up"),
            format!("tc qdisc add dev {near} root {limit}"),
            format!("{inside} tc qdisc add dev {far} root {limit}"),
        ] {
            run(&command)?;
        }
        Ok(network)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The interfaces go with the namespace.
        if let Err(error) = run(&format!("ip netns del {}", self.name)) {
            tracing::warn!(%error, "a network namespace stays");
        }
    }
}

fn run(command: &str) -> Result<()> {
    let mut words = command.split_whitespace();
    let program = words.next().context("no program")?;
    let output = Command::new(program).args(words).output().with_context(|| command.to_owned())?;
    ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
