//! Real handshakes between real ends: who gets in, who does not, and what both
//! hear about it.

mod fleet;
mod relay;

use std::sync::Arc;
use std::time::Duration;

use fleet::{Fleet, Forged, Server, forged_server, health, raw_client};
use pgportage_link::identity::{Role, SpiffeId};
use pgportage_link::tls::Identity;
use pgportage_link::{Clock, Effect, Failure, Remedy};
use pgportage_proto::Reason;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tonic::Code;

/// A minute is plenty for everything here; the limit only ends a hanging test.
const PATIENCE: Duration = Duration::from_secs(60);

fn id(role: Role, name: &str) -> SpiffeId {
    SpiffeId::new("fleet.example", role, name).unwrap()
}

fn assert_refused(failure: &Failure, reason: Reason, detail: &str) {
    assert_eq!((failure.reason, failure.effect), (reason, Effect::None), "{failure:#?}");
    assert!(failure.detail.contains(detail), "{failure:#?}");
}

#[tokio::test]
async fn a_good_pair_is_served() {
    let fleet = Fleet::new();
    let server = Server::start(fleet.identity(Role::Coordinator, "main")).await;
    let channel = server.dial(&id(Role::Coordinator, "main"), &fleet.identity(Role::Agent, "a")).await.unwrap();
    health(channel).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn agents_are_both_ends() {
    let fleet = Fleet::new();
    let server = Server::start(fleet.identity(Role::Agent, "a")).await;
    let channel = server.dial(&id(Role::Agent, "a"), &fleet.identity(Role::Agent, "b")).await.unwrap();
    health(channel).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_method_of_another_role_is_refused() {
    use pgportage_proto::v1::migration_service_client::MigrationServiceClient;
    use pgportage_proto::v1::{AbortMigrationRequest, ListMigrationsRequest};

    let fleet = Fleet::new();
    let server = Server::start(fleet.identity(Role::Coordinator, "main")).await;
    let channel = server.dial(&id(Role::Coordinator, "main"), &fleet.identity(Role::Agent, "a")).await.unwrap();
    let mut client = MigrationServiceClient::new(channel.clone());
    for status in [
        client.list_migrations(ListMigrationsRequest::default()).await.unwrap_err(),
        client.abort_migration(AbortMigrationRequest::default()).await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::PermissionDenied);
        let failure = pgportage_link::status::from_status(status);
        assert_refused(&failure, Reason::WrongRole, "The method needs the role operator.");
    }
    // The connection is none the worse for it.
    health(channel).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn clients_without_a_good_certificate_are_refused_with_an_alert() {
    let fleet = Fleet::new();
    let server = Server::start(fleet.identity(Role::Coordinator, "main")).await;
    let agent = "spiffe://fleet.example/pgportage/agent/a";
    let cases: &[(&str, Option<Forged>, &str)] = &[
        ("no certificate", None, "CertificateRequired"),
        ("another authority", Some(Forged::by_stranger(agent)), "UnknownCA"),
        ("self-signed", Some(Forged::self_signed(agent)), "UnknownCA"),
        ("expired", Some(fleet.forge(&[agent]).expired()), "CertificateExpired"),
        ("not yet valid", Some(fleet.forge(&[agent]).not_yet_valid()), "CertificateExpired"),
        ("server usage only", Some(fleet.forge(&[agent]).for_servers_only()), "UnsupportedCertificate"),
        ("no URI", Some(fleet.forge(&[])), "CertificateUnknown"),
        (
            "two URIs",
            Some(fleet.forge(&[agent, "spiffe://fleet.example/pgportage/operator/root"])),
            "CertificateUnknown",
        ),
        ("an authority's", Some(fleet.forge(&[agent]).with_authority_bit()), "CertificateUnknown"),
        ("a role of its own", Some(fleet.forge(&["spiffe://fleet.example/pgportage/root/a"])), "CertificateUnknown"),
        ("another trust domain", Some(fleet.forge(&["spiffe://other/pgportage/agent/a"])), "CertificateUnknown"),
        ("another program's", Some(fleet.forge(&["spiffe://fleet.example/agent/a"])), "CertificateUnknown"),
    ];
    for (name, certificate, alert) in cases {
        let error = raw_client(&server.address, certificate.as_ref()).await.unwrap_err();
        assert!(error.to_string().contains(alert), "{name}: {error}");
    }
    // The good ones still get in.
    raw_client(&server.address, Some(&fleet.forge(&[agent]))).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn servers_without_the_right_certificate_are_refused_with_the_reason() {
    let fleet = Fleet::new();
    let client = fleet.identity(Role::Agent, "a");
    let expected = id(Role::Coordinator, "main");
    let main = expected.to_string();
    let agent = "spiffe://fleet.example/pgportage/agent/main";
    let other = "spiffe://fleet.example/pgportage/coordinator/other";
    let cases: &[(&str, Forged, Reason, &str)] = &[
        ("another authority", Forged::by_stranger(&main), Reason::PeerRefused, "is not signed by our authority"),
        ("self-signed", Forged::self_signed(&main), Reason::PeerRefused, "is not signed by our authority"),
        ("expired", fleet.forge(&[&main]).expired(), Reason::PeerRefused, "has expired"),
        ("not yet valid", fleet.forge(&[&main]).not_yet_valid(), Reason::PeerRefused, "is not valid yet"),
        (
            "client usage only",
            fleet.forge(&[&main]).for_clients_only(),
            Reason::PeerRefused,
            "is not meant for this end",
        ),
        ("another role", fleet.forge(&[agent]), Reason::WrongName, agent),
        ("another name", fleet.forge(&[other]), Reason::WrongName, other),
        ("no URI", fleet.forge(&[]), Reason::PeerRefused, "names 0"),
        ("two URIs", fleet.forge(&[&main, other]), Reason::PeerRefused, "names 2"),
        ("an authority's", fleet.forge(&[&main]).with_authority_bit(), Reason::PeerRefused, "is not acceptable"),
    ];
    for (name, certificate, reason, detail) in cases {
        let server = forged_server(certificate).await;
        let failure = server.dial(&expected, &client).await.unwrap_err();
        assert_eq!(
            failure.message,
            format!("could not connect to coordinator \"main\" at {}", server.address),
            "{name}"
        );
        assert_refused(&failure, *reason, detail);
        assert_eq!(failure.remedy, Remedy::Operator, "{name}");
        assert!(!failure.causes.is_empty(), "{name}");
    }
}

#[tokio::test]
async fn a_refused_client_hears_why() {
    let fleet = Fleet::new();
    let server = Server::start(fleet.identity(Role::Coordinator, "main")).await;
    // It trusts the server's authority, but comes from another.
    let stranger = Fleet::new();
    let client = stranger.identity_trusting(Role::Agent, "a", &fleet);
    let failure = server.dial(&id(Role::Coordinator, "main"), &client).await.unwrap_err();
    assert_refused(&failure, Reason::PeerRefused, "refuses our certificate because another authority signed it");
    server.stop().await;
}

#[tokio::test]
async fn a_certificate_that_expires_in_use_ends_calls_and_new_connections() {
    let fleet = Fleet::new();
    let server = Server::start(fleet.identity(Role::Coordinator, "main")).await;
    let client = fleet.short_identity(Role::Agent, "a", Duration::from_secs(5));
    let expected = id(Role::Coordinator, "main");
    let open = server.dial(&expected, &client).await.unwrap();
    health(open.clone()).await.unwrap();
    // The connection ends, and nobody lets it in again.
    let failure = Clock
        .timeout(PATIENCE, async {
            loop {
                if let Err(status) = health(open.clone()).await {
                    let failure = pgportage_link::status::from_status(status);
                    if failure.metadata.contains_key("address") {
                        return failure;
                    }
                }
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    assert_refused(&failure, Reason::PeerRefused, "because it has expired or is not valid yet");
    let failure = Clock
        .timeout(PATIENCE, async {
            loop {
                if let Err(failure) = server.dial(&expected, &client).await {
                    return failure;
                }
            }
        })
        .await
        .unwrap();
    assert_refused(&failure, Reason::PeerRefused, "because it has expired or is not valid yet");
    server.stop().await;
}

#[tokio::test]
async fn a_renewed_certificate_carries_a_channel_past_the_old_ones_end() {
    let fleet = Fleet::new();
    let server = Server::start(fleet.identity(Role::Coordinator, "main")).await;
    let paths = fleet.issue(Role::Agent, "a", Duration::from_secs(5));
    let client = Identity::load(&paths, Clock).unwrap();
    let end = client.own().not_after;
    let channel = server.dial(&id(Role::Coordinator, "main"), &client).await.unwrap();
    let mut watch = tonic_health::pb::health_client::HealthClient::new(channel.clone())
        .watch(fleet::whole())
        .await
        .unwrap()
        .into_inner();
    watch.message().await.unwrap().unwrap();
    fleet::Files::take(&fleet.renew(Role::Agent, "a")).put(&paths);
    assert!(client.reload().unwrap());
    // Open streams end with the old certificate.
    let ended = Clock.timeout(PATIENCE, watch.message()).await.unwrap();
    assert!(!matches!(ended, Ok(Some(_))), "{ended:?}");
    assert!(Clock.wall() >= end);
    // The same channel goes on with the new one.
    let mut last = Ok(());
    for _ in 0..3 {
        last = health(channel.clone()).await;
        if last.is_ok() {
            break;
        }
    }
    last.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_client_without_tls_is_refused() {
    let fleet = Fleet::new();
    let server = Server::start(fleet.identity(Role::Coordinator, "main")).await;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    let outcome = match endpoint.connect().await {
        Ok(channel) => Clock.timeout(PATIENCE, health(channel)).await.unwrap(),
        Err(_) => return server.stop().await,
    };
    outcome.unwrap_err();
    server.stop().await;
}

#[tokio::test]
async fn a_silent_client_is_closed_in_time() {
    let fleet = Fleet::new();
    let limit = Duration::from_millis(300);
    let server = Server::start_with(fleet.identity(Role::Coordinator, "main"), |settings| {
        settings.handshake_timeout = limit;
        settings.handshakes = 2;
    })
    .await;
    // More of them than handshakes may be under way.
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(TcpStream::connect(&server.address).await.unwrap());
    }
    let started = Clock.now();
    for mut tcp in silent {
        let mut buffer = [0; 16];
        let read = Clock.timeout(PATIENCE, tcp.read(&mut buffer)).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
    assert!(started.elapsed() >= limit && started.elapsed() < limit * 10, "{:?}", started.elapsed());
    let channel = server.dial(&id(Role::Coordinator, "main"), &fleet.identity(Role::Agent, "a")).await.unwrap();
    health(channel).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn nobody_there_says_so() {
    let fleet = Fleet::new();
    let client = fleet.identity(Role::Agent, "a");
    let expected = id(Role::Coordinator, "main");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let dialler = fleet::Dialler { address: address.clone(), connect_timeout: Duration::from_millis(200) };

    // It listens and says nothing.
    let failure = dialler.dial(&expected, &client).await.unwrap_err();
    assert_refused(&failure, Reason::PeerUnreachable, "No answer came within 0.2 seconds.");
    assert_eq!(failure.remedy, Remedy::Wait);
    // It speaks something else.
    let talker = tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let _sent = tokio::io::AsyncWriteExt::write_all(&mut tcp, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let failure = dialler.dial(&expected, &client).await.unwrap_err();
    assert_refused(&failure, Reason::PeerUnreachable, "does not speak TLS");
    talker.abort();
    assert!(talker.await.unwrap_err().is_cancelled());
    // It is gone.
    let failure = dialler.dial(&expected, &client).await.unwrap_err();
    assert_refused(&failure, Reason::PeerUnreachable, "Connection refused");
}

#[tokio::test]
async fn a_new_certificate_is_used_and_a_bad_one_is_not() {
    let fleet = Fleet::new();
    let paths = fleet.issue(Role::Coordinator, "main", Duration::from_secs(3600));
    let identity = Identity::load(&paths, Clock).unwrap();
    let server = Server::start(identity.clone()).await;
    let client = fleet.identity(Role::Agent, "a");
    let expected = id(Role::Coordinator, "main");
    let old = server.dial(&expected, &client).await.unwrap();
    assert!(!identity.reload().unwrap());
    let first = server.serial().await;
    assert_eq!(first, identity.own().serial);

    // Somebody else's certificate.
    let before = fleet::Files::take(&paths);
    let other = fleet.issue(Role::Coordinator, "other", Duration::from_secs(3600));
    fleet::Files::take(&other).put(&paths);
    let failure = identity.reload().unwrap_err();
    assert!(failure.message.contains("names spiffe://fleet.example/pgportage/coordinator/other"), "{failure}");
    // A key of another pair.
    before.put(&paths);
    std::fs::copy(&other.key, &paths.key).unwrap();
    let failure = identity.reload().unwrap_err();
    assert!(failure.message.contains("does not belong to"), "{failure}");
    assert_eq!(server.serial().await, first);

    // A good new pair.
    let renewed = fleet.renew(Role::Coordinator, "main");
    fleet::Files::take(&renewed).put(&paths);
    assert!(identity.reload().unwrap());
    let second = server.serial().await;
    assert_ne!(second, first);
    assert_eq!(second, identity.own().serial);
    health(old).await.unwrap();
    health(server.dial(&expected, &client).await.unwrap()).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_changed_file_is_noticed() {
    let fleet = Fleet::new();
    let paths = fleet.issue(Role::Agent, "a", Duration::from_secs(3600));
    let identity = Identity::load(&paths, Clock).unwrap();
    let first = identity.own().serial;
    let stop = tokio_util::sync::CancellationToken::new();
    let watch = tokio::spawn(identity.clone().keep_fresh(stop.clone()));
    fleet::Files::take(&fleet.renew(Role::Agent, "a")).put(&paths);
    Clock
        .timeout(PATIENCE, async {
            while identity.own().serial == first {
                Clock.sleep(Duration::from_millis(50)).await;
            }
        })
        .await
        .unwrap();
    stop.cancel();
    watch.await.unwrap();
}

#[tokio::test]
async fn a_channel_finds_its_server_again() {
    let fleet = Fleet::new();
    let identity = fleet.identity(Role::Coordinator, "main");
    let server = Server::start(identity.clone()).await;
    let client = fleet.identity(Role::Agent, "a");
    let channel = server.dial(&id(Role::Coordinator, "main"), &client).await.unwrap();
    let address = server.address.clone();
    server.stop().await;
    let status = Clock
        .timeout(PATIENCE, async {
            loop {
                let status = health(channel.clone()).await.unwrap_err();
                let failure = pgportage_link::status::from_status(status);
                if failure.metadata.contains_key("address") {
                    return failure;
                }
            }
        })
        .await
        .unwrap();
    assert_refused(&status, Reason::PeerUnreachable, "Connection refused");
    let server = Server::start_at(&address, identity).await;
    health(channel).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_stream_that_stays_open_does_not_hold_the_stop() {
    let fleet = Fleet::new();
    let server = Server::start_with(fleet.identity(Role::Coordinator, "main"), |settings| {
        settings.drain_timeout = Duration::from_millis(200);
    })
    .await;
    let channel = server.dial(&id(Role::Coordinator, "main"), &fleet.identity(Role::Agent, "a")).await.unwrap();
    let mut client = tonic_health::pb::health_client::HealthClient::new(channel);
    let mut watch = client.watch(fleet::whole()).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    server.stop().await;
    // The connection is gone, and the client knows.
    let end = Clock.timeout(PATIENCE, watch.message()).await.unwrap();
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");
}

#[tokio::test]
async fn key_files_that_others_may_read_are_refused() {
    use std::os::unix::fs::PermissionsExt;

    let fleet = Fleet::new();
    let paths = fleet.issue(Role::Agent, "a", Duration::from_secs(3600));
    for mode in [0o640, 0o604, 0o644] {
        std::fs::set_permissions(&paths.key, std::fs::Permissions::from_mode(mode)).unwrap();
        let failure = Identity::load(&paths, Clock).unwrap_err();
        assert_eq!(failure.reason, Reason::ConfigurationInvalid);
        assert!(failure.message.contains("may be read by others") && failure.hint.contains("chmod 600"), "{failure:?}");
    }
    for mode in [0o600, 0o400] {
        std::fs::set_permissions(&paths.key, std::fs::Permissions::from_mode(mode)).unwrap();
        Identity::load(&paths, Clock).unwrap();
    }
}

#[test]
fn files_that_do_not_fit_are_named_at_start() {
    let fleet = Fleet::new();
    let stranger = Fleet::new();
    let good = fleet.issue(Role::Agent, "a", Duration::from_secs(3600));
    let other = fleet.issue(Role::Agent, "b", Duration::from_secs(3600));
    let foreign = stranger.issue(Role::Agent, "a", Duration::from_secs(3600));
    let missing = good.certificate.with_extension("gone");
    let cases = [
        (pgportage_link::settings::IdentitySettings { key: other.key.clone(), ..good.clone() }, "does not belong to"),
        (
            pgportage_link::settings::IdentitySettings { authority: foreign.authority.clone(), ..good.clone() },
            "is not signed by our authority",
        ),
        (pgportage_link::settings::IdentitySettings { certificate: missing, ..good.clone() }, "cannot be read"),
        (
            pgportage_link::settings::IdentitySettings { certificate: good.key.clone(), ..good.clone() },
            "holds no certificate",
        ),
        (
            pgportage_link::settings::IdentitySettings { certificate: good.authority.clone(), ..good.clone() },
            "certificate is one of an authority",
        ),
    ];
    for (paths, problem) in cases {
        let failure = Identity::load(&paths, Clock).unwrap_err();
        assert_eq!(failure.reason, Reason::ConfigurationInvalid);
        assert!(failure.message.contains(problem), "{problem}: {failure:?}");
    }
    let expired = fleet.write_forged(&fleet.forge(&["spiffe://fleet.example/pgportage/agent/c"]).expired(), "c");
    let failure = Identity::load(&expired, Clock).unwrap_err();
    assert!(failure.message.contains("has expired"), "{failure:?}");
    assert!(Arc::strong_count(&fleet.authority) == 1);
}
