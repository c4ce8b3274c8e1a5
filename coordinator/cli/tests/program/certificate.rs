//! Certificates of switchovers: fetched from a coordinator that is believed nothing, and
//! checked where there is none.

use std::path::PathBuf;

use pgportage_certificate::{Direction, SignedStatement, Statement};
use pgportage_link::issue::Authority;
use pgportage_link::settings::IdentitySettings;
use pgportage_link::tls::{Identity, issued_paths};
use pgportage_link::{Clock, identity::Role};
use pgportage_proto::{Reason, v1};

use crate::script::{Ran, Script, Stage, program};
use crate::support;

fn to_wire(signed: SignedStatement) -> v1::SignedStatement {
    v1::SignedStatement {
        statement: signed.statement,
        scheme: signed.scheme.into(),
        signature: signed.signature,
        chain: signed.chain.into_iter().map(|certificate| certificate.0).collect(),
    }
}

/// The answer of a coordinator that keeps what both agents have signed.
fn handed_out(stage: &Stage, change: impl FnOnce(&mut [Statement; 2])) -> v1::GetSwitchCertificateResponse {
    let certs = stage.certs();
    let identity = |name: &str| {
        let paths: IdentitySettings = issued_paths(&certs, Role::Agent, name);
        if !paths.certificate.exists() {
            let authority = Authority::load(&certs, Clock).unwrap();
            let issued = authority.issue(Role::Agent, name, std::time::Duration::from_secs(3600)).unwrap();
            authority.write(&issued, &certs).unwrap();
        }
        Identity::load(&paths, Clock).unwrap()
    };
    let mut statements = support::certificate::statements(Clock.wall());
    change(&mut statements);
    let [left, entered] = &statements;
    let sign = |statement, name: &str| Some(to_wire(SignedStatement::sign(statement, &identity(name)).unwrap()));
    v1::GetSwitchCertificateResponse {
        certificate: Some(v1::SwitchCertificate {
            migration_id: "shop".to_owned(),
            cutover_epoch: 1,
            left: sign(left, "alpha"),
            entered: sign(entered, "beta"),
            ..v1::SwitchCertificate::default()
        }),
        cutover_epochs: vec![1],
    }
}

async fn stage() -> Stage {
    let stage = Stage::set(Script::new(support::cut_over(), [])).await;
    stage.script.certifies(handed_out(&stage, |_| ()));
    stage
}

/// Runs the program where there is neither a coordinator nor a configuration.
async fn elsewhere(arguments: &[&str]) -> Ran {
    let home = tempfile::tempdir().unwrap();
    Ran::end(program(home.path(), arguments).spawn().unwrap()).await
}

