//! The password file of libpq.

use std::path::Path;

use pgportage_link::Failure;

use super::Secret;
use super::secret::read_private;

/// Finds the password of a login in a file of lines `host:port:database:user:password`, as libpq does: the
/// first line that matches counts, `*` matches everything, `\` escapes `:` and `\`.
///
/// # Errors
///
/// [`pgportage_proto::Reason::ConfigurationInvalid`] when the file cannot be read or is open to group or
/// others.
pub(super) fn find(path: &Path, host: &str, port: u16, database: &str, user: &str) -> Result<Option<Secret>, Failure> {
    Ok(find_in(&read_private(path)?, host, port, database, user).map(Secret::new))
}

fn find_in(text: &str, host: &str, port: u16, database: &str, user: &str) -> Option<String> {
    let port = port.to_string();
    // A socket directory matches `localhost` as well, as in libpq.
    let hosts: &[&str] = if host.starts_with('/') { &[host, "localhost"] } else { &[host] };
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let [line_host, line_port, line_database, line_user, password] = <[String; 5]>::try_from(fields(line)).ok()?;
        let fits = |field: &str, value: &str| field == "*" || field == value;
        let found = hosts.iter().any(|host| fits(&line_host, host))
            && fits(&line_port, &port)
            && fits(&line_database, database)
            && fits(&line_user, user);
        found.then_some(password)
    })
}

fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        let literal = match character {
            '\\' => characters.next(),
            ':' if fields.len() < 5 => {
                fields.push(String::new());
                continue;
            }
            other => Some(other),
        };
        if let (Some(field), Some(literal)) = (fields.last_mut(), literal) {
            field.push(literal);
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_line_that_fits() {
        let text = "# comment\nother:5432:*:mover:no\n127.0.0.1:*:*:mover:a\\:b\\\\c:d\n*:*:*:*:last\n";
        assert_eq!(find_in(text, "127.0.0.1", 5432, "shop", "mover").as_deref(), Some("a:b\\c:d"));
        assert_eq!(find_in(text, "127.0.0.1", 5432, "shop", "else").as_deref(), Some("last"));
        assert_eq!(
            find_in("localhost:5432:shop:mover:x", "/run/postgresql", 5432, "shop", "mover").as_deref(),
            Some("x")
        );
        assert_eq!(find_in("a:1:b:c:d", "127.0.0.1", 5432, "shop", "mover"), None);
    }
}
