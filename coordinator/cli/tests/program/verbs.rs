//! Each verb: what it asks for, what it prints, how it exits.

use pgportage_link::Failure;
use pgportage_proto::{Reason, v1};

use crate::script::{Script, Stage, program};
use crate::support;

fn running(from: v1::Migration) -> v1::Migration {
    v1::Migration { state: v1::migration::State::Running.into(), etag: format!("{}-going", from.etag), ..from }
}

#[tokio::test]
async fn start_ends_when_it_is_ready_for_cutover() {
    let stage = Stage::set(Script::new(support::pending(), [support::copying(), support::ready()])).await;
    let ran = stage.run(&["start", "shop"]).await.exits(0).says("ready for cutover").says("pgportage cutover shop");
    assert!(ran.err.contains("copy: running"), "{ran:#?}");
    assert!(stage.script.heard().contains(&"start etag=1-0".to_owned()), "{:?}", stage.script.heard());
}

#[tokio::test]
async fn start_that_needs_the_operator_exits_3_with_the_reason_and_the_next_command() {
    let stage = Stage::set(Script::new(support::pending(), [running(support::pending()), support::failed()])).await;
    stage
        .run(&["start", "shop"])
        .await
        .exits(3)
        .says("REPLICATION_LOGIN_FAILED")
        .says("pg_hba.conf")
        .says("pgportage help REPLICATION_LOGIN_FAILED")
        .says("pgportage retry shop");
}

#[tokio::test]
async fn start_of_a_migration_that_runs_joins_it() {
    let stage = Stage::set(Script::new(support::copying(), [])).await;
    let child = stage.command(&["start", "shop"]).spawn().unwrap();
    stage.script.until_heard("watch").await;
    stage.script.becomes(support::ready());
    crate::script::Ran::end(child).await.exits(0).notes("started already").says("pgportage cutover shop");
    assert!(!stage.script.heard().iter().any(|call| call.starts_with("start")));
}

#[tokio::test]
async fn start_detached_returns_at_once() {
    let stage = Stage::set(Script::new(support::pending(), [support::copying()])).await;
    stage.run(&["start", "shop", "--detach"]).await.exits(0).says("happening");
    assert!(!stage.script.heard().contains(&"watch".to_owned()));
}

#[tokio::test]
async fn cutover_ends_with_the_outage() {
    let script = Script::new(support::ready(), [support::cutting_over(), support::cut_over()]);
    let stage = Stage::set(script).await;
    stage
        .run(&["cutover", "shop", "--yes", "--max-outage", "1500ms"])
        .await
        .exits(0)
        .says("the destination is open")
        .says("outage     187 ms")
        .says("pgportage finish shop")
        .notes("cutover: the source is closed to applications");
    assert!(
        stage.script.heard().contains(&"cutover etag=3-10 max_outage=1.500s".to_owned()),
        "{:?}",
        stage.script.heard()
    );
}

#[tokio::test]
async fn cutover_that_was_taken_back_exits_1_with_the_reason() {
    let stage = Stage::set(Script::new(support::ready(), [support::cutting_over(), support::taken_back()])).await;
    stage.run(&["cutover", "shop", "--yes"]).await.exits(1).says("BARRIER_TIMEOUT").says("taken back");
}

#[tokio::test]
async fn cutover_in_doubt_exits_3() {
    let going = [support::cutting_over(), support::doubtful(), support::in_doubt()];
    let stage = Stage::set(Script::new(support::ready(), going)).await;
    let ran = stage.run(&["cutover", "shop", "--yes"]).await.notes("waiting for agent beta to come back");
    ran.exits(3).says("CUTOVER_IN_DOUBT").says("in doubt");
}

#[tokio::test]
async fn cutover_before_its_time_is_refused_without_a_question() {
    let stage = Stage::set(Script::new(support::copying(), [])).await;
    stage.run(&["cutover", "shop"]).await.exits(1).notes("WRONG_STATE").notes("step copy runs");
    assert!(!stage.script.heard().iter().any(|call| call.starts_with("cutover")));
}

