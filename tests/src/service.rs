//! One of the programs, as a process that can be stopped, killed, frozen and
//! started again with the same arguments.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::child::{Child, Output, Program};
use crate::place::Place;

/// How long a program may take to end when asked to.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program of ours, started or not.
#[derive(Debug)]
pub struct Service {
    name: String,
    path: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    log_path: PathBuf,
    namespace: Option<String>,
    may_haste: bool,
    child: Option<Child>,
}

impl Service {
    /// A program that logs to `log_path` once it is started.
    #[must_use]
    pub fn new(name: &str, path: PathBuf, log_path: PathBuf) -> Self {
        let name = name.to_owned();
        Self {
            name,
            path,
            arguments: Vec::new(),
            environment: Vec::new(),
            log_path,
            namespace: None,
            may_haste: true,
            child: None,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn arguments<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Starts it elsewhere.
    #[must_use]
    pub fn place(mut self, place: &Place) -> Self {
        self.namespace.clone_from(&place.namespace);
        self
    }

    /// Whether it may ask the scheduler for more than its share, from its next start on.
    pub fn allow_haste(&mut self, allowed: bool) {
        self.may_haste = allowed;
    }

    /// Sets a variable for every later start.
    pub fn set_variable(&mut self, name: &str, value: impl Into<OsString>) {
        self.environment.retain(|(other, _)| other.as_os_str() != name);
        self.environment.push((name.into(), value.into()));
    }

    /// Lets every later start be of another executable.
    pub fn replace(&mut self, path: PathBuf) {
        self.path = path;
    }

    /// Starts it. Does not wait until it serves.
    ///
    /// # Errors
    ///
    /// When it runs already or cannot be started.
    pub fn start(&mut self) -> Result<()> {
        self.start_with(&[])
    }

    /// Starts it so that it aborts at a fail point.
    ///
    /// # Errors
    ///
    /// As [`Service::start`].
    pub fn start_to_fail_at(&mut self, fail_point: &str) -> Result<()> {
        self.start_with(&[("PGPORTAGE_FAIL_POINT", fail_point)])
    }

    /// Lets it stop where it stands when it next passes a fail point, whether it runs
    /// already or not. [`Service::thaw`] lets it go on.
    pub fn stop_at(&self, fail_point: &str) -> Result<()> {
        let file = self.stop_file();
        fs::write(&file, fail_point).with_context(|| format!("cannot write {}", file.display()))
    }

    fn stop_file(&self) -> PathBuf {
        self.log_path.with_extension("stop")
    }

    /// Whether it stands still, by a signal or at its point.
    pub fn stopped(&self) -> Result<bool> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.name))?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name in parentheses may hold spaces; the state follows it.
        Ok(stat.rsplit_once(')').is_some_and(|(_, fields)| fields.trim_start().starts_with('T')))
    }

    fn start_with(&mut self, variables: &[(&str, &str)]) -> Result<()> {
        ensure!(!self.running()?, "{} runs already", self.name);
        let log = self.open_log()?;
        let mut program = Program::new(&self.path).arguments(self.arguments.iter().cloned());
        program.namespace.clone_from(&self.namespace);
        program.may_haste = self.may_haste;
        for (name, value) in &self.environment {
            program = program.variable(name, value);
        }
        for (name, value) in variables {
            program = program.variable(name, value);
        }
        program = program.variable("PGPORTAGE_STOP_FILE", self.stop_file());
        program.stdout = Output::File(log.try_clone()?);
        program.stderr = Output::File(log);
        self.child = Some(program.spawn()?);
        Ok(())
    }

    fn open_log(&self) -> Result<File> {
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        options.open(&self.log_path).with_context(|| format!("the log of {}", self.name))
    }

    /// Whether it runs. A frozen one does.
    pub fn running(&mut self) -> Result<bool> {
        match &mut self.child {
            Some(child) => Ok(child.ended()?.is_none()),
            None => Ok(false),
        }
    }

    /// Asks it to end (SIGTERM) and waits for that.
    ///
    /// # Errors
    ///
    /// When it takes too long.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.signal(Signal::TERM)?;
            child.wait(PATIENCE).await.with_context(|| format!("{} does not end", self.name))?;
        }
        Ok(())
    }

    /// Ends it with SIGKILL.
    pub fn kill9(&mut self) -> Result<()> {
        self.child.take().map_or(Ok(()), |mut child| child.kill9())
    }

    /// Kills it and starts it again.
    ///
    /// # Errors
    ///
    /// As [`Service::kill9`] and [`Service::start`].
    pub fn kill9_and_start(&mut self) -> Result<()> {
        self.kill9()?;
        self.start()
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    ///
    /// When it still runs after `limit`.
    pub async fn wait_for_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let child = self.child.as_mut().with_context(|| format!("{} was not started", self.name))?;
        let status = child.wait(limit).await?;
        self.child = None;
        Ok(status)
    }

    /// Stops it where it stands (SIGSTOP).
    pub fn freeze(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a frozen one go on.
    pub fn thaw(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::pid)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        self.child.as_mut().with_context(|| format!("{} was not started", self.name))?.signal(signal)
    }

    /// Where it logs.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log_path
    }

    /// Everything it has written.
    pub fn log_text(&self) -> Result<String> {
        match fs::read(&self.log_path) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// The last lines it has written, for a failing test.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = self.log_text().unwrap_or_else(|error| error.to_string());
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}
