//! Passwords in the form in which the server stores them.

use super::Secret;

/// The SCRAM-SHA-256 verifier of a password, for `CREATE ROLE … PASSWORD`.
///
/// The server stores it unchanged, so that the password itself reaches neither
/// the server nor its log.
pub fn scram_verifier(password: &Secret) -> String {
    postgres_protocol::password::scram_sha_256(password.expose().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_no_password() {
        let password = Secret::generate();
        let verifier = scram_verifier(&password);
        assert!(verifier.starts_with("SCRAM-SHA-256$4096:"), "{verifier}");
        assert!(!verifier.contains(password.expose()));
    }
}