#[tokio::test]
async fn rollback_returns_and_says_how_long_it_took() {
    let going = [running(support::returnable()), support::rolled_back()];
    let stage = Stage::set(Script::new(support::returnable(), going)).await;
    stage
        .run(&["rollback", "shop", "--yes", "--max-outage", "1500ms"])
        .await
        .exits(0)
        .says("rollback 2: the source is open")
        .says("outage     187 ms")
        .says("pgportage cutover shop");
    let heard = stage.script.heard();
    assert!(heard.contains(&"rollback etag=3-11 max_outage=1.500s".to_owned()), "{heard:?}");
}

#[tokio::test]
async fn a_rollback_that_was_taken_back_exits_1() {
    let mut taken_back = support::returnable();
    taken_back.etag = "3-13".to_owned();
    let stage = Stage::set(Script::new(support::returnable(), [running(support::returnable()), taken_back])).await;
    stage.run(&["rollback", "shop", "--yes"]).await.exits(1);
    let stage = Stage::set(Script::new(support::ready(), [])).await;
    stage.run(&["rollback", "shop", "--yes"]).await.exits(1).notes("WRONG_STATE");
}

#[tokio::test]
async fn a_rehearsal_says_whether_the_budget_would_be_kept_and_exits_4_if_not() {
    let rehearse = ["cutover", "shop", "--rehearse", "--max-outage", "300ms", "--rounds", "7", "--yes"];
    let stage = Stage::set(Script::new(support::ready(), [support::rehearsing(), support::rehearsed(300)])).await;
    let ran = stage.run(&rehearse).await.exits(0).says("expected within the budget of 300 ms");
    ran.says("predicted outage").notes("rehearsal: 2 of 5 rounds done");
    let heard = stage.script.heard();
    assert!(heard.contains(&"rehearse etag=3-10 max_outage=0.300s rounds=7 rollback=false".to_owned()), "{heard:?}");
    assert!(!heard.iter().any(|call| call.starts_with("cutover")), "{heard:?}");

    let stage = Stage::set(Script::new(support::ready(), [support::rehearsing(), support::rehearsed(100)])).await;
    let ran = stage.run(&["cutover", "shop", "--rehearse", "--yes", "--json"]).await.exits(4);
    let told = &ran.json()[0]["rehearsal"];
    assert_eq!((&told["fits"], &told["prediction"]["p95_milliseconds"]), (&false.into(), &106.into()));

    // Nothing was measured: that is neither.
    let stage = Stage::set(Script::new(support::ready(), [support::rehearsing(), support::rehearsal_given_up()])).await;
    stage.run(&["cutover", "shop", "--rehearse", "--yes"]).await.exits(1).says("BARRIER_TIMEOUT");

    // A round that was over the budget says enough.
    for reason in ["OUTAGE_BUDGET_EXCEEDED", "DRAIN_TIMEOUT"] {
        let mut over = support::rehearsal_given_up();
        over.rehearsal.as_mut().unwrap().failure.as_mut().unwrap().reason = reason.to_owned();
        let stage = Stage::set(Script::new(support::ready(), [support::rehearsing(), over])).await;
        stage.run(&["cutover", "shop", "--rehearse", "--yes"]).await.exits(4);
    }
}

#[tokio::test]
async fn a_cutover_after_a_rehearsal_goes_on_only_when_that_went_well() {
    let first = ["cutover", "shop", "--rehearse-first", "--yes"];
    let going = [support::rehearsing(), support::rehearsed(100)];
    let stage = Stage::set(Script::new(support::ready(), going)).await;
    stage.run(&first).await.exits(4).says("not expected within the budget");
    assert!(!stage.script.heard().iter().any(|call| call.starts_with("cutover")));
    let going = [support::rehearsing(), support::rehearsal_given_up()];
    let stage = Stage::set(Script::new(support::ready(), going)).await;
    stage.run(&first).await.exits(1);
    assert!(!stage.script.heard().iter().any(|call| call.starts_with("cutover")));

    let stage = Stage::set(Script::new(support::ready(), [support::rehearsed(300), support::cut_over()])).await;
    let ran = stage.run(&first).await.exits(0).notes("expected within the budget").says("the destination is open");
    assert!(!ran.out.contains("rehearsal of"), "{ran:#?}");
    let heard = stage.script.heard();
    let place = |verb: &str| heard.iter().position(|call| call.starts_with(verb));
    assert!(place("rehearse").is_some() && place("rehearse") < place("cutover etag=rehearsed"), "{heard:?}");
}

