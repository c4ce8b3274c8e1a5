//! The policy file's format.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgportage_data_plane::peer::PeerAddress;
use pgportage_data_plane::role::PremadeRoles;
use pgportage_data_plane::slot::PremadeRole;
use pgportage_link::Failure;
use pgportage_link::settings::ByteSize;
use pgportage_proto::{ActKind, Side};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::{AllowedActs, BarrierConflict, DatabaseRule, Destructive, Limits, Policy, hook, pooler};
use crate::settings::{invalid, is_address, is_name};

/// Written instead of the address of a peer that the coordinator relays to.
const RELAY: &str = "relay";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DatabaseSection {
    sides: Vec<String>,
    peers: Option<BTreeSet<String>>,
    source_address: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitsSection {
    lock_timeout: Option<String>,
    barrier_timeout: Option<String>,
    barrier_conflict: Option<String>,
    max_outage: Option<String>,
    command_age: Option<String>,
    #[serde(alias = "retained_wal_warn_bytes")]
    retained_wal_warn: Option<ByteSize>,
    #[serde(alias = "retained_wal_abort_bytes")]
    retained_wal_abort: Option<ByteSize>,
    #[serde(alias = "free_disk_warn_bytes")]
    free_disk_warn: Option<ByteSize>,
    #[serde(alias = "free_disk_abort_bytes")]
    free_disk_abort: Option<ByteSize>,
    xmin_age_warn: Option<u64>,
    xmin_age_abort: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RolesSection {
    replication: Option<RoleSection>,
    canary: Option<RoleSection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleSection {
    name: String,
    password_file: PathBuf,
}

/// Everything wrong in the file, gathered so that the owner sees all of it at once.
#[derive(Default)]
pub(super) struct Problems(Vec<String>);

impl Problems {
    pub(super) fn add(&mut self, key: &str, problem: impl std::fmt::Display) {
        self.0.push(format!("{key}: {problem}"));
    }

    /// Takes one section out of the file; an absent one reads as its default.
    pub(super) fn section<T: DeserializeOwned + Default>(&mut self, table: &mut toml::Table, key: &str) -> T {
        table.remove(key).map(|value| self.read(key, value)).unwrap_or_default().unwrap_or_default()
    }

    fn read<T: DeserializeOwned>(&mut self, key: &str, value: toml::Value) -> Option<T> {
        value.try_into().map_err(|error: toml::de::Error| self.add(key, error.message())).ok()
    }

    pub(super) fn duration(&mut self, key: &str, text: Option<String>, default: Duration) -> Duration {
        let Some(text) = text else { return default };
        match humantime::parse_duration(&text) {
            Ok(duration) if !duration.is_zero() => duration,
            Ok(_) => {
                self.add(key, "must be longer than 0");
                default
            }
            Err(_) => {
                self.add(key, format_args!("{text:?} is no duration; write it like \"300ms\" or \"10s\""));
                default
            }
        }
    }
}

pub(super) fn load(path: &Path) -> Result<Policy, Failure> {
    let mut problems = Problems::default();
    let bytes = std::fs::read(path).map_err(|error| invalid(path, &[error.to_string()]))?;
    let metadata = std::fs::metadata(path).map_err(|error| invalid(path, &[error.to_string()]))?;
    if metadata.mode() & 0o022 != 0 {
        problems.add("the file", "others than its owner can write it; run `chmod go-w` on it");
    }
    if ![0, rustix::process::geteuid().as_raw()].contains(&metadata.uid()) {
        problems.add("the file", "it must belong to root or to the user the agent runs as");
    }
    let text = std::str::from_utf8(&bytes).map_err(|error| invalid(path, &[error.to_string()]))?;
    let mut table: toml::Table = toml::from_str(text).map_err(|error| invalid(path, &[error.to_string()]))?;

    let peers = peers(&mut problems, &mut table);
    let databases = databases(&mut problems, &mut table, &peers);
    let acts = acts(&mut problems, &mut table);
    let limits = limits(&mut problems, &mut table);
    let destructive = Destructive::read(&mut problems, &mut table);
    let RolesSection { replication, canary } = problems.section(&mut table, "roles");
    let replication = role(&mut problems, "roles.replication", replication);
    let canary = role(&mut problems, "roles.canary", canary);
    let poolers = pooler::poolers(&mut problems, &mut table, &databases);
    let hooks = hook::hooks(&mut problems, &mut table);
    for key in table.keys() {
        problems.add(key, "unknown; expected databases, peers, acts, limits, destructive, roles, pooler or hook");
    }
    if !problems.0.is_empty() {
        return Err(invalid(path, &problems.0));
    }
    Ok(Policy {
        path: path.to_owned(),
        digest: Sha256::digest(&bytes).into(),
        databases,
        acts,
        peers,
        limits,
        destructive,
        roles: PremadeRoles { replication, canary },
        poolers,
        hooks,
    })
}

fn peers(problems: &mut Problems, table: &mut toml::Table) -> BTreeMap<String, PeerAddress> {
    let section: BTreeMap<String, String> = problems.section(table, "peers");
    let mut peers = BTreeMap::new();
    for (name, address) in section {
        if !is_name(&name) {
            problems.add(&format!("peers.{}", key(&name)), "use 1 to 63 characters of a-z, 0-9, - and .");
        }
        if address != RELAY && !is_address(&address) {
            problems.add(&format!("peers.{}", key(&name)), "must be host:port, or relay");
        }
        let address = if address == RELAY { PeerAddress::Relay } else { PeerAddress::Direct(address) };
        peers.insert(name, address);
    }
    peers
}

fn databases(
    problems: &mut Problems,
    table: &mut toml::Table,
    peers: &BTreeMap<String, PeerAddress>,
) -> BTreeMap<String, DatabaseRule> {
    let sections: BTreeMap<String, toml::Value> = problems.section(table, "databases");
    let mut databases = BTreeMap::new();
    for (name, section) in sections {
        let at = format!("databases.{}", key(&name));
        let Some(DatabaseSection { sides, peers: wanted, source_address }) = problems.read(&at, section) else {
            continue;
        };
        if source_address.as_ref().is_some_and(|address| !is_address(address)) {
            problems.add(&format!("{at}.source_address"), "must be host:port");
        }
        let mut rule = DatabaseRule { sides: BTreeSet::new(), peers: wanted, source_address };
        for side in sides {
            match side.as_str() {
                "source" => drop(rule.sides.insert(Side::Source)),
                "destination" => drop(rule.sides.insert(Side::Destination)),
                _ => problems.add(&format!("{at}.sides"), format_args!("{side:?} is neither source nor destination")),
            }
        }
        for peer in rule.peers.iter().flatten().filter(|peer| !peers.contains_key(*peer)) {
            problems.add(&format!("{at}.peers"), format_args!("{peer:?} is not listed under [peers]"));
        }
        databases.insert(name, rule);
    }
    databases
}

/// `steps` is the former name of `acts`.
fn acts(problems: &mut Problems, table: &mut toml::Table) -> Option<AllowedActs> {
    let (key, value) = match (table.remove("acts"), table.remove("steps")) {
        (None, None) => return None,
        (Some(value), None) => ("acts", value),
        (None, Some(value)) => ("steps", value),
        (Some(value), Some(_)) => {
            problems.add("steps", "is what `acts` was called before; leave one of the two in the file");
            ("acts", value)
        }
    };
    let names: Vec<String> = problems.read(key, value)?;
    let mut kinds = BTreeSet::new();
    for name in names {
        match ActKind::ALL.iter().find(|kind| kind.as_str() == name) {
            Some(kind) => drop(kinds.insert(*kind)),
            None => {
                let known: Vec<_> = ActKind::ALL.iter().map(|kind| kind.as_str()).collect();
                problems.add(key, format_args!("{name:?} is no act; expected {}", known.join(", ")));
            }
        }
    }
    Some(AllowedActs { key, kinds })
}

fn limits(problems: &mut Problems, table: &mut toml::Table) -> Limits {
    let section: LimitsSection = problems.section(table, "limits");
    let default = Limits::default();
    let barrier_conflict = match section.barrier_conflict.as_deref() {
        None | Some("cancel") => BarrierConflict::Cancel,
        Some("yield") => BarrierConflict::Yield,
        Some(other) => {
            problems.add("limits.barrier_conflict", format_args!("{other:?} is neither cancel nor yield"));
            BarrierConflict::Cancel
        }
    };
    let limits = Limits {
        lock_timeout: problems.duration("limits.lock_timeout", section.lock_timeout, default.lock_timeout),
        barrier_timeout: problems.duration("limits.barrier_timeout", section.barrier_timeout, default.barrier_timeout),
        barrier_conflict,
        max_outage: problems.duration("limits.max_outage", section.max_outage, default.max_outage),
        command_age: problems.duration("limits.command_age", section.command_age, default.command_age),
        retained_wal_warn_bytes: section.retained_wal_warn.map_or(default.retained_wal_warn_bytes, ByteSize::as_bytes),
        retained_wal_abort_bytes: section
            .retained_wal_abort
            .map_or(default.retained_wal_abort_bytes, ByteSize::as_bytes),
        free_disk_warn_bytes: section.free_disk_warn.map_or(default.free_disk_warn_bytes, ByteSize::as_bytes),
        free_disk_abort_bytes: section.free_disk_abort.map_or(default.free_disk_abort_bytes, ByteSize::as_bytes),
        xmin_age_warn: section.xmin_age_warn.unwrap_or(default.xmin_age_warn),
        xmin_age_abort: section.xmin_age_abort.unwrap_or(default.xmin_age_abort),
    };
    if limits.lock_timeout > Duration::from_secs(10) {
        problems.add(
            "limits.lock_timeout",
            "must not be longer than 10s: sessions that queue behind our lock wait as long",
        );
    }
    limits
}

fn role(problems: &mut Problems, at: &str, section: Option<RoleSection>) -> Option<PremadeRole> {
    let RoleSection { name, password_file } = section?;
    if name.is_empty() || name.len() > 63 {
        problems.add(&format!("{at}.name"), "use 1 to 63 bytes");
    }
    check_private(problems, &format!("{at}.password_file"), &password_file);
    Some(PremadeRole { name, password_file })
}

/// Only its owner may read a file that holds a secret.
pub(super) fn check_private(problems: &mut Problems, at: &str, path: &Path) {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.mode() & 0o077 != 0 => {
            problems.add(at, "others can read it; run `chmod 0600` on it");
        }
        Ok(_) => {}
        Err(error) => problems.add(at, error),
    }
}

/// A key as TOML writes it, in quotes where it needs them.
pub(super) fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if bare { name.to_owned() } else { toml::Value::String(name.to_owned()).to_string() }
}
