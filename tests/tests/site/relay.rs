//! Agents that cannot reach each other go through the coordinator, which passes
//! on their own TLS session and learns nothing from it. And a link that dies,
//! relayed or not, is made anew without the subscription noticing.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pgportage_tests::journey::{Journey, MIGRATION, expect_refused};
use pgportage_tests::ledger::End;
use pgportage_tests::proxy::Proxy;
use pgportage_tests::site::APPLICATION;
use pgportage_tests::wait::{self, Seen};
use pgportage_tests::wiretap::{RelayRecord, Wiretap};
use pgportage_tests::workload::WorkloadOptions;
use pgportage_tests::{PostgresVersion, Site, SiteOptions};

const LIMIT: Duration = Duration::from_secs(120);

/// In rows that move and in the definition of their table.
const CANARY: &str = "canary-in-the-relay-4711";

fn options() -> WorkloadOptions {
    WorkloadOptions { writers: 6, pause: Duration::from_millis(40), ..WorkloadOptions::default() }
}

async fn prepare() -> Site {
    Site::prepare(SiteOptions::new(PostgresVersion::V16, PostgresVersion::V18)).await.unwrap()
}

/// Neither agent knows an address of the other.
fn relay_only(site: &mut Site) {
    for config in [&mut site.source_config, &mut site.destination_config] {
        for (_, address) in &mut config.policy.peers {
            "relay".clone_into(address);
        }
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Checks that the bytes are TLS records from the first to the last, a hello of
/// this kind first, and returns how many are encrypted.
fn encrypted_records(bytes: &[u8], hello: u8) -> Result<usize> {
    const HANDSHAKE: u8 = 22;
    const APPLICATION_DATA: u8 = 23;
    const CHANGE_CIPHER_SPEC: u8 = 20;

    ensure!(bytes.first() == Some(&HANDSHAKE) && bytes.get(5) == Some(&hello), "begins with {:02x?}", bytes.get(..6));
    let mut encrypted = 0;
    let mut rest = bytes;
    // The last one may have been cut off with its relay.
    while let Some((&[kind, 3, _minor, high, low], after)) = rest.split_first_chunk() {
        match kind {
            APPLICATION_DATA => encrypted += 1,
            // In clear there are the hellos, and nothing once encryption begins.
            HANDSHAKE | CHANGE_CIPHER_SPEC if encrypted == 0 => {}
            other => bail!("a record of type {other} behind {encrypted} encrypted ones"),
        }
        rest = after.get(usize::from(u16::from_be_bytes([high, low]))..).unwrap_or_default();
    }
    ensure!(rest.len() < 5, "{} bytes are no TLS record: {:02x?}", rest.len(), &rest[..5]);
    Ok(encrypted)
}

#[test]
fn the_look_at_records_sees_what_is_not_encrypted() {
    let record = |kind: u8, length: u8| [&[kind, 3, 3, 0, length][..], &vec![1; usize::from(length)]].concat();
    let (hello, encrypted) = (record(22, 9), record(23, 40));
    let good = [&hello[..], &record(20, 1), &encrypted, &encrypted].concat();
    assert_eq!(encrypted_records(&good, 1).unwrap(), 2);
    encrypted_records(&good, 2).unwrap_err();
    encrypted_records(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 1).unwrap_err();
    for clear in [&hello[..], b"a row that somebody forgot to encrypt"] {
        encrypted_records(&[&good[..], clear, &encrypted].concat(), 1).unwrap_err();
    }
}

async fn replication_password(site: &Site) -> Result<String> {
    let client = site.destination.connect(&site.database).await?;
    let conninfo: String = client.query_one("SELECT subconninfo FROM pg_subscription", &[]).await?.get(0);
    let (_, rest) = conninfo.split_once("password=").context("no password")?;
    let password: String = rest.trim_start_matches('\'').chars().take_while(|c| !matches!(c, '\'' | ' ')).collect();
    ensure!(password.len() > 15, "a short password");
    Ok(password)
}

#[tokio::test]
async fn a_migration_goes_through_the_coordinator_which_can_read_none_of_it() {
    let mut site = prepare().await;
    relay_only(&mut site);
    let wiretap = Wiretap::start(&site.source_config.coordinator, &site.source_config.certificates).await.unwrap();
    for config in [&mut site.source_config, &mut site.destination_config] {
        config.coordinator = format!("127.0.0.1:{}", wiretap.port);
    }
    site.write_agent_files().unwrap();
    site.start_programs().await.unwrap();
    let table = format!(
        "SET ROLE {APPLICATION};
         CREATE TABLE canaries (id int PRIMARY KEY, value text DEFAULT '{CANARY}-default');
         INSERT INTO canaries SELECT n, '{CANARY}' FROM generate_series(1, 1000) n"
    );
    site.source.execute(&site.database, &table).await.unwrap();
    let journey = Journey::begin(site, 5_000, &options()).await.unwrap();
    journey.until_cutover().await.unwrap();
    let site = &journey.site;
    let status = site.cli.expect(0, &["status", MIGRATION]).await.unwrap().all();
    assert!(status.contains("relayed by the coordinator"), "{status}");
    let password = replication_password(site).await.unwrap();
    // In the stream as well as in the copy.
    site.source.execute(&site.database, "UPDATE canaries SET value = value || '-again'").await.unwrap();
    let arrived = "SELECT count(*) = 1000 FROM canaries WHERE value LIKE '%-again'";
    site.destination.wait_until(&site.database, arrived, LIMIT).await.unwrap();
    journey.cut_over().await.unwrap();
    let (site, arrival) = journey.finish().await.unwrap();
    // With the migration its relays are over.
    wait::until("the relays to end", LIMIT, async || {
        let log = site.coordinator.log_text()?;
        let (opened, over) = (log.matches("a relay was opened").count(), log.matches("a relay has ended").count());
        let over = over + log.matches("a relay broke").count() + log.matches("a relay was closed").count();
        Ok(if opened == over { Seen::Done(()) } else { Seen::NotYet(format!("{opened} opened, {over} over")) })
    })
    .await
    .unwrap();

    let record = wiretap.record();
    let asked = record.relays.iter().filter(|relay| relay.asked).count();
    assert!(asked >= 2 && record.relays.len() == 2 * asked, "{asked} asked for of {}", record.relays.len());
    let (client_hello, server_hello) = (1, 2);
    let mut encrypted = 0;
    for RelayRecord { asked, from_agent, to_agent } in &record.relays {
        let (hello, answer) = if *asked { (client_hello, server_hello) } else { (server_hello, client_hello) };
        encrypted += encrypted_records(from_agent, hello).unwrap() + encrypted_records(to_agent, answer).unwrap();
    }
    let bytes: usize = record.relays.iter().map(|relay| relay.from_agent.len()).sum();
    println!("{asked} relays, {encrypted} encrypted records, {bytes} bytes from the agents");
    // The rows alone are more than that.
    assert!(bytes > 500_000 && arrival.rows_compared > 5_000, "{bytes} bytes went through");
    // What everybody may read shows that nothing was overlooked.
    assert!(contains(&record.sessions, MIGRATION.as_bytes()) && contains(&record.sessions, b"berlin"));
    for secret in [CANARY, password.as_str(), "PRI * HTTP/2.0", "CREATE TABLE", "pgportage.v1.PeerService"] {
        for RelayRecord { from_agent, to_agent, .. } in &record.relays {
            let read = contains(from_agent, secret.as_bytes()) || contains(to_agent, secret.as_bytes());
            assert!(!read, "{secret} can be read in a relay");
        }
        assert!(!contains(&record.sessions, secret.as_bytes()), "{secret} in a session");
    }
}

/// What the server on the destination knows of the subscription; `xmin` changes
/// with every ALTER.
async fn subscription(site: &Site) -> Result<String> {
    let client = site.destination.connect(&site.database).await?;
    let known = "SELECT format('%s %s %s %s', oid, xmin, subenabled, subconninfo) FROM pg_subscription";
    Ok(client.query_one(known, &[]).await?.get(0))
}

/// Whether a session of the subscription streams from the source.
async fn streaming(site: &Site) -> Result<()> {
    let streams = "SELECT count(*) >= 1 FROM pg_stat_replication WHERE state = 'streaming'";
    site.source.wait_until("postgres", streams, LIMIT).await
}

/// Waits until a cutover would find nothing in its way: the figure of the lag
/// needs another heartbeat after the link is back.
async fn ready_for_cutover(site: &Site) -> Result<()> {
    let waited = wait::until("a small lag", LIMIT, async || {
        let status: serde_json::Value = site.cli.json(&["status", MIGRATION]).await?;
        let ready = status["ready_for_cutover"] == true
            && status["figures"]["lag_milliseconds"].as_i64().is_some_and(|lag| lag < 500);
        Ok(if ready { Seen::Done(()) } else { Seen::NotYet(status["figures"].to_string()) })
    });
    waited.await.with_context(|| site.last_words())
}

/// Writes a row on the source and waits until it is on the destination.
async fn row_arrives(site: &Site, note: &str) -> Result<()> {
    let write = format!("INSERT INTO events (token, written_on, note) VALUES (-1000000, 'source', '{note}')");
    site.source.execute(&site.database, &write).await?;
    let there = format!("SELECT count(*) = 1 FROM events WHERE note = '{note}'");
    site.destination.wait_until(&site.database, &there, LIMIT).await
}

#[tokio::test]
async fn a_link_that_is_cut_is_made_anew_and_the_subscription_is_not_touched() {
    let mut site = prepare().await;
    let to_source = Proxy::start(site.source_config.link_port).await.unwrap();
    let to_destination = Proxy::start(site.destination_config.link_port).await.unwrap();
    for (config, proxy) in [(&mut site.destination_config, &to_source), (&mut site.source_config, &to_destination)] {
        for (_, address) in &mut config.policy.peers {
            *address = format!("127.0.0.1:{}", proxy.port);
        }
    }
    site.write_agent_files().unwrap();
    site.start_programs().await.unwrap();
    let journey = Journey::begin(site, 2_000, &options()).await.unwrap();
    journey.until_cutover().await.unwrap();
    let before = subscription(&journey.site).await.unwrap();
    for cut in 0..5 {
        for proxy in [&to_source, &to_destination] {
            proxy.cut();
        }
        journey.workload.wait_for_writes(End::Source, 50, LIMIT).await.unwrap();
        for proxy in [&to_source, &to_destination] {
            proxy.mend();
        }
        row_arrives(&journey.site, &format!("after cut {cut}")).await.unwrap();
        streaming(&journey.site).await.unwrap();
        assert_eq!(subscription(&journey.site).await.unwrap(), before, "after cut {cut}");
    }
    ready_for_cutover(&journey.site).await.unwrap();
    journey.cut_over().await.unwrap();
    journey.finish().await.unwrap();
}

#[tokio::test]
async fn a_lost_coordinator_takes_its_relays_with_it_and_they_come_back() {
    let mut site = prepare().await;
    relay_only(&mut site);
    site.write_agent_files().unwrap();
    site.start_programs().await.unwrap();
    let mut journey = Journey::begin(site, 2_000, &options()).await.unwrap();
    journey.until_cutover().await.unwrap();
    let before = subscription(&journey.site).await.unwrap();
    for kill in 0..3 {
        journey.site.coordinator.kill9().unwrap();
        let silent = "SELECT count(*) = 0 FROM pg_stat_replication";
        journey.site.source.wait_until("postgres", silent, LIMIT).await.unwrap();
        journey.workload.wait_for_writes(End::Source, 50, LIMIT).await.unwrap();
        journey.site.coordinator.start().unwrap();
        row_arrives(&journey.site, &format!("after kill {kill}")).await.unwrap();
        streaming(&journey.site).await.unwrap();
        assert_eq!(subscription(&journey.site).await.unwrap(), before, "after kill {kill}");
    }
    journey.site.wait_for_agents().await.unwrap();
    ready_for_cutover(&journey.site).await.unwrap();
    journey.cut_over().await.unwrap();
    journey.finish().await.unwrap();
}

/// The one thing that a relay takes away: without a coordinator the source's agent
/// cannot ask whether the destination has opened. It keeps the source fenced until
/// it can.
#[tokio::test]
async fn a_fence_without_a_coordinator_to_ask_through_stands_until_there_is_one() {
    let mut site = prepare().await;
    relay_only(&mut site);
    site.write_agent_files().unwrap();
    site.start_programs().await.unwrap();
    let mut journey = Journey::begin(site, 1_000, &options()).await.unwrap();
    journey.until_cutover().await.unwrap();
    journey.site.source_agent.stop().await.unwrap();
    journey.site.source_agent.start_to_fail_at("fence_source.perform.proved").unwrap();
    journey.site.wait_for_agents().await.unwrap();
    ready_for_cutover(&journey.site).await.unwrap();
    journey.site.cli.expect(0, &["cutover", MIGRATION, "--yes", "--detach"]).await.unwrap();
    journey.site.source_agent.wait_for_end(LIMIT).await.unwrap();
    journey.site.coordinator.kill9().unwrap();
    journey.site.source_agent.start().unwrap();

    let doubts = |site: &Site| -> Result<usize> {
        Ok(site.source_agent.log_text()?.matches("the switchover is in doubt").count())
    };
    wait::until("three questions that nobody carries", LIMIT, async || {
        let asked = doubts(&journey.site)?;
        Ok(if asked >= 3 { Seen::Done(()) } else { Seen::NotYet(format!("{asked} questions")) })
    })
    .await
    .unwrap();
    let writes = journey.workload.counts.of(End::Source);
    for end in [End::Source, End::Destination] {
        expect_refused(&journey.site, end).await.unwrap();
    }
    assert_eq!(journey.workload.counts.of(End::Source), writes, "somebody writes on a fenced source");

    journey.site.coordinator.start().unwrap();
    journey.workload.wait_for_writes(End::Source, 50, LIMIT).await.unwrap();
    ready_for_cutover(&journey.site).await.unwrap();
    journey.cut_over().await.unwrap();
    journey.finish().await.unwrap();
}
