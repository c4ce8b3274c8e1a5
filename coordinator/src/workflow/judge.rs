//! Whether what the acts of a step produced is good enough to go on.
//!
//! Agents report; here the two reports are held against each other. A judgement
//! becomes a fact, so that a later release never judges an old history anew.

mod objects;
mod rows;
mod sequences;

use std::collections::BTreeMap;

use pgportage_link::{Effect, Failure};
use pgportage_proto::Reason;
use serde::{Deserialize, Serialize};

use super::Side;
use super::act::{RelationName, RowComparison, RowCounts, TableCount};
use super::finding::{Consent, Finding, Severity};
use crate::message::refusal;

use objects::ObjectDifferences;
pub(crate) use rows::RowSummary;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Verification {
    /// The side that the other one follows: the source, unless applications are on the
    /// destination.
    pub publisher: Side,
    pub table_count: i32,
    /// Tables whose counts were equal.
    pub equal_count: i32,
    /// Tables that changed meanwhile, and whose counts lie within what changed.
    pub moving_count: i32,
    /// Rows on the side that follows.
    pub row_count: i64,
    /// Every difference, one lowercase clause each.
    pub differences: Vec<String>,
    /// What native replication leaves behind.
    pub not_replicated: Vec<Finding>,
    /// How often tables that differed were counted again.
    pub repeat_count: u32,
    /// What was found of rows, if they were compared by their hashes.
    pub rows: Option<RowSummary>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal(Verification),
    /// Rows of these tables differ and should be counted once more: a table
    /// that was written a moment before the first count looks the same.
    Again(Vec<RelationName>, Verification),
    Differs(Failure, Verification),
}

/// How often tables that differ are counted again before the operator is told.
const MOST_REPEATS: u32 = 3;
/// How many differences a failure's text names.
const NAMED: usize = 5;

/// Whether findings stand in the way.
pub(crate) fn inspection(findings: &[&Finding], consents: &[Consent]) -> Result<(), Failure> {
    let refused: Vec<_> = findings.iter().filter(|finding| finding.severity == Severity::Refuse).collect();
    if !refused.is_empty() {
        return Err(standing(
            Reason::FindingsRefuse,
            &format!("{} stand in the way", counted(refused.len(), "finding")),
            &refused,
            "Mend what the findings name, then retry the step.",
        ));
    }
    let open: Vec<_> = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Consent)
        .filter(|finding| !consents.iter().any(|consent| consent.covers(finding)))
        .collect();
    if !open.is_empty() {
        return Err(standing(
            Reason::ConsentRequired,
            &format!("{} need the operator's agreement", counted(open.len(), "finding")),
            &open,
            "Read the findings, agree to them, then retry the step.",
        ));
    }
    Ok(())
}

pub(super) fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// The first of `count` clauses, and how many more there are.
pub(super) fn named(clauses: impl Iterator<Item = String>, count: usize) -> String {
    let mut named: Vec<_> = clauses.take(NAMED).collect();
    if count > named.len() {
        named.push(format!("and {} more", count - named.len()));
    }
    named.join("; ")
}

fn standing(reason: Reason, message: &str, findings: &[&&Finding], hint: &str) -> Failure {
    let clauses = findings.iter().map(|finding| match finding.object.as_str() {
        "" => finding.message.clone(),
        object => format!("{object}: {}", finding.message),
    });
    let named = named(clauses, findings.len());
    let mut codes: Vec<_> = findings.iter().map(|finding| finding.code.as_str()).collect();
    codes.sort_unstable();
    codes.dedup();
    refusal(reason, message).detail(format!("{named}.")).hint(hint).with("codes", codes.join(" "))
}

/// What both sides counted: the one that publishes, the one that follows it, and the
/// first one again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts<'a> {
    /// The side that publishes: the source, and behind a cutover the destination.
    pub publisher: Side,
    /// What it counted first.
    pub before: &'a RowCounts,
    /// What the side that follows counted.
    pub there: &'a RowCounts,
    /// What the side that publishes counted last.
    pub after: &'a RowCounts,
}

