//! A standby of a throwaway cluster.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};

use anyhow::{Context, Result, ensure};

use super::{Cluster, Home, PATIENCE, SUPERUSER, free_port};
use crate::child::{NOBODY, Output, Program, RunAs, running_as_root};
use crate::place::Place;
use crate::postgres_versions::{PostgresVersion, tools_for};

impl Cluster {
    /// Makes a physical standby that streams from this cluster as `name`, and
    /// starts it. It takes queries, and follows.
    ///
    /// # Errors
    ///
    /// When a program fails; the error carries its own words.
    pub async fn start_standby(&self, name: &str) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("pgportage-pg-").tempdir()?;
        let mut standby = Self {
            installation: self.installation.clone(),
            port: free_port()?,
            superuser_password: self.superuser_password.clone(),
            place: Place::default(),
            home: Home::Removed(home),
            server: None,
        };
        fs::set_permissions(standby.home.path(), fs::Permissions::from_mode(0o755))?;
        for (directory, mode) in [(standby.data_directory(), 0o700), (standby.socket_directory(), 0o755)] {
            fs::create_dir_all(&directory)?;
            if running_as_root() {
                chown(&directory, Some(NOBODY), Some(NOBODY))?;
            }
            fs::set_permissions(&directory, fs::Permissions::from_mode(mode))?;
        }
        let log = File::create(standby.log_path())?;
        let primary = format!(
            "host=127.0.0.1 port={} user={SUPERUSER} password={} application_name={name}",
            self.port, self.superuser_password
        );
        // Not every installation has it, and a newer one serves all.
        let mut backup = Program::new(tools_for(PostgresVersion::V18)?.program("pg_basebackup"))
            .arguments(["--checkpoint=fast", "--wal-method=stream", "--no-sync", "--pgdata"])
            .argument(standby.data_directory())
            .argument("--dbname")
            .argument(&primary);
        backup.run_as = RunAs::Unprivileged;
        backup.stdout = Output::File(log.try_clone()?);
        backup.stderr = Output::File(log);
        let status = backup.spawn()?.wait(PATIENCE).await?;
        ensure!(status.success(), "pg_basebackup failed ({status}):\n{}", standby.log_text()?);
        // Not by pg_basebackup, which writes options that an older server does not
        // know.
        let data = standby.data_directory();
        let mut settings = OpenOptions::new().append(true).open(data.join("postgresql.auto.conf"))?;
        writeln!(settings, "primary_conninfo = '{primary}'")?;
        fs::write(data.join("standby.signal"), "")?;
        standby.start_server().await?;
        let streams = format!(
            "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE application_name = '{name}' AND state = 'streaming')"
        );
        self.wait_until("postgres", &streams, PATIENCE)
            .await
            .with_context(|| format!("the standby said:\n{}", standby.log_text().unwrap_or_default()))?;
        Ok(standby)
    }
}
