//! The plan as people read it: what will run on which side, before it runs.
//!
//! Secrets and what only an agent knows (the tables, the addresses) are left
//! out as `…`. Agents make their own statements; these are not sent anywhere.

use sha2::{Digest as _, Sha256};

use super::outcome::Digest;
use super::spec::{ConnectionPath, CopyMethod, MigrationId, Spec};
use super::{ActKind, ActRow, Belongs, Order, Side, StepName, StepRow, TABLE, Undo};

/// One act as it will run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Its step.
    pub step: StepName,
    /// The agent that runs it.
    pub agent: String,
    /// What it will run.
    pub statements: Vec<String>,
    /// Whether the operator's word is needed before it.
    pub held: bool,
    /// Whether it can be taken back.
    pub undoable: bool,
}

/// Every act of a migration, in order.
#[must_use]
pub fn render(id: &MigrationId, spec: &Spec) -> Vec<Planned> {
    let mut planned = Vec::new();
    // From the act that is the point of no return on, nothing goes back.
    let mut past_return = false;
    for row in TABLE {
        for (index, act) in acts(spec, row).enumerate() {
            past_return |= act.undo == Undo::Never;
            planned.push(Planned {
                step: row.name,
                agent: spec.agent(act.side).to_owned(),
                statements: statements(id, spec, act),
                held: row.hold.is_some() && index == 0,
                undoable: !past_return,
            });
        }
    }
    planned
}

/// The acts of a step that a migration does not leave out.
fn acts(spec: &Spec, row: &'static StepRow) -> impl Iterator<Item = &'static ActRow> {
    let way_back = spec.way_back;
    row.acts.iter().filter(move |act| match act.belongs {
        // A rehearsal shows nothing that its switch does not, a verification behind it
        // nothing that the one before does not.
        Belongs::Always | Belongs::ToCounts | Belongs::ToRows => {
            !row.name.is_aside() && (row.name != StepName::Rollback || way_back)
        }
        Belongs::ToTheWayBack => way_back,
        Belongs::ToTheCertificate => row.name != StepName::Rollback || way_back,
    })
}

/// SHA-256 over the rendered plan: commands and approvals carry it.
#[must_use]
pub fn digest(id: &MigrationId, spec: &Spec) -> Digest {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        // Length first: no two plans run together into the same bytes.
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    };
    add("pgportage plan 2");
    add(id.as_str());
    add(&spec.source_agent);
    add(&spec.destination_agent);
    add(&spec.database);
    add(match spec.connection_path {
        ConnectionPath::Tunnel => "tunnel",
        ConnectionPath::Direct => "direct",
    });
    add(match spec.copy_method {
        CopyMethod::Snapshot => "snapshot",
        CopyMethod::Native => "native",
    });
    add(&spec.max_lag.as_millis().to_string());
    for consent in &spec.consents {
        add(&consent.code);
        add(&consent.object);
        add(&consent.evidence_digest.to_string());
    }
    for (planned, act) in render(id, spec).iter().zip(TABLE.iter().flat_map(|row| acts(spec, row))) {
        add(planned.step.as_str());
        add(&planned.agent);
        add(act.side.as_str());
        add(act.kind.as_str());
        add(match act.order {
            Order::InTurn => "in turn",
            Order::WithPrevious => "with previous",
            Order::Aside => "aside",
        });
        for statement in &planned.statements {
            add(statement);
        }
    }
    Digest(hash.finalize().to_vec())
}