#[tokio::test]
async fn what_is_compared_in_a_switch_is_compared_in_its_rehearsal() {
    let ways = [
        ("cutover", support::ready(), support::rehearsed(300), support::cut_over()),
        ("rollback", support::returnable(), rehearsed_rollback(), support::rolled_back()),
    ];
    for (verb, before, rehearsed, over) in ways {
        let stage = Stage::set(Script::new(before, [rehearsed, over])).await;
        stage.run(&[verb, "shop", "--rehearse-first", "--compare", "80ms", "--yes"]).await.exits(0);
        let heard = stage.script.heard();
        let compares =
            |said: &str| heard.iter().any(|call| call.starts_with(said) && call.ends_with(" compare=0.080s"));
        assert!(compares("rehearse ") && compares(&format!("{verb} ")), "{heard:?}");
    }
}

fn rehearsed_rollback() -> v1::Migration {
    let mut rehearsed = v1::Migration { etag: "rehearsed".to_owned(), ..support::returnable() };
    rehearsed.rehearsal =
        support::rehearsed(300).rehearsal.map(|report| v1::RehearsalReport { rollback: true, ..report });
    rehearsed
}

#[tokio::test]
async fn a_rollback_can_be_rehearsed() {
    let stage = Stage::set(Script::new(support::returnable(), [rehearsed_rollback()])).await;
    stage.run(&["rollback", "shop", "--rehearse", "--yes"]).await.exits(0).says("a rollback is expected");
    let heard = stage.script.heard();
    assert!(heard.contains(&"rehearse etag=3-11 max_outage=none rounds=0 rollback=true".to_owned()), "{heard:?}");
    let stage = Stage::set(Script::new(support::returnable(), [])).await;
    stage.run(&["cutover", "shop", "--rehearse", "--yes"]).await.exits(1).notes("WRONG_STATE");
}

#[tokio::test]
async fn a_rollback_may_leave_a_pooler_out() {
    let going = [running(support::returnable()), support::rolled_back()];
    let stage = Stage::set(Script::new(support::returnable(), going)).await;
    stage.run(&["rollback", "shop", "--yes", "--without-pooler"]).await.exits(0);
    let heard = stage.script.heard();
    assert!(heard.contains(&"rollback etag=3-11 max_outage=none without_poolers".to_owned()), "{heard:?}");
    stage.run(&["rollback", "shop", "--yes", "--without-pooler", "--rehearse"]).await.exits(2);
}

#[tokio::test]
async fn a_cutover_may_give_the_way_back_up() {
    let stage = Stage::set(Script::new(support::ready(), [support::cutting_over(), support::cut_over()])).await;
    stage.run(&["cutover", "shop", "--yes", "--no-way-back"]).await.exits(0);
    let heard = stage.script.heard();
    assert!(heard.contains(&"cutover etag=3-10 max_outage=none without_way_back".to_owned()), "{heard:?}");
}

#[tokio::test]
async fn finish_prints_how_to_reopen_the_source() {
    let stage =
        Stage::set(Script::new(support::cut_over(), [running(support::cut_over()), support::succeeded()])).await;
    stage
        .run(&["finish", "shop", "--yes"])
        .await
        .exits(0)
        .says("stays closed to applications")
        .says("GRANT CONNECT ON DATABASE shop TO PUBLIC;");
    assert!(stage.script.heard().contains(&"finish etag=3-11".to_owned()), "{:?}", stage.script.heard());
}

#[tokio::test]
async fn abort_takes_back() {
    let stage = Stage::set(Script::new(support::failed(), [support::aborting(), support::aborted()])).await;
    stage.run(&["abort", "shop", "--yes"]).await.exits(0).says("it was taken back");
    let over = Stage::set(Script::new(support::aborted(), [])).await;
    over.run(&["abort", "shop", "--yes"]).await.exits(1).notes("WRONG_STATE");
}