/// Writes the certificate to a file, and stops the coordinator.
async fn saved(stage: &mut Stage) -> (String, String) {
    let file = stage.directory.path().join("shop.json").to_str().unwrap().to_owned();
    stage.run(&["certificate", "save", "shop", "--output", &file]).await.exits(0).says("certificate verify");
    stage.goes_away().await;
    (file, stage.certs().join("ca.pem").to_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_certificate_is_fetched_and_shown_with_what_is_proved() {
    let stage = stage().await;
    let ran = stage.run(&["certificate", "show", "shop", "--switch", "1"]).await.exits(0);
    ran.says("cutover 1 of migration shop, database shop: proved").says("no session was left at");
    assert!(stage.script.heard().contains(&"certificate 1".to_owned()), "{:?}", stage.script.heard());
    let proof = stage.run(&["certificate", "show", "shop", "--json"]).await.exits(0).json().remove(0);
    assert_eq!((&proof["proved"], &proof["direction"]), (&true.into(), &"cutover".into()));
    assert_eq!(proof["statements"][0]["account"]["terminated_session_count"], 7);
    assert!(stage.script.heard().contains(&"certificate 0".to_owned()), "the latest");
}

#[tokio::test]
async fn a_file_is_checked_without_anybody() {
    let mut stage = stage().await;
    let (file, ca) = saved(&mut stage).await;
    elsewhere(&["certificate", "verify", &file, "--authority", &ca]).await.exits(0).says(": proved");
    elsewhere(&["certificate", "verify", &file, "--ca", &ca]).await.exits(0);
    let proof = elsewhere(&["certificate", "verify", &file, "--ca", &ca, "--json"]).await.exits(0).json().remove(0);
    assert_eq!(proof["proved"], true);
    elsewhere(&["certificate", "verify", &file]).await.exits(2).notes("--authority ca.pem");
    // Another authority, of the same trust domain.
    let other = tempfile::tempdir().unwrap();
    Authority::create(other.path(), "test.example", Clock).unwrap();
    let other = other.path().join("ca.pem");
    let ran = elsewhere(&["certificate", "verify", &file, "--ca", other.to_str().unwrap()]).await.exits(1);
    ran.says("not proved").notes("CERTIFICATE_NOT_PROVED").notes("is not signed by our authority");
    elsewhere(&["certificate", "verify", &ca, "--ca", &ca]).await.exits(1).notes("no certificate of a switchover");
    elsewhere(&["certificate", "verify", "/nowhere", "--ca", &ca]).await.exits(1).notes("cannot be read");
}

#[tokio::test]
async fn a_file_that_was_changed_is_not_believed() {
    let mut stage = stage().await;
    let (file, ca) = saved(&mut stage).await;
    let text = std::fs::read_to_string(&file).unwrap();
    let changed = text.replace("\\\"last_value\\\":41", "\\\"last_value\\\":14");
    assert_ne!(text, changed);
    let half = {
        let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
        value["statements"].as_array_mut().unwrap().pop();
        value.to_string()
    };
    for (changed, why) in
        [(changed, "does not bear the signature"), (half, "no good statement about the side that was entered")]
    {
        std::fs::write(&file, changed).unwrap();
        let ran = elsewhere(&["certificate", "verify", &file, "--ca", &ca]).await.exits(1);
        ran.says("not proved").notes("CERTIFICATE_NOT_PROVED").notes(why);
    }
}

#[tokio::test]
async fn a_coordinator_is_believed_no_more_than_a_file() {
    let stage = stage().await;
    let forge = |change: fn(&mut v1::SwitchCertificate)| {
        let mut answer = handed_out(&stage, |_| ());
        change(answer.certificate.as_mut().unwrap());
        answer
    };
    let of_another_switch = |statements: &mut [Statement; 2]| {
        statements[1].cutover_epoch = 2;
        statements[1].direction = Direction::Rollback;
    };
    let forgeries = [
        forge(|certificate| certificate.left = None),
        forge(|certificate| certificate.left = certificate.entered.clone()),
        forge(|certificate| {
            let left = certificate.left.as_mut().unwrap();
            left.statement = left.statement.replace("\"called\":true", "\"called\":false");
        }),
        forge(|certificate| certificate.entered.as_mut().unwrap().scheme = 1 << 20),
        handed_out(&stage, of_another_switch),
    ];
    for forgery in forgeries {
        stage.script.certifies(forgery);
        stage.run(&["certificate", "show", "shop"]).await.exits(1).says("not proved").notes("CERTIFICATE_NOT_PROVED");
    }
}

#[tokio::test]
async fn a_missing_statement_is_told_with_its_reason_and_nothing_is_overwritten() {
    let stage = stage().await;
    let file = PathBuf::from(stage.directory.path()).join("shop.json");
    let path = file.to_str().unwrap();
    let mut answer = handed_out(&stage, |_| ());
    let certificate = answer.certificate.as_mut().unwrap();
    certificate.entered = None;
    let older = pgportage_link::Failure::new(Reason::UnknownAction, "this agent does not know the action");
    certificate.failures = vec![older.into()];
    stage.script.certifies(answer);
    stage.run(&["certificate", "save", "shop", "--output", path]).await.exits(1).notes("UNKNOWN_ACTION");
    let before = std::fs::read(&file).unwrap();
    stage.run(&["certificate", "save", "shop", "--output", path]).await.exits(1).notes("Nothing is overwritten");
    assert_eq!(std::fs::read(&file).unwrap(), before);
}
