//! How facts are said.

use std::time::Duration;

use pgportage_report::situation::ServerSession;

/// A span in one unit and a smaller one, as people say it.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// `process 123 (role app, application psql, idle in transaction, open for
/// 12 min)`, without what is not known.
pub(super) fn session(session: &ServerSession) -> String {
    let mut facts = Vec::new();
    let worker = !matches!(session.backend_type.as_str(), "" | "client backend");
    for (word, value, said) in [
        ("", &session.backend_type, worker),
        ("role ", &session.role, true),
        ("application ", &session.application, true),
        ("", &session.state, true),
    ] {
        if said && !value.is_empty() {
            facts.push(format!("{word}{value}"));
        }
    }
    facts.extend(session.transaction_age.map(|age| format!("transaction open for {}", span(age))));
    if facts.is_empty() {
        return format!("process {}", session.pid);
    }
    format!("process {} ({})", session.pid, facts.join(", "))
}

/// A literal for a statement that somebody types.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// `1 table`, `2 tables`.
pub(super) fn count(number: impl Into<i64>, noun: &str) -> String {
    let number = number.into();
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
