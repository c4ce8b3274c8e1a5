//! Certificates of cutovers and rollbacks.

use std::path::PathBuf;

use pgportage_certificate::{Report, SwitchCertificate};
use serde::Serialize;

use super::Failure;

/// A certificate as the coordinator hands it out.
#[derive(Clone, Debug)]
pub struct Certified {
    /// The statements that are there.
    pub certificate: SwitchCertificate,
    /// Why statements are missing.
    pub failures: Vec<Failure>,
    /// Numbers of all cutovers and rollbacks that have one.
    pub switches: Vec<i64>,
}

/// What a certificate came to.
#[derive(Clone, Debug, Serialize)]
pub struct Proof<'a> {
    /// Whether everything that was checked is proved.
    pub proved: bool,
    /// What was checked, and what is stated.
    #[serde(flatten)]
    pub report: &'a Report,
}

/// A certificate that was written to a file.
#[derive(Clone, Debug, Serialize)]
pub struct Saved {
    /// The file.
    pub file: PathBuf,
    /// Numbers of all cutovers and rollbacks that have one.
    pub switches: Vec<i64>,
}
