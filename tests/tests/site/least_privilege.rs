//! A whole migration without any superuser, with exactly the rights that
//! `docs/permissions.md` lists.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use pgportage_tests::journey::{Journey, MIGRATION};
use pgportage_tests::site::{APPLICATION, config::AgentConfig};
use pgportage_tests::workload::WorkloadOptions;
use pgportage_tests::{PostgresVersion, Site, SiteOptions};

use PostgresVersion::{V14, V16, V18};

const PASSWORD: &str = "porter-password";

/// What both agents' roles need: to act as the owner of the database and its
/// tables, to see everybody's sessions and to end them.
const BOTH: &str = "
    GRANT pg_monitor, pg_signal_backend TO porter;
    GRANT app TO porter;";

fn password_file(site: &Site, name: &str) -> PathBuf {
    let path = site.directory().join(format!("{name}-password"));
    fs::write(&path, PASSWORD).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn use_porter(site: &mut Site) {
    let file = password_file(site, "porter");
    let set = |config: &mut AgentConfig| {
        config.postgres_user = "porter".to_owned();
        config.password_file = Some(file.clone());
    };
    set(&mut site.source_config);
    set(&mut site.destination_config);
}

async fn prepare(source: PostgresVersion, source_role: &str, destination_attributes: &str) -> Site {
    assert_eq!(APPLICATION, "app");
    let mut site = Site::prepare(SiteOptions::new(source, V18)).await.unwrap();
    site.source.execute("postgres", &format!("{source_role} {BOTH}")).await.unwrap();
    let destination_role = format!("CREATE ROLE porter LOGIN {destination_attributes} PASSWORD '{PASSWORD}'; {BOTH}");
    site.destination.execute("postgres", &destination_role).await.unwrap();
    site.destination.execute("postgres", "GRANT pg_create_subscription TO porter").await.unwrap();
    use_porter(&mut site);
    site
}

async fn migrate(mut site: Site) {
    let returns = site.create_arguments.is_empty();
    site.write_agent_files().unwrap();
    site.start_programs().await.unwrap();
    let journey = Journey::begin(site, 2_000, &WorkloadOptions::default()).await.unwrap();
    journey.until_cutover().await.unwrap();
    journey.site.cli.expect(0, &["verify", MIGRATION]).await.unwrap();
    journey.cut_over().await.unwrap();
    if !returns {
        journey.finish().await.unwrap();
        return;
    }
    journey.roll_back().await.unwrap();
    journey.cut_over().await.unwrap();
    journey.site.cli.expect(0, &["finish", MIGRATION, "--yes"]).await.unwrap();
    journey.check_arrival_after(3).await.unwrap();
}

/// From 16 on a role with CREATEROLE and REPLICATION makes the replication role
/// itself, and one that may make subscriptions the way back.
#[tokio::test]
async fn a_role_that_may_make_roles() {
    let role = format!(
        "CREATE ROLE porter LOGIN REPLICATION CREATEROLE PASSWORD '{PASSWORD}';
         GRANT pg_create_subscription TO porter;"
    );
    let site = prepare(V16, &role, "REPLICATION CREATEROLE").await;
    Box::pin(migrate(site)).await;
}

/// On any version with a replication role and a canary role made beforehand, though
/// below 16 without a way back. The oldest one's schema `public` belongs to a
/// superuser.
#[tokio::test]
async fn roles_made_beforehand() {
    let role = format!(
        "CREATE ROLE porter LOGIN PASSWORD '{PASSWORD}';
         CREATE ROLE mover LOGIN REPLICATION PASSWORD '{PASSWORD}';
         CREATE ROLE mover_canary LOGIN PASSWORD '{PASSWORD}';"
    );
    let mut site = prepare(V14, &role, "").await;
    site.create_arguments = vec!["--no-way-back"];
    let files = ["mover", "mover-canary"].map(|name| password_file(&site, name));
    let [mover, canary] = files;
    site.source_config.policy.roles =
        vec![("replication", "mover".to_owned(), mover), ("canary", "mover_canary".to_owned(), canary)];
    Box::pin(migrate(site)).await;
}
