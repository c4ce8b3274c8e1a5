//! The publisher's replication slot: which role makes it, whether a slot of its name is ours, and whether
//! it still stands.
//!
//! Shared by the parts that make the slot, keep its snapshot, watch its cost and advance it. **Invariant:**
//! a slot of our name without the journal's note of the intent is not ours, and is never touched.

use std::path::PathBuf;

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_migration::Participation;
use pgportage_migration::journal::{Journal, Note};
use pgportage_postgres::{Door, Purpose, Secret, Session, Walsender, quote_ident, sql_failure};
use pgportage_proto::{MigrationId, Reason};

const MAY_USE_SLOTS: &str = "SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user";

const SLOT_STATE: &str = "\
SELECT coalesce(s.plugin::text, '') AS plugin,
       coalesce(s.database::text, '') AS database,
       s.temporary,
       coalesce(s.wal_status, '') AS wal_status,
       s.confirmed_flush_lsn::text,
       s.active_pid
FROM pg_replication_slots s
WHERE s.slot_name = $1";

/// The slots of this agent's migrations. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Slots {
    door: Door,
    journal: Journal,
    premade: Option<PremadeRole>,
    replication_address: String,
}

/// A role that the server's owner made beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PremadeRole {
    /// Its name.
    pub name: String,
    /// A file that holds its password and nothing else, mode 0600.
    pub password_file: PathBuf,
}

/// The state of a slot, as the server reports it.
#[derive(Clone, Debug)]
pub struct SlotState {
    plugin: String,
    database: String,
    temporary: bool,
    /// `pg_replication_slots.wal_status`: whether the WAL that the slot needs is still there.
    pub wal_status: String,
    /// None while the server is still making the slot.
    pub confirmed: Option<String>,
    /// The backend that streams from it, or is still making it.
    pub active_pid: Option<i32>,
}

/// Whether a session streams from the slot of our name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotUse {
    /// There is no such slot.
    Absent,
    /// No session streams from it.
    Idle,
    /// This backend streams from it, or is still making it.
    Active(i32),
}

/// The role that makes and drops slots.
enum SlotMaker<'a> {
    /// The agent's own role.
    OwnRole,
    /// The replication role of the policy.
    Premade(&'a PremadeRole),
}

impl Slots {
    /// `premade` is the replication role of the policy. It makes slots where the agent's own role may not,
    /// and logs in at `replication_address`.
    pub fn new(door: Door, journal: Journal, premade: Option<PremadeRole>, replication_address: &str) -> Self {
        Self { door, journal, premade, replication_address: replication_address.to_owned() }
    }

    // ---- What the journal knows.

    /// Notes that the slot is about to be made. From here on the watch looks after it.
    pub fn intend(&self, migration: &MigrationId, name: &str) -> Result<(), Failure> {
        self.journal.set_note(migration, Note::Slot, name)
    }

    /// Whether the slot was made or is about to be, and was not removed since.
    pub fn is_intended(&self, migration: &MigrationId) -> Result<bool, Failure> {
        Ok(self.journal.note(migration, Note::Slot)?.is_some())
    }

    /// Checks that the slot was not given up. An act that needs the slot asks here before it acts and while
    /// it waits.
    ///
    /// # Errors
    ///
    /// [`Reason::WalLimitExceeded`] or [`Reason::SlotLost`] once it was given up: no retry can help.
    pub fn stands(&self, migration: &MigrationId) -> Result<(), Failure> {
        let Some(note) = self.journal.note(migration, Note::SlotGivenUp)? else { return Ok(()) };
        let (reason, detail) = note.split_once('\n').unwrap_or((note.as_str(), ""));
        let (reason, message) = if reason.parse() == Ok(Reason::WalLimitExceeded) {
            (Reason::WalLimitExceeded, "the migration gave way to protect the source")
        } else {
            (Reason::SlotLost, "the replication slot is lost")
        };
        Err(Failure::new(reason, message)
            .detail(detail)
            .hint("Abort the migration and begin again; the copy cannot go on without the slot.")
            .remedy(Remedy::Abort)
            .effect(Effect::None))
    }

    /// Notes that the slot is given up. Durable when it returns: from here on every act that needs the slot
    /// fails.
    pub fn give_up(&self, migration: &MigrationId, reason: Reason, detail: &str) -> Result<(), Failure> {
        self.journal.set_note(migration, Note::SlotGivenUp, &format!("{reason}\n{detail}"))
    }

    /// Forgets the intent, and that the slot was given up, once the slot's remains are removed.
    pub fn forget(&self, migration: &MigrationId) -> Result<(), Failure> {
        self.journal.clear_note(migration, Note::Slot)?;
        self.journal.clear_note(migration, Note::SlotGivenUp)
    }

    /// Notes the system identifier of the subscriber's cluster.
    pub(crate) fn set_subscriber(&self, migration: &MigrationId, system_identifier: &str) -> Result<(), Failure> {
        self.journal.set_note(migration, Note::SubscriberSystem, system_identifier)
    }

