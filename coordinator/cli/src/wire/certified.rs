//! Certificates of cutovers and rollbacks, as the contract has them. Put together and not
//! looked into: `pgportage_certificate` checks them.

use pgportage_certificate::{Der, SignedStatement, SwitchCertificate};
use pgportage_proto::v1;

use super::missing;
use crate::view::{Certified, Failure};

/// What the coordinator hands out.
pub fn certified(message: v1::GetSwitchCertificateResponse) -> Result<Certified, pgportage_link::Failure> {
    let certificate = message.certificate.ok_or_else(|| missing("certificate"))?;
    let statements = certificate.left.into_iter().chain(certificate.entered).map(signed).collect();
    Ok(Certified {
        certificate: SwitchCertificate::new(statements),
        failures: certificate.failures.into_iter().map(Failure::from).collect(),
        switches: message.cutover_epochs,
    })
}

/// A scheme that is none stays none, and proves nothing.
fn signed(message: v1::SignedStatement) -> SignedStatement {
    SignedStatement {
        statement: message.statement,
        scheme: u16::try_from(message.scheme).unwrap_or_default(),
        signature: message.signature,
        chain: message.chain.into_iter().map(Der).collect(),
    }
}
