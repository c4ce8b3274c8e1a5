//! The gRPC front. Each service turns requests into questions to the engine and
//! answers into messages; nothing is decided here.

mod agent;
mod migration;
mod relay;
mod session;

use pgportage_link::Failure;
use pgportage_link::identity::PeerIdentity;
use pgportage_link::status::to_status;
use pgportage_proto::Reason;
use tonic::{Request, Status};
use uuid::Uuid;

use crate::message::{invalid, refusal};
use crate::workflow::fact::Origin;

pub(crate) use agent::AgentFront;
pub(crate) use migration::MigrationFront;
pub(crate) use relay::RelayFront;
pub(crate) use session::SessionFront;

/// Who calls. Every request that got past authorisation has an identity.
fn caller<T>(request: &Request<T>) -> Result<PeerIdentity, Status> {
    request
        .extensions()
        .get::<PeerIdentity>()
        .cloned()
        .ok_or_else(|| to_status(refusal(Reason::WrongRole, "the caller has no identity")))
}

/// The caller as the cause of a fact.
fn origin(caller: &PeerIdentity, request_id: Option<String>) -> Origin {
    Origin {
        actor: caller.uri.clone(),
        certificate_serial: caller.serial.clone(),
        request_id: request_id.unwrap_or_else(|| Uuid::now_v7().to_string()),
    }
}

/// Entries on one page when the caller names no number, and the most there are.
const PAGE: (usize, usize) = (100, 500);

/// One page of a list that is sorted by a key, and the token of the next one.
/// The token is the key of the last entry shown, so that entries which come and
/// go in between neither hide others nor show them twice.
fn page<T>(all: Vec<T>, size: i32, token: &str, key: impl Fn(&T) -> String) -> Result<(Vec<T>, String), Failure> {
    let size = match usize::try_from(size) {
        Ok(0) => PAGE.0,
        Ok(size) => size.min(PAGE.1),
        Err(_) => return Err(invalid("page_size", "page_size must not be negative")),
    };
    let first = if token.is_empty() {
        0
    } else {
        let last = all.iter().position(|entry| key(entry) == token);
        1 + last.ok_or_else(|| {
            invalid("page_token", "page_token names no entry of the list").hint("Begin with the first page again.")
        })?
    };
    let rest = all.len() - first;
    let shown: Vec<T> = all.into_iter().skip(first).take(size).collect();
    let next = if rest > size { shown.last().map(&key).unwrap_or_default() } else { String::new() };
    Ok((shown, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other() {
        let all = || (0..5).collect::<Vec<i32>>();
        let key = |entry: &i32| entry.to_string();
        assert_eq!(page(all(), 2, "", key).unwrap(), (vec![0, 1], "1".to_owned()));
        assert_eq!(page(all(), 2, "1", key).unwrap(), (vec![2, 3], "3".to_owned()));
        assert_eq!(page(all(), 2, "3", key).unwrap(), (vec![4], String::new()));
        assert_eq!(page(all(), 0, "", key).unwrap().0.len(), 5);
        assert!(page(all(), -1, "", key).is_err());
        assert!(page(all(), 1, "9", key).is_err());
    }
}
