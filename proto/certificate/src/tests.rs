//! What is proved, and every forgery that a holder of the file could try without an
//! agent's key.

use std::time::SystemTime;

use pgportage_link::Clock;
use pgportage_link::issue::{Authority, authority_file};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// An authority and the certificates that it issues.
struct House {
    directory: tempfile::TempDir,
    authority: Authority,
    now: SystemTime,
}

impl House {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::create(directory.path(), "fleet", Clock).unwrap();
        Self { directory, authority, now: Clock.wall() }
    }

    fn identity(&self, role: Role, name: &str) -> Identity {
        let out = self.directory.path().join(format!("{role}-{name}"));
        let paths = self.authority.write(&self.authority.issue(role, name, DAY).unwrap(), &out).unwrap();
        Identity::load(&paths, Clock).unwrap()
    }

    fn authorities(&self) -> Authorities {
        Authorities::read(&authority_file(self.directory.path())).unwrap()
    }

    fn verify(&self, statements: Vec<SignedStatement>) -> Report {
        SwitchCertificate::new(statements).verify(&self.authorities(), self.now)
    }
}

fn sequence(name: &str, last_value: i64) -> Sequence {
    Sequence { schema: "public".to_owned(), name: name.to_owned(), last_value, called: true }
}

/// What both agents state when all is well; `now` is behind all of it.
fn story(now: SystemTime) -> (Statement, Statement) {
    let at = |seconds: u64| Moment::from(now - Duration::from_secs(60 - seconds));
    let uri = |name: &str| format!("spiffe://fleet/pgportage/agent/{name}");
    let left = Statement {
        format: FORMAT,
        migration: "shop".to_owned(),
        cutover_epoch: 3,
        direction: Direction::Cutover,
        database: "shop".to_owned(),
        plan_sha256: "07".to_owned(),
        agent: uri("berlin"),
        peer: uri("oslo"),
        server: Server { system_identifier: "71".to_owned(), version_num: 150_019 },
        marker_id: "4f9a".to_owned(),
        tables: TableSet { count: 2, sha256: "aa".to_owned() },
        catalog_sha256: "cc".to_owned(),
        sequences: Listing::of(vec![sequence("ids", 41), sequence("tickets", -8)]),
        phases: vec![Phase { name: "fence_source".to_owned(), begin: at(1), end: at(2) }],
        account: Account::Left(Left {
            marker_lsn: "0/FFFFFFFF".to_owned(),
            fence_lsn: "1/A".to_owned(),
            fence_time: at(2),
            lock_wait_microseconds: 4_000,
            barrier_microseconds: 90_000,
            cancelled_session_count: 1,
            terminated_session_count: 7,
        }),
        verification: None,
        statement_time: at(4),
    };
    let rows =
        vec![Rows { schema: "public".to_owned(), name: "orders".to_owned(), row_count: 9, hash: "ee".to_owned() }];
    let entered = Statement {
        agent: uri("oslo"),
        peer: uri("berlin"),
        server: Server { system_identifier: "72".to_owned(), version_num: 180_001 },
        phases: vec![Phase { name: "open_destination".to_owned(), begin: at(2), end: at(3) }],
        account: Account::Entered(Entered {
            flush_lsn: "0/10".to_owned(),
            drain_microseconds: 3_000,
            decision_lsn: "0/20".to_owned(),
            decision_time: at(3),
            written: Some(Written {
                table_count: 2,
                row_count: 31,
                left_out: vec!["public.log".to_owned()],
                elapsed_microseconds: 9_000,
            }),
        }),
        verification: Some(Verification {
            time: at(0),
            tables: Listing::of(rows),
            row_count: 9,
            comparison: Some(Comparison { complete: true, difference_count: 0, unsettled_count: 0 }),
        }),
        ..left.clone()
    };
    (left, entered)
}

fn unproved(report: &Report) -> Vec<&str> {
    report.checks.iter().filter(|check| !check.proved).map(|check| check.subject.as_str()).collect()
}

struct Pair {
    house: House,
    berlin: Identity,
    oslo: Identity,
}

