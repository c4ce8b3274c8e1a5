//! Runs a command of the machine's owner.
//!
//! Without a shell, with an environment of a few documented variables, in a process group of its own. The
//! group is killed when its time is over or when its caller stops waiting. The first few kilobytes of its
//! output go into the agent's log, and nowhere else.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use pgportage_link::Clock;
use pgportage_migration::Participation;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use crate::policy::LocalCommand;

/// Bytes of its output that are kept: enough for an error, not enough to fill a log.
const KEPT_BYTES: usize = 4096;
/// Where programs named without a path are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsuccessful {
    /// It could not be started.
    #[error("it could not be started")]
    NotStarted(#[source] std::io::Error),
    /// It exited with a failure, or was killed.
    #[error("it ended with {0}")]
    Ended(ExitStatus),
    /// It was killed when its time was over.
    #[error("it was killed after {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
}

/// The variables about the migration that every command gets, beside `PATH` and `LC_ALL`.
pub(crate) fn variables(participation: &Participation) -> Vec<(&'static str, String)> {
    vec![
        ("PGPORTAGE_MIGRATION", participation.migration.to_string()),
        ("PGPORTAGE_DATABASE", participation.database.clone()),
        ("PGPORTAGE_SIDE", participation.side.to_string()),
    ]
}

/// Runs a command to its end, for at most `limit`. Dropping the future kills it.
///
/// # Errors
///
/// Anything but exit status 0 in time.
pub(crate) async fn run(
    command: &LocalCommand,
    limit: Duration,
    variables: &[(&'static str, String)],
    clock: Clock,
) -> Result<(), Unsuccessful> {
    let mut child = Command::new(&command.program)
        .args(&command.arguments)
        .env_clear()
        .envs([("PATH", PATH), ("LC_ALL", "C")])
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(Unsuccessful::NotStarted)?;
    let group = Group(child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut said = (Vec::new(), Vec::new());
    let (to_stdout, to_stderr) = (&mut said.0, &mut said.1);
    let ended = clock
        .timeout(limit, async move {
            // A process that it left behind may keep the pipes open: the end of the command itself is what
            // counts.
            let listening = async { tokio::join!(listen(stdout, to_stdout), listen(stderr, to_stderr)) };
            let mut listening = std::pin::pin!(listening);
            tokio::select! {
                biased;
                status = child.wait() => {
                    let _drained = clock.timeout(Duration::from_millis(100), listening).await;
                    status
                }
                _ = &mut listening => child.wait().await,
            }
        })
        .await;
    drop(group);
    let outcome = match ended {
        Err(_) => Err(Unsuccessful::TimedOut(limit)),
        Ok(Err(error)) => Err(Unsuccessful::NotStarted(error)),
        Ok(Ok(status)) if !status.success() => Err(Unsuccessful::Ended(status)),
        Ok(Ok(_)) => Ok(()),
    };
    tracing::info!(
        program = %command.program.display(),
        outcome = outcome.as_ref().err().map(ToString::to_string),
        stdout = %String::from_utf8_lossy(&said.0),
        stderr = %String::from_utf8_lossy(&said.1),
        "a command of the policy has run"
    );
    outcome
}

/// Reads to the end of the output and keeps the beginning.
async fn listen(pipe: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = [0_u8; 1024];
    while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
        let room = KEPT_BYTES.saturating_sub(kept.len()).min(length);
        kept.extend_from_slice(&buffer[..room]);
    }
}

/// A process group that ends with this value.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // The group may be gone already, which is as good.
            let _killed = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use pgportage_proto::{MigrationId, Side};

    fn shell(script: &str) -> LocalCommand {
        LocalCommand {
            program: "/bin/sh".into(),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            timeout: Duration::from_secs(60),
        }
    }

    async fn run_script(script: &str, limit: Duration) -> Result<(), Unsuccessful> {
        let participation = Participation {
            migration: MigrationId::new("m1").unwrap(),
            side: Side::Source,
            database: "shop".to_owned(),
            peer: "oslo".to_owned(),
        };
        run(&shell(script), limit, &variables(&participation), Clock).await
    }

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn it_knows_the_migration_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let told = directory.path().join("told");
        run_script(&format!("env > {}", told.display()), LONG).await.unwrap();
        let told = std::fs::read_to_string(told).unwrap();
        let mut names: Vec<&str> = told.lines().filter_map(|line| line.split('=').next()).collect();
        names.sort_unstable();
        // PWD is the shell's own.
        names.retain(|name| !["PWD", "_", "SHLVL", "OLDPWD"].contains(name));
        assert_eq!(names, ["LC_ALL", "PATH", "PGPORTAGE_DATABASE", "PGPORTAGE_MIGRATION", "PGPORTAGE_SIDE"]);
        assert!(told.contains("PGPORTAGE_MIGRATION=m1\n") && told.contains("PGPORTAGE_SIDE=source\n"), "{told}");
    }

    #[tokio::test]
    async fn its_exit_status_counts() {
        let failed = run_script("echo no >&2; exit 3", LONG).await.unwrap_err();
        assert_eq!(failed.to_string(), "it ended with exit status: 3");
        let absent = LocalCommand { program: "/nowhere".into(), arguments: Vec::new(), timeout: LONG };
        let failed = run(&absent, LONG, &[], Clock).await.unwrap_err();
        assert!(matches!(failed, Unsuccessful::NotStarted(_)), "{failed:?}");
    }

    #[tokio::test]
    async fn its_time_is_over_for_its_children_too() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", file.display());
        let failed = run_script(&script, Duration::from_millis(500)).await.unwrap_err();
        assert_eq!(failed.to_string(), "it was killed after 500ms");
        let child = std::fs::read_to_string(file).unwrap();
        assert_dead(child.trim()).await;
    }

    async fn assert_dead(pid: &str) {
        // Killed, it may still wait for its new parent to reap it.
        let stat = Path::new("/proc").join(pid).join("stat");
        for _ in 0..1000 {
            match std::fs::read_to_string(&stat) {
                Ok(text) if !text.contains(") Z ") => Clock.sleep(Duration::from_millis(5)).await,
                Ok(_) | Err(_) => return,
            }
        }
        panic!("process {pid} lives on");
    }

    #[tokio::test]
    async fn much_output_neither_blocks_nor_is_kept() {
        run_script("head -c 300000 /dev/zero | tr '\\0' x", LONG).await.unwrap();
        let mut kept = Vec::new();
        listen(Some(&vec![b'x'; 300_000][..]), &mut kept).await;
        assert_eq!(kept.len(), KEPT_BYTES);
    }
}
