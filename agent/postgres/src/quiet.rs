//! Keeping statements of ours out of the server's log.

use pgportage_link::Failure;

use super::{Session, sql_failure};

/// Settings that may put a statement's text into the log or a view, with the value that keeps it out.
const QUIET: &[(&str, &str)] = &[
    ("log_statement", "none"),
    ("log_min_duration_statement", "-1"),
    ("log_min_duration_sample", "-1"),
    ("log_transaction_sample_rate", "0"),
    ("log_min_error_statement", "panic"),
    // Without the context, which shows statements that ran inside another.
    ("log_error_verbosity", "terse"),
    ("pg_stat_statements.track", "none"),
];

const STANDING: &str = "\
SELECT current_setting('is_superuser')::bool, current_setting('server_version_num')::int >= 150000";

/// For a superuser: the settings that exist on this server.
const EXISTING: &str = "SELECT name FROM pg_settings WHERE name = ANY ($1)";

/// For other roles: the settings granted with `GRANT SET ON PARAMETER` (15). Asked first, because a refused
/// SET would itself be logged.
const GRANTED: &str = "\
SELECT name FROM pg_settings WHERE name = ANY ($1) AND has_parameter_privilege(name, 'SET')";

/// Keeps the session's further statements out of the server's log, as far as the agent's role may.
///
/// **Invariant:** secrets stay out of statements and parameters all the same; this is the second line of
/// defence.
pub async fn hush(session: &Session) -> Result<(), Failure> {
    let failure = |error| sql_failure(error, "keep statements out of the server's log");
    let standing = session.query_one(STANDING, &[]).await.map_err(failure)?;
    let question = match (standing.get(0), standing.get(1)) {
        (true, _) => EXISTING,
        (false, true) => GRANTED,
        (false, false) => return Ok(()),
    };
    let names: Vec<&str> = QUIET.iter().map(|(name, _)| *name).collect();
    for row in session.query(question, &[&names]).await.map_err(failure)? {
        let name: String = row.get(0);
        let Some((_, value)) = QUIET.iter().find(|(quiet, _)| *quiet == name) else { continue };
        session.query_one("SELECT set_config($1, $2, false)", &[&name, value]).await.map_err(failure)?;
    }
    Ok(())
}
