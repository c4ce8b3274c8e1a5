//! Whether the destination can hold what the source has.

use std::collections::BTreeMap;

use pgportage_link::Failure;
use pgportage_migration::stream::Stream;
use pgportage_postgres::{catalog, quote_ident, sql_failure};
use pgportage_proto::Reason;
use pgportage_report::finding::Severity;
use pgportage_report::inventory::Inventory;

use super::Finding;
use super::examination::{Examination, one};
use super::source::locks_for;

/// How many objects a finding names before it only counts.
const NAMED: usize = 5;

fn source<'a>(x: &Examination<'a>) -> Result<&'a Inventory, Failure> {
    x.source.ok_or_else(|| Failure::new(Reason::RequestInvalid, "field `source` is missing"))
}

/// A server cannot subscribe to itself. A physical copy has the system identifier of its original.
#[expect(clippy::unused_async, reason = "every check has one form")]
pub(super) async fn same_server(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    let source = source(x)?;
    if source.system_identifier != x.inventory.system_identifier {
        return Ok(vec![]);
    }
    let finding = Finding::new(
        Reason::SameServer,
        Severity::Consent,
        x.inventory.system_identifier.clone(),
        "both agents are beside the same server, or one server is a physical copy of the other",
    )
    .evidence("equal system identifiers");
    Ok(vec![finding])
}

/// Free workers: one applies, at least one copies.
pub(super) async fn workers(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    const USED: &str = "SELECT count(*) FROM pg_subscription WHERE subenabled AND subname <> $1";
    let used: i64 = one(x.server, USED, &[&Stream::subscribed_by(x.side).name(x.migration)]).await?.get(0);
    let mut findings = Vec::new();
    // The launcher is a process of max_worker_processes, but counts in no other limit.
    for (setting, own) in [("max_logical_replication_workers", 0), ("max_worker_processes", 1)] {
        let limit = x.number(setting).await?;
        let free = limit - used - own;
        if free < 2 {
            let finding = Finding::new(
                Reason::WorkersExhausted,
                Severity::Refuse,
                setting,
                "too few replication workers are free",
            )
            .evidence(format!("{limit} in all, {} used, at least 2 needed", used + own))
            .remedy(format!("ALTER SYSTEM SET {setting} = {}", used + own + 5));
            findings.push(finding.restart());
        }
    }
    if x.number("max_sync_workers_per_subscription").await? == 0 {
        findings.push(
            Finding::new(
                Reason::WorkersExhausted,
                Severity::Refuse,
                "max_sync_workers_per_subscription",
                "no worker may copy tables",
            )
            .evidence("0")
            .remedy("ALTER SYSTEM SET max_sync_workers_per_subscription = 2, and reload"),
        );
    }
    Ok(findings)
}

/// Free replication origins: the stream's and at least one table's.
pub(super) async fn origins(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    // Counted by max_replication_slots before 18.
    let setting = if x.major() >= 18 { "max_active_replication_origins" } else { "max_replication_slots" };
    let limit = x.number(setting).await?;
    let used: i64 = one(x.server, "SELECT count(*) FROM pg_replication_origin", &[]).await?.get(0);
    if limit - used >= 2 {
        return Ok(vec![]);
    }
    let finding =
        Finding::new(Reason::OriginsExhausted, Severity::Refuse, setting, "too few replication origins are free")
            .evidence(format!("{limit} in all, {used} used, at least 2 needed"))
            .remedy(format!("ALTER SYSTEM SET {setting} = {}", used + 5));
    Ok(vec![finding.restart()])
}

/// Room in the lock table for the whole schema: it is restored in one
/// transaction.
pub(super) async fn locks(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    Ok(locks_for(x, i64::from(source(x)?.relation_count)).await?.into_iter().collect())
}

/// Roles that the schema names and this server lacks.
pub(super) async fn roles(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    const MISSING: &str = "
        SELECT name FROM unnest($1::text[]) AS name WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) ORDER BY 1";
    let source = source(x)?;
    let rows = x
        .server
        .query(MISSING, &[&source.role_names])
        .await
        .map_err(|error| sql_failure(error, "look for the roles"))?;
    let finding = |name: String| {
        let what = if source.owner_role_names.contains(&name) { "owns objects" } else { "was granted privileges" };
        let role = quote_ident(&name);
        Finding::new(
            Reason::RoleMissing,
            Severity::Refuse,
            role.clone(),
            "a role that the schema names does not exist on the destination",
        )
        .evidence(what)
        .remedy(format!("CREATE ROLE {role}"))
    };
    Ok(rows.iter().map(|row| finding(row.get(0))).collect())
}

