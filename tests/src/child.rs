//! Processes that die with the test.
//!
//! Every child is started through `setpriv --pdeathsig KILL`, so that a killed
//! test leaves nothing running, and by one thread that lives as long as this
//! process: the kernel sends that signal when the *thread* that started the
//! child ends.

use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::{self, Seen};

/// Who a child runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunAs {
    /// The user of the test.
    Myself,
    /// The user [`NOBODY`], if the test runs as root; the user of the test otherwise.
    Unprivileged,
}

/// The user and group `nobody`: PostgreSQL refuses to run as root.
pub const NOBODY: u32 = 65534;

/// Whether this process is root.
#[must_use]
pub fn running_as_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What to start.
#[derive(Debug)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Variables added to the environment of the test.
    pub environment: Vec<(OsString, OsString)>,
    /// Who it runs as.
    pub run_as: RunAs,
    /// The network namespace it runs in; that of the test if none.
    pub namespace: Option<String>,
    /// Whether it may ask the scheduler for more than its share, if the test runs as
    /// root: without, it lacks `CAP_SYS_NICE`.
    pub may_haste: bool,
    /// Where its standard output goes.
    pub stdout: Output,
    /// Where its standard error goes.
    pub stderr: Output,
}

/// Where an output of a child goes.
#[derive(Debug)]
pub enum Output {
    /// Nowhere.
    Discard,
    /// Into a file.
    File(File),
    /// To the same place as the output of the test.
    Inherit,
}

impl From<Output> for Stdio {
    fn from(output: Output) -> Self {
        match output {
            Output::Discard => Self::null(),
            Output::File(file) => file.into(),
            Output::Inherit => Self::inherit(),
        }
    }
}

impl Program {
    /// A program without arguments whose outputs go nowhere.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            run_as: RunAs::Myself,
            namespace: None,
            may_haste: true,
            stdout: Output::Discard,
            stderr: Output::Discard,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn arguments<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Adds a variable.
    #[must_use]
    pub fn variable(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Starts it as a child that dies with this process.
    ///
    /// # Errors
    ///
    /// When `setpriv` cannot be started. That the program itself is missing is
    /// seen as an exit status of 127.
    pub fn spawn(self) -> Result<Child> {
        let name = self.path.display().to_string();
        let mut command = match &self.namespace {
            Some(name) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{name}")).args(["--", "setpriv"]);
                command
            }
            None => Command::new("setpriv"),
        };
        command.args(["--pdeathsig", "KILL"]);
        if self.run_as == RunAs::Unprivileged && running_as_root() {
            command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".to_owned()]);
        }
        if !self.may_haste && running_as_root() {
            command.arg("--bounding-set=-sys_nice");
        }
        command.arg("--").arg(self.path).args(self.arguments).envs(self.environment);
        command.stdin(Stdio::null()).stdout(self.stdout).stderr(self.stderr);
        let process = spawn_for_ever(command).with_context(|| format!("cannot start {name}"))?;
        Ok(Child { name, process })
    }
}

/// A started process. Killed when dropped.
#[derive(Debug)]
pub struct Child {
    name: String,
    process: std::process::Child,
}

impl Child {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends a signal. Does nothing to a process that has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.process.try_wait()?.is_some() {
            return Ok(());
        }
        let pid = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("a process id that is none")?, signal)
            .with_context(|| format!("cannot send {signal:?} to {}", self.name))
    }

    /// How it ended, or nothing while it runs.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.process.try_wait()?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// When it still runs after `limit`.
    pub async fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        let process = &mut self.process;
        wait::until(&what, limit, || {
            let looked = process.try_wait();
            async move {
                Ok(match looked? {
                    Some(status) => Seen::Done(status),
                    None => Seen::NotYet("running".to_owned()),
                })
            }
        })
        .await
    }

    /// Waits for its end without a limit, for destructors.
    pub fn wait_blocking(&mut self) -> Result<()> {
        self.process.wait()?;
        Ok(())
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub fn kill9(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Err(error) = self.kill9() {
            tracing::warn!(process = self.name, %error, "cannot end a child");
        }
    }
}

type Started = std::io::Result<std::process::Child>;

/// The thread that starts every child. It ends with the process.
static SPAWNER: LazyLock<Sender<(Command, Sender<Started>)>> = LazyLock::new(|| {
    let (jobs, waiting) = channel::<(Command, Sender<Started>)>();
    std::thread::spawn(move || {
        for (mut command, answer) in waiting {
            // The asker waits for the answer, so it is there to take it.
            let _gone = answer.send(command.spawn());
        }
    });
    jobs
});

/// Starts a command on the thread that never ends.
fn spawn_for_ever(command: Command) -> Result<std::process::Child> {
    let (answer, started) = channel();
    SPAWNER.send((command, answer)).map_err(|_| anyhow!("the thread that starts processes is gone"))?;
    Ok(started.recv()??)
}
