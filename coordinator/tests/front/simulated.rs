//! Two agents that answer every command, keep a journal, come back after every
//! break, and know what would be wrong to do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgportage_link::http2::Http2Settings;
use pgportage_link::identity::Role;
use pgportage_link::tls::Identity;
use pgportage_link::{Clock, Effect, Failure, Remedy, dial};
use pgportage_proto::v1::attach_agent_request::Message as Up;
use pgportage_proto::v1::attach_agent_response::Message as Down;
use pgportage_proto::v1::command::Action;
use pgportage_proto::v1::command_fact::Fact;
use pgportage_proto::v1::command_result::Result as Produced;
use pgportage_proto::v1::session_service_client::SessionServiceClient;
use pgportage_proto::{Reason, v1};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use crate::house::House;
use crate::scripted::hello;

/// What an agent does with a command, by its agent, action and verb.
pub(crate) type Script = dyn Fn(&str, &'static str, v1::Verb) -> Answer + Send + Sync;

pub(crate) enum Answer {
    Do,
    Fail(Failure),
    /// Until it is cancelled.
    Hang,
}

/// Both servers, as far as the order of things matters.
#[derive(Debug, Default)]
pub(crate) struct Servers {
    /// Every command carried out: agent, action, verb.
    pub(crate) done: Vec<(String, &'static str, v1::Verb)>,
    /// What each act of the copy was told about how it is done.
    pub(crate) copy_methods: Vec<(&'static str, v1::CopyMethod)>,
    barrier: bool,
    /// The latest try was one that neither side may be fenced or opened in.
    rehearsed: bool,
    fenced: bool,
    open: bool,
    /// Highest epoch that is promised not to open.
    closed_for: i64,
    /// What exists, by side and action.
    things: BTreeSet<(i32, &'static str)>,
}

/// The world of one test.
pub(crate) struct World {
    servers: Mutex<Servers>,
    journals: Mutex<BTreeMap<String, Journal>>,
    script: Box<Script>,
    address: watch::Sender<Option<SocketAddr>>,
    /// What each agent says of the two schemas.
    drifts: Mutex<BTreeMap<&'static str, v1::SchemaDrift>>,
    /// The lag that both agents measure.
    lag: Mutex<Duration>,
}

#[derive(Default)]
struct Journal {
    /// Facts of each command, and how many are acknowledged.
    commands: BTreeMap<String, (Vec<Fact>, i64)>,
    highest_epoch: i64,
}

impl World {
    pub(crate) fn new(script: impl Fn(&str, &'static str, v1::Verb) -> Answer + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            servers: Mutex::default(),
            journals: Mutex::default(),
            script: Box::new(script),
            address: watch::Sender::new(None),
            drifts: Mutex::default(),
            lag: Mutex::new(Duration::from_millis(3)),
        })
    }

    pub(crate) fn quiet() -> Arc<Self> {
        Self::new(|_, _, _| Answer::Do)
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&Servers) -> T) -> T {
        look(&self.servers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Applications can write on the source.
    pub(crate) fn source_takes_writes(&self) -> bool {
        self.look(|servers| !servers.barrier && !servers.fenced)
    }

    pub(crate) fn destination_takes_writes(&self) -> bool {
        self.look(|servers| servers.open)
    }

    /// What was made and neither taken back nor removed.
    pub(crate) fn left_behind(&self) -> Vec<&'static str> {
        self.look(|servers| servers.things.iter().map(|(_, action)| *action).collect())
    }

    /// What an agent says of the two schemas from now on.
    pub(crate) fn drifts(&self, agent: &'static str, drift: v1::SchemaDrift) {
        self.drifts.lock().unwrap_or_else(PoisonError::into_inner).insert(agent, drift);
    }

    /// How far one side is behind the other from now on.
    pub(crate) fn lags(&self, lag: Duration) {
        *self.lag.lock().unwrap_or_else(PoisonError::into_inner) = lag;
    }

    /// Where the coordinator is from now on. Agents come by themselves.
    pub(crate) fn move_to(&self, address: SocketAddr) {
        self.address.send_replace(Some(address));
    }

    /// Starts both agents. They end with the runtime.
    pub(crate) fn populate(self: &Arc<Self>, house: &House) {
        for name in ["berlin", "oslo"] {
            let identity = house.identity(Role::Agent, name);
            let world = Arc::clone(self);
            tokio::spawn(async move { world.live(name, identity).await });
        }
    }

    async fn live(self: Arc<Self>, name: &'static str, identity: Identity) {
        let mut addresses = self.address.subscribe();
        loop {
            let address = addresses.wait_for(Option::is_some).await.unwrap().unwrap();
            // Broken for whatever reason: dial again.
            let _broken = self.attach(name, &identity, address).await;
            Clock.sleep(Duration::from_millis(10)).await;
        }
    }

    fn journal<T>(&self, name: &str, write: impl FnOnce(&mut Journal) -> T) -> T {
        write(self.journals.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()).or_default())
    }

    async fn attach(self: &Arc<Self>, name: &str, identity: &Identity, address: SocketAddr) -> Option<()> {
        let expected = identity.id_of(Role::Coordinator, "control").ok()?;
        let channel = dial::channel(&address.to_string(), &expected, identity, &Http2Settings::control()).await.ok()?;
        let (up, stream) = mpsc::channel(1024);
        let (open_commands, leader_epoch) = self.journal(name, |journal| {
            let open =
                journal.commands.iter().filter(|(_, (facts, acknowledged))| (facts.len() as i64) > *acknowledged);
            let open = open
                .map(|(id, (facts, _))| v1::OpenCommand { command_id: id.clone(), last_sequence: facts.len() as i64 })
                .collect();
            (open, journal.highest_epoch)
        });
        say(&up, Up::Hello(v1::Hello { open_commands, leader_epoch, ..hello(name) })).await?;
        let mut down =
            SessionServiceClient::new(channel).attach_agent(ReceiverStream::new(stream)).await.ok()?.into_inner();
        let mut sequence = 0;
        let mut beat_at = Clock.now();
        loop {
            tokio::select! {
                message = down.message() => match message.ok()??.message? {
                    Down::Welcome(welcome) => {
                        self.journal(name, |journal| {
                            assert!(welcome.leader_epoch >= journal.highest_epoch);
                            journal.highest_epoch = welcome.leader_epoch;
                            for id in &welcome.abandoned_command_ids {
                                journal.commands.remove(id);
                            }
                        });
                        self.tell(name, &up).await?;
                    }
                    Down::Command(command) => {
                        self.take(name, command);
                        self.tell(name, &up).await?;
                    }
                    Down::Cancel(cancel) => {
                        self.journal(name, |journal| {
                            if let Some((facts, _)) = journal.commands.get_mut(&cancel.command_id)
                                && facts.len() == 1
                            {
                                let effect = v1::failure::Effect::Unknown.into();
                                facts.push(Fact::Cancelled(v1::CommandCancelled { effect }));
                            }
                        });
                        self.tell(name, &up).await?;
                    }
                    Down::Ack(ack) => self.journal(name, |journal| {
                        if let Some((_, acknowledged)) = journal.commands.get_mut(&ack.command_id) {
                            *acknowledged = (*acknowledged).max(ack.sequence);
                        }
                    }),
                    Down::Drain(_) => return None,
                    Down::RelayOffer(offer) => panic!("nobody asked for a relay: {offer:?}"),
                    // As an older release: it does not know the word.
                    Down::Question(_) => {}
                    // It copies nothing.
                    Down::Tuning(_) => {}
                },
                () = Clock.sleep_until(beat_at) => {
                    beat_at = Clock.now() + Duration::from_millis(100);
                    sequence += 1;
                    let schema_drift = self.drifts.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
                    let lag = *self.lag.lock().unwrap_or_else(PoisonError::into_inner);
                    let gauge = v1::MigrationGauge {
                        schema_drift,
                        migration_id: crate::house::NAME.to_owned(),
                        lag: prost_types::Duration::try_from(lag).ok(),
                        ..v1::MigrationGauge::default()
                    };
                    say(&up, Up::Heartbeat(v1::Heartbeat { sequence, gauges: vec![gauge] })).await?;
                    self.tell(name, &up).await?;
                }
            }
        }
    }

    /// Says every fact that is not acknowledged: also those said before.
    async fn tell(&self, name: &str, up: &Outgoing) -> Option<()> {
        let facts: Vec<_> = self.journal(name, |journal| {
            let open = |(id, (facts, acknowledged)): (&String, &(Vec<Fact>, i64))| {
                let id = id.clone();
                let skip = usize::try_from(*acknowledged).unwrap().min(facts.len());
                let numbered = facts.iter().cloned().zip(1_i64..).skip(skip);
                numbered
                    .map(|(fact, sequence)| v1::CommandFact {
                        command_id: id.clone(),
                        sequence,
                        record_time: None,
                        fact: Some(fact),
                    })
                    .collect::<Vec<_>>()
            };
            journal.commands.iter().flat_map(open).collect()
        });
        for fact in facts {
            say(up, Up::Fact(fact)).await?;
        }
        Some(())
    }

    /// As an agent does: a known id starts nothing twice.
    fn take(&self, name: &str, command: v1::Command) {
        let known = self.journal(name, |journal| {
            assert!(command.leader_epoch >= journal.highest_epoch, "a command of an old coordinator");
            journal.commands.contains_key(&command.id)
        });
        if known {
            return;
        }
        assert!(command.heartbeat_sequence > 0, "a command without a heartbeat");
        let action = command.action.clone().unwrap();
        let kind = kind(&action);
        let mut facts = vec![Fact::Accepted(v1::CommandAccepted {})];
        match (self.script)(name, kind, command.verb()) {
            Answer::Hang => {}
            Answer::Fail(failure) => facts.push(Fact::Failed(failure.into())),
            Answer::Do => facts.push(match self.carry_out(name, &command, &action, kind) {
                Ok(result) => Fact::Succeeded(v1::CommandResult { result }),
                Err(failure) => Fact::Failed(failure.into()),
            }),
        }
        self.journal(name, |journal| journal.commands.insert(command.id, (facts, 0)));
    }

    fn carry_out(
        &self,
        name: &str,
        command: &v1::Command,
        action: &Action,
        kind: &'static str,
    ) -> Result<Option<Produced>, Failure> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let thing = (command.side, kind);
        servers.done.push((name.to_owned(), kind, command.verb()));
        let drift = self.drifts.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned().unwrap_or_default();
        servers.copy_methods.extend(copy_method(action).map(|method| (kind, method)));
        if command.verb() == v1::Verb::Undo {
            match action {
                Action::RestoreSchema(_) => {
                    servers.things.remove(&(command.side, "copy_tables"));
                }
                Action::RaiseBarrier(_) => {
                    let earnest = !servers.rehearsed;
                    assert!(!(servers.open && earnest), "the barrier is taken back although the destination is open");
                    servers.barrier = false;
                }
                Action::FenceSource(fence) => {
                    if servers.open {
                        return Err(Failure::new(Reason::DestinationOpened, "the destination has opened"));
                    }
                    servers.closed_for = servers.closed_for.max(fence.cutover_epoch);
                    servers.fenced = false;
                }
                Action::OpenDestination(_) => panic!("the decision is taken back"),
                _ => {}
            }
            servers.things.remove(&thing);
            return Ok(None);
        }
        let source = i32::from(v1::Side::Source);
        match action {
            Action::CopyTables(_) => {
                assert!(servers.things.contains(&(command.side, "restore_schema")), "rows without tables");
                assert!(servers.things.contains(&(source, "create_slot")), "rows that no slot continues");
            }
            Action::CreateSubscription(_) => {
                assert!(servers.things.contains(&(command.side, "copy_tables")), "changes to rows that are not there");
            }
            Action::PrepareCutover(prepare) => servers.rehearsed = prepare.rehearsal,
            Action::RaiseBarrier(_) => servers.barrier = true,
            Action::FenceSource(_) => {
                assert!(!servers.rehearsed, "a fence in a rehearsal");
                assert!(servers.barrier, "a fence without a barrier");
                servers.fenced = true;
            }
            Action::OpenDestination(open) => {
                if servers.closed_for >= open.cutover_epoch {
                    return Err(Failure::new(Reason::OpenRefused, "this cutover was given up").effect(Effect::None));
                }
                assert!(!servers.rehearsed, "opened in a rehearsal");
                assert!(servers.fenced, "opened while the source is not fenced");
                servers.open = true;
            }
            Action::ReleaseBarrier(_) => servers.barrier = false,
            Action::FinishMigration(_) => {
                let side = command.side;
                servers.things.retain(|(other, _)| *other != side);
            }
            _ => {}
        }
        let makes_something = matches!(
            action,
            Action::CreateReplicationRole(_)
                | Action::SetReplicaIdentity(_)
                | Action::CreatePublication(_)
                | Action::CloseDatabase(_)
                | Action::RestoreSchema(_)
                | Action::CreateSlot(_)
                | Action::CopyTables(_)
                | Action::CreateSubscription(_)
                | Action::CreateWayBack(_)
        );
        if makes_something {
            servers.things.insert(thing);
        }
        let mut produced = produced(action);
        if let Produced::CountRows(counted) = &mut produced {
            let object = |object: v1::DriftedObject| v1::SchemaObject { identity: object.identity, digest: vec![1] };
            counted.objects = drift.objects.into_iter().map(object).collect();
        }
        Ok(Some(produced))
    }
}

type Outgoing = mpsc::Sender<v1::AttachAgentRequest>;

async fn say(up: &Outgoing, message: Up) -> Option<()> {
    up.send(v1::AttachAgentRequest { message: Some(message) }).await.ok()
}

/// A failure that helps itself.
pub(crate) fn passing() -> Failure {
    Failure::new(Reason::ServerUnreachable, "the server does not answer").remedy(Remedy::Wait).effect(Effect::Unknown)
}

pub(crate) fn kind(action: &Action) -> &'static str {
    match action {
        Action::CheckServer(_) => "check_server",
        Action::CreateReplicationRole(_) => "create_replication_role",
        Action::ReachPeer(_) => "reach_peer",
        Action::SetReplicaIdentity(_) => "set_replica_identity",
        Action::CreatePublication(_) => "create_publication",
        Action::CloseDatabase(_) => "close_database",
        Action::RestoreSchema(_) => "restore_schema",
        Action::CreateSlot(_) => "create_slot",
        Action::CopyTables(_) => "copy_tables",
        Action::CreateSubscription(_) => "create_subscription",
        Action::AwaitCopy(_) => "await_copy",
        Action::AwaitLag(_) => "await_lag",
        Action::CountRows(_) => "count_rows",
        Action::CompareRows(_) => "compare_rows",
        Action::PrepareCutover(_) => "prepare_cutover",
        Action::RaiseBarrier(_) => "raise_barrier",
        Action::DrainToMarker(_) => "drain_to_marker",
        Action::FenceSource(_) => "fence_source",
        Action::OpenDestination(_) => "open_destination",
        Action::ReleaseBarrier(_) => "release_barrier",
        Action::CreateWayBack(_) => "create_way_back",
        Action::KeepStream(_) => "keep_stream",
        Action::FollowStream(_) => "follow_stream",
        Action::CertifySwitch(_) => "certify_switch",
        Action::FinishMigration(_) => "finish_migration",
    }
}

