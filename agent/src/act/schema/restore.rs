//! Fetching the archive and giving it to `pg_restore`.

use std::fs::{DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_postgres::programs::{self, Program, Tool};
use pgportage_postgres::{Login, ServerVersion, Session, application_name, read_stderr, sql_failure, stderr_excerpt};
use pgportage_proto::Reason;
use pgportage_report::progress::{Progress, Unit};
use sha2::{Digest, Sha256};

use super::archive::{Archive, ArchiveError, Changes, Rights};
use crate::act::Context;

/// Most bytes of a schema. Ten thousand tables make about 20 MB. The limit keeps a hostile source from
/// filling this machine's disk and memory.
const MAX_ARCHIVE_BYTES: usize = 512 << 20;
/// How long the session of a killed `pg_restore` may take to end.
const LEFTOVER_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the agent looks for it.
const LEFTOVER_PAUSE: Duration = Duration::from_millis(100);
/// Purpose in `application_name`. By this and the role, an attempt finds the session that a killed one has
/// left.
const PURPOSE: &str = "restore";

const TERMINATE_LEFTOVERS: &str = "\
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND usename = session_user AND application_name = $1";

/// The schema as it came over the link.
#[derive(Debug)]
pub(super) struct Fetched {
    /// The file that `pg_restore` reads.
    pub path: PathBuf,
    /// SHA-256 of what the source sent.
    pub digest: [u8; 32],
    /// The number of objects in it. Zero if not known.
    pub entry_count: usize,
}

/// Which part of a schema archive is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sections {
    /// Everything.
    All,
    /// The part that has to be there before the rows.
    PreData,
}

/// The `pg_restore` for this server.
///
/// # Errors
///
/// [`Reason::PgDumpMissing`] or [`Reason::PgDumpTooOld`].
pub(super) async fn choose(cx: &Context, server: ServerVersion) -> Result<Program, Failure> {
    let configured = cx.settings.programs.pg_restore.as_deref();
    let found = programs::find(Tool::Restore, configured, cx.tasks.clock).await?;
    programs::choose_restore(&found, server)
}

/// Fetches the archive into a private file, and removes from it what this server would refuse. An earlier
/// attempt's file is replaced.
///
/// # Errors
///
/// What the source reports; [`Reason::Stalled`] when nothing comes any more.
pub(super) async fn fetch(cx: &Context, program: &Program, rights: &Rights) -> Result<Fetched, Failure> {
    let peer = cx.peers.call(&cx.participation).await?;
    let mut stream = peer.dump_schema(program.version).await?;
    let mut bytes = Vec::new();
    let mut hash = Sha256::new();
    loop {
        let next = tokio::select! {
            biased;
            () = cx.cancel.cancelled() => { cx.safe_point()?; continue }
            next = cx.tasks.clock.timeout(cx.stall_timeout, stream.next()) => next,
        };
        let Some(piece) = next.map_err(|_| stalled(cx, "the source's schema"))?? else { break };
        if bytes.len() + piece.len() > MAX_ARCHIVE_BYTES {
            return Err(Failure::new(Reason::PgDumpFailed, "the source's schema is larger than this agent takes")
                .detail(format!("The limit is {} MiB.", MAX_ARCHIVE_BYTES >> 20))
                .effect(Effect::None));
        }
        hash.update(&piece);
        bytes.extend_from_slice(&piece);
        cx.report(Progress {
            subject: "fetching the schema".to_owned(),
            completed: bytes.len() as i64,
            unit: Unit::Bytes,
            ..Progress::default()
        });
    }
    let path = archive_path(cx);
    let (cleaned, entry_count) = clean(bytes, rights)?;
    write_private(&path, &cleaned).map_err(|error| {
        Failure::new(Reason::StoreUnwritable, "could not keep the schema in the state directory")
            .effect(Effect::None)
            .because(&error)
    })?;
    Ok(Fetched { path, digest: hash.finalize().into(), entry_count })
}

/// Removes the fetched file, if there is one.
pub(super) fn forget(cx: &Context) {
    // If it stays, the next attempt replaces or removes it.
    if let Err(error) = std::fs::remove_file(archive_path(cx))
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "could not remove the fetched schema");
    }
}

pub(super) fn archive_path(cx: &Context) -> PathBuf {
    cx.settings.state_dir.join("schema").join(format!("{}.dump", cx.participation.migration))
}

pub(super) fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(directory) = path.parent()
        && !directory.is_dir()
    {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}

