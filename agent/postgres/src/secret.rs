//! Passwords, from the file that holds them to the message that sends them.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pgportage_link::{Effect, Failure};
use pgportage_proto::Reason;
use rand::RngCore as _;
use zeroize::Zeroizing;

/// A password. Its `Debug` shows nothing, it has no equality, and it is wiped from memory when dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a password that came from a file or a message.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Makes a password of 256 random bits, in characters that need no quoting
    /// anywhere.
    pub fn generate() -> Self {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        rand::rng().fill_bytes(bytes.as_mut_slice());
        Self::new(URL_SAFE_NO_PAD.encode(bytes.as_slice()))
    }

    /// Reads the first line of a file that only its owner can read.
    ///
    /// # Errors
    ///
    /// [`Reason::ConfigurationInvalid`] when the file cannot be read, is empty,
    /// or is open to group or others.
    pub fn from_file(path: &Path) -> Result<Self, Failure> {
        let text = read_private(path)?;
        let line = text.lines().next().unwrap_or_default();
        if line.is_empty() {
            return Err(Failure::new(
                Reason::ConfigurationInvalid,
                format!("password file {} is empty", path.display()),
            )
            .effect(Effect::None));
        }
        Ok(Self::new(line.to_owned()))
    }

    /// The password itself. Only for the code that sends or writes it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Reads a file that holds a password. Refuses a file that other users can read.
pub(super) fn read_private(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::new(Reason::ConfigurationInvalid, format!("could not read password file {}", path.display()))
            .effect(Effect::None)
            .because(&error)
    };
    let mode = std::fs::metadata(path).map_err(unreadable)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(Failure::new(
            Reason::ConfigurationInvalid,
            format!("password file {} is open to group or others", path.display()),
        )
        .hint(format!("Run: chmod 0600 {}", path.display()))
        .effect(Effect::None));
    }
    std::fs::read_to_string(path).map(Zeroizing::new).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    #[test]
    fn shows_nothing() {
        let secret = Secret::generate();
        assert_eq!(format!("{secret:?}"), "Secret");
        assert_eq!(secret.expose().len(), 43);
        assert_ne!(secret.expose(), Secret::generate().expose());
    }

    #[test]
    fn a_file_open_to_others_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        std::fs::write(&path, "s3cret\nmore\n").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert_eq!(Secret::from_file(&path).unwrap_err().reason, Reason::ConfigurationInvalid);
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(Secret::from_file(&path).unwrap().expose(), "s3cret");
    }
}