/// Compares what both sides counted; where rows were compared by their hashes, what
/// came of that instead.
///
/// Counts may only be compared within what changed meanwhile: rows inserted or
/// deleted between the two counts of the one side widen what the other may
/// hold. The server's own counters lag a little, and so does the stream, hence
/// tables that differ are counted again before they count as different.
pub(crate) fn verification(
    counts: Counts<'_>,
    compared: Option<&RowComparison>,
    so_far: Option<&Verification>,
) -> Comparison {
    if let Some(compared) = compared {
        return by_hashes(counts, compared);
    }
    let Counts { publisher, before, there, after } = counts;
    let follower = publisher.other();
    let first = by_name(&before.tables);
    let last = by_name(&after.tables);
    let destination = by_name(&there.tables);
    let mut found = so_far.cloned().unwrap_or_else(|| Verification { publisher, ..Verification::default() });
    let repeated = so_far.is_some();
    if !repeated {
        found.table_count = i32::try_from(last.len()).unwrap_or(i32::MAX);
        found.not_replicated = after.not_replicated.clone();
    }
    let mut different = Vec::new();
    for (name, last) in &last {
        let Some(copy) = destination.get(name) else {
            different.push(((*name).clone(), format!("table {name} is missing on the {follower}")));
            continue;
        };
        let first = first.get(name).unwrap_or(last);
        match compare_table(first, copy, last) {
            Rows::Equal => found.equal_count += 1,
            Rows::Moving => found.moving_count += 1,
            Rows::Different => {
                different.push((
                    (*name).clone(),
                    format!(
                        "table {name} has {} rows on the {publisher} and {} on the {follower}",
                        last.row_count, copy.row_count
                    ),
                ));
                continue;
            }
        }
        found.row_count += copy.row_count;
    }
    for name in destination.keys().filter(|name| !last.contains_key(*name)) {
        different.push(((*name).clone(), format!("table {name} is on the {follower} only")));
    }
    let objects = ObjectDifferences::of(counts);
    if !different.is_empty() && objects.is_empty() && found.repeat_count < MOST_REPEATS {
        found.repeat_count += 1;
        return Comparison::Again(different.into_iter().map(|(name, _)| name).collect(), found);
    }
    let rows_differ = different.len();
    let texts = different.into_iter().map(|(_, text)| text).collect();
    conclude(found, objects, texts, |_| {
        Failure::new(Reason::RowsDiffer, format!("rows of {} differ", counted(rows_differ, "table"))).hint(
            match publisher {
                Side::Source => "Look whether somebody writes on the destination, or abort and start again.",
                Side::Destination => {
                    "Look whether somebody writes on the source. What differs does not return with a rollback."
                }
            },
        )
    })
}

/// The same where every row was compared. What could not be compared is no pass.
fn by_hashes(counts: Counts<'_>, compared: &RowComparison) -> Comparison {
    let follower = counts.publisher.other();
    let (equal_count, shortfall) = rows::judge(compared, follower);
    let found = Verification {
        publisher: counts.publisher,
        table_count: i32::try_from(compared.tables.len()).unwrap_or(i32::MAX),
        equal_count,
        row_count: compared.tables.iter().map(|table| table.row_count).sum(),
        not_replicated: counts.after.not_replicated.clone(),
        rows: Some(rows::summary(compared)),
        ..Verification::default()
    };
    let (differing, unknown) = (shortfall.differing.len(), shortfall.unknown);
    let texts = shortfall.differing.into_iter().chain(unknown).collect();
    conclude(found, ObjectDifferences::of(counts), texts, |found| {
        let rows = found.rows.as_ref();
        if differing > 0 {
            Failure::new(Reason::RowsDiffer, format!("rows of {} differ", counted(differing, "table"))).hint(format!(
                "Read which rows in {} on the {follower} agent's machine; `verify --repair` writes statements.",
                rows.map_or("", |rows| &rows.report_path)
            ))
        } else {
            Failure::new(Reason::VerificationIncomplete, "not every row could be compared")
                .hint("Go on with `verify --resume`, or settle for `verify --counts`.")
        }
    })
}

/// The verdict, once all differences are texts.
fn conclude(
    mut found: Verification,
    objects: ObjectDifferences,
    rows: Vec<String>,
    rows_differ: impl FnOnce(&Verification) -> Failure,
) -> Comparison {
    let (schema_differs, sequences_behind) = (objects.schema.len(), objects.sequences.len());
    let only_sequences = rows.is_empty() && sequences_behind > 0;
    found.differences = objects.schema;
    found.differences.extend(objects.sequences);
    found.differences.extend(rows);
    if found.differences.is_empty() {
        return Comparison::Equal(found);
    }
    let failure = if schema_differs == 0 && only_sequences {
        sequences::failure(sequences_behind, found.publisher)
    } else if schema_differs == 0 {
        rows_differ(&found)
    } else {
        Failure::new(
            Reason::SchemaDiffers,
            format!("{} differ between the two sides", counted(schema_differs, "schema object")),
        )
        .hint("Make the same change on both sides, or take it back; it is verified again by itself.")
    };
    let named = named(found.differences.iter().cloned(), found.differences.len());
    Comparison::Differs(failure.detail(format!("{named}.")).effect(Effect::None), found)
}

