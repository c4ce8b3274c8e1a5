//! What plans say, and what their digest covers.

use pgportage_report::inventory::{ConnectGrant, Inventory, PlanMaterial, PlannedRole, PlannedTable};

use super::super::act::{CheckServer, CheckServerResult, Outcome, RelationName};
use super::super::proof::{Play, outcome, spec};
use super::super::spec::{CopyMethod, Spec};
use super::super::verb::Request;
use super::super::{ActKind, Side, StepName, TABLE};
use super::*;

fn inventory(side: Side, tables: &[(&str, i64)]) -> Inventory {
    let role = |role_name: &str, premade| PlannedRole { role_name: role_name.to_owned(), premade, connects: false };
    let table = |(relation, size_bytes): &(&str, i64)| PlannedTable {
        name: RelationName::new("public", *relation),
        size_bytes: *size_bytes,
        readable: false,
    };
    Inventory {
        server_version_num: 160_004,
        identity_full_tables: vec![RelationName::new("public", "log")],
        plan_material: Some(Box::new(PlanMaterial {
            tables: tables.iter().map(table).collect(),
            connect_grants: vec![
                ConnectGrant::default(),
                ConnectGrant { role_name: "App".to_owned(), grantable: false },
            ],
            agent_role_name: "agent".to_owned(),
            replication_role: match side {
                Side::Source => role("mover", true),
                Side::Destination => role("pgportageback_shop", false),
            },
            canary_role: role("pgportage_shop_canary", false),
            ..PlanMaterial::default()
        })),
        ..Inventory::default()
    }
}

const TABLES: &[(&str, i64)] = &[("order", 5 << 20), ("log", 100)];

fn surveyed(spec: Spec) -> Play {
    let mut play = Play::created(spec);
    let [source, destination] = [Side::Source, Side::Destination].map(|side| Box::new(inventory(side, TABLES)));
    play.submit(Request::Survey { source, destination }).unwrap();
    play
}

/// Started, both servers inspected as those.
fn inspected(mut play: Play, tables: &[(&str, i64)]) -> Play {
    play.submit(Request::Start).unwrap();
    for _side in 0..2 {
        play.answer(|act, input| match act.row().unwrap() {
            row if row.act.kind == ActKind::CheckServer => Outcome::of::<CheckServer>(CheckServerResult {
                inventory: inventory(row.side, tables),
                findings: Vec::new(),
            }),
            _other => outcome(act, input),
        });
    }
    play
}

fn text(state: &State) -> String {
    let lines = render(state).into_iter().flat_map(|planned| {
        planned.lines.into_iter().map(move |line| format!("{} {}: {line}\n", planned.step, planned.agent))
    });
    lines.collect()
}

#[test]
fn every_act_says_what_it_does() {
    for copy_method in [CopyMethod::Snapshot, CopyMethod::Native] {
        let play = Play::created(Spec { copy_method, ..spec() });
        let plan = render(&play.state);
        assert!(plan.iter().all(|planned| !planned.lines.is_empty()));
        assert_eq!(plan.iter().filter(|planned| planned.held).count(), 3);
        for row in TABLE.iter().filter(|row| !row.name.is_optional()) {
            assert!(plan.iter().any(|planned| planned.step == row.name), "{}", row.name);
        }
        assert!(text(&play.state).contains("CREATE PUBLICATION pgportage_shop FOR TABLE ONLY …"));
        assert_eq!(record_time(&play.state), None);
    }
}

#[test]
fn what_was_read_is_named() {
    let text = text(&surveyed(spec()).state);
    for line in [
        "connect old: -- role mover was made beforehand, and replicates",
        "connect old: CREATE ROLE pgportage_shop_canary LOGIN NOSUPERUSER PASSWORD '…'",
        "identity old: ALTER TABLE ONLY public.log REPLICA IDENTITY FULL",
        "publication old: CREATE PUBLICATION pgportage_shop FOR TABLE ONLY public.\"order\", ONLY public.log, \
         ONLY pgportage.heartbeat, ONLY pgportage.marker WITH (publish = 'insert, update, delete, truncate')",
        "close new: REVOKE CONNECT ON DATABASE shop FROM PUBLIC CASCADE",
        "close new: REVOKE CONNECT ON DATABASE shop FROM \"App\" CASCADE",
        "close new: GRANT CONNECT ON DATABASE shop TO agent",
        "copy old: GRANT SELECT ON TABLE public.\"order\", public.log TO mover",
        "copy new: COPY public.\"order\" … FROM STDIN (FORMAT …) /* 5.0 MB */",
        "reverse new: CREATE ROLE pgportageback_shop LOGIN REPLICATION NOSUPERUSER PASSWORD '…'",
        "cutover old: GRANT CONNECT ON DATABASE shop TO mover",
        "finish old: REVOKE CONNECT ON DATABASE shop FROM mover",
        "finish new: DROP ROLE pgportageback_shop",
    ] {
        assert!(text.contains(&format!("{line}\n")), "{line}\n{text}");
    }
    assert!(!text.contains("DROP ROLE mover"));
}

#[test]
fn without_the_reverse_direction_nothing_of_it_is_planned() {
    let (with, without) = (surveyed(spec()).state, surveyed(Spec { way_back: false, ..spec() }).state);
    assert!(!render(&without).iter().any(|planned| matches!(planned.step, StepName::Reverse | StepName::Rollback)));
    assert!(text(&with).contains("pgportageback_shop") && !text(&without).contains("pgportageback_shop"));
    assert!(!summary(&without).concat().contains("reverse"));
    assert_ne!(digest(&with), digest(&without));
}

#[test]
fn each_side_is_summed_up() {
    let [source, destination] = summary(&surveyed(spec()).state);
    assert!(source.starts_with("source old, PostgreSQL 16.4: publishes 2 tables with 5.0 MB;"), "{source}");
    assert!(source.contains("a slot and 1 role,"), "{source}");
    assert!(destination.starts_with("destination new"), "{destination}");
}

#[test]
fn the_digest_covers_what_is_shown() {
    let created = Play::created(spec()).state;
    let surveyed = surveyed(spec()).state;
    let native = Play::created(Spec { copy_method: CopyMethod::Native, ..spec() }).state;
    let other = Play::created(Spec { database: "other".to_owned(), ..spec() }).state;
    let digests: BTreeSet<_> = [&created, &surveyed, &native, &other].map(digest).into_iter().collect();
    assert_eq!(digests.len(), 4);
    assert_eq!(digest(&created), digest(&Play::created(spec()).state));
}

#[test]
fn the_inspection_counts_and_says_what_it_changes() {
    let same = inspected(surveyed(spec()), TABLES).state;
    assert_eq!(changes(&same), Vec::<String>::new());
    let more = inspected(surveyed(spec()), &[("new", 1), ("order", 5 << 20), ("log", 100)]).state;
    let changes = changes(&more);
    assert!(changes.iter().any(|line| line.starts_with("+ on new: COPY public.new ")), "{changes:?}");
    assert!(changes.iter().any(|line| line.starts_with("- on old: CREATE PUBLICATION ")), "{changes:?}");
    assert_ne!(digest(&same), digest(&more));
}

#[test]
fn the_plan_of_a_migration_under_way_stays() {
    let mut play = inspected(surveyed(spec()), TABLES);
    let (digest, text) = (digest(&play.state), text(&play.state));
    play.answer_all();
    play.cut_over().unwrap();
    play.answer_all();
    assert_eq!((super::digest(&play.state), self::text(&play.state)), (digest, text));
}
