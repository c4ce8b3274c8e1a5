//! The connection string of a subscription.

use pgportage_postgres::Secret;
use zeroize::Zeroizing;

/// Where a subscription connects to, and as which role.
pub(super) struct Target<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) user: &'a str,
    pub(super) database: &'a str,
    pub(super) sslmode: &'static str,
}

impl Target<'_> {
    /// The string for libpq, password included. It is wiped when dropped.
    pub(super) fn conninfo(&self, password: &Secret) -> Zeroizing<String> {
        let port = self.port.to_string();
        let pairs = [
            ("host", self.host),
            ("port", &port),
            ("user", self.user),
            ("password", password.expose()),
            ("dbname", self.database),
            ("sslmode", self.sslmode),
            ("gssencmode", "disable"),
            ("connect_timeout", "15"),
            ("keepalives_idle", "10"),
            ("keepalives_interval", "5"),
            ("keepalives_count", "3"),
        ];
        let mut text = Zeroizing::new(String::with_capacity(512));
        for (key, value) in pairs {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(key);
            text.push_str("='");
            for letter in value.chars() {
                if matches!(letter, '\'' | '\\') {
                    text.push('\\');
                }
                text.push(letter);
            }
            text.push('\'');
        }
        text
    }
}

/// One CSV field: the form in which the string travels to the server by COPY.
pub(super) fn csv_line(text: &str) -> Zeroizing<String> {
    let mut line = Zeroizing::new(String::with_capacity(text.len() + 16));
    line.push('"');
    for letter in text.chars() {
        if letter == '"' {
            line.push('"');
        }
        line.push(letter);
    }
    line.push_str("\"\n");
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_every_value() {
        let target = Target {
            host: "127.0.0.1",
            port: 7440,
            user: "o'brien",
            database: "back\\slash \"x\"\n",
            sslmode: "disable",
        };
        let text = target.conninfo(&Secret::new("it's".to_owned()));
        assert!(text.starts_with(r"host='127.0.0.1' port='7440' user='o\'brien' password='it\'s' dbname='back\\slash"));
        assert_eq!(csv_line("a\"b\n").as_str(), "\"a\"\"b\n\"\n");
    }
}