fn copy_method(action: &Action) -> Option<v1::CopyMethod> {
    match action {
        Action::RestoreSchema(restore) => Some(restore.copy_method()),
        Action::CreateSlot(create) => Some(create.copy_method()),
        Action::CopyTables(copy) => Some(copy.copy_method()),
        Action::CreateSubscription(create) => Some(create.copy_method()),
        _ => None,
    }
}

fn produced(action: &Action) -> Produced {
    let sequence = |last_value| v1::SequenceState {
        sequence: Some(v1::RelationName { schema_name: "public".to_owned(), relation_name: "ids".to_owned() }),
        last_value,
        called: true,
    };
    let digest = vec![2];
    match action {
        Action::CheckServer(_) => Produced::CheckServer(v1::CheckServerResult {
            inventory: Some(v1::Inventory { server_version_num: 180_000, ..v1::Inventory::default() }),
            findings: Vec::new(),
        }),
        Action::CreateReplicationRole(_) => Produced::CreateReplicationRole(v1::CreateReplicationRoleResult::default()),
        Action::ReachPeer(_) => Produced::ReachPeer(v1::ReachPeerResult::default()),
        Action::SetReplicaIdentity(_) => Produced::SetReplicaIdentity(v1::SetReplicaIdentityResult::default()),
        Action::CreatePublication(_) => Produced::CreatePublication(v1::CreatePublicationResult::default()),
        Action::CloseDatabase(_) => Produced::CloseDatabase(v1::CloseDatabaseResult::default()),
        Action::RestoreSchema(_) => Produced::RestoreSchema(v1::RestoreSchemaResult::default()),
        Action::CreateSlot(_) => Produced::CreateSlot(v1::CreateSlotResult::default()),
        Action::CopyTables(_) => Produced::CopyTables(v1::CopyTablesResult::default()),
        Action::CreateSubscription(_) => Produced::CreateSubscription(v1::CreateSubscriptionResult::default()),
        Action::AwaitCopy(_) => Produced::AwaitCopy(v1::AwaitCopyResult::default()),
        Action::AwaitLag(_) => Produced::AwaitLag(v1::AwaitLagResult::default()),
        Action::CountRows(_) => {
            let table = Some(v1::RelationName { schema_name: "public".to_owned(), relation_name: "orders".to_owned() });
            let count = v1::TableCount { table, row_count: 7, inserted_count: 7, deleted_count: 0 };
            Produced::CountRows(v1::CountRowsResult { tables: vec![count], ..v1::CountRowsResult::default() })
        }
        Action::CompareRows(_) => {
            let table = Some(v1::RelationName { schema_name: "public".to_owned(), relation_name: "orders".to_owned() });
            let compared = v1::TableComparison { table, row_count: 7, complete: true, ..Default::default() };
            Produced::CompareRows(v1::CompareRowsResult {
                tables: vec![compared],
                complete: true,
                range_count: 1,
                ..Default::default()
            })
        }
        Action::PrepareCutover(_) => Produced::PrepareCutover(v1::PrepareCutoverResult {
            table_set_digest: digest.clone(),
            catalog_digest: digest,
            table_count: 1,
        }),
        Action::RaiseBarrier(_) => Produced::RaiseBarrier(v1::RaiseBarrierResult {
            marker_id: "m".to_owned(),
            sequences: vec![sequence(10)],
            catalog_digest: digest,
            ..v1::RaiseBarrierResult::default()
        }),
        Action::DrainToMarker(drain) => {
            assert_eq!(drain.sequences[0].last_value, 10);
            Produced::DrainToMarker(v1::DrainToMarkerResult::default())
        }
        Action::FenceSource(_) => Produced::FenceSource(v1::FenceSourceResult {
            fence_lsn: "0/F".to_owned(),
            sequences: vec![sequence(20)],
            catalog_digest: digest,
            ..v1::FenceSourceResult::default()
        }),
        Action::OpenDestination(open) => {
            assert_eq!(open.sequences[0].last_value, 20);
            Produced::OpenDestination(v1::OpenDestinationResult { open_lsn: "0/0".to_owned() })
        }
        Action::ReleaseBarrier(_) => Produced::ReleaseBarrier(v1::ReleaseBarrierResult::default()),
        Action::CreateWayBack(_) => Produced::CreateWayBack(v1::CreateWayBackResult::default()),
        Action::KeepStream(_) => Produced::KeepStream(v1::KeepStreamResult::default()),
        Action::FollowStream(_) => Produced::FollowStream(v1::FollowStreamResult::default()),
        Action::CertifySwitch(certify) => Produced::CertifySwitch(v1::CertifySwitchResult {
            signed: Some(v1::SignedStatement {
                statement: format!("{{\"epoch\": {}}}", certify.cutover_epoch),
                scheme: 1027,
                signature: vec![0, 255],
                chain: vec![vec![1], vec![2]],
            }),
        }),
        Action::FinishMigration(_) => Produced::FinishMigration(v1::FinishMigrationResult {
            unfence_statements: vec!["GRANT CONNECT …".to_owned()],
        }),
    }
}