#[tokio::test]
async fn what_cannot_be_taken_back_asks_and_says_what_it_will_do() {
    for (verb, migration, consequence) in [
        ("cutover", support::ready(), "nothing can be taken back"),
        ("finish", support::cut_over(), "stays closed to applications"),
        ("finish", support::returnable(), "The way back ends"),
        ("rollback", support::returnable(), "back from beta to alpha"),
        ("abort", support::failed(), "has to be copied again"),
    ] {
        let stage = Stage::set(Script::new(migration, [])).await;
        stage.run(&[verb, "shop"]).await.exits(2).notes(consequence).notes("--yes");
        assert_eq!(stage.script.heard(), ["get"], "{verb}");
    }
}

#[tokio::test]
async fn retry_releases_the_step_that_failed() {
    let stage = Stage::set(Script::new(support::failed(), [support::copying(), support::ready()])).await;
    stage.run(&["retry", "shop"]).await.exits(0).says("pgportage cutover shop");
    assert!(stage.script.heard().contains(&"release subscribe etag=3-7".to_owned()), "{:?}", stage.script.heard());
    let stage = Stage::set(Script::new(support::ready(), [])).await;
    stage.run(&["retry", "shop"]).await.exits(1).notes("WRONG_STATE");
    // The cutover that is given up, the abort that goes on: what was asked for.
    let stage = Stage::set(Script::new(support::in_doubt(), [support::cutting_over(), support::taken_back()])).await;
    stage.run(&["retry", "shop"]).await.exits(0).says("taken back: the source takes writes");
    let stage = Stage::set(Script::new(support::failed(), [support::aborting(), support::aborted()])).await;
    stage.run(&["retry", "shop"]).await.exits(0);
}

#[tokio::test]
async fn verify_exits_1_when_the_sides_differ() {
    let stage = Stage::set(Script::new(support::ready(), [running(support::ready()), support::differing()])).await;
    stage.run(&["verify", "shop"]).await.exits(1).says("2 rows less");
    let again = v1::Migration { etag: "again".to_owned(), ..support::ready() };
    let stage = Stage::set(Script::new(support::ready(), [running(support::ready()), again])).await;
    stage.run(&["verify", "shop"]).await.exits(0).says("both sides agree");
    assert!(stage.script.heard().contains(&"verify rows time_limit=none resume=false repair=false".to_owned()));
    let stage = Stage::set(Script::new(support::ready(), [])).await;
    stage.run(&["verify", "shop", "--time-limit", "30m", "--resume", "--repair", "--detach"]).await.exits(0);
    assert!(stage.script.heard().contains(&"verify rows time_limit=1800s resume=true repair=true".to_owned()));
    stage.run(&["verify", "shop", "--counts", "--detach"]).await.exits(0);
    assert!(stage.script.heard().contains(&"verify counts time_limit=none resume=false repair=false".to_owned()));
    stage.run(&["verify", "shop", "--counts", "--resume"]).await.exits(2);
}

#[tokio::test]
async fn consent_is_bound_to_the_evidence_that_was_shown() {
    let stage = Stage::set(Script::new(support::consent_wanted(), [])).await;
    stage
        .run(&["consent", "shop", "ROLE_MISSING:reporting"])
        .await
        .exits(0)
        .says("agreed to ROLE_MISSING on reporting");
    assert!(stage.script.heard().contains(&"consent ROLE_MISSING:reporting:[2]".to_owned()));
    stage.run(&["consent", "shop", "--all"]).await.exits(0);
    let both = "consent REPLICA_IDENTITY_MISSING:public.audit_log:[1] ROLE_MISSING:reporting:[2]";
    assert!(stage.script.heard().contains(&both.to_owned()), "{:?}", stage.script.heard());
    stage.run(&["consent", "shop", "NO_SUCH"]).await.exits(1).notes("REPLICA_IDENTITY_MISSING:public.audit_log");
    stage.run(&["consent", "shop"]).await.exits(3).says("CREATE ROLE reporting;").says("pgportage consent shop --all");
    stage.run(&["consent", "shop", "--all", "ROLE_MISSING"]).await.exits(2);
}

