//! Statements that make the schema of the side that follows that of the side that
//! publishes, in the order in which they can be run. Pure.
//!
//! What is taken away goes before what it depends on, what is made comes after.
//! Where no statement is known, or none would be right, a remark says so.
//! **Invariant:** no statement takes rows away that the other side may still have
//! under another name.

mod column;
mod order;
mod rename;

use std::collections::{BTreeMap, BTreeSet};

use pgportage_proto::Side;

use super::difference::{Change, Differences};
use crate::postgres::catalog::{Column, ObjectDefinition, PrivilegeGrant, same_definition};
use crate::postgres::quote_literal;
use order::{Place, Stage};

/// One object that differs, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriftedObject {
    /// What it is and its name.
    pub identity: String,
    /// How it differs.
    pub change: Change,
    /// What of it differs, one lowercase clause each. Names only.
    pub details: Vec<String>,
}

/// What differs, and what to do about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mending {
    /// Every object that differs by itself, those that would stop the stream first.
    pub objects: Vec<DriftedObject>,
    /// Statements that have to be committed before others can be run.
    pub before: Vec<String>,
    /// Statements that belong together.
    pub together: Vec<String>,
    /// Statements that can be run once rows that are on their way have arrived.
    pub after: Vec<String>,
    /// What no statement does.
    pub remarks: Vec<String>,
}

/// Definitions by identity.
pub type Definitions = BTreeMap<String, ObjectDefinition>;

/// What to do about differences. Definitions of objects that differ may be missing:
/// then there is a remark.
#[must_use]
pub fn mend(differences: &Differences, published: &Definitions, followed: &Definitions, follower: Side) -> Mending {
    let renamed = rename::tables(differences, published, followed);
    let mut writer = Writer { differences, published, followed, follower, renamed, ..Writer::default() };
    for (identity, change) in differences {
        writer.object(identity, *change);
    }
    writer.finish()
}

/// The kind of an object, the word or words before its name.
fn kind_of(identity: &str) -> &str {
    order::KINDS
        .iter()
        .map(|(kind, ..)| *kind)
        .find(|kind| identity.strip_prefix(kind).is_some_and(|rest| rest.starts_with(' ')))
        .unwrap_or("")
}

/// The kinds that differ, whose definitions are needed.
#[must_use]
pub fn kinds(differences: &Differences) -> Vec<String> {
    let kinds: BTreeSet<&str> = differences.keys().map(|identity| kind_of(identity)).collect();
    kinds.into_iter().filter(|kind| !kind.is_empty()).map(str::to_owned).collect()
}

struct Writer<'a> {
    differences: &'a Differences,
    published: &'a Definitions,
    followed: &'a Definitions,
    follower: Side,
    /// Tables that seem to have another name on the other side: ours, theirs.
    renamed: Vec<(&'a ObjectDefinition, &'a ObjectDefinition)>,
    objects: Vec<DriftedObject>,
    statements: Vec<(Place, String)>,
    before: Vec<String>,
    after: Vec<String>,
    remarks: Vec<String>,
}

impl Default for Writer<'_> {
    fn default() -> Self {
        static NONE: (Differences, Definitions) = (BTreeMap::new(), BTreeMap::new());
        Self {
            differences: &NONE.0,
            published: &NONE.1,
            followed: &NONE.1,
            follower: Side::Destination,
            renamed: Vec::new(),
            objects: Vec::new(),
            statements: Vec::new(),
            before: Vec::new(),
            after: Vec::new(),
            remarks: Vec::new(),
        }
    }
}

impl<'a> Writer<'a> {
    fn object(&mut self, identity: &str, change: Change) {
        let (theirs, ours) = (self.published.get(identity), self.followed.get(identity));
        if self.comes_with_another(theirs, ours) {
            return;
        }
        let written = (self.statements.len(), self.before.len(), self.after.len(), self.remarks.len());
        let details = match (change, theirs, ours) {
            (Change::NotReplicated, ..) => self.not_replicated(identity),
            (Change::Missing, Some(theirs), _) => self.make(theirs),
            (Change::Extra, _, Some(ours)) => self.take_away(ours),
            (Change::Different, Some(theirs), Some(ours)) => match self.change(theirs, ours) {
                Some(details) => details,
                None => return,
            },
            (Change::Missing | Change::Extra | Change::Different, ..) => Vec::new(),
        };
        if written == (self.statements.len(), self.before.len(), self.after.len(), self.remarks.len()) {
            let what = match change {
                Change::Missing => "is missing here",
                Change::Extra => "is here only",
                Change::Different | Change::NotReplicated => "is defined otherwise",
            };
            self.remarks.push(format!("{identity} {what}: make the same change by hand."));
        }
        self.objects.push(DriftedObject { identity: identity.to_owned(), change, details });
    }

