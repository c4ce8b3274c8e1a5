//! The source's schema as an archive of `pg_dump`, in pieces for the link.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pgportage_data_plane::peer::{CHUNK_BYTES, CHUNKS_WAITING};
use pgportage_link::{Effect, Failure};
use pgportage_migration::names;
use pgportage_postgres::programs::{self, Program, Tool};
use pgportage_postgres::{Login, Purpose, ServerVersion, read_stderr, stderr_excerpt};
use pgportage_proto::Reason;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStdout};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::act::Handles;

/// Pieces of an archive. The last item is none, or an error; a stream that ends with neither was given up.
pub(crate) type DumpStream = mpsc::Receiver<Result<Option<Bytes>, Failure>>;

/// Starts `pg_dump` for the schema of a database, without publications, subscriptions and our own schema.
/// `restore_major` is the branch of the `pg_restore` that will read the archive, zero if not known.
///
/// `permit` is released when the program has ended. Dropping the stream kills the program. The closing item
/// comes only when the program has ended in order.
pub(crate) async fn start(
    handles: &Handles,
    permit: OwnedSemaphorePermit,
    database: &str,
    restore_major: i32,
) -> Result<DumpStream, Failure> {
    let program = choose(handles, database, restore_major).await?;
    let login = Login::prepare(&handles.door, &handles.settings.state_dir, database, "dump")?;
    let mut command = login.command(&program.path);
    command
        .args(["--format=custom", "--schema-only", "--no-publications", "--no-subscriptions"])
        .arg(format!("--exclude-schema={}", names::SCHEMA))
        .arg(format!("--lock-wait-timeout={}", lock_wait(handles.policy.limits().lock_timeout).as_millis()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| {
        Failure::new(Reason::PgDumpMissing, "could not start pg_dump").effect(Effect::None).because(&error)
    })?;
    let stdout = child.stdout.take();
    tracing::info!(program = %program.path.display(), version = %program.version, database, "dumping the schema");
    let (pieces, stream) = mpsc::channel(CHUNKS_WAITING);
    let stop = handles.tasks.stop.clone();
    handles.tasks.spawn(async move {
        // The passfile has to exist for as long as the program runs.
        let (_login, _permit) = (login, permit);
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = pieces.closed() => {}
            outcome = carry(child, stdout, &program, &pieces) => {
                // If the destination agent has stopped listening, it does not need the closing item either.
                let _unheard = pieces.send(outcome.map(|()| None)).await;
            }
        }
    });
    Ok(stream)
}

/// The `pg_dump` for a database of the agent's server.
async fn choose(handles: &Handles, database: &str, restore_major: i32) -> Result<Program, Failure> {
    let server = handles.door.open(database, Purpose::Control).await?.version;
    let configured: Option<PathBuf> = handles.settings.programs.pg_dump.clone();
    let found = programs::find(Tool::Dump, configured.as_deref(), handles.tasks.clock).await?;
    let program = programs::choose_dump(&found, server, restore_major)?;
    note_age(&program, server);
    Ok(program)
}

fn note_age(program: &Program, server: ServerVersion) {
    if !programs::at_least_as_recent(program.version, server) {
        tracing::warn!(
            program = %program.path.display(),
            version = %program.version,
            %server,
            "pg_dump may have been released before this server; options that it does not know are left out"
        );
    }
}

/// How long `pg_dump` waits for its ACCESS SHARE locks. Longer than for other locks of ours: a session that
/// waits behind this lock waits for the one in front of it anyway.
fn lock_wait(lock_timeout: Duration) -> Duration {
    (lock_timeout * 10).clamp(Duration::from_secs(5), Duration::from_secs(60))
}

async fn carry(
    mut child: Child,
    stdout: Option<ChildStdout>,
    program: &Program,
    pieces: &mpsc::Sender<Result<Option<Bytes>, Failure>>,
) -> Result<(), Failure> {
    let broken = |error: std::io::Error| failed(program, "").because(&error);
    let stderr = read_stderr(child.stderr.take(), |_| ());
    let archive = async move {
        let Some(mut stdout) = stdout else { return Ok(()) };
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(CHUNK_BYTES);
            let count = (&mut stdout).take((CHUNK_BYTES - buffer.len()) as u64).read_buf(&mut buffer).await?;
            // A pipe gives a few kilobytes at a time, so gather them.
            if (count == 0 || buffer.len() == CHUNK_BYTES)
                && !buffer.is_empty()
                && pieces.send(Ok(Some(buffer.split().freeze()))).await.is_err()
            {
                return Ok(());
            }
            if count == 0 {
                return Ok::<(), std::io::Error>(());
            }
        }
    };
    let (stderr, archive) = tokio::join!(stderr, archive);
    archive.map_err(broken)?;
    let status = child.wait().await.map_err(broken)?;
    if status.success() { Ok(()) } else { Err(failed(program, &stderr)) }
}

fn failed(program: &Program, stderr: &str) -> Failure {
    let told = stderr_excerpt(Tool::Dump.as_str(), stderr);
    Failure::new(Reason::PgDumpFailed, "pg_dump failed on the source")
        .detail(format!("{} {} said: {told}", program.path.display(), program.version))
        .hint("The agent's role needs SELECT on every table and USAGE on every schema of the database.")
        .effect(Effect::None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_for_locks_is_bounded() {
        assert_eq!(lock_wait(Duration::from_secs(1)), Duration::from_secs(10));
        assert_eq!(lock_wait(Duration::from_millis(1)), Duration::from_secs(5));
        assert_eq!(lock_wait(Duration::from_secs(600)), Duration::from_secs(60));
    }
}
