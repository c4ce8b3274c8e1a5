//! Whether both statements tell the same story. Pure.

use std::time::Duration;

use pgportage_link::identity::PeerIdentity;
use serde::Serialize;

use super::statement::{Account, Direction, Entered, Left, Phase, Sequence, Statement, Verification, Written};

/// How far the clocks of two machines may differ.
const CLOCK_ALLOWANCE: Duration = Duration::from_secs(5 * 60);

/// What a certificate came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The migration, as far as a statement names one.
    pub migration: String,
    /// The number of the switchover.
    pub cutover_epoch: i64,
    /// Which way applications went. Absent when nothing could be read.
    pub direction: Option<Direction>,
    /// The database.
    pub database: String,
    /// What was checked, in order.
    pub checks: Vec<Check>,
    /// Both statements as they can be read, that of the side that was left first.
    /// **Whether they are true is for `checks` to say.**
    pub statements: Vec<Statement>,
}

/// One thing that was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What it is about: one word or two.
    pub subject: String,
    /// Whether it is proved.
    pub proved: bool,
    /// What is proved, or why it is not, as one clause.
    pub text: String,
}

impl Report {
    /// Whether everything that was checked is proved.
    #[must_use]
    pub fn proved(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.proved)
    }
}

/// A statement as it can be read, and what became of its signature.
pub(super) type Opened = (Option<Statement>, Result<(Statement, PeerIdentity), String>);

pub(super) fn report(opened: Vec<Opened>) -> Report {
    let mut checks = Vec::new();
    let (mut left, mut entered, mut readable) = (Vec::new(), Vec::new(), Vec::new());
    for (read, signed) in opened {
        readable.extend(read.clone());
        match signed {
            Ok((statement, signer)) => {
                checks.push(proved("signature", format!("{signer} signed what it states about {}", side(&statement))));
                match &statement.account {
                    Account::Left(account) => left.push((account.clone(), statement.clone(), signer)),
                    Account::Entered(account) => entered.push((account.clone(), statement.clone(), signer)),
                }
            }
            Err(problem) => {
                let of = read.map_or("a statement".to_owned(), |read| format!("the statement about {}", side(&read)));
                checks.push(refuted("signature", format!("{of} {problem}")));
            }
        }
    }
    readable.sort_by_key(|statement| matches!(statement.account, Account::Entered(_)));
    match (left.as_slice(), entered.as_slice()) {
        ([one], [other]) => checks.extend(compare(one, other)),
        (left, entered) => checks.extend(incomplete(left.len(), entered.len())),
    }
    let first = readable.first();
    Report {
        migration: first.map(|statement| statement.migration.clone()).unwrap_or_default(),
        cutover_epoch: first.map_or(0, |statement| statement.cutover_epoch),
        direction: first.map(|statement| statement.direction),
        database: first.map(|statement| statement.database.clone()).unwrap_or_default(),
        checks,
        statements: readable,
    }
}

fn side(statement: &Statement) -> &'static str {
    match statement.account {
        Account::Left(_) => "the side that was left",
        Account::Entered(_) => "the side that was entered",
    }
}

/// There is not exactly one good statement of each side.
fn incomplete(left: usize, entered: usize) -> Vec<Check> {
    [(left, "the side that was left"), (entered, "the side that was entered")]
        .into_iter()
        .filter(|(count, _)| *count != 1)
        .map(|(count, side)| match count {
            0 => refuted("statements", format!("there is no good statement about {side}")),
            _ => refuted("statements", format!("there are {count} statements about {side}")),
        })
        .collect()
}

/// Everything that both sides know has to be the same, and each side's own account
/// in order.
fn compare(
    (left, one, leaver): &(Left, Statement, PeerIdentity),
    (entered, other, enterer): &(Entered, Statement, PeerIdentity),
) -> Vec<Check> {
    let mut checks = vec![
        parties(one, leaver, other, enterer),
        same_switch(one, other),
        check("marker", one.marker_id == other.marker_id, || {
            (
                format!("marker {} was written behind the barrier and arrived", one.marker_id),
                format!("marker {} was written, and marker {} arrived", one.marker_id, other.marker_id),
            )
        }),
        in_order("fence", "the marker", &left.marker_lsn, "the fence", &left.fence_lsn),
        in_order("flush", "the marker's flush", &entered.flush_lsn, "the decision", &entered.decision_lsn),
        check("tables", one.tables == other.tables, || {
            (
                format!("both sides replicated the same {} tables", one.tables.count),
                "the tables of the two sides are not the same".to_owned(),
            )
        }),
        check("catalog", one.catalog_sha256 == other.catalog_sha256 && !one.catalog_sha256.is_empty(), || {
            (
                format!("the definitions of both sides have the hash {}", one.catalog_sha256),
                "the definitions of the two sides are not the same".to_owned(),
            )
        }),
        sequences(one, other),
        order(left, entered),
    ];
    checks.extend([one, other].into_iter().filter_map(|statement| statement.verification.as_ref()).map(rows));
    checks.extend(entered.written.as_ref().map(written));
    checks
}

fn parties(one: &Statement, leaver: &PeerIdentity, other: &Statement, enterer: &PeerIdentity) -> Check {
    let (left, entered) = match one.direction {
        Direction::Cutover => ("source", "destination"),
        Direction::Rollback => ("destination", "source"),
    };
    let fits = one.peer == enterer.uri
        && other.peer == leaver.uri
        && leaver.uri != enterer.uri
        && leaver.trust_domain == enterer.trust_domain;
    check("agents", fits, || {
        (
            format!("{leaver} was the {left}'s, {enterer} the {entered}'s, and each names the other"),
            format!("{} names {} as the other agent, and {} names {}", one.agent, one.peer, other.agent, other.peer),
        )
    })
}

