//! Server versions.

use std::fmt;

/// A server's release, as the value of its `server_version_num`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerVersion(i32);

impl ServerVersion {
    /// The release with this `server_version_num`; 10 and later.
    pub fn from_num(num: i32) -> Self {
        Self(num)
    }

    /// The number itself, for example `150020`.
    pub fn num(self) -> i32 {
        self.0
    }

    /// The branch, for example `15`.
    pub fn major(self) -> i32 {
        self.0 / 10_000
    }

    /// The release within the branch, for example `20`.
    pub fn minor(self) -> i32 {
        self.0 % 10_000
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.minor())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let version = ServerVersion::from_num(150_020);
        assert_eq!((version.major(), version.minor(), version.to_string().as_str()), (15, 20, "15.20"));
    }
}
