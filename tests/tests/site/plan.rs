//! What `pgportage plan` says before the start, held against the logs of both servers
//! after a whole migration: **no statement that changes anything is missing from it, and
//! none is in it that never ran.**
//!
//! The agents log in as a role that is no superuser, because one would keep the
//! statements with passwords out of the log.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use pgportage_tests::journey::{Journey, MIGRATION};
use pgportage_tests::ledger::End;
use pgportage_tests::site::config::AgentConfig;
use pgportage_tests::statement_log::{Logged, changes_something, logging, matches, ours};
use pgportage_tests::workload::WorkloadOptions;
use pgportage_tests::{PostgresVersion, Site, SiteOptions};
use serde::Deserialize;

use PostgresVersion::{V14, V16, V18};

const PASSWORD: &str = "porter-password";

/// Programs of PostgreSQL that a plan names by one line, and the application that their
/// sessions call themselves.
const PROGRAMS: [(&str, &str); 2] = [("pg_restore ", "pgportage restore"), ("pg_dump ", "pgportage dump")];

/// What `plan --json` says, as far as it is asked here.
#[derive(Debug, Deserialize)]
struct Plan {
    steps: Vec<Step>,
    summary: Vec<String>,
    record_time: Option<String>,
    changes: Vec<String>,
    digest: String,
}

#[derive(Debug, Deserialize)]
struct Step {
    agent: String,
    statements: Vec<String>,
}

/// The lines of a plan about one server.
#[derive(Clone, Debug, Default)]
struct Lines {
    run: BTreeSet<String>,
    only_if: BTreeSet<String>,
}

impl Plan {
    fn about(&self, agent: &str) -> Lines {
        let mut lines = Lines::default();
        for line in self.steps.iter().filter(|step| step.agent == agent).flat_map(|step| &step.statements) {
            match line.strip_prefix("-- ") {
                None => {
                    lines.run.insert(without_comments(line));
                }
                Some(remark) => {
                    if let Some((_when, statement)) =
                        remark.strip_prefix("only if ").and_then(|conditional| conditional.split_once(": "))
                    {
                        lines.only_if.insert(without_comments(statement));
                    }
                }
            }
        }
        lines
    }
}

fn without_comments(line: &str) -> String {
    let mut text = line.to_owned();
    while let (Some(begin), Some(end)) = (text.find("/*"), text.find("*/")) {
        text.replace_range(begin..end + 2, "");
    }
    text.trim().to_owned()
}

/// What a plan lacks of a log, and what it has that the log has not.
fn differences(plan: &Lines, logged: &BTreeSet<Logged>) -> Vec<String> {
    let program_of = |line: &str| PROGRAMS.iter().find(|(name, _)| line.starts_with(name)).map(|(_, program)| *program);
    let runs_program = |application: &str| plan.run.iter().any(|line| program_of(line) == Some(application));
    let said = |statement: &str| plan.run.iter().chain(&plan.only_if).any(|line| matches(line, statement));
    let missing = logged
        .iter()
        .filter(|it| changes_something(&it.statement) && !runs_program(&it.application) && !said(&it.statement))
        .map(|it| format!("ran and is not in the plan ({}): {}", it.application, it.statement));
    let never_ran = plan
        .run
        .iter()
        .filter(|line| match program_of(line) {
            Some(program) => !logged.iter().any(|it| it.application == program),
            None => !logged.iter().any(|it| matches(line, &it.statement)),
        })
        .map(|line| format!("is in the plan and never ran: {line}"));
    missing.chain(never_ran).collect()
}

/// Fails when a plan and a log differ, and unless a plan that lacks a line, or has one
/// too many, would have been noticed.
fn hold_against_the_log(plan: &Plan, agent: &str, logged: &BTreeSet<Logged>) {
    let lines = plan.about(agent);
    let found = differences(&lines, logged);
    assert!(found.is_empty(), "the plan about {agent} is not true:\n{}", found.join("\n"));
    assert!(lines.run.len() > 30, "{lines:?}");

    let mut shorter = lines.clone();
    assert!(shorter.run.remove("DROP SCHEMA pgportage CASCADE"));
    assert!(differences(&shorter, logged)[0].starts_with("ran and is not in the plan"));
    let mut longer = lines;
    longer.run.insert("ALTER SUBSCRIPTION … SKIP …".to_owned());
    assert_eq!(differences(&longer, logged).len(), 1);
}

