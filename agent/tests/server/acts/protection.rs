//! A copy gives way to the source: with a real standby whose replay stands still.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pgportage_data_plane::figures::HeldBack;
use pgportage_data_plane::peer::{Blocks, Packing};
use pgportage_data_plane::snapshot::Rate;
use pgportage_proto::Side;
use pgportage_tests::wait::{self, Seen};

use super::copy::ready;
use crate::world::{Options, PATIENCE, World, migration};

const READERS: usize = 4;

/// Chunks that each reader has brought.
type Counts = Arc<[AtomicUsize; READERS]>;

fn seen(counts: &Counts) -> Vec<usize> {
    counts.iter().map(|count| count.load(Ordering::Relaxed)).collect()
}

fn held_back(world: &World) -> Option<HeldBack> {
    world.source_agent.gauges.snapshot().remove(&migration()).and_then(|gauge| gauge.held_back)
}

async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let looked = wait::until(what, PATIENCE, async || {
        Ok(match look() {
            Some(value) => Seen::Done(value),
            None => Seen::NotYet("not yet".to_owned()),
        })
    });
    looked.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_give_way_to_a_standby_that_falls_behind() {
    let settings = "[protection]\nmax_standby_lag = \"4s\"\nmax_commit_latency = \"1m\"\n".to_owned();
    let world = ready(Options { settings, ..Options::default() }).await;
    let standby = world.source.start_standby("replica").await.unwrap();
    let agent = &world.source_agent;
    // As the watch does, which looks at the same migration.
    agent.gauges.update(&migration(), |_| ());
    tokio::spawn(agent.protection().run());

    // Slow enough to be there all the while.
    let tune = |rate: i64| agent.snapshots.tune(&migration(), Rate::limit(rate)).unwrap();
    tune(512 << 10);
    let peer = world.destination_agent.peers.call(&world.on(Side::Destination)).await.unwrap();
    let snapshot = peer.open_snapshot("", Duration::from_secs(30)).await.unwrap();
    let plain = snapshot.tables.iter().find(|table| table.name.relation == "plain").unwrap();
    let counts = Counts::default();
    let mut readers = tokio::task::JoinSet::new();
    for reader in 0..READERS {
        let border = |n: usize| plain.block_count * i64::try_from(n).unwrap() / READERS as i64;
        let end = (reader + 1 < READERS).then(|| border(reader + 1));
        let blocks = Blocks { first: border(reader), end };
        let mut rows = peer.copy_range(&snapshot.consistent_point, plain, blocks, Packing::Zstd).await.unwrap();
        let counts = Arc::clone(&counts);
        readers.spawn(async move {
            while rows.next().await.unwrap().is_some() {
                counts[reader].fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    until("all to read", || seen(&counts).iter().all(|count| *count > 1).then_some(())).await;
    assert_eq!(held_back(&world), None, "a standby that follows holds nobody back");

    standby.execute("postgres", "SELECT pg_wal_replay_pause()").await.unwrap();
    let spared = until("one reader", || held_back(&world).filter(|held_back| held_back.reader_limit == 1)).await;
    assert!(spared.cause.starts_with("standby replica has fallen behind by "), "{spared:?}");
    // What was under way has arrived when the one that is left has brought more.
    let grown = |from: usize, by: usize| seen(&counts)[0] >= from + by;
    let first = seen(&counts)[0];
    until("the first to go on", || grown(first, 8).then_some(())).await;
    let before = seen(&counts);
    until("the first to go on", || grown(before[0], 8).then_some(())).await;
    assert_eq!(seen(&counts)[1..], before[1..], "the others wait");

    standby.execute("postgres", "SELECT pg_wal_replay_resume()").await.unwrap();
    until("all to be let", || held_back(&world).is_none().then_some(())).await;
    until("all to read", || seen(&counts).iter().zip(&before).all(|(now, before)| now > before).then_some(())).await;
    tune(0);
    while let Some(reader) = readers.join_next().await {
        reader.unwrap();
    }
}