#[tokio::test]
async fn preflight_exits_1_when_a_finding_refuses() {
    let mut migration = support::pending();
    migration.source_findings = support::findings();
    let route = ["preflight", "--from", "alpha", "--to", "beta", "--database", "shop"];
    let stage = Stage::set(Script::new(migration.clone(), [])).await;
    stage.run(&route).await.exits(1).says("ALTER SYSTEM SET wal_level").says("restart");
    migration.source_findings.clear();
    migration.destination_findings = support::destination_findings();
    let stage = Stage::set(Script::new(migration, [])).await;
    stage.run(&route).await.exits(0).says("once you have agreed to 1 finding");
}

#[tokio::test]
async fn create_says_what_to_type_next() {
    let stage = Stage::set(Script::new(support::pending(), [])).await;
    let arguments = ["create", "shop", "--from", "alpha", "--to", "beta", "--database", "shop"];
    stage.run(&arguments).await.exits(0).says("created migration shop").says("pgportage start shop");
    for otherwise in [
        &["--method", "postgresql"][..],
        &["--method", "agents"],
        // As it was typed before there was a method.
        &["--connection", "direct", "--copy-method", "native"],
        &["--copy-method", "native"],
        &["--connection", "direct"],
    ] {
        let typed: Vec<&str> = arguments.iter().chain(otherwise).chain(&["--validate-only"]).copied().collect();
        stage.run(&typed).await.exits(0).says("nothing was");
    }
    let both: Vec<&str> = arguments.into_iter().chain(["--method", "agents", "--connection", "direct"]).collect();
    stage.run(&both).await.exits(2).notes("--connection");
    let ways = stage.script.heard().into_iter().map(|call| call.replace("create shop alpha>beta shop ", ""));
    assert_eq!(
        ways.collect::<Vec<_>>(),
        [
            "Tunnel Snapshot validate_only=false",
            "Direct Native validate_only=true",
            "Tunnel Snapshot validate_only=true",
            "Direct Native validate_only=true",
            "Tunnel Native validate_only=true",
            "Direct Snapshot validate_only=true",
        ]
    );
}

#[tokio::test]
async fn create_reads_a_file_that_says_everything() {
    let stage = Stage::set(Script::new(support::pending(), [])).await;
    let file = stage.directory.path().join("shop.toml");
    let path = file.to_str().unwrap();
    std::fs::write(&file, "from = \"alpha\"\nto = \"beta\"\ndatabase = \"shop\"\ncopy_method = \"native\"\n").unwrap();
    stage.run(&["create", "shop", "--file", path]).await.exits(0).says("created migration shop");
    assert_eq!(stage.script.heard(), ["create shop alpha>beta shop Tunnel Native validate_only=false"]);
    // Not half here and half there.
    stage.run(&["create", "shop", "-f", path, "--max-lag", "1s"]).await.exits(2).notes("--max-lag");
    stage.run(&["create", "shop", "-f", path, "--method", "agents"]).await.exits(2).notes("--method");
    stage.run(&["create", "shop", "--from", "alpha"]).await.exits(2).notes("--database");
    std::fs::write(&file, "from = \"alpha\"\nto = \"\"\nmethd = \"agents\"\n").unwrap();
    let ran = stage.run(&["create", "shop", "-f", path]).await.exits(1);
    ran.notes("CONFIGURATION_INVALID").notes("methd").notes("database").notes("must not be empty");
    assert_eq!(stage.script.heard().len(), 1);
}

#[tokio::test]
async fn tune_says_how_fast_it_goes_from_now_on() {
    let stage = Stage::set(Script::new(support::copying(), [])).await;
    stage.run(&["tune", "shop", "--max-rate", "50MB"]).await.exits(0).says("migration shop copies 50.0 MB/s at most");
    let ran = stage.run(&["tune", "shop", "--max-rate", "none", "--json"]).await.exits(0);
    assert_eq!(ran.json()[0]["max_rate_bytes"], serde_json::Value::Null);
    stage.run(&["tune", "shop", "--max-rate", "fast"]).await.exits(2).notes("50MB");
    stage.run(&["tune", "shop"]).await.exits(2).notes("--max-rate");
    assert_eq!(stage.script.heard(), ["tune max_rate_bytes=Some(52428800)", "tune max_rate_bytes=Some(0)"]);
}