fn by_name(tables: &[TableCount]) -> BTreeMap<&RelationName, &TableCount> {
    tables.iter().map(|count| (&count.table, count)).collect()
}

enum Rows {
    Equal,
    Moving,
    Different,
}

fn compare_table(first: &TableCount, copy: &TableCount, last: &TableCount) -> Rows {
    // A counter that went backwards was reset: nothing is known to have changed.
    let inserted = last.inserted_count.saturating_sub(first.inserted_count).max(0);
    let deleted = last.deleted_count.saturating_sub(first.deleted_count).max(0);
    let fewest = first.row_count.min(last.row_count).saturating_sub(deleted);
    let most = first.row_count.max(last.row_count).saturating_add(inserted);
    let still = first.row_count == last.row_count && inserted == 0 && deleted == 0;
    if still && copy.row_count == last.row_count {
        Rows::Equal
    } else if !still && (fewest..=most).contains(&copy.row_count) {
        Rows::Moving
    } else {
        Rows::Different
    }
}

#[cfg(test)]
mod tests {
    use super::super::act::count_rows::SchemaObject;
    use super::super::act::{Digest, TableComparison};
    use super::*;

    fn table(name: &str, rows: i64, inserted: i64, deleted: i64) -> TableCount {
        TableCount {
            table: RelationName { schema: "public".to_owned(), relation: name.to_owned() },
            row_count: rows,
            inserted_count: inserted,
            deleted_count: deleted,
        }
    }

    fn counts(tables: &[TableCount]) -> RowCounts {
        RowCounts { tables: tables.to_vec(), ..RowCounts::default() }
    }

    /// The source followed by the destination.
    fn judged(
        before: &RowCounts,
        there: &RowCounts,
        after: &RowCounts,
        compared: Option<&RowComparison>,
        so_far: Option<&Verification>,
    ) -> Comparison {
        verification(Counts { publisher: Side::Source, before, there, after }, compared, so_far)
    }

    fn finding(severity: Severity) -> Finding {
        Finding {
            code: "REPLICA_IDENTITY_MISSING".to_owned(),
            severity,
            object: "public.log".to_owned(),
            message: "has no replica identity".to_owned(),
            evidence: "relreplident = d".to_owned(),
            evidence_digest: Digest(vec![1]),
            remedy: String::new(),
            needs_restart: false,
        }
    }

    #[test]
    fn a_refusal_comes_before_a_consent() {
        let (refuse, consent, note) = (finding(Severity::Refuse), finding(Severity::Consent), finding(Severity::Note));
        let reason = |findings: &[&Finding]| inspection(findings, &[]).map_err(|failure| failure.reason);
        assert_eq!(reason(&[&note]), Ok(()));
        assert_eq!(reason(&[&note, &consent]), Err(Reason::ConsentRequired));
        assert_eq!(reason(&[&consent, &refuse]), Err(Reason::FindingsRefuse));
    }

    #[test]
    fn consent_is_bound_to_the_evidence() {
        let finding = finding(Severity::Consent);
        let mut consent = Consent {
            code: finding.code.clone(),
            object: finding.object.clone(),
            evidence_digest: finding.evidence_digest.clone(),
        };
        assert!(inspection(&[&finding], &[consent.clone()]).is_ok());
        consent.evidence_digest = Digest(vec![2]);
        assert!(inspection(&[&finding], &[consent]).is_err());
    }

    #[test]
    fn counts_are_equal_moving_or_different() {
        // (first, copy, last, inserted, deleted meanwhile)
        for (first, copy, last, inserted, deleted, equal, moving) in [
            (10, 10, 10, 0, 0, 1, 0),
            (10, 12, 13, 3, 0, 0, 1),
            (10, 9, 10, 5, 5, 0, 1),
            (10, 20, 12, 2, 0, 0, 0),
            (10, 9, 10, 0, 0, 0, 0),
        ] {
            let result = judged(
                &counts(&[table("t", first, 100, 50)]),
                &counts(&[table("t", copy, 0, 0)]),
                &counts(&[table("t", last, 100 + inserted, 50 + deleted)]),
                None,
                Some(&Verification { table_count: 1, repeat_count: MOST_REPEATS, ..Verification::default() }),
            );
            let (Comparison::Equal(found) | Comparison::Again(_, found) | Comparison::Differs(_, found)) =
                result.clone();
            assert_eq!((found.equal_count, found.moving_count), (equal, moving), "{first} {copy} {last}: {result:?}");
            assert_eq!(matches!(result, Comparison::Equal(_)), equal + moving > 0);
        }
    }

