//! Who may call what: one table.
//!
//! A method that is not in the table is refused to every caller, and a test
//! fails as long as it is missing. Where a name matters as well (an agent speaks
//! only for itself, a peer only for its own migrations), the service compares it
//! with the [`PeerIdentity`] of the request.

use pgportage_proto::Reason;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::BoxError;
use tower::filter::FilterLayer;

use crate::identity::{PeerIdentity, Role};
use crate::status::{to_status, with_code};
use crate::{Clock, Effect, Failure};

/// Which role may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The path of its requests: `/<package>.<Service>/<Method>`.
    pub method: &'static str,
    /// Who may call it.
    pub allowed: Allowed,
}

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Holders of this role.
    Only(Role),
    /// Every caller that has an identity of the fleet.
    Anybody,
}

const fn only(role: Role, method: &'static str) -> Rule {
    Rule { method, allowed: Allowed::Only(role) }
}

/// Every method that can be called.
pub(crate) const RULES: &[Rule] = &[
    only(Role::Agent, "/pgportage.v1.SessionService/AttachAgent"),
    only(Role::Agent, "/pgportage.v1.RelayService/OpenRelay"),
    only(Role::Agent, "/pgportage.v1.RelayService/AcceptRelay"),
    only(Role::Agent, "/pgportage.v1.PeerService/GreetPeer"),
    only(Role::Agent, "/pgportage.v1.PeerService/GetReplicationAccess"),
    only(Role::Agent, "/pgportage.v1.PeerService/DumpSchema"),
    only(Role::Agent, "/pgportage.v1.PeerService/MeasureLink"),
    only(Role::Agent, "/pgportage.v1.PeerService/OpenSnapshot"),
    only(Role::Agent, "/pgportage.v1.PeerService/CopyRange"),
    only(Role::Agent, "/pgportage.v1.PeerService/ReleaseSnapshot"),
    only(Role::Agent, "/pgportage.v1.PeerService/ReadStatistics"),
    only(Role::Agent, "/pgportage.v1.PeerService/CompareRows"),
    only(Role::Agent, "/pgportage.v1.PeerService/OpenTunnel"),
    only(Role::Agent, "/pgportage.v1.PeerService/WatchHeartbeat"),
    only(Role::Agent, "/pgportage.v1.PeerService/WatchSchema"),
    only(Role::Agent, "/pgportage.v1.PeerService/DefineObjects"),
    only(Role::Agent, "/pgportage.v1.PeerService/ResolveCutover"),
    only(Role::Agent, "/pgportage.v1.PeerService/AnnounceCutover"),
    only(Role::Operator, "/pgportage.v1.AgentService/GetAgent"),
    only(Role::Operator, "/pgportage.v1.AgentService/ListAgents"),
    only(Role::Operator, "/pgportage.v1.MigrationService/CreateMigration"),
    only(Role::Operator, "/pgportage.v1.MigrationService/GetMigration"),
    only(Role::Operator, "/pgportage.v1.MigrationService/ListMigrations"),
    only(Role::Operator, "/pgportage.v1.MigrationService/WatchMigration"),
    only(Role::Operator, "/pgportage.v1.MigrationService/ExplainMigration"),
    only(Role::Operator, "/pgportage.v1.MigrationService/StartMigration"),
    only(Role::Operator, "/pgportage.v1.MigrationService/ReleaseStep"),
    only(Role::Operator, "/pgportage.v1.MigrationService/TuneMigration"),
    only(Role::Operator, "/pgportage.v1.MigrationService/GiveConsent"),
    only(Role::Operator, "/pgportage.v1.MigrationService/RunPreflight"),
    only(Role::Operator, "/pgportage.v1.MigrationService/GetPlan"),
    only(Role::Operator, "/pgportage.v1.MigrationService/CutOver"),
    only(Role::Operator, "/pgportage.v1.MigrationService/RollBackMigration"),
    only(Role::Operator, "/pgportage.v1.MigrationService/RehearseCutover"),
    only(Role::Operator, "/pgportage.v1.MigrationService/VerifyMigration"),
    only(Role::Operator, "/pgportage.v1.MigrationService/GetSwitchCertificate"),
    only(Role::Operator, "/pgportage.v1.MigrationService/FinishMigration"),
    only(Role::Operator, "/pgportage.v1.MigrationService/AbortMigration"),
    Rule { method: "/grpc.health.v1.Health/Check", allowed: Allowed::Anybody },
    Rule { method: "/grpc.health.v1.Health/Watch", allowed: Allowed::Anybody },
];

