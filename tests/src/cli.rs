//! The operator's hand, as an operator uses it: a command line, an exit status,
//! two outputs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::child::{Output, Program};
use crate::wait::{self, Seen};

/// Longest time that one command may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// The program `pgportage` with its configuration.
#[derive(Clone, Debug)]
pub struct Cli {
    /// The executable.
    pub path: PathBuf,
    /// Its configuration file.
    pub config: PathBuf,
    /// Where its outputs are kept.
    pub scratch: PathBuf,
    /// Variables for every command.
    pub environment: Vec<(OsString, OsString)>,
}

/// What a command said.
#[derive(Clone, Debug)]
pub struct CliOutput {
    /// The exit status; none if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote for programs.
    pub stdout: String,
    /// What it wrote for people.
    pub stderr: String,
}

impl CliOutput {
    /// Both outputs.
    #[must_use]
    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

impl Cli {
    /// Runs one command to its end.
    ///
    /// # Errors
    ///
    /// When it cannot be started or takes too long. Its own failure is in the
    /// output.
    pub async fn run(&self, arguments: &[&str]) -> Result<CliOutput> {
        let scratch = tempfile::Builder::new().prefix("cli-").tempdir_in(&self.scratch)?;
        let (stdout, stderr) = (scratch.path().join("stdout"), scratch.path().join("stderr"));
        let mut program = Program::new(&self.path).argument("--config").argument(&self.config).arguments(arguments);
        program.environment.clone_from(&self.environment);
        program.stdout = Output::File(std::fs::File::create(&stdout)?);
        program.stderr = Output::File(std::fs::File::create(&stderr)?);
        let status = program.spawn()?.wait(PATIENCE).await;
        let read = |path: &Path| -> Result<String> { Ok(String::from_utf8_lossy(&std::fs::read(path)?).into_owned()) };
        let (stdout, stderr) = (read(&stdout)?, read(&stderr)?);
        let status = status.with_context(|| format!("pgportage {arguments:?} said so far:\n{stdout}{stderr}"))?;
        Ok(CliOutput { code: status.code(), stdout, stderr })
    }

    /// Runs one command on the terminal of this process and returns its exit
    /// status.
    ///
    /// # Errors
    ///
    /// When it cannot be started or takes too long.
    pub async fn run_here(&self, arguments: &[&str]) -> Result<Option<i32>> {
        let mut program = Program::new(&self.path).argument("--config").argument(&self.config).arguments(arguments);
        program.environment.clone_from(&self.environment);
        program.stdout = Output::Inherit;
        program.stderr = Output::Inherit;
        Ok(program.spawn()?.wait(PATIENCE).await?.code())
    }

    /// Runs a command that must end with this exit status.
    ///
    /// # Errors
    ///
    /// When it does not; the error shows what it said.
    pub async fn expect(&self, code: i32, arguments: &[&str]) -> Result<CliOutput> {
        let output = self.run(arguments).await?;
        ensure!(
            output.code == Some(code),
            "pgportage {arguments:?} ended with {:?} instead of {code}:\n{}",
            output.code,
            output.all()
        );
        Ok(output)
    }

    /// Runs a command with `--json` and reads what it says, whatever its exit
    /// status.
    ///
    /// # Errors
    ///
    /// When its output is not what `T` wants.
    pub async fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        let output = self.run(&arguments).await?;
        serde_json::from_str(&output.stdout)
            .with_context(|| format!("pgportage {arguments:?} ended with {:?}:\n{}", output.code, output.all()))
    }

    /// How a migration stands.
    pub async fn status(&self, migration: &str) -> Result<Status> {
        self.json(&["status", migration]).await
    }

