//! Moves a busy database from PostgreSQL 15 to 18 as an operator would, back, and
//! there again, with the real programs, and tells what its applications saw: some
//! write to either server, some through a pooler.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use pgportage_tests::cluster::Cluster;
use pgportage_tests::ledger::{End, Ledger};
use pgportage_tests::pgbouncer::PgBouncer;
use pgportage_tests::pooled::{self, Pooled, Told};
use pgportage_tests::site::{APPLICATION, APPLICATION_PASSWORD};
use pgportage_tests::workload::{self, Workload, WorkloadOptions};
use pgportage_tests::{PostgresVersion, Site, SiteOptions, checker, final_state, journey, traces};

const MIGRATION: &str = "shop";
/// How often it changes sides.
const SWITCHES: usize = 3;
/// How long the writers may take for the writes that the demo waits for.
const PATIENCE: Duration = Duration::from_secs(120);

/// Moves a busy database and tells what its writers saw.
#[derive(Debug, Parser)]
struct Arguments {
    /// Leave everything running afterwards, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Major version of the source
    #[arg(long, default_value_t = 15)]
    from: u32,
    /// Major version of the destination
    #[arg(long, default_value_t = 18)]
    to: u32,
    /// Rows that are there before the first writer
    #[arg(long, default_value_t = 200_000)]
    rows: u32,
    /// How many write at the same time
    #[arg(long, default_value_t = 16)]
    writers: u32,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nowhere else to say it if the terminal is gone.
            let _written = writeln!(io::stderr(), "\nthe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let version =
        |major| PostgresVersion::from_major(major).with_context(|| format!("no PostgreSQL {major} is pinned"));
    let (from, to) = (version(arguments.from)?, version(arguments.to)?);
    let directory = tempfile::Builder::new().prefix("pgportage-demo-").tempdir()?.keep();
    heading(&format!("a PostgreSQL {from}, a PostgreSQL {to}, a coordinator, two agents"))?;
    say("(the first time, PostgreSQL is fetched and unpacked)")?;
    let mut options = SiteOptions::new(from, to);
    options.directory = Some(directory.clone());
    let mut site = Site::prepare(options).await?;
    let pooler = PgBouncer::start(&site.database, site.source.port).await?;
    site.source_config.policy.more = pooler.policy(&site.database, site.destination.port);
    site.write_agent_files()?;
    site.start_programs().await?;

    heading(&format!("{} writers at work on the source, each write in a ledger", arguments.writers))?;
    workload::prepare(&site.source, &site.database, APPLICATION, arguments.rows).await?;
    pooled::prepare(&site.source, &site.database, APPLICATION).await?;
    let options = WorkloadOptions { writers: arguments.writers, ..WorkloadOptions::default() };
    let workload = Workload::start(&site.ends(), &options);
    workload.wait_for_writes(End::Source, 500, PATIENCE).await?;
    let clients = Pooled::start(&pooler.config(&site.database), 8, 2);
    clients.wait_for_commits(100, PATIENCE).await?;
    say(&format!("{} writes acknowledged so far", workload.counts.of(End::Source)))?;
    say("10 clients behind a PgBouncer, which know nothing of two servers and try nothing twice")?;

    operate(&site, &workload, &clients).await?;

    let (ledger, told) = (workload.stop().await?, clients.stop().await?);
    let ledger_path = directory.join("ledger.jsonl");
    ledger.save(&ledger_path)?;
    report(&site, &ledger, &told).await?;
    say(&format!("  ledger                {}", ledger_path.display()))?;
    say(&format!("  logs                  {}/*.log, {0}/*/server.log", directory.display()))?;
    if arguments.keep { keep(site).await } else { clear_up(site) }
}

/// What an operator types, from the first look to the end.
async fn operate(site: &Site, workload: &Workload, clients: &Pooled) -> Result<()> {
    let route = ["--from", "berlin", "--to", "oslo", "--database", site.database.as_str()];
    let with_route =
        |verb: &[&'static str]| -> Vec<String> { verb.iter().copied().chain(route).map(str::to_owned).collect() };
    let written = async |on: End| {
        workload.wait_for_writes(on, 1000, PATIENCE).await?;
        clients.wait_for_commits(200, PATIENCE).await
    };
    type_in(site, &["agents"]).await?;
    type_in(site, &with_route(&["preflight"])).await?;
    type_in(site, &with_route(&["create", MIGRATION])).await?;
    type_in(site, &["plan", MIGRATION]).await?;
    type_in(site, &["start", MIGRATION]).await?;
    type_in(site, &["status", MIGRATION]).await?;
    type_in(site, &["verify", MIGRATION]).await?;
    heading("a rehearsal: locks, marker and drain, and nothing switched")?;
    type_in(site, &["cutover", MIGRATION, "--rehearse", "--yes"]).await?;
    heading("the cutover, while the writers write")?;
    type_in(site, &["cutover", MIGRATION, "--yes"]).await?;
    written(End::Destination).await?;
    certificate(site).await?;
    heading("the way back, with everything that was written meanwhile")?;
    type_in(site, &["status", MIGRATION]).await?;
    type_in(site, &["rollback", MIGRATION, "--yes"]).await?;
    written(End::Source).await?;
    heading("and there again, for good")?;
    type_in(site, &["cutover", MIGRATION, "--yes"]).await?;
    written(End::Destination).await?;
    type_in(site, &["finish", MIGRATION, "--yes"]).await?;
    type_in(site, &["status", MIGRATION]).await
}

/// What both agents say of the cutover, signed, checked with nothing but the CA.
async fn certificate(site: &Site) -> Result<()> {
    heading("what both agents certify of it")?;
    let (file, authority) = (site.directory().join("certificate.json"), site.directory().join("certificates/ca.pem"));
    let (file, authority) = (file.to_string_lossy(), authority.to_string_lossy());
    type_in(site, &["certificate", "show", MIGRATION]).await?;
    type_in(site, &["certificate", "save", MIGRATION, "--output", &file]).await?;
    type_in(site, &["certificate", "verify", &file, "--authority", &authority]).await
}

/// Shows a command, runs it on this terminal, and stops unless it is done.
async fn type_in(site: &Site, arguments: &[impl AsRef<str>]) -> Result<()> {
    let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
    say(&format!("\n$ pgportage {}", arguments.join(" ")))?;
    let code = site.cli.run_here(&arguments).await?;
    ensure!(code == Some(0), "pgportage {arguments:?} ended with {code:?}\n{}", site.last_words());
    Ok(())
}

/// Compares what the applications were told with what is there.
async fn report(site: &Site, ledger: &Ledger, told: &Told) -> Result<()> {
    heading("what the applications saw")?;
    let destination = site.destination.connect(&site.database).await?;
    let source = site.source.connect(&site.database).await?;
    let state = final_state::read(&destination).await?;
    let violations = checker::check(SWITCHES, ledger, &state);
    let count = |kind: fn(&checker::Violation) -> bool| violations.iter().filter(|violation| kind(violation)).count();
    let lost = count(|violation| matches!(violation, checker::Violation::Lost(_) | checker::Violation::Torn(_)));
    let doubled = count(|violation| matches!(violation, checker::Violation::Duplicated(_)));
    let compared = final_state::compare(&source, &destination).await;
    say("  outage                from the last write that one side acknowledged to the first of the other:")?;
    for (outage, switch) in ledger.outages().iter().zip(["cutover", "rollback", "cutover"]) {
        say(&format!("                        {} ms, {switch}", outage.length().as_millis()))?;
    }
    let (before, after) = (ledger.acknowledged(End::Source), ledger.acknowledged(End::Destination));
    say(&format!("  writes acknowledged   {} ({before} on the source, {after} on the destination)", before + after))?;
    say(&format!("  writes lost           {lost}"))?;
    say(&format!("  writes doubled        {doubled}"))?;
    say(&format!("  outcome unknown       {} (connection ended before the answer)", ledger.unknown()))?;
    let (transactions, errors) = (told.acknowledged.len(), told.failures.len());
    say(&format!("  through the pooler    {transactions} transactions, {errors} errors"))?;
    let rows = compared.context("rows differ between the two sides")?;
    say(&format!("  rows compared         {rows}, all equal"))?;
    ensure!(violations.is_empty(), "{violations:#?}");
    ensure!(ledger.outages().len() == SWITCHES, "the writers saw {} changes of side", ledger.outages().len());
    told.check(&site.destination, &site.database).await?;
    ensure!(told.failures.is_empty(), "{:#?}", told.failures);
    traces::expect_nothing(&site.source, &site.database).await?;
    traces::expect_nothing(&site.destination, &site.database).await?;
    journey::expect_refused(site, End::Source).await?;
    say("  left behind           nothing, except the fence: the source still refuses the application")
}

/// Waits for Ctrl-C with everything running, and says what to try.
async fn keep(site: Site) -> Result<()> {
    heading("everything runs until you press Ctrl-C; try")?;
    let cli = format!("{} --config {}", site.cli.path.display(), site.cli.config.display());
    let client = |cluster: &Cluster| {
        let psql = site.destination.installation.tools.program("psql");
        let at = format!("-h 127.0.0.1 -p {} -U {APPLICATION} {}", cluster.port, site.database);
        format!("PGPASSWORD={APPLICATION_PASSWORD} {} {at}", psql.display())
    };
    say(&format!("  {cli} status {MIGRATION}"))?;
    say(&format!("  {cli} agents --json"))?;
    say("  # the destination takes writes:")?;
    say(&format!("  {} -c 'SELECT count(*) FROM events'", client(&site.destination)))?;
    say("  # the source does not:")?;
    say(&format!("  {}", client(&site.source)))?;
    tokio::signal::ctrl_c().await?;
    clear_up(site)
}

/// Stops everything and removes the servers' data; logs and ledger stay.
fn clear_up(site: Site) -> Result<()> {
    let data = [site.source.data_directory(), site.destination.data_directory()];
    drop(site);
    for directory in data {
        std::fs::remove_dir_all(directory)?;
    }
    Ok(())
}

fn heading(text: &str) -> Result<()> {
    say(&format!("\n=== {text}"))
}

fn say(line: &str) -> Result<()> {
    let mut terminal = io::stdout().lock();
    writeln!(terminal, "{line}")?;
    // The programs write to the same terminal.
    Ok(terminal.flush()?)
}