/// Decides about one call.
///
/// # Errors
///
/// UNAUTHENTICATED without an identity in force, PERMISSION_DENIED for the wrong
/// role, UNIMPLEMENTED for a method outside the table.
pub fn decide(method: &str, peer: Option<&PeerIdentity>, clock: Clock) -> Result<(), Status> {
    let Some(peer) = peer else {
        let failure = refusal(Reason::WrongRole, "the caller has no identity", method);
        return Err(with_code(failure, Code::Unauthenticated));
    };
    // The handshake looked at the dates once. The connection ends with the
    // certificate, but perhaps a moment later.
    if peer.not_after < clock.wall() {
        let failure = refusal(Reason::WrongRole, "the caller's certificate has expired", method)
            .hint("Issue a new certificate with \"pgportage certs issue\", then connect again.");
        return Err(with_code(failure, Code::Unauthenticated));
    }
    let Some(rule) = RULES.iter().find(|rule| rule.method == method) else {
        let failure = refusal(Reason::RequestInvalid, "there is no such method", method);
        return Err(with_code(failure, Code::Unimplemented));
    };
    match rule.allowed {
        Allowed::Anybody => Ok(()),
        Allowed::Only(role) if role == peer.role => Ok(()),
        Allowed::Only(role) => {
            let (found, name) = (peer.role, &peer.name);
            let failure = refusal(Reason::WrongRole, &format!("{found} \"{name}\" may not call this method"), method)
                .detail(format!("The method needs the role {role}."))
                .hint(format!("Use a certificate made with \"pgportage certs issue {role} NAME\"."))
                .with("required", role)
                .with("found", found);
            Err(to_status(failure))
        }
    }
}

fn refusal(reason: Reason, message: &str, method: &str) -> Failure {
    Failure::new(reason, message).effect(Effect::None).with("method", method)
}

/// The table as a layer of a tonic server. Refusals are logged.
pub fn layer(
    clock: Clock,
) -> FilterLayer<impl Fn(http::Request<Body>) -> Result<http::Request<Body>, BoxError> + Clone + Send + Sync + 'static>
{
    FilterLayer::new(move |request: http::Request<Body>| {
        let peer = request.extensions().get::<PeerIdentity>();
        match decide(request.uri().path(), peer, clock) {
            Ok(()) => Ok(request),
            Err(status) => {
                let caller = peer.map_or("unidentified", |peer| &peer.uri);
                tracing::warn!(method = request.uri().path(), caller, reason = status.message(), "refused a call");
                Err(BoxError::from(status))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    fn peer(role: Role) -> PeerIdentity {
        PeerIdentity {
            trust_domain: "fleet".to_owned(),
            role,
            name: "a".to_owned(),
            uri: format!("spiffe://fleet/pgportage/{role}/a"),
            serial: "1".to_owned(),
            not_after: Clock.wall() + Duration::from_secs(60),
        }
    }

    #[test]
    fn the_table_and_the_contract_name_the_same_methods() {
        let contract = FileDescriptorSet::decode(pgportage_proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut methods = BTreeSet::new();
        for file in &contract.file {
            for service in &file.service {
                for method in &service.method {
                    methods.insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
                }
            }
        }
        assert!(methods.len() > 20, "the contract was not read: {methods:?}");
        let table: BTreeSet<String> = RULES.iter().map(|rule| rule.method.to_owned()).collect();
        assert_eq!(table.len(), RULES.len(), "a method is in the table twice");
        let health = ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"].map(str::to_owned);
        methods.extend(health);
        let missing: Vec<_> = methods.difference(&table).collect();
        let left_over: Vec<_> = table.difference(&methods).collect();
        assert!(missing.is_empty() && left_over.is_empty(), "missing: {missing:?}, left over: {left_over:?}");
    }

    #[test]
    fn each_rule_lets_in_its_role_and_no_other() {
        for rule in RULES {
            for &role in Role::ALL {
                let allowed = match rule.allowed {
                    Allowed::Only(only) => only == role,
                    Allowed::Anybody => true,
                };
                let decision = decide(rule.method, Some(&peer(role)), Clock);
                assert_eq!(decision.is_ok(), allowed, "{role} {}", rule.method);
                if let Err(status) = decision {
                    assert_eq!(status.code(), Code::PermissionDenied);
                }
            }
            assert_eq!(decide(rule.method, None, Clock).unwrap_err().code(), Code::Unauthenticated);
        }
    }

    #[test]
    fn an_expired_certificate_ends_an_open_connection() {
        let peer = PeerIdentity { not_after: Clock.wall() - Duration::from_secs(1), ..peer(Role::Operator) };
        let status = decide("/pgportage.v1.AgentService/ListAgents", Some(&peer), Clock).unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
    }

    #[test]
    fn an_unknown_method_is_nobodys() {
        for &role in Role::ALL {
            for method in ["", "/", "/pgportage.v1.AgentService/", "/pgportage.v2.AgentService/ListAgents"] {
                assert_eq!(decide(method, Some(&peer(role)), Clock).unwrap_err().code(), Code::Unimplemented);
            }
        }
    }
}