    /// Waits until a migration is as wanted. A coordinator that does not answer
    /// is waited for too.
    ///
    /// # Errors
    ///
    /// When it is not within `limit`; the error shows the last state seen.
    pub async fn wait_for(
        &self,
        migration: &str,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        wait::until_told(what, limit, || async {
            Ok(match self.status(migration).await {
                Ok(status) if wanted(&status) => Seen::Done(status),
                Ok(status) => Seen::NotYet(status.summary()),
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        })
        .await
    }
}

/// What `status --json` says, as far as tests ask.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// Where the migration stands.
    pub state: String,
    /// Only `pgportage cutover` is missing.
    pub ready_for_cutover: bool,
    /// Only `pgportage finish` is missing.
    pub ready_for_finish: bool,
    /// What it waits for.
    pub waiting_for: String,
    /// What to type next.
    pub next_commands: Vec<String>,
    /// The steps.
    pub steps: Vec<StepStatus>,
    /// Whether the applications could return.
    pub way_back: String,
    /// The latest cutover.
    pub cutover: Option<CutoverStatus>,
    /// The latest rehearsal.
    pub rehearsal: Option<RehearsalStatus>,
    /// After finish.
    pub unfence_statements: Vec<String>,
}

/// One step.
#[derive(Clone, Debug, Deserialize)]
pub struct StepStatus {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub state: String,
    /// Tries so far.
    pub attempt_count: i32,
    /// Why it did not succeed.
    pub failure: Option<FailureStatus>,
}

/// A failure.
#[derive(Clone, Debug, Deserialize)]
pub struct FailureStatus {
    /// Stable identifier.
    pub reason: String,
    /// What happened.
    pub message: String,
    /// Further facts.
    #[serde(default)]
    pub detail: String,
}

/// A cutover.
#[derive(Clone, Debug, Deserialize)]
pub struct CutoverStatus {
    /// Its number.
    pub epoch: i64,
    /// Where it stands.
    pub phase: String,
    /// As the coordinator saw it.
    pub outage_milliseconds: Option<u64>,
    /// How long the marker took, as the agent saw it.
    pub drain_milliseconds: Option<u64>,
    /// Whether it was a rollback.
    pub rollback: bool,
}

/// A rehearsal.
#[derive(Clone, Debug, Deserialize)]
pub struct RehearsalStatus {
    /// Where it stands.
    pub phase: String,
    /// Rounds done.
    pub completed_count: i32,
    /// Whether it was one of the rollback.
    pub rollback: bool,
    /// Whether a cutover is expected within its budget.
    pub fits: bool,
    /// Where the time of fence and opening is from.
    pub rest_source: String,
    /// What writers waited.
    pub pause: Option<SpreadStatus>,
    /// The outage that is expected.
    pub prediction: Option<SpreadStatus>,
}

/// A span over the rounds.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct SpreadStatus {
    /// Half of them took at most this.
    pub p50_milliseconds: Option<u64>,
    /// The longest.
    pub worst_milliseconds: Option<u64>,
}

impl Status {
    /// The step with this name.
    #[must_use]
    pub fn step(&self, name: &str) -> Option<&StepStatus> {
        self.steps.iter().find(|step| step.name == name)
    }

    /// The first failure that is not mended.
    #[must_use]
    pub fn failure(&self) -> Option<&FailureStatus> {
        self.steps.iter().find_map(|step| step.failure.as_ref().filter(|_| step.state == "failed"))
    }

    /// In one line, for a wait that did not end.
    #[must_use]
    pub fn summary(&self) -> String {
        let steps: Vec<String> = self.steps.iter().map(|step| format!("{}={}", step.name, step.state)).collect();
        let failure =
            self.failure().map(|failure| format!("{}: {} ({})", failure.reason, failure.message, failure.detail));
        format!(
            "{} [{}] waiting for {:?}, cutover {:?}, failure {failure:?}",
            self.state,
            steps.join(" "),
            self.waiting_for,
            self.cutover
        )
    }

    /// Whether nothing more happens unless an operator acts.
    #[must_use]
    pub fn settled(&self) -> bool {
        ["pending", "waiting", "aborted", "succeeded"].contains(&self.state.as_str())
    }
}
