//! In which order statements can be run.

/// Kinds of objects in the order in which they are made: each may need those
/// before it. The words before the name in an identity; a longer one before its
/// beginning. Then whether it hangs on a table or view that is there already.
pub(super) const KINDS: &[(&str, Hangs)] = &[
    ("schema", Hangs::Free),
    ("extension", Hangs::Free),
    ("collation", Hangs::Free),
    ("type", Hangs::Free),
    ("sequence", Hangs::Free),
    ("function", Hangs::Free),
    ("table", Hangs::Free),
    ("view", Hangs::Between),
    ("index", Hangs::OnTable),
    ("constraint", Hangs::OnTable),
    ("statistics", Hangs::OnTable),
    ("rule", Hangs::OnTable),
    ("trigger", Hangs::OnTable),
    ("policy", Hangs::OnTable),
];

/// What the place of a kind depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hangs {
    /// Tables may need it.
    Free,
    /// It needs tables, and what hangs on it comes later.
    Between,
    /// It needs its table as it has to be.
    OnTable,
}

/// What a statement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Takes an object away.
    TakeAway,
    /// Takes an object away to make it anew.
    Clear,
    /// Makes an object, or puts it in the place of another definition.
    Make,
    /// Adds a column or changes one.
    Shape,
    /// Takes a column away.
    Shed,
    /// Sets something on an object.
    Settle,
    /// Gives or takes privileges.
    Grant,
}

/// Where a statement stands among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(u8, usize, i64);

impl Place {
    pub(super) fn of(stage: Stage, kind: &str, order: i64) -> Self {
        let rank = KINDS.iter().position(|(known, _)| *known == kind).unwrap_or(KINDS.len());
        let hangs = KINDS.get(rank).map_or(Hangs::Free, |(_, hangs)| *hangs);
        let last = KINDS.len() - rank;
        match (stage, hangs) {
            // What hangs on a table goes first, and what tables may need when
            // nothing needs it any more.
            (Stage::TakeAway | Stage::Clear, Hangs::OnTable | Hangs::Between) => Self(0, last, -order),
            (Stage::Clear, Hangs::Free) => Self(1, last, -order),
            (Stage::Make, Hangs::Free) => Self(2, rank, order),
            (Stage::Shape, _) => Self(3, rank, order),
            (Stage::Make, Hangs::Between) => Self(4, rank, order),
            (Stage::Shed, _) => Self(5, last, order),
            (Stage::TakeAway, Hangs::Free) => Self(6, last, -order),
            (Stage::Make, Hangs::OnTable) => Self(7, rank, order),
            (Stage::Settle, _) => Self(8, rank, order),
            (Stage::Grant, _) => Self(9, rank, order),
        }
    }
}

/// What comes first for people: tables, whose stream may stop; then in the order in
/// which the others would be made.
pub(super) fn urgency(kind: &str) -> usize {
    match KINDS.iter().position(|(known, _)| *known == kind) {
        Some(_) if kind == "table" => 0,
        Some(place) => place + 1,
        None => KINDS.len() + 1,
    }
}
