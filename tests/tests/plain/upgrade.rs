//! A coordinator's store of the release before, taken up by this release's coordinator
//! and read through its CLI.

use std::fs;
use std::path::Path;
use std::time::Duration;

use pgportage_tests::before::{self, Left};
use pgportage_tests::cli::Cli;
use pgportage_tests::cluster::free_port;
use pgportage_tests::place::Place;
use pgportage_tests::service::Service;
use pgportage_tests::site::{config, program};
use pgportage_tests::wait::{self, Seen};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const LIMIT: Duration = Duration::from_secs(60);

/// What is told of agents that are away now, progress among it, which may be lost; and
/// where a reason's page is, which the programs print now.
const NOT_COMPARED: [&str; 8] =
    ["figures", "progress", "schema_drift", "waiting_for", "next_commands", "update_time", "etag", "page"];

/// A coordinator that starts with the store of a state, and its operator.
async fn coordinator(directory: &Path, state: &str) -> (Service, Cli) {
    let (port, metrics_port, place) = (free_port().unwrap(), free_port().unwrap(), Place::default());
    let store = directory.join("store");
    fs::create_dir(&store).unwrap();
    Left::Store.unpack(state, &store.join("coordinator.db")).unwrap();
    let [settings, operator] = ["coordinator.toml", "pgportage.toml"].map(|name| directory.join(name));
    fs::write(&settings, config::coordinator(directory, &store, &place, port, metrics_port)).unwrap();
    fs::write(&operator, config::operator(directory, &place, port)).unwrap();
    let cli = Cli {
        path: program("pgportage").unwrap(),
        config: operator,
        scratch: directory.to_owned(),
        environment: Vec::new(),
    };
    let here = directory.to_str().unwrap();
    for certificate in [
        &["certs", "init", "--directory", here][..],
        &["certs", "issue", "--directory", here, "coordinator", "control"],
        &["certs", "issue", "--directory", here, "operator", "olga"],
    ] {
        cli.expect(0, certificate).await.unwrap();
    }
    let mut service =
        Service::new("coordinator", program("pgportage-coordinator").unwrap(), directory.join("coordinator.log"))
            .arguments(["--config".into(), settings.into_os_string()]);
    service.start().unwrap();
    (service, cli)
}

/// Everything that was said is still said. More may be.
fn assert_holds(now: &Value, before: &Value, place: &str) {
    match (now, before) {
        (Value::Object(now), Value::Object(before)) => {
            for (key, value) in before.iter().filter(|(key, _)| !NOT_COMPARED.contains(&key.as_str())) {
                assert_holds(now.get(key).unwrap_or(&Value::Null), value, &format!("{place}.{key}"));
            }
        }
        (Value::Array(now), Value::Array(before)) => {
            assert_eq!(now.len(), before.len(), "{place}");
            for (number, (now, before)) in now.iter().zip(before).enumerate() {
                assert_holds(now, before, &format!("{place}[{number}]"));
            }
        }
        (now, before) => match (microseconds(now), microseconds(before)) {
            (Some(now), Some(before)) => assert_eq!(now, before, "{place}"),
            _ => assert_eq!(now, before, "{place}"),
        },
    }
}

/// A time as precisely as the store keeps it. The coordinator that wrote it told more.
fn microseconds(value: &Value) -> Option<i128> {
    let time = OffsetDateTime::parse(value.as_str()?, &Rfc3339).ok()?;
    Some(time.unix_timestamp_nanos() / 1000)
}

#[tokio::test]
async fn the_store_of_before_tells_the_same_story() {
    for state in before::STATES {
        let directory = tempfile::tempdir().unwrap();
        let (mut service, cli) = coordinator(directory.path(), state).await;
        let now: Value = wait::until_told("the migration of before", LIMIT, || async {
            Ok(match cli.expect(0, &["status", "shop-move", "--json"]).await {
                Ok(status) => Seen::Done(serde_json::from_str(&status.stdout)?),
                Err(error) => Seen::NotYet(format!("{error:#}\n{}", service.log_tail())),
            })
        })
        .await
        .unwrap();
        let before: Value = serde_json::from_slice(&Left::Status.read(state).unwrap()).unwrap();
        assert_holds(&now, &before, state);
        service.stop().await.unwrap();
    }
}