fn same_switch(one: &Statement, other: &Statement) -> Check {
    let key = |statement: &Statement| {
        let Statement { migration, cutover_epoch, direction, database, plan_sha256, .. } = statement;
        (migration.clone(), *cutover_epoch, *direction, database.clone(), plan_sha256.clone())
    };
    let named =
        |of: &Statement| format!("{} {} of migration {}", of.direction.as_str(), of.cutover_epoch, of.migration);
    check("switch", key(one) == key(other), || {
        (
            format!("both speak of {}, database {}", named(one), one.database),
            match named(one) == named(other) {
                true => "they name another database or another plan".to_owned(),
                false => format!("one speaks of {}, the other of {}", named(one), named(other)),
            },
        )
    })
}

fn sequences(one: &Statement, other: &Statement) -> Check {
    let (read, set) = (&one.sequences, &other.sequences);
    if !read.holds_together() || !set.holds_together() {
        return refuted("sequences", "a list of sequences does not have the hash that is stated with it".to_owned());
    }
    check("sequences", read.equals(set), || {
        let differing = match (&read.entries, &set.entries) {
            (Some(read), Some(set)) => first_difference(read, set),
            (Some(_) | None, _) => String::new(),
        };
        (
            format!("each of {} sequences was set to where it stood when no session was left", read.count),
            format!("sequences were not set to where they stood when no session was left{differing}"),
        )
    })
}

fn first_difference(read: &[Sequence], set: &[Sequence]) -> String {
    let told = |sequence: &Sequence| format!("{}.{}", sequence.schema, sequence.name);
    let differing = read.iter().find(|sequence| !set.contains(sequence)).map(told);
    differing
        .or_else(|| set.iter().find(|sequence| !read.contains(sequence)).map(told))
        .map_or_else(|| ": they are in another order".to_owned(), |name| format!(": {name}"))
}

/// The fence was proved before the decision. Two clocks say so; what differs by no
/// more than clocks may is no contradiction.
fn order(left: &Left, entered: &Entered) -> Check {
    let (fenced, decided) = (left.fence_time, entered.decision_time);
    let early = fenced.since(decided);
    check("order", early <= CLOCK_ALLOWANCE, || {
        let proved = if early.is_zero() {
            format!("no session was left at {fenced}; the other side was opened at {decided}")
        } else {
            format!(
                "no session was left at {fenced}; the other side was opened at {decided} on another clock, {} ms behind at least",
                early.as_millis()
            )
        };
        (proved, format!("the other side was opened at {decided}, but a session may have been left until {fenced}"))
    })
}

fn rows(found: &Verification) -> Check {
    let tables = found.tables.count;
    if !found.tables.holds_together() {
        return refuted("rows", "the list of tables does not have the hash that is stated with it".to_owned());
    }
    match &found.comparison {
        None => proved("rows", format!("{} rows in {tables} tables were counted at {}", found.row_count, found.time)),
        Some(compared) => check("rows", compared.complete && compared.difference_count == 0, || {
            (
                format!(
                    "{} rows in {tables} tables were compared by their hashes at {}: none differs, {} changed at every look",
                    found.row_count, found.time, compared.unsettled_count
                ),
                match compared.complete {
                    true => format!("{} rows differed at {}", compared.difference_count, found.time),
                    false => format!("the comparison of rows at {} did not come to its end", found.time),
                },
            )
        }),
    }
}

/// Says no more than what was compared. Without it nothing is said, and that is no
/// contradiction either.
fn written(found: &Written) -> Check {
    let Written { table_count, row_count, left_out, .. } = found;
    let not = if left_out.is_empty() { String::new() } else { format!("; not compared: {}", left_out.join(", ")) };
    proved(
        "written",
        format!(
            "{row_count} rows in {table_count} tables were written in the switchover and compared: none differs{not}"
        ),
    )
}

/// Two positions of one server.
fn in_order(subject: &str, earlier_name: &str, earlier: &str, later_name: &str, later: &str) -> Check {
    match (position(earlier), position(later)) {
        (Some(before), Some(after)) => check(subject, before <= after, || {
            (
                format!("{later_name} at {later} came behind {earlier_name} at {earlier}"),
                format!("{later_name} at {later} lies before {earlier_name} at {earlier}"),
            )
        }),
        (Some(_) | None, _) => refuted(subject, format!("{earlier:?} or {later:?} is no position of a server")),
    }
}

/// A position in PostgreSQL's notation, as a number.
fn position(text: &str) -> Option<u64> {
    let half = |part: &str| {
        let fits = (1..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        fits.then(|| u64::from_str_radix(part, 16).ok()).flatten()
    };
    let (high, low) = text.split_once('/')?;
    Some(half(high)? << 32 | half(low)?)
}

fn proved(subject: &str, text: String) -> Check {
    Check { subject: subject.to_owned(), proved: true, text }
}

fn refuted(subject: &str, text: String) -> Check {
    Check { subject: subject.to_owned(), proved: false, text }
}

/// `texts`: what is said when it holds, and when it does not.
fn check(subject: &str, holds: bool, texts: impl FnOnce() -> (String, String)) -> Check {
    let (good, bad) = texts();
    if holds { proved(subject, good) } else { refuted(subject, bad) }
}

impl Phase {
    /// How long it took.
    pub fn length(&self) -> Duration {
        self.end.since(self.begin)
    }
}