impl Pair {
    fn new() -> Self {
        let house = House::new();
        let (berlin, oslo) = (house.identity(Role::Agent, "berlin"), house.identity(Role::Agent, "oslo"));
        Self { house, berlin, oslo }
    }

    fn signed(&self, left: &Statement, entered: &Statement) -> [SignedStatement; 2] {
        [SignedStatement::sign(left, &self.berlin).unwrap(), SignedStatement::sign(entered, &self.oslo).unwrap()]
    }

    /// What is not proved when the story is told otherwise, all signed as it should.
    fn told(&self, change: impl FnOnce(&mut Statement, &mut Statement)) -> Vec<String> {
        let (mut left, mut entered) = story(self.house.now);
        change(&mut left, &mut entered);
        let report = self.house.verify(self.signed(&left, &entered).into());
        unproved(&report).into_iter().map(str::to_owned).collect()
    }
}

#[test]
fn what_both_agents_signed_is_proved_and_survives_a_file() {
    let pair = Pair::new();
    let (left, entered) = story(pair.house.now);
    let [one, other] = pair.signed(&left, &entered);
    // In any order.
    let certificate = SwitchCertificate::new(vec![other, one]);
    let read = SwitchCertificate::parse(&certificate.text()).unwrap();
    assert_eq!(read, certificate);
    let report = read.verify(&pair.house.authorities(), pair.house.now);
    assert!(report.proved(), "{:#?}", report.checks);
    assert_eq!(report.statements, [left, entered], "nothing is lost on the way");
    assert_eq!((report.migration.as_str(), report.cutover_epoch), ("shop", 3));
    let subjects: Vec<_> = report.checks.iter().map(|check| check.subject.as_str()).collect();
    let all = ["signature", "signature", "agents", "switch", "marker", "fence", "flush", "tables", "catalog"];
    assert_eq!(subjects[..9], all);
    assert_eq!(subjects[9..], ["sequences", "order", "rows", "written"]);
    assert!(report.checks[12].text.ends_with("none differs; not compared: public.log"), "{:?}", report.checks[12]);
}

#[test]
fn every_byte_that_is_changed_is_noticed() {
    let pair = Pair::new();
    let (left, entered) = story(pair.house.now);
    let signed = pair.signed(&left, &entered);
    for which in 0..2 {
        // Every place of the statement, of the signature and of the certificate.
        let length = signed[which].statement.len();
        for place in (0..length).filter(|place| place % 7 == which) {
            let mut changed = signed.clone();
            let mut bytes = changed[which].statement.clone().into_bytes();
            bytes[place] ^= 1;
            let Ok(statement) = String::from_utf8(bytes) else { continue };
            changed[which].statement = statement;
            assert!(!pair.house.verify(changed.into()).proved(), "statement {which}, byte {place}");
        }
        for place in 0..signed[which].signature.len() {
            let mut changed = signed.clone();
            changed[which].signature[place] ^= 1;
            assert_eq!(unproved(&pair.house.verify(changed.into()))[0], "signature", "signature {which}, byte {place}");
        }
        for place in (0..signed[which].chain[0].0.len()).step_by(5) {
            let mut changed = signed.clone();
            changed[which].chain[0].0[place] ^= 1;
            assert!(!pair.house.verify(changed.into()).proved(), "certificate {which}, byte {place}");
        }
        for scheme in [0_u16, 0x0503, 0x0807, u16::MAX] {
            let mut changed = signed.clone();
            changed[which].scheme = scheme;
            assert!(!pair.house.verify(changed.into()).proved(), "scheme {scheme}");
        }
        for chain in [Vec::new(), vec![Der(Vec::new())], signed[1 - which].chain.clone()] {
            let mut changed = signed.clone();
            changed[which].chain = chain;
            assert!(!pair.house.verify(changed.into()).proved());
        }
    }
}

#[test]
fn one_side_alone_proves_nothing() {
    let pair = Pair::new();
    let (left, entered) = story(pair.house.now);
    let [one, other] = pair.signed(&left, &entered);
    for statements in [
        vec![],
        vec![one.clone()],
        vec![other.clone()],
        vec![one.clone(), one.clone()],
        vec![other.clone(), other.clone()],
        vec![one.clone(), other.clone(), one],
    ] {
        let report = pair.house.verify(statements);
        assert!(!report.proved() && unproved(&report).contains(&"statements"), "{:?}", report.checks);
    }
}