    /// The system identifier of the subscriber's cluster. Empty while unknown.
    pub fn subscriber(&self, migration: &MigrationId) -> Result<String, Failure> {
        Ok(self.journal.note(migration, Note::SubscriberSystem)?.unwrap_or_default())
    }

    // ---- What the server knows.

    /// A session that may make and drop slots: of the agent's own role if that has REPLICATION, otherwise
    /// of the policy's replication role.
    ///
    /// # Errors
    ///
    /// [`Reason::PrivilegeMissing`] when neither may; otherwise as [`Door::open`].
    pub async fn session(&self, participation: &Participation, purpose: Purpose) -> Result<Session, Failure> {
        match self.maker(participation).await? {
            SlotMaker::OwnRole => self.door.open(&participation.database, purpose).await,
            SlotMaker::Premade(role) => {
                let password = Secret::from_file(&role.password_file)?;
                let (address, database) = (&self.replication_address, &participation.database);
                self.door.open_as(address, database, &role.name, &password, purpose).await
            }
        }
    }

    /// As [`Self::session`], on a replication connection.
    pub(crate) async fn replication_session(
        &self,
        participation: &Participation,
        purpose: Walsender,
    ) -> Result<Session, Failure> {
        let database = &participation.database;
        match self.maker(participation).await? {
            SlotMaker::OwnRole => self.door.open_replication(database, purpose).await,
            SlotMaker::Premade(role) => {
                let password = Secret::from_file(&role.password_file)?;
                let address = &self.replication_address;
                self.door.open_replication_at(address, database, &role.name, &password, purpose).await
            }
        }
    }

    async fn maker(&self, participation: &Participation) -> Result<SlotMaker<'_>, Failure> {
        let session = self.door.open(&participation.database, Purpose::Control).await?;
        let may: bool = session
            .query_one(MAY_USE_SLOTS, &[])
            .await
            .map_err(|error| sql_failure(error, "look at the agent's own role"))?
            .get(0);
        match &self.premade {
            _ if may => Ok(SlotMaker::OwnRole),
            Some(role) => Ok(SlotMaker::Premade(role)),
            None => Err(Failure::new(Reason::PrivilegeMissing, "the agent's role lacks REPLICATION")
                .hint(format!(
                    "As a superuser, run: ALTER ROLE {} REPLICATION; or name a role that has it under [roles] in the \
                     policy.",
                    quote_ident(self.door.user())
                ))
                .effect(Effect::None)),
        }
    }

    /// Our slot, in whatever state it is. None when there is no slot of that name.
    ///
    /// # Errors
    ///
    /// [`Reason::ObjectConflict`] when the slot is not ours; otherwise what the
    /// server reports.
    pub async fn ours(
        &self,
        participation: &Participation,
        session: &Session,
        name: &str,
    ) -> Result<Option<SlotState>, Failure> {
        let slot = slot_state(session, name).await?;
        if let Some(slot) = &slot {
            self.check_ours(participation, name, slot)?;
        }
        Ok(slot)
    }

    /// Which backend, if any, uses our slot.
    pub async fn usage(
        &self,
        participation: &Participation,
        session: &Session,
        name: &str,
    ) -> Result<SlotUse, Failure> {
        Ok(match self.ours(participation, session, name).await? {
            None => SlotUse::Absent,
            Some(slot) => slot.active_pid.map_or(SlotUse::Idle, SlotUse::Active),
        })
    }

    fn check_ours(&self, participation: &Participation, name: &str, slot: &SlotState) -> Result<(), Failure> {
        let (plugin, database) = (&slot.plugin, &slot.database);
        if plugin != "pgoutput" || *database != participation.database || slot.temporary {
            return Err(conflict(name).detail(format!("It belongs to plugin {plugin:?} and database {database:?}.")));
        }
        if !self.is_intended(&participation.migration)? {
            return Err(conflict(name).detail("This agent has not made it for this migration."));
        }
        Ok(())
    }
}

/// A slot of any owner, by its name.
pub async fn slot_state(session: &Session, name: &str) -> Result<Option<SlotState>, Failure> {
    let row = session
        .query_opt(SLOT_STATE, &[&name])
        .await
        .map_err(|error| sql_failure(error, "look at the replication slot"))?;
    Ok(row.map(|row| SlotState {
        plugin: row.get(0),
        database: row.get(1),
        temporary: row.get(2),
        wal_status: row.get(3),
        confirmed: row.get(4),
        active_pid: row.get(5),
    }))
}

fn conflict(name: &str) -> Failure {
    Failure::new(Reason::ObjectConflict, format!("replication slot {} exists and is not ours", quote_ident(name)))
        .hint(format!("If it is no longer needed, run: SELECT pg_drop_replication_slot('{name}');"))
        .effect(Effect::None)
}