/// Encoding and collation of the two databases.
#[expect(clippy::unused_async, reason = "every check has one form")]
pub(super) async fn locale(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    let (source, own) = (source(x)?, x.inventory);
    let database = quote_ident(x.database);
    let mut findings = Vec::new();
    if source.encoding != own.encoding {
        // UTF8 can hold every text.
        let severity = if own.encoding == "UTF8" { Severity::Consent } else { Severity::Refuse };
        findings.push(
            Finding::new(Reason::EncodingDiffers, severity, database.clone(), "the databases have different encodings")
                .evidence(format!("source {}, destination {}", source.encoding, own.encoding))
                .remedy(format!("make {database} anew with ENCODING {} TEMPLATE template0", source.encoding)),
        );
    }
    if plain(&source.collation) != plain(&own.collation) {
        findings.push(
            Finding::new(
                Reason::CollationDiffers,
                Severity::Consent,
                database.clone(),
                "the databases sort texts differently: order of results, and partitions by ranges of texts",
            )
            .evidence(format!("source {}, destination {}", source.collation, own.collation))
            .remedy(format!("make {database} anew with the source's locale and TEMPLATE template0")),
        );
    }
    Ok(findings)
}

/// The collation in one spelling: `C` and `POSIX` are the same, and so are the spellings of UTF-8.
fn plain(collation: &str) -> String {
    collation.replace("POSIX", "C").replace("utf8", "UTF-8")
}

/// Extensions that this server does not have, or may not install.
pub(super) async fn extensions(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    // pg_dump writes CREATE EXTENSION without a version.
    const AVAILABLE: &str = "
        SELECT a.name::text, coalesce(a.installed_version, a.default_version),
               a.installed_version IS NOT NULL OR pg_has_role(current_user, 10, 'USAGE')
               OR coalesce((SELECT v.trusted OR NOT v.superuser FROM pg_available_extension_versions AS v
                             WHERE v.name = a.name AND v.version = a.default_version), false)
          FROM pg_available_extensions AS a WHERE a.name = ANY ($1)";
    let source = source(x)?;
    let names: Vec<&str> = source.extensions.iter().map(|extension| extension.name.as_str()).collect();
    let rows = x
        .in_database()?
        .query(AVAILABLE, &[&names])
        .await
        .map_err(|error| sql_failure(error, "list the available extensions"))?;
    let available: BTreeMap<String, (String, bool)> =
        rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
    let mut findings = Vec::new();
    for extension in &source.extensions {
        let name = quote_ident(&extension.name);
        let evidence = format!("version {} on the source", extension.version);
        match available.get(&extension.name) {
            None => findings.push(
                Finding::new(
                    Reason::ExtensionMissing,
                    Severity::Refuse,
                    name.clone(),
                    "the destination server does not have the extension",
                )
                .evidence(evidence)
                .remedy(format!("install the package of extension {name} on the destination's machine")),
            ),
            Some((_, false)) => findings.push(
                Finding::new(
                    Reason::ExtensionMissing,
                    Severity::Refuse,
                    name.clone(),
                    "the agent's role may not install the extension",
                )
                .evidence(evidence)
                .remedy(format!("as a superuser, in database {}: CREATE EXTENSION {name}", quote_ident(x.database))),
            ),
            Some((version, true)) if *version != extension.version => findings.push(
                Finding::new(
                    Reason::ExtensionVersionDiffers,
                    Severity::Note,
                    name,
                    "the destination has another version of the extension",
                )
                .evidence(format!("{evidence}, {version} on the destination")),
            ),
            Some(_) => {}
        }
    }
    Ok(findings)
}

/// The database has to be empty, extensions apart.
pub(super) async fn empty(x: &Examination<'_>) -> Result<Vec<Finding>, Failure> {
    let objects = catalog::schema_objects(x.in_database()?).await?;
    let mut names: Vec<_> = objects
        .into_iter()
        .map(|object| object.identity)
        .filter(|identity| !identity.starts_with("extension ") && identity != "schema public")
        .collect();
    if names.is_empty() {
        return Ok(vec![]);
    }
    let count = names.len();
    names.truncate(NAMED);
    let more = if count > NAMED { format!(" and {} more", count - NAMED) } else { String::new() };
    let database = quote_ident(x.database);
    let finding = Finding::new(
        Reason::DatabaseNotEmpty,
        Severity::Refuse,
        database.clone(),
        "the destination database holds objects already",
    )
    .evidence(format!("{}{more}", names.join(", ")))
    .remedy(format!("if nothing in it is needed: DROP DATABASE {database}; CREATE DATABASE {database}"));
    Ok(vec![finding])
}