#[test]
fn statements_of_two_switches_or_two_migrations_do_not_fit_together() {
    let pair = Pair::new();
    let other_switch = pair.told(|_, entered| entered.cutover_epoch = 4);
    assert_eq!(other_switch, ["switch"]);
    assert_eq!(pair.told(|left, _| left.migration = "crm".to_owned()), ["switch"]);
    assert_eq!(pair.told(|left, _| left.database = "crm".to_owned()), ["switch"]);
    assert_eq!(pair.told(|left, _| left.plan_sha256 = "08".to_owned()), ["switch"]);
    assert_eq!(pair.told(|_, entered| entered.direction = Direction::Rollback), ["switch"]);
    // As two switchovers of one number would be, had the coordinator lost its store.
    assert_eq!(pair.told(|_, entered| entered.marker_id = "0000".to_owned()), ["marker"]);
}

#[test]
fn what_the_sides_do_not_agree_on_is_not_proved() {
    let pair = Pair::new();
    let now = pair.house.now;
    assert!(pair.told(|_, _| ()).is_empty());
    assert_eq!(pair.told(|left, _| left.tables.count = 3), ["tables"]);
    assert_eq!(pair.told(|_, entered| entered.tables.sha256.clear()), ["tables"]);
    assert_eq!(pair.told(|_, entered| entered.catalog_sha256 = "cd".to_owned()), ["catalog"]);
    let nothing = |left: &mut Statement, entered: &mut Statement| {
        left.catalog_sha256.clear();
        entered.catalog_sha256.clear();
    };
    assert_eq!(pair.told(nothing), ["catalog"], "nothing to compare is no pass");
    let moved = Listing::of(vec![sequence("ids", 40), sequence("tickets", -8)]);
    assert_eq!(pair.told(|_, entered| entered.sequences = moved.clone()), ["sequences"]);
    let disguised = |_: &mut Statement, entered: &mut Statement| entered.sequences.entries = moved.entries.clone();
    assert_eq!(pair.told(disguised), ["sequences"], "a hash that is not that of its list");
    assert_eq!(pair.told(|left, _| left.peer.clone_from(&left.agent)), ["agents"]);
    let fence = |lsn: &str| {
        let lsn = lsn.to_owned();
        move |left: &mut Statement, _: &mut Statement| {
            if let Account::Left(account) = &mut left.account {
                account.fence_lsn = lsn;
            }
        }
    };
    assert_eq!(pair.told(fence("0/FFFFFFFE")), ["fence"]);
    assert_eq!(pair.told(fence("")), ["fence"]);
    let early = |seconds: u64| {
        move |_: &mut Statement, entered: &mut Statement| {
            if let Account::Entered(account) = &mut entered.account {
                account.decision_time = Moment::from(now - Duration::from_secs(60 + seconds));
            }
        }
    };
    assert_eq!(pair.told(early(600)), ["order"]);
    assert!(pair.told(early(0)).is_empty(), "clocks may differ by that");
    let flushed = |_: &mut Statement, entered: &mut Statement| {
        if let Account::Entered(account) = &mut entered.account {
            account.flush_lsn = "0/21".to_owned();
        }
    };
    assert_eq!(pair.told(flushed), ["flush"]);
    for compared in [
        Comparison { complete: true, difference_count: 1, unsettled_count: 0 },
        Comparison { complete: false, difference_count: 0, unsettled_count: 0 },
    ] {
        let differing = |_: &mut Statement, entered: &mut Statement| {
            entered.verification.as_mut().unwrap().comparison = Some(compared);
        };
        assert_eq!(pair.told(differing), ["rows"]);
    }
}

