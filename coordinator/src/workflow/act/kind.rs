//! What a kind of act is to the workflow, which knows none of them by name: how it is
//! asked for, what came of it, and what it will run. The kinds are in the files beside.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pgportage_link::Failure;
pub(super) use pgportage_proto::v1::command::Action as Message;
pub(crate) use pgportage_proto::v1::command_result::Result as Produced;
use pgportage_proto::{ActKind, Reason, RelationName, Side};
use pgportage_report::inventory::Inventory;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::super::depth::Depth;
use super::super::finding::Consent;
use super::super::spec::Spec;
use super::super::statement::{Basis, Statements};

/// What acts are given and produce: names, numbers and hashes.
pub trait Payload: Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Payload for T {}

/// A kind of act: what it is given, and everything else that the coordinator knows of
/// it.
pub trait Kind: Payload {
    const KIND: ActKind;
    /// What it produces.
    type Outcome: Payload;

    /// Made from what earlier acts produced. `None` when that is missing, which the
    /// table's order rules out.
    fn input(given: &Given<'_>) -> Option<Self>;

    fn send(&self) -> Message;

    /// What it produced, as an agent reports it.
    fn receive(produced: Produced) -> Result<Self::Outcome, Failure>;

    /// What it will run on either server.
    fn statements(basis: &Basis<'_>) -> Statements;
}

/// A [`Kind`] for those who know none of them by name. A row of the table points at it.
pub struct Act {
    pub kind: ActKind,
    pub input: fn(&Given<'_>) -> Option<Input>,
    /// `None` for the input of another kind.
    pub send: fn(&Input) -> Option<Message>,
    /// Whether it is what this kind of act produces.
    pub produces: fn(&Outcome) -> bool,
    pub receive: fn(Produced) -> Result<Outcome, Failure>,
    pub statements: fn(&Basis<'_>) -> Statements,
}

impl Act {
    pub(super) const fn of<T: Kind>() -> Self {
        Self {
            kind: T::KIND,
            input: |given| T::input(given).map(Input::of),
            send: |input| input.read::<T>().map(T::send),
            produces: |outcome| outcome.read::<T>().is_some(),
            receive: |produced| T::receive(produced).map(Outcome::of::<T>),
            statements: T::statements,
        }
    }
}

impl fmt::Debug for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())
    }
}

/// The failure of an act whose agent reports something of another kind.
pub(super) fn something_else() -> Failure {
    Failure::new(Reason::Internal, "the agent produced something else than it was asked for")
        .hint("Install the same release everywhere.")
}

/// What the state has for the input of an act.
#[derive(Debug)]
pub struct Given<'a> {
    pub spec: &'a Spec,
    /// What the operator has agreed to.
    pub consents: &'a [Consent],
    /// Whether applications can return to the source.
    pub reverse: bool,
    pub side: Side,
    /// What the inspection has read of the source.
    pub source: Option<&'a Inventory>,
    /// Whether the act's step compares both sides.
    pub verification: bool,
    /// Whether that is behind a cutover.
    pub behind_the_cutover: bool,
    /// Whether its step is a rollback, or rehearses one.
    pub rollback: bool,
    /// Whether its step is a rehearsal.
    pub rehearsal: bool,
    /// How closely a verification looks.
    pub depth: &'a Depth,
    /// Tables that are counted once more.
    pub again: &'a [RelationName],
    /// The switch or the round that the act is a part of.
    pub trial: Option<Trial>,
    /// The number of the latest switch.
    pub cutover_epoch: Option<i64>,
    /// The barrier of that switch or round.
    pub barrier: Option<&'a Outcome>,
    /// The fence of that switch.
    pub fence: Option<&'a Outcome>,
    /// What is left of its budget.
    pub outage_left: Duration,
}

/// A try at a switch, or a round of its rehearsal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    pub epoch: i64,
    pub max_outage: Duration,
    /// How long comparing what was written may take of it.
    pub compare_limit: Option<Duration>,
    /// Whether poolers that do not answer are left out.
    pub without_poolers: bool,
}

/// What an act is given. Stored with the intent, so that a command sent again is the
/// same command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Input(Stored);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Outcome(Stored);

impl Input {
    pub fn of<T: Kind>(given: T) -> Self {
        Self(Stored::of(T::KIND, given))
    }

    /// What is in it. `None` for an act of another kind.
    pub fn read<T: Kind>(&self) -> Option<&T> {
        self.0.read(T::KIND)
    }
}

impl Outcome {
    pub fn of<T: Kind>(produced: T::Outcome) -> Self {
        Self(Stored::of(T::KIND, produced))
    }

    /// What is in it. `None` for an act of another kind.
    pub fn read<T: Kind>(&self) -> Option<&T::Outcome> {
        self.0.read(T::KIND)
    }
}

/// A payload under the name of its kind: in the store `"reach_peer"`, or
/// `{"create_slot": {…}}`. Only its act knows what is in it; it is read once.
#[derive(Clone)]
struct Stored {
    kind: ActKind,
    form: Value,
    read: OnceLock<Option<Arc<dyn Any + Send + Sync>>>,
}

impl Stored {
    fn of<T: Payload>(kind: ActKind, payload: T) -> Self {
        // Names, numbers and hashes: nothing that has no form.
        let form = serde_json::to_value(&payload).unwrap_or_default();
        let read: Arc<dyn Any + Send + Sync> = Arc::new(payload);
        Self { kind, form, read: OnceLock::from(Some(read)) }
    }

    fn read<T: Payload>(&self, kind: ActKind) -> Option<&T> {
        if self.kind != kind {
            return None;
        }
        let read = self.read.get_or_init(|| {
            let payload: Option<T> = T::deserialize(&self.form).ok();
            payload.map(|payload| Arc::new(payload) as Arc<dyn Any + Send + Sync>)
        });
        read.as_deref()?.downcast_ref()
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.form)
    }
}

impl PartialEq for Stored {
    fn eq(&self, other: &Self) -> bool {
        (self.kind, &self.form) == (other.kind, &other.form)
    }
}

impl Eq for Stored {}

impl Serialize for Stored {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.form.is_null() {
            return self.kind.serialize(serializer);
        }
        BTreeMap::from([(self.kind, &self.form)]).serialize(serializer)
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Form {
    Nothing(ActKind),
    Something(BTreeMap<ActKind, Value>),
}

impl<'de> Deserialize<'de> for Stored {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (kind, form) = match Form::deserialize(deserializer)? {
            Form::Nothing(kind) => (kind, Value::Null),
            Form::Something(mut map) => map
                .pop_first()
                .filter(|_| map.is_empty())
                .ok_or_else(|| serde::de::Error::custom("an act has one kind"))?,
        };
        Ok(Self { kind, form, read: OnceLock::new() })
    }
}