/// Takes the archive apart and puts it together again without what this server would refuse. An archive of
/// an unknown layout stays as it is: `pg_restore` accepts or refuses it.
fn clean(bytes: Vec<u8>, rights: &Rights) -> Result<(Vec<u8>, usize), Failure> {
    match Archive::parse(&bytes) {
        Ok(mut archive) => {
            let changes = archive.clean(rights);
            tracing::info!(
                entries = archive.entry_count(),
                size_bytes = bytes.len(),
                private_options = changes.private_options,
                comments = changes.comments,
                schemas = changes.schemas,
                "read the source's schema"
            );
            let unchanged = changes == Changes::default();
            Ok((if unchanged { bytes } else { archive.to_bytes() }, archive.entry_count()))
        }
        Err(error @ ArchiveError::UnknownVersion(..)) => {
            tracing::warn!(%error, "the archive is restored as it is");
            Ok((bytes, 0))
        }
        Err(error @ (ArchiveError::NotAnArchive | ArchiveError::Broken)) => {
            Err(Failure::new(Reason::PgDumpFailed, "what the source sent is no archive of a schema")
                .detail(format!("{error}."))
                .effect(Effect::None))
        }
    }
}

/// Ends the session of a `pg_restore` that an attempt of a killed agent has left, and waits until it is
/// gone. Its transaction is then either committed or not.
///
/// # Errors
///
/// What the server reports, or [`Reason::Stalled`].
pub(super) async fn end_leftovers(cx: &Context, session: &Session) -> Result<(), Failure> {
    let deadline = cx.tasks.clock.now() + LEFTOVER_TIMEOUT;
    let name = application_name(PURPOSE);
    loop {
        let left = session
            .query(TERMINATE_LEFTOVERS, &[&name])
            .await
            .map_err(|error| sql_failure(error, "end the session of an earlier pg_restore"))?;
        if left.is_empty() {
            return Ok(());
        }
        if cx.tasks.clock.now() >= deadline {
            return Err(stalled(cx, "the end of an earlier pg_restore"));
        }
        cx.pause(LEFTOVER_PAUSE).await?;
    }
}

/// Restores the archive, all of it or nothing.
///
/// Dropping the future kills the program; the server then rolls its transaction back, soon but not at once
/// ([`end_leftovers`]).
///
/// # Errors
///
/// [`Reason::PgRestoreFailed`]: nothing was restored.
pub(super) async fn run(cx: &Context, program: &Program, fetched: &Fetched, sections: Sections) -> Result<(), Failure> {
    let login = Login::prepare(&cx.door, &cx.settings.state_dir, &cx.participation.database, PURPOSE)?;
    let mut command = login.command(&program.path);
    command
        .args(["--single-transaction", "--exit-on-error", "--no-publications", "--no-subscriptions"])
        .arg(match sections {
            Sections::All => "--schema-only",
            Sections::PreData => "--section=pre-data",
        })
        // The destination's owner decides where files lie.
        .arg("--no-tablespaces")
        // Prints each object before it is made: for the progress, and for the error.
        .arg("--verbose")
        .arg("--")
        .arg(&fetched.path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let broken = |error: std::io::Error| {
        Failure::new(Reason::PgRestoreFailed, "could not run pg_restore").effect(Effect::Unknown).because(&error)
    };
    tracing::info!(program = %program.path.display(), version = %program.version, "restoring the schema");
    let mut child = command.spawn().map_err(broken)?;
    let stderr = child.stderr.take();
    let mut progress = Progress {
        subject: "restoring the schema".to_owned(),
        total: fetched.entry_count as i64,
        ..Progress::default()
    };
    cx.report(progress.clone());
    let moved_at = Mutex::new(cx.tasks.clock.now());
    let on_line = |line: &str| {
        if line.starts_with("pg_restore: creating ") {
            progress.completed += 1;
            cx.report(progress.clone());
            *moved_at.lock().unwrap_or_else(PoisonError::into_inner) = cx.tasks.clock.now();
        }
    };
    let ending = async {
        let stderr = read_stderr(stderr, on_line).await;
        child.wait().await.map(|status| (status, stderr))
    };
    let stall = async {
        loop {
            let deadline = *moved_at.lock().unwrap_or_else(PoisonError::into_inner) + cx.stall_timeout;
            if cx.tasks.clock.now() >= deadline {
                return;
            }
            cx.tasks.clock.sleep_until(deadline).await;
        }
    };
    let (status, stderr) = tokio::select! {
        biased;
        () = cx.cancel.cancelled() => {
            cx.safe_point()?;
            return Err(Failure::new(Reason::Cancelled, "stopped because it was asked to").remedy(Remedy::Wait));
        }
        () = stall => return Err(stalled(cx, "pg_restore")),
        ended = ending => ended.map_err(broken)?,
    };
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(Reason::PgRestoreFailed, "pg_restore failed; nothing was restored")
        .detail(format!(
            "{} {} said: {}",
            program.path.display(),
            program.version,
            stderr_excerpt(Tool::Restore.as_str(), &stderr)
        ))
        .hint(
            "Mend on the destination what it names (a missing role, extension or privilege), then retry. \
             Without superuser, the agent's role must be a member of every owner, and every owner needs CREATE on its schemas.",
        )
        .effect(Effect::None))
}

fn stalled(cx: &Context, what: &str) -> Failure {
    let limit = humantime::format_duration(Duration::from_secs(cx.stall_timeout.as_secs()));
    Failure::new(Reason::Stalled, format!("nothing moved for {limit}"))
        .detail(format!("Waited for {what}."))
        .remedy(Remedy::Operator)
}