#[test]
fn nobody_but_the_agent_itself_speaks_for_it() {
    let pair = Pair::new();
    let (left, entered) = story(pair.house.now);
    let good = pair.signed(&left, &entered);
    let told = |signed: SignedStatement| {
        let report = pair.house.verify(vec![signed, good[1].clone()]);
        assert_eq!(unproved(&report), ["signature", "statements"], "{:?}", report.checks);
        report.checks.into_iter().find(|check| !check.proved).unwrap().text
    };
    // The other agent, the coordinator and an operator, under their own names and
    // under the agent's.
    assert!(told(SignedStatement::sign(&left, &pair.oslo).unwrap()).contains("speaks for"));
    for (role, name) in [(Role::Coordinator, "control"), (Role::Operator, "olga"), (Role::Operator, "berlin")] {
        let identity = pair.house.identity(role, name);
        let own = Statement { agent: identity.own().uri, ..left.clone() };
        assert!(told(SignedStatement::sign(&own, &identity).unwrap()).contains("who is no agent"));
        assert!(told(SignedStatement::sign(&left, &identity).unwrap()).contains("who is no agent"));
    }
    // The agent's certificate, which is no secret, and another key.
    let forged = SignedStatement::sign(&left, &pair.house.identity(Role::Agent, "eve")).unwrap();
    assert!(told(SignedStatement { chain: good[0].chain.clone(), ..forged }).contains("does not bear the signature"));
    // An authority of one's own, of the same name.
    let elsewhere = House::new();
    let twin = SignedStatement::sign(&left, &elsewhere.identity(Role::Agent, "berlin")).unwrap();
    assert!(told(twin).contains("is not signed by our authority"));
}

#[test]
fn a_certificate_has_to_be_in_force_when_it_signs() {
    let pair = Pair::new();
    let told = |time: SystemTime| {
        let (left, entered) = story(pair.house.now);
        let left = Statement { statement_time: time.into(), ..left };
        let report = pair.house.verify(pair.signed(&left, &entered).into());
        report.checks.into_iter().find(|check| !check.proved).map(|check| check.text)
    };
    assert_eq!(told(pair.house.now), None);
    assert!(told(pair.house.now - 30 * DAY).unwrap().contains("is not valid yet"));
    assert!(told(pair.house.now + 30 * DAY).unwrap().contains("has expired"));
    assert!(told(pair.house.now + DAY / 2).unwrap().contains("still to come"));
    // Checked long afterwards, when the certificate has ended.
    let (left, entered) = story(pair.house.now);
    let certificate = SwitchCertificate::new(pair.signed(&left, &entered).into());
    assert!(certificate.verify(&pair.house.authorities(), pair.house.now + 900 * DAY).proved());
}

#[test]
fn a_signature_of_something_else_is_none() {
    let pair = Pair::new();
    let (left, entered) = story(pair.house.now);
    let mut signed = pair.signed(&left, &entered);
    let bare = pair.berlin.sign(signed[0].statement.as_bytes()).unwrap();
    signed[0].signature = bare.bytes;
    assert_eq!(unproved(&pair.house.verify(signed.into()))[0], "signature");
}

#[test]
fn long_lists_are_told_by_their_hash() {
    let sequences =
        |moved: i64| Listing::of((0..2_000).map(|n| sequence(&format!("s{n}"), n / 1_999 * moved)).collect());
    assert_eq!(sequences(1).entries, None);
    let pair = Pair::new();
    let list = |set: i64| {
        pair.told(|left, entered| {
            left.sequences = sequences(1);
            entered.sequences = sequences(set);
        })
    };
    assert!(list(1).is_empty());
    assert_eq!(list(2), ["sequences"]);
}

#[test]
fn what_is_no_certificate_is_refused() {
    let unknown = "{\"format\": \"pgportage switch certificate 2\", \"statements\": []}";
    let more = "{\"format\": \"pgportage switch certificate 1\", \"statements\": [], \"verified\": true}";
    for text in ["", "{}", "[]", unknown, more, "-----BEGIN CERTIFICATE-----"] {
        assert_eq!(SwitchCertificate::parse(text).unwrap_err().reason, Reason::CertificateNotProved, "{text}");
    }
    let pair = Pair::new();
    let (left, entered) = story(pair.house.now);
    let newer = Statement { format: 2, ..left };
    let report = pair.house.verify(pair.signed(&newer, &entered).into());
    assert_eq!(unproved(&report), ["signature", "statements"]);
}