/// As PostgreSQL would quote it where it has to.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn statements(id: &MigrationId, spec: &Spec, act: &ActRow) -> Vec<String> {
    let published = id.stream_name(act.side);
    let name = quoted(&published);
    let canary = quoted(&format!("{published}_canary"));
    let followed = quoted(&id.stream_name(act.side.other()));
    let database = quoted(&spec.database);
    let lines: Vec<String> = match act.kind {
        ActKind::CheckServer => vec!["read settings and catalogs; change nothing".to_owned()],
        ActKind::CreateReplicationRole => vec![
            format!("CREATE ROLE {name} LOGIN REPLICATION PASSWORD '…'"),
            format!("CREATE ROLE {canary} LOGIN PASSWORD '…'"),
            format!("GRANT CONNECT ON DATABASE {database} TO {name}"),
        ],
        ActKind::ReachPeer => vec![format!("call agent {} over the link", spec.peer(act.side))],
        ActKind::SetReplicaIdentity => {
            vec!["ALTER TABLE … REPLICA IDENTITY FULL, for tables without another, as agreed".to_owned()]
        }
        ActKind::CreatePublication if act.side == Side::Destination => {
            vec![
                format!("CREATE PUBLICATION {name} FOR TABLE …"),
                "a publication of nothing but the heartbeat".to_owned(),
            ]
        }
        ActKind::CreatePublication => vec![
            "CREATE SCHEMA pgportage".to_owned(),
            "CREATE TABLE pgportage.heartbeat, pgportage.marker, pgportage.ledger, …".to_owned(),
            format!("CREATE PUBLICATION {name} FOR TABLE …"),
        ],
        ActKind::CloseDatabase => vec![
            format!("REVOKE CONNECT ON DATABASE {database} FROM … (everybody but our roles)"),
            "SELECT pg_terminate_backend(…), for every other session of the database".to_owned(),
        ],
        ActKind::RestoreSchema => {
            let mut lines = vec![
                "pg_dump --schema-only --no-publications --no-subscriptions …, on the source's agent".to_owned(),
                format!("pg_restore --single-transaction --dbname={database}"),
            ];
            match spec.copy_method {
                CopyMethod::Snapshot => {
                    lines.push("leave out indexes, constraints and triggers until later".to_owned())
                }
                CopyMethod::Native => {}
            }
            lines.push("CREATE TABLE pgportage.heartbeat, pgportage.marker".to_owned());
            lines
        }
        ActKind::CreateSlot if act.side == Side::Destination => {
            vec![format!("SELECT pg_create_logical_replication_slot({name}, 'pgoutput')")]
        }
        ActKind::CreateSlot => match spec.copy_method {
            CopyMethod::Snapshot => vec![
                format!("CREATE_REPLICATION_SLOT {name} LOGICAL pgoutput (SNAPSHOT 'export')"),
                "keep the replication connection, and with it the snapshot".to_owned(),
            ],
            CopyMethod::Native => vec![format!("CREATE_REPLICATION_SLOT {name} LOGICAL pgoutput")],
        },
        ActKind::CopyTables => match spec.copy_method {
            CopyMethod::Snapshot => vec![
                "copy every table as the slot's snapshot shows it, several at a time, over the link".to_owned(),
                "then make indexes, constraints and triggers, and validate foreign keys".to_owned(),
            ],
            CopyMethod::Native => vec!["nothing: the subscription copies".to_owned()],
        },
        ActKind::CreateWayBack => vec![
            "log in to the destination through the link, for replication".to_owned(),
            format!("CREATE SUBSCRIPTION {followed} …, wait for a heartbeat of the destination, and drop it again"),
            format!(
                "CREATE SUBSCRIPTION {followed} CONNECTION '…' PUBLICATION {followed} \
                 WITH (enabled = false, slot_name = {followed}, copy_data = false)"
            ),
        ],
        ActKind::CreateSubscription => {
            let name = &followed;
            let way = match spec.connection_path {
                ConnectionPath::Tunnel => "through the link",
                ConnectionPath::Direct => "straight to the source server",
            };
            let copy_data = match spec.copy_method {
                CopyMethod::Snapshot => false,
                CopyMethod::Native => true,
            };
            vec![
                format!("log in to the source {way}, for replication"),
                format!(
                    "CREATE SUBSCRIPTION {name} CONNECTION '…' PUBLICATION {name} WITH (connect = false, slot_name = {name})"
                ),
                format!("ALTER SUBSCRIPTION {name} ENABLE"),
                format!("ALTER SUBSCRIPTION {name} REFRESH PUBLICATION WITH (copy_data = {copy_data})"),
            ]
        }
        ActKind::AwaitCopy => match spec.copy_method {
            CopyMethod::Snapshot => vec!["wait until every table follows the stream".to_owned()],
            CopyMethod::Native => vec!["wait until every table is copied and follows the stream".to_owned()],
        },
        ActKind::AwaitLag => {
            vec![format!("wait until the lag stays under {} ms", spec.max_lag.as_millis())]
        }
        ActKind::CountRows => vec!["SELECT count(*) FROM …, for every published table".to_owned()],
        ActKind::CompareRows => vec![
            "SELECT count(*), sum(hashtextextended(ROW(…)::text, …)) FROM …, part by part on both sides, where you ask for it"
                .to_owned(),
        ],
        ActKind::PrepareCutover => vec!["check every precondition; open every connection".to_owned()],
        ActKind::RaiseBarrier => vec![
            "LOCK TABLE … IN SHARE UPDATE EXCLUSIVE MODE".to_owned(),
            "LOCK TABLE … IN SHARE MODE".to_owned(),
            "INSERT INTO pgportage.marker …".to_owned(),
        ],
        ActKind::DrainToMarker => {
            vec!["wait for the marker; flush it".to_owned(), "SELECT setval(…), for every sequence".to_owned()]
        }
        ActKind::FenceSource => vec![
            format!("REVOKE CONNECT ON DATABASE {database} FROM … (everybody but our roles)"),
            format!("ALTER DATABASE {database} SET default_transaction_read_only = on"),
            "SELECT pg_terminate_backend(…), for every session that is not ours".to_owned(),
            format!("try to log in as {canary}: it must be refused"),
        ],
        ActKind::OpenDestination => vec![
            "write pgportage.decision".to_owned(),
            format!("ALTER SUBSCRIPTION {followed} DISABLE"),
            format!("GRANT CONNECT ON DATABASE {database} TO … (as it was before closing)"),
        ],
        ActKind::ReleaseBarrier => vec!["COMMIT the barrier; the fence stays".to_owned()],
        ActKind::KeepStream => vec![
            format!("SELECT pg_replication_slot_advance({name}, …), to the position of the decision"),
            format!("SELECT pg_copy_logical_replication_slot({name}, …), and back, so that it is on disk"),
        ],
        ActKind::CertifySwitch => {
            vec!["state what was seen of the switch, signed with the key of the agent's certificate".to_owned()]
        }
        ActKind::FollowStream => {
            vec![format!("ALTER SUBSCRIPTION {followed} ENABLE"), "wait for the first heartbeat".to_owned()]
        }
        ActKind::FinishMigration => match act.side {
            Side::Destination => {
                vec![
                    format!("DROP SUBSCRIPTION {followed}"),
                    "drop the way back: slot, publication, roles".to_owned(),
                    "DROP SCHEMA pgportage CASCADE".to_owned(),
                    "ALTER TABLE … REPLICA IDENTITY DEFAULT (where you agreed to FULL)".to_owned(),
                ]
            }
            Side::Source => vec![
                "drop the subscription of the way back".to_owned(),
                format!("SELECT pg_drop_replication_slot({name})"),
                format!("DROP PUBLICATION {name}"),
                "DROP SCHEMA pgportage CASCADE".to_owned(),
                format!("DROP ROLE {name}, {canary}"),
            ],
        },
    };
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        Spec {
            source_agent: "old".to_owned(),
            destination_agent: "new".to_owned(),
            database: "shop \"x\"".to_owned(),
            consents: Vec::new(),
            connection_path: ConnectionPath::Tunnel,
            max_lag: Spec::DEFAULT_MAX_LAG,
            copy_method: CopyMethod::Snapshot,
            max_rate: None,
            way_back: true,
        }
    }

    fn native() -> Spec {
        Spec { copy_method: CopyMethod::Native, ..spec() }
    }

    #[test]
    fn every_act_says_what_it_does() {
        let id = MigrationId::new("shop-2").unwrap();
        for spec in [spec(), native()] {
            let plan = render(&id, &spec);
            let told = TABLE.iter().filter(|row| !row.name.is_aside());
            assert_eq!(plan.len(), told.map(|row| row.acts.len()).sum::<usize>());
            assert!(plan.iter().all(|planned| !planned.statements.is_empty()));
            let named = |planned: &Planned| planned.statements.iter().any(|line| line.contains("\"pgportage_shop_2\""));
            assert!(plan.iter().any(named));
            assert_eq!(plan.iter().filter(|planned| planned.held).count(), 3);
        }
    }

    #[test]
    fn what_copies_the_rows_is_told_where_it_matters() {
        let id = MigrationId::new("shop").unwrap();
        for (spec, told) in [
            (
                spec(),
                [
                    (StepName::Schema, "leave out indexes, constraints and triggers until later"),
                    (StepName::Copy, "CREATE_REPLICATION_SLOT \"pgportage_shop\" LOGICAL pgoutput (SNAPSHOT 'export')"),
                    (
                        StepName::Copy,
                        "copy every table as the slot's snapshot shows it, several at a time, over the link",
                    ),
                    (
                        StepName::Subscribe,
                        "ALTER SUBSCRIPTION \"pgportage_shop\" REFRESH PUBLICATION WITH (copy_data = false)",
                    ),
                    (StepName::CatchUp, "wait until every table follows the stream"),
                ],
            ),
            (
                native(),
                [
                    (StepName::Schema, "CREATE TABLE pgportage.heartbeat, pgportage.marker"),
                    (StepName::Copy, "CREATE_REPLICATION_SLOT \"pgportage_shop\" LOGICAL pgoutput"),
                    (StepName::Copy, "nothing: the subscription copies"),
                    (
                        StepName::Subscribe,
                        "ALTER SUBSCRIPTION \"pgportage_shop\" REFRESH PUBLICATION WITH (copy_data = true)",
                    ),
                    (StepName::CatchUp, "wait until every table is copied and follows the stream"),
                ],
            ),
        ] {
            let plan = render(&id, &spec);
            for (step, line) in told {
                let of_step = || plan.iter().filter(|planned| planned.step == step);
                let found = of_step().any(|planned| planned.statements.iter().any(|known| known == line));
                assert!(found, "{line:?} is not in {:?}", of_step().collect::<Vec<_>>());
            }
        }
        let later = "leave out indexes, constraints and triggers until later";
        assert!(!render(&id, &native()).iter().any(|planned| planned.statements.iter().any(|line| line == later)));
    }

    #[test]
    fn without_a_way_back_nothing_of_it_is_planned() {
        let id = MigrationId::new("shop").unwrap();
        let plan = render(&id, &Spec { way_back: false, ..spec() });
        assert!(!plan.iter().any(|planned| matches!(planned.step, StepName::Reverse | StepName::Rollback)));
        assert!(plan.len() < render(&id, &spec()).len());
        assert_ne!(digest(&id, &spec()), digest(&id, &Spec { way_back: false, ..spec() }));
    }

    #[test]
    fn the_digest_tells_plans_apart() {
        let id = MigrationId::new("shop").unwrap();
        let first = digest(&id, &spec());
        assert_eq!(first, digest(&id, &spec()));
        assert_ne!(first, digest(&id, &Spec { database: "other".to_owned(), ..spec() }));
        assert_ne!(first, digest(&id, &native()));
        assert_ne!(first, digest(&MigrationId::new("shop2").unwrap(), &spec()));
    }
}