    #[test]
    fn a_difference_is_counted_again_before_it_is_told() {
        let source = counts(&[table("a", 5, 0, 0), table("b", 5, 0, 0)]);
        let copy = counts(&[table("a", 5, 0, 0), table("b", 4, 0, 0)]);
        let Comparison::Again(tables, so_far) = judged(&source, &copy, &source, None, None) else { panic!() };
        assert_eq!(tables.len(), 1);
        assert_eq!(so_far.equal_count, 1);
        let source = counts(&[table("b", 5, 0, 0)]);
        let Comparison::Equal(found) = judged(&source, &source, &source, None, Some(&so_far)) else { panic!() };
        assert_eq!((found.table_count, found.equal_count, found.row_count), (2, 2, 10));
    }

    #[test]
    fn what_was_compared_row_by_row_passes_only_whole() {
        let nothing = RowCounts::default();
        let verdict = |tables: Vec<TableComparison>, complete| {
            let compared = RowComparison { tables, complete, ..RowComparison::default() };
            match judged(&nothing, &nothing, &nothing, Some(&compared), None) {
                Comparison::Equal(_) => None,
                Comparison::Differs(failure, _) => Some(failure.reason),
                Comparison::Again(..) => panic!("hashes are looked into by the agents"),
            }
        };
        let good = TableComparison { complete: true, ..TableComparison::default() };
        assert_eq!(verdict(vec![good.clone()], true), None);
        assert_eq!(verdict(vec![good.clone()], false), Some(Reason::VerificationIncomplete));
        let hot = TableComparison { unsettled_count: 1, ..good.clone() };
        assert_eq!(verdict(vec![good.clone(), hot.clone()], true), Some(Reason::VerificationIncomplete));
        let bad = TableComparison { extra_count: 1, ..good };
        assert_eq!(verdict(vec![hot, bad], true), Some(Reason::RowsDiffer));
    }

    #[test]
    fn schema_objects_are_compared_by_name_and_digest() {
        let object =
            |identity: &str, digest: u8| SchemaObject { identity: identity.to_owned(), digest: Digest(vec![digest]) };
        let source = RowCounts {
            objects: vec![object("table a", 1), object("index i", 1), object("table c", 1)],
            ..RowCounts::default()
        };
        let copy = RowCounts {
            objects: vec![object("table a", 1), object("index i", 2), object("table d", 1)],
            ..RowCounts::default()
        };
        let Comparison::Differs(failure, found) = judged(&source, &copy, &source, None, None) else { panic!() };
        assert_eq!(failure.reason, Reason::SchemaDiffers);
        assert_eq!(
            found.differences,
            [
                "index i is defined otherwise on the destination",
                "table c is missing on the destination",
                "table d is on the destination only"
            ]
        );
    }

    #[test]
    fn behind_a_cutover_the_sides_have_changed_their_parts() {
        let place = |last_value| super::super::act::SequencePlace {
            state: super::super::act::sequence::SequenceState {
                sequence: RelationName { schema: "public".to_owned(), relation: "ids".to_owned() },
                last_value,
                called: true,
            },
            descending: false,
        };
        let destination = RowCounts { sequences: vec![place(9)], ..counts(&[table("t", 5, 0, 0)]) };
        let source = RowCounts { sequences: vec![place(10)], ..counts(&[table("t", 5, 0, 0)]) };
        let judged = |there: &RowCounts| {
            let publisher = Side::Destination;
            verification(Counts { publisher, before: &destination, there, after: &destination }, None, None)
        };
        let Comparison::Differs(failure, found) = judged(&source) else { panic!() };
        assert_eq!((failure.reason, found.publisher), (Reason::SequencesBehind, Side::Destination));
        assert_eq!(found.differences, ["sequence public.ids stands at 9 on the destination, behind 10 on the source"]);
        assert!(matches!(judged(&destination), Comparison::Equal(_)));
        let less = RowCounts { tables: Vec::new(), ..destination.clone() };
        let Comparison::Again(tables, _) = judged(&less) else { panic!() };
        assert_eq!(tables.len(), 1);
    }
}