fn password_file(site: &Site, name: &str) -> std::path::PathBuf {
    let path = site.directory().join(name);
    fs::write(&path, PASSWORD).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// A site whose servers log everything, and whose agents are no superusers.
async fn prepare(source: PostgresVersion, source_role: &str) -> Site {
    let mut options = SiteOptions::new(source, V18);
    options.source = logging(options.source);
    options.destination = logging(options.destination);
    let mut site = Site::prepare(options).await.unwrap();
    let destination_role = format!(
        "CREATE ROLE porter LOGIN REPLICATION CREATEROLE PASSWORD '{PASSWORD}';
         GRANT pg_create_subscription TO porter;"
    );
    for (cluster, role) in [(&site.source, source_role), (&site.destination, destination_role.as_str())] {
        let grants = "GRANT pg_monitor, pg_signal_backend, app TO porter;";
        cluster.execute("postgres", &format!("{role} {grants}")).await.unwrap();
    }
    let file = password_file(&site, "porter-password");
    let log_in = |config: &mut AgentConfig| {
        config.postgres_user = "porter".to_owned();
        config.password_file = Some(file.clone());
    };
    log_in(&mut site.source_config);
    log_in(&mut site.destination_config);
    site
}

/// Plans, migrates to the end, there and back and there again where there is a reverse
/// direction, and holds the plan against both logs.
async fn migrate_as_planned(mut site: Site, returns: bool) {
    site.write_agent_files().unwrap();
    site.start_programs().await.unwrap();
    let journey = Journey::begin(site, 2_000, &WorkloadOptions::default()).await.unwrap();
    let cli = &journey.site.cli;
    journey.site.create(MIGRATION).await.unwrap();
    let planned: Plan = cli.json(&["plan", MIGRATION]).await.unwrap();
    assert!(planned.record_time.is_some(), "both servers are read before the start");
    assert!(planned.summary[0].contains("publishes 16 tables with "), "{:?}", planned.summary);
    assert_eq!(planned.summary[0].contains("reverse"), returns, "{:?}", planned.summary);

    cli.expect(0, &["start", MIGRATION]).await.unwrap();
    let inspected: Plan = cli.json(&["plan", MIGRATION]).await.unwrap();
    assert_eq!(inspected.changes, Vec::<String>::new(), "nothing has changed since");
    journey.cut_over().await.unwrap();
    let mut switches = 1;
    if returns {
        journey.roll_back().await.unwrap();
        journey.cut_over().await.unwrap();
        switches = 3;
    }
    cli.expect(0, &["finish", MIGRATION, "--yes"]).await.unwrap();
    let finished: Plan = cli.json(&["plan", MIGRATION]).await.unwrap();
    assert_eq!(finished.digest, inspected.digest, "the plan of a migration under way stays");

    let site = &journey.site;
    for (end, config) in [(End::Source, &site.source_config), (End::Destination, &site.destination_config)] {
        let logged = ours(site.cluster(end)).unwrap();
        hold_against_the_log(&planned, &config.name, &logged);
        hold_against_the_log(&finished, &config.name, &logged);
    }
    journey.check_arrival_after(switches).await.unwrap();
}

fn porter() -> String {
    format!(
        "CREATE ROLE porter LOGIN REPLICATION CREATEROLE PASSWORD '{PASSWORD}';
         GRANT pg_create_subscription TO porter;"
    )
}

#[tokio::test]
async fn a_plan_is_what_runs() {
    let site = prepare(V16, &porter()).await;
    Box::pin(migrate_as_planned(site, true)).await;
}

#[tokio::test]
async fn a_plan_is_what_runs_when_the_subscription_copies() {
    let mut site = prepare(V16, &porter()).await;
    site.create_arguments = vec!["--copy-method", "native"];
    Box::pin(migrate_as_planned(site, true)).await;
}

/// With roles made beforehand, on a version without a reverse direction.
#[tokio::test]
async fn a_plan_names_the_roles_that_are_there() {
    let role = format!(
        "CREATE ROLE porter LOGIN PASSWORD '{PASSWORD}';
         CREATE ROLE mover LOGIN REPLICATION PASSWORD '{PASSWORD}';
         CREATE ROLE mover_canary LOGIN PASSWORD '{PASSWORD}';"
    );
    let mut site = prepare(V14, &role).await;
    site.create_arguments = vec!["--no-way-back"];
    let [mover, canary] = ["mover", "mover-canary"].map(|name| password_file(&site, name));
    site.source_config.policy.roles =
        vec![("replication", "mover".to_owned(), mover), ("canary", "mover_canary".to_owned(), canary)];
    Box::pin(migrate_as_planned(site, false)).await;
}
