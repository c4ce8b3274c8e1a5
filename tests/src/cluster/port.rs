//! TCP ports that no two tests get at the same time.

use std::fs::{self, File};
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};
use rand::Rng;

/// As many as a tunnel may need.
const PORTS_TOGETHER: u16 = 4;

/// What holds this process's ports until it ends.
static CLAIMS: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A TCP port that no process listens on, below the range the kernel hands out for
/// outgoing connections, and the next three above it. As long as this process lives no
/// other test gets any of them: what is told a port binds it only later.
///
/// # Errors
///
/// When none of many tries found one, or the directory of the claims cannot be used.
pub fn free_port() -> Result<u16> {
    let user = rustix::process::getuid().as_raw();
    let claims = std::env::temp_dir().join(format!("pgportage-ports-{user}"));
    fs::create_dir_all(&claims)?;
    let mut random = rand::rng();
    for _try in 0..200 {
        let port = random.random_range(15_000 / PORTS_TOGETHER..32_000 / PORTS_TOGETHER) * PORTS_TOGETHER;
        let claim = File::create(claims.join(port.to_string()))?;
        if rustix::fs::flock(&claim, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        if (port..port + PORTS_TOGETHER).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            CLAIMS.lock().unwrap_or_else(PoisonError::into_inner).push(claim);
            return Ok(port);
        }
    }
    bail!("no free port in 200 tries")
}