    /// Whether what the object belongs to comes or goes as well, or brings it along.
    fn comes_with_another(&self, theirs: Option<&ObjectDefinition>, ours: Option<&ObjectDefinition>) -> bool {
        let owner = |definition: &'a ObjectDefinition| definition.belongs_to.as_ref();
        let find = |known: Option<&ObjectDefinition>, all: &'a Definitions| {
            known.and_then(|definition| all.get(&definition.identity)).and_then(owner)
        };
        let owners = [find(theirs, self.published), find(ours, self.followed)];
        let brought =
            theirs.or(ours).is_some_and(|definition| definition.create.is_empty() && definition.columns.is_empty());
        let made = |owner| self.published.get(owner).is_some_and(|owner: &ObjectDefinition| !owner.create.is_empty());
        owners.into_iter().flatten().any(|owner| match self.differences.get(owner) {
            Some(Change::Extra) => true,
            Some(Change::Missing) => brought || !made(owner),
            Some(Change::NotReplicated) => !self.followed.contains_key(owner),
            Some(Change::Different) => brought,
            None => false,
        })
    }

    fn not_replicated(&mut self, identity: &str) -> Vec<String> {
        let other = self.follower.other();
        self.remarks.push(format!(
            "{identity} was created on the {other} after the migration began, and its rows do not travel. \
             Drop it on the {other}, or abort the migration and begin again. Making it here would not help."
        ));
        Vec::new()
    }

    fn make(&mut self, theirs: &ObjectDefinition) -> Vec<String> {
        if let Some((ours, _)) = self.renamed.iter().find(|(_, renamed)| renamed.identity == theirs.identity) {
            let ours = *ours;
            let statement =
                format!("ALTER TABLE {} RENAME TO {}", ours.table_name, rename::relation(&theirs.table_name));
            self.push(Stage::Shape, theirs, statement);
            return vec![format!("it seems to be {}, renamed", ours.identity)];
        }
        if theirs.create.is_empty() {
            if rename::holds_rows(theirs) {
                self.remarks.push(format!(
                    "{} is gone on the {}, and its rows with it: abort the migration and begin again.",
                    theirs.identity, self.follower
                ));
            }
            return Vec::new();
        }
        self.push(Stage::Make, theirs, theirs.create.clone());
        let mut bare = ObjectDefinition { grants: theirs.default_grants.clone(), ..ObjectDefinition::default() };
        if !theirs.table_name.is_empty() {
            bare.columns = made_columns(theirs);
            self.columns(theirs, &bare);
        }
        self.settle(theirs, &bare);
        Vec::new()
    }

    fn take_away(&mut self, ours: &ObjectDefinition) -> Vec<String> {
        if self.renamed.iter().any(|(renamed, _)| renamed.identity == ours.identity) {
            self.remarks.push(format!("{} is renamed above.", ours.identity));
        } else if rename::holds_rows(ours) && self.lacks_a_table() {
            self.remarks.push(format!(
                "{} is here only. Rename it if it has another name now; if nobody needs it: {};",
                ours.identity, ours.drop
            ));
        } else if !ours.drop.is_empty() {
            self.push(Stage::TakeAway, ours, ours.drop.clone());
        }
        Vec::new()
    }

    /// Whether a table of the other side is missing here: any that is here only may
    /// be it.
    fn lacks_a_table(&self) -> bool {
        let missing = self.differences.iter().filter(|(_, change)| **change == Change::Missing);
        missing.filter_map(|(identity, _)| self.published.get(identity)).any(rename::holds_rows)
    }

    /// None when it changes with the table that it has its columns from.
    fn change(&mut self, theirs: &ObjectDefinition, ours: &ObjectDefinition) -> Option<Vec<String>> {
        let mut details = Vec::new();
        let mut made_anew = false;
        if !theirs.table_name.is_empty() {
            let written = self.statements.len();
            details = self.columns(theirs, ours);
            self.settle(theirs, ours);
            let inherits = theirs.columns.iter().chain(&ours.columns).any(|column| column.inherited);
            return (self.statements.len() > written || details.is_empty() || !inherits).then_some(details);
        }
        if !theirs.labels.is_empty() || !ours.labels.is_empty() {
            details = self.labels(theirs, ours);
        } else if !theirs.create.is_empty() && !same_definition(&theirs.create, &ours.create) {
            if !replaces(theirs, ours) {
                self.push(Stage::Clear, ours, ours.drop.clone());
                made_anew = true;
            }
            self.push(Stage::Make, theirs, theirs.create.clone());
        }
        if made_anew {
            let bare = ObjectDefinition { grants: theirs.default_grants.clone(), ..ObjectDefinition::default() };
            self.settle(theirs, &bare);
        } else {
            self.settle(theirs, ours);
        }
        Some(details)
    }

    fn columns(&mut self, theirs: &ObjectDefinition, ours: &ObjectDefinition) -> Vec<String> {
        let changes = column::compare(theirs, ours);
        for (stage, statement) in changes.statements {
            self.push(stage, theirs, statement);
        }
        self.after.extend(changes.after);
        self.remarks.extend(changes.remarks.into_iter().map(|remark| format!("{}: {remark}", theirs.identity)));
        changes.details
    }

    /// Labels can be added, and nothing else.
    fn labels(&mut self, theirs: &ObjectDefinition, ours: &ObjectDefinition) -> Vec<String> {
        let mut rest = ours.labels.iter().peekable();
        let added: Vec<bool> = theirs.labels.iter().map(|label| rest.next_if_eq(&label).is_none()).collect();
        if rest.peek().is_some() {
            return vec!["its labels are others".to_owned()];
        }
        let name = theirs.grant_name.trim_start_matches("TYPE ");
        for (place, label) in theirs.labels.iter().enumerate().filter(|(place, _)| added[*place]) {
            let label = quote_literal(label);
            // Those before it are there by then.
            let position = match place.checked_sub(1).and_then(|before| theirs.labels.get(before)) {
                Some(before) => format!("AFTER {}", quote_literal(before)),
                None => match ours.labels.first() {
                    Some(first) => format!("BEFORE {}", quote_literal(first)),
                    None => String::new(),
                },
            };
            self.before.push(format!("ALTER TYPE {name} ADD VALUE {label} {position}").trim_end().to_owned());
        }
        let count = added.iter().filter(|added| **added).count();
        if count == 0 { Vec::new() } else { vec![format!("it lacks {count} of its labels")] }
    }

    /// What can be set on something that is there, and who may use it.
    fn settle(&mut self, theirs: &ObjectDefinition, ours: &ObjectDefinition) {
        for setting in theirs.settings.iter().filter(|setting| !ours.settings.contains(setting)) {
            self.push(Stage::Settle, theirs, setting.clone());
        }
        if theirs.grant_name.is_empty() {
            return;
        }
        let lost = ours.grants.iter().filter(|grant| !theirs.grants.contains(grant));
        let won = theirs.grants.iter().filter(|grant| !ours.grants.contains(grant));
        let revoke = |grant: &PrivilegeGrant| {
            format!("REVOKE {} ON {} FROM {}", grant.privilege, theirs.grant_name, grant.grantee)
        };
        let grant = |grant: &PrivilegeGrant| {
            let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
            format!("GRANT {} ON {} TO {}{option}", grant.privilege, theirs.grant_name, grant.grantee)
        };
        let statements: Vec<_> = lost.map(revoke).chain(won.map(grant)).collect();
        for statement in statements {
            self.push(Stage::Grant, theirs, statement);
        }
    }

    fn push(&mut self, stage: Stage, definition: &ObjectDefinition, statement: String) {
        let place = Place::of(stage, kind_of(&definition.identity), definition.order);
        self.statements.push((place, statement));
    }

    fn finish(mut self) -> Mending {
        // Stable: what was written for one object stays in its order.
        self.statements.sort_by_key(|(place, _)| *place);
        self.objects.sort_by_key(|object| (order::urgency(kind_of(&object.identity)), object.change));
        Mending {
            objects: self.objects,
            before: self.before,
            together: self.statements.into_iter().map(|(_, statement)| statement).collect(),
            after: self.after,
            remarks: self.remarks,
        }
    }
}

/// The columns of a table that has just been made: none, or, where its partitions
/// need them, names and types.
fn made_columns(table: &ObjectDefinition) -> Vec<Column> {
    let made = |column: &Column| Column {
        name: column.name.clone(),
        type_name: column.type_name.clone(),
        collation: column.collation.clone(),
        ..Column::default()
    };
    if table.create.ends_with("()") { Vec::new() } else { table.columns.iter().map(made).collect() }
}

/// Whether the statement that makes one puts it in the place of the other.
fn replaces(theirs: &ObjectDefinition, ours: &ObjectDefinition) -> bool {
    let (Some(one), Some(other)) = (&theirs.replaceable_as, &ours.replaceable_as) else { return false };
    // A view may get columns at its end, and none of those before may change.
    let columns = theirs.columns.get(..ours.columns.len()).is_some_and(|columns| columns == ours.columns);
    same_definition(one, other) && columns
}

#[cfg(test)]
mod tests;
