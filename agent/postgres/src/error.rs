//! The meaning of PostgreSQL's errors for a migration, by SQLSTATE.

use std::error::Error as _;

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::Reason;
use tokio_postgres::Error;

/// Turns an error of a statement into a failure. `doing` completes the clause
/// "could not …", for example `create the publication`.
///
/// The server's message goes into the detail, except for data exceptions
/// (class 22), whose messages quote the data. The effect stays unknown: the
/// statement had none, but the act may have run others before it.
pub fn sql_failure(error: Error, doing: &str) -> Failure {
    let message = format!("could not {doing}");
    let Some(database_error) = error.as_db_error() else {
        return lost(&error, message);
    };
    let state = database_error.code().code().to_owned();
    let (reason, remedy, hint) = verdict(&state);
    let mut failure = Failure::new(reason, message).remedy(remedy);
    failure.detail = if state.starts_with("22") {
        format!("The server reported SQLSTATE {state}.")
    } else {
        format!("The server reported: {}.", database_error.message().trim_end_matches('.'))
    };
    failure.hint = match (hint, database_error.hint()) {
        ("", Some(hint)) => hint.to_owned(),
        (hint, _) => hint.to_owned(),
    };
    failure.sqlstate = Some(state);
    failure
}

/// Whether the same try may succeed later without an operator's help.
pub fn is_passing(failure: &Failure) -> bool {
    // lock_not_available, deadlock_detected, serialization_failure,
    // object_in_use, tuple concurrently updated (internal_error) excluded.
    matches!(failure.sqlstate.as_deref(), Some("55P03" | "40P01" | "40001" | "55006"))
        || failure.reason == Reason::ServerUnreachable
}

pub(super) fn login_failure(error: &Error, who: &str, database: &str, address: &str) -> Failure {
    let Some(database_error) = error.as_db_error() else {
        let text = error.to_string();
        // tokio-postgres gives these no code: the server asked for a password and the agent has none, or
        // the exchange failed on the agent's side.
        let ours = text.contains("invalid configuration") || text.contains("authentication error");
        let reason = if ours { Reason::LoginRefused } else { Reason::ServerUnreachable };
        let mut failure = Failure::new(reason, format!("could not log in to the server at {address}"))
            .remedy(if ours { Remedy::Operator } else { Remedy::Wait })
            .effect(Effect::None)
            .because(error);
        if ours {
            failure.hint = format!("Check the password of role {who} on this agent's machine.");
        }
        return failure;
    };
    let state = database_error.code().code().to_owned();
    let (reason, remedy) = match state.as_str() {
        "3D000" => (Reason::DatabaseMissing, Remedy::Operator),
        state if state.starts_with("28") || state == "42501" => (Reason::LoginRefused, Remedy::Operator),
        state if state.starts_with("53") || state.starts_with("57") || state.starts_with("08") => {
            (Reason::ServerUnreachable, Remedy::Wait)
        }
        // 55000 is also `database … is not currently accepting connections`.
        "55000" => (Reason::LoginRefused, Remedy::Operator),
        _ => (Reason::LoginRefused, Remedy::Operator),
    };
    let message = match reason {
        Reason::DatabaseMissing => format!("database {database} does not exist"),
        Reason::LoginRefused => format!("the server at {address} refuses the login of role {who}"),
        _ => format!("the server at {address} takes no logins at the moment"),
    };
    let mut failure = Failure::new(reason, message)
        .detail(format!("The server reported: {}.", database_error.message().trim_end_matches('.')))
        .remedy(remedy)
        .effect(Effect::None)
        .with("database", database);
    failure.sqlstate = Some(state);
    failure
}

fn lost(error: &Error, message: String) -> Failure {
    // An error on the agent's side of the protocol (a value that does not convert) is a defect; everything
    // else without a SQLSTATE is the connection.
    let ours = !error.is_closed() && error.source().is_none_or(|source| !source.is::<std::io::Error>());
    if ours {
        return Failure::new(Reason::Internal, message).because(error);
    }
    Failure::new(Reason::ServerUnreachable, message)
        .detail("The connection to the server was lost.")
        .remedy(Remedy::Wait)
        .because(error)
}

fn verdict(state: &str) -> (Reason, Remedy, &'static str) {
    let class = state.get(..2).unwrap_or_default();
    match (class, state) {
        ("08", _) | (_, "57P01" | "57P02" | "57P03" | "57P05") => (Reason::ServerUnreachable, Remedy::Wait, ""),
        (_, "42501") => (
            Reason::PrivilegeMissing,
            Remedy::Operator,
            "Grant the agent's role what docs/permissions.md lists for this side.",
        ),
        ("28", _) => (Reason::LoginRefused, Remedy::Operator, ""),
        (_, "3D000") => (Reason::DatabaseMissing, Remedy::Operator, ""),
        (_, "55P03") => (
            Reason::ServerError,
            Remedy::Wait,
            "A lock was not granted within lock_timeout. Another session holds it; look at pg_locks.",
        ),
        (_, "57014") => {
            (Reason::ServerError, Remedy::Wait, "The statement was cancelled or ran into statement_timeout.")
        }
        (_, "25P03" | "25P04") => {
            (Reason::ServerError, Remedy::Wait, "A time limit of the server ended the session's transaction.")
        }
        ("40", _) => (Reason::ServerError, Remedy::Wait, ""),
        (_, "53200" | "53300") => (Reason::ServerError, Remedy::Wait, "The server is short of memory or connections."),
        (_, "53100") => (Reason::ServerError, Remedy::Operator, "The server's disk is full. Make room, then retry."),
        (_, "53400") => {
            (Reason::ServerError, Remedy::Operator, "A limit set in the server's configuration is reached.")
        }
        (_, "25006") => (Reason::ServerError, Remedy::Operator, "The server takes no writes. Is it a standby?"),
        _ => (Reason::ServerError, Remedy::Operator, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        for (state, reason, remedy) in [
            ("08006", Reason::ServerUnreachable, Remedy::Wait),
            ("57P01", Reason::ServerUnreachable, Remedy::Wait),
            ("42501", Reason::PrivilegeMissing, Remedy::Operator),
            ("55P03", Reason::ServerError, Remedy::Wait),
            ("40P01", Reason::ServerError, Remedy::Wait),
            ("53100", Reason::ServerError, Remedy::Operator),
            ("42P01", Reason::ServerError, Remedy::Operator),
        ] {
            let found = verdict(state);
            assert_eq!((found.0, found.1), (reason, remedy), "{state}");
        }
    }
}