#[tokio::test]
async fn status_says_who_copies() {
    let stage = Stage::set(Script::new(support::copying_natively(), [])).await;
    stage.run(&["status", "shop"]).await.exits(0).says("from alpha to beta, copied by the subscription");
    let ran = stage.run(&["status", "shop", "--json"]).await.exits(0);
    assert_eq!(ran.json()[0]["copy_method"], "native");
}

#[tokio::test]
async fn a_refusal_is_shown_with_all_its_texts() {
    let stage = Stage::set(Script::new(support::pending(), [])).await;
    stage.script.refuse(
        Failure::new(Reason::AgentNotAttached, "agent beta is not attached")
            .detail("It was last heard from 95 seconds ago.")
            .hint("Start it, then try again."),
    );
    stage
        .run(&["start", "shop"])
        .await
        .exits(1)
        .notes("agent beta is not attached (AGENT_NOT_ATTACHED)")
        .notes("95 seconds ago")
        .notes("Start it")
        .notes("pgportage help AGENT_NOT_ATTACHED");
}

#[tokio::test]
async fn json_goes_to_standard_output_and_parses() {
    let mut migration = support::ready();
    migration.source_findings = support::findings();
    let stage = Stage::set(Script::new(migration, [support::cutting_over(), support::cut_over()])).await;
    let value = |ran: crate::script::Ran| {
        let mut values = ran.json();
        assert_eq!(values.len(), 1, "{ran:#?}");
        values.remove(0)
    };
    assert_eq!(value(stage.run(&["agents", "--json"]).await.exits(0))[0]["name"], "alpha");
    let listed = value(stage.run(&["status", "--json"]).await.exits(0));
    assert_eq!((&listed[0]["name"], &listed[1]["name"]), (&"shop".into(), &"second".into()));
    let status = value(stage.run(&["--json", "status", "shop"]).await.exits(0));
    assert_eq!((&status["state"], &status["ready_for_cutover"]), (&"waiting".into(), &true.into()));
    assert_eq!(
        (&status["method"], &status["connection"], &status["copy_method"]),
        (&"agents".into(), &"tunnel".into(), &"snapshot".into())
    );
    assert_eq!(value(stage.run(&["plan", "shop", "--json"]).await.exits(0))["steps"][0]["agent"], "alpha");
    let preflight = ["preflight", "--from", "a", "--to", "b", "--database", "c", "--json"];
    assert_eq!(value(stage.run(&preflight).await.exits(1))["passed"], false);
    let missing = value(stage.run(&["status", "nobody", "--json"]).await.exits(1));
    assert_eq!(missing["failure"]["reason"], "MIGRATION_MISSING");
    let cut = value(stage.run(&["cutover", "shop", "--yes", "--json"]).await.exits(0));
    assert_eq!(cut["cutover"]["outage_milliseconds"], 187);
}

#[tokio::test]
async fn every_call_of_a_verb_belongs_to_one_trace() {
    let stage = Stage::set(Script::new(support::ready(), [support::cutting_over(), support::cut_over()])).await;
    stage.run(&["cutover", "shop", "--yes"]).await.exits(0);
    let traced = stage.script.traced();
    let traces: std::collections::BTreeSet<_> = traced.iter().filter_map(|context| context.split('-').nth(1)).collect();
    assert!(traced.len() >= 3 && traces.len() == 1, "{traced:?}");
}

#[tokio::test]
async fn a_coordinator_that_is_not_there_is_told_with_a_hint() {
    let mut stage = Stage::set(Script::new(support::ready(), [])).await;
    stage.goes_away().await;
    let ran = stage.run(&["status", "shop"]).await.exits(1);
    ran.notes("could not connect to coordinator \"main\"").notes("Is it running").notes("--coordinator");
}

#[tokio::test]
async fn a_coordinator_of_another_name_is_not_spoken_to() {
    let stage = Stage::set(Script::new(support::ready(), [])).await;
    stage.run(&["status", "--coordinator-name", "other"]).await.exits(1).notes("WRONG_NAME");
    assert!(stage.script.heard().is_empty());
}

