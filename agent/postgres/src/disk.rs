//! Free bytes on the server's disk, where they can be known.

use std::path::PathBuf;

use super::Session;

/// Free bytes where the server keeps its WAL. None when the agent is on another
/// machine, cannot see the directory, or may not ask for it.
pub async fn free_disk_bytes(session: &Session) -> Option<u64> {
    // The address is NULL on a Unix socket; on loopback both ends are the same.
    const DIRECTORY: &str = "
        SELECT current_setting('data_directory')
         WHERE inet_server_addr() IS NULL OR inet_server_addr() = inet_client_addr()";
    let row = session.query_opt(DIRECTORY, &[]).await.ok()??;
    let directory = PathBuf::from(row.get::<_, String>(0));
    // On a thread of its own: a file system that hangs must not block the agent's other tasks.
    tokio::task::spawn_blocking(move || {
        let wal = directory.join("pg_wal");
        // Other users may not enter the directory, and pg_wal may be on another disk: the parent's disk is
        // then the best guess.
        let numbers = rustix::fs::statvfs(&wal).or_else(|_| rustix::fs::statvfs(&directory)).ok()?;
        Some(numbers.f_bavail.saturating_mul(numbers.f_frsize))
    })
    .await
    .ok()?
}