#[tokio::test]
async fn a_certificate_of_another_role_is_refused() {
    let stage = Stage::set(Script::new(support::ready(), [])).await;
    let certs = stage.certs();
    let file = |name: &str| certs.join(name).display().to_string();
    let (certificate, key) = (file("agent-alpha.pem"), file("agent-alpha-key.pem"));
    let arguments = ["agents", "--certificate", certificate.as_str(), "--key", key.as_str()];
    stage.run(&arguments).await.exits(1).notes("WRONG_ROLE");
}

#[tokio::test]
async fn a_wrong_configuration_is_told_whole() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("wrong.toml");
    std::fs::write(&file, "[coordinator]\naddress = \"x\"\npatience = \"soon\"\n[identity]\nkey = \"k\"\n").unwrap();
    let child = program(home.path(), &["agents", "--config", file.to_str().unwrap()]).spawn().unwrap();
    let ran = crate::script::Ran::end(child).await.exits(1).notes("CONFIGURATION_INVALID");
    ran.notes("coordinator.address").notes("coordinator.patience").notes("identity.certificate");
}

#[tokio::test]
async fn a_wrong_command_line_exits_2() {
    let home = tempfile::tempdir().unwrap();
    let create = ["create", "a", "--from", "b", "--to", "c", "--database", "d", "--method", "somehow"];
    for arguments in [
        &["fly"][..],
        &[],
        &["status", "--watch"],
        &["--json"],
        &["cutover"],
        &["cutover", "a", "--max-outage", "x"],
        &["cutover", "a", "--rounds", "3"],
        &["cutover", "a", "--rehearse", "--rounds", "0"],
        &["cutover", "a", "--rehearse", "--rehearse-first"],
        &["cutover", "a", "--rehearse-first", "--detach"],
        &create,
    ] {
        let child = program(home.path(), arguments).spawn().unwrap();
        crate::script::Ran::end(child).await.exits(2);
    }
}

#[tokio::test]
async fn explain_names_who_is_in_the_way_and_what_to_type() {
    let stage = Stage::set(Script::new(support::copying(), [])).await;
    let ran = stage.run(&["explain", "shop"]).await.exits(0);
    ran.says("process 4711").says("SELECT pg_terminate_backend(4711);").says("pgportage status shop --watch");
    let ran = stage.run(&["explain", "shop", "--json"]).await.exits(0);
    let told: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&told["cause_found"], &told["all_checked"]), (&true.into(), &false.into()));
    assert_eq!(told["explanations"][0]["code"], "SESSION_BLOCKED");
    assert_eq!(told["reports"][0]["situation"]["blockers"][0]["pid"], 4711);
    stage.run(&["explain", "nobody"]).await.exits(1);
}

#[tokio::test]
async fn a_drift_refuses_a_cutover_before_anybody_is_asked() {
    let stage = Stage::set(Script::new(support::drifted(), [])).await;
    stage
        .run(&["cutover", "shop", "--yes"])
        .await
        .exits(1)
        .notes("2 schema objects differ between the two sides (SCHEMA_DIFFERS)")
        .notes("index public.orders_note is missing on the destination")
        .notes("Make the same change on both sides");
    assert!(!stage.script.heard().iter().any(|call| call.starts_with("cutover")), "{:?}", stage.script.heard());
}

#[tokio::test]
async fn a_rollback_in_doubt_is_shown_with_what_may_be_done() {
    let stage = Stage::set(Script::new(support::doubtful_rollback(), [])).await;
    stage.run(&["status", "shop"]).await.exits(0).says("pgportage-agent unfence shop --source-destroyed");
}

#[tokio::test]
async fn help_explains_verbs_and_codes_without_a_coordinator() {
    let stage = Stage::set(Script::new(support::ready(), [])).await;
    stage.run(&["help", "cutover"]).await.exits(0).says("pgportage cutover").says("--max-outage");
    stage.run(&["help", "certs", "issue"]).await.exits(0).says("pgportage certs issue");
    stage.run(&["help", "slot_lost"]).await.exits(0).says("# SLOT_LOST").says("## What to do");
    stage.run(&["help", "SLOT_LOSSED"]).await.exits(2).notes("Type pgportage help SLOT_LOST");
    assert!(stage.script.heard().is_empty(), "{:?}", stage.script.heard());
}
