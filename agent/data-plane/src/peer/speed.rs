//! How fast the link is and how fast a core packs: `compression = "auto"` decides by both.
//!
//! The source agent sends a little noise and says how fast it packs; the destination agent counts what
//! arrives. A TCP connection over a long distance is slow in its first moments. Such a link counts as
//! slower than it is and is packed, which does it no harm.

use std::time::Duration;

use bytes::Bytes;
use pgportage_link::Clock;
use rand::RngCore;
use tokio::sync::mpsc;

use super::packing::{Packer, Packing};
use super::pump::CHUNK_BYTES;
use crate::figures::Traffic;

/// Longest time that noise is sent.
pub(super) const NOISE_TIME: Duration = Duration::from_millis(250);
/// Most noise sent. At the speed where packing stops to pay, a few Gbit/s, that takes some ten
/// milliseconds, which is nothing beside a copy.
const NOISE_BYTES: usize = 4 << 20;
/// Longest time that packing is tried.
const PACKING_TIME: Duration = Duration::from_millis(20);
/// A measurement is used for so long.
pub(super) const BELIEVED_FOR: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Speeds {
    /// What the link carries on one connection.
    pub(super) link: u64,
    /// What one core of the source packs.
    pub(super) packing: u64,
}

impl Speeds {
    /// Packing pays while a core packs at twice the speed of the link. At the same speed it would gain
    /// nothing, and it takes time from the server's own work.
    pub(super) fn decide(self) -> Packing {
        if self.link.saturating_mul(2) < self.packing { Packing::Zstd } else { Packing::Plain }
    }
}

/// Bytes a second; zero when no time has passed.
pub(super) fn rate(bytes: usize, time: Duration) -> u64 {
    let nanoseconds = time.as_nanos().max(1);
    u64::try_from(bytes as u128 * 1_000_000_000 / nanoseconds).unwrap_or(u64::MAX)
}

/// Bytes that do not become smaller when packed.
pub(super) fn noise(count: usize) -> Vec<u8> {
    let mut noise = vec![0; count];
    rand::rng().fill_bytes(&mut noise);
    noise
}

/// How many bytes of rows a core packs in a second, here and now.
pub fn packing_speed(clock: Clock) -> u64 {
    let rows: Bytes = (0_u64..)
        .flat_map(|n| {
            // Rows as applications have them: numbers that grow, words that repeat, hashes that do not.
            let hash = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            format!("{n}\t{hash:016x}\tshipped\t2026-01-{:02} 12:00:00+00\tcustomer {}\n", n % 28 + 1, n % 5_000)
                .into_bytes()
        })
        .take(CHUNK_BYTES)
        .collect::<Vec<_>>()
        .into();
    let mut packer = Packer::new(Packing::Zstd, Traffic::default());
    let (begin, mut packed) = (clock.now(), 0);
    loop {
        packer.pack(rows.clone());
        packed += rows.len();
        let taken = clock.now().duration_since(begin);
        if taken >= PACKING_TIME {
            return rate(packed, taken);
        }
    }
}

/// Sends noise until its time is over or the destination agent stops listening. The link slows it down as
/// it slows rows down.
pub async fn make_noise(clock: Clock, chunks: mpsc::Sender<Bytes>) {
    let chunk = Bytes::from(noise(CHUNK_BYTES));
    let sending = async {
        for _ in 0..NOISE_BYTES / CHUNK_BYTES {
            if chunks.send(chunk.clone()).await.is_err() {
                return;
            }
        }
    };
    // The last chunk may be lost: the counting does not need it.
    let _over = clock.timeout(NOISE_TIME, sending).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEGABYTE: u64 = 1_000_000;

    #[test]
    fn packing_pays_on_links_slower_than_half_a_core() {
        let decide = |link, packing| Speeds { link: link * MEGABYTE, packing: packing * MEGABYTE }.decide();
        assert_eq!(decide(25, 480), Packing::Zstd, "200 Mbit/s");
        assert_eq!(decide(125, 480), Packing::Zstd, "1 Gbit/s");
        assert_eq!(decide(1_250, 480), Packing::Plain, "10 Gbit/s");
        assert_eq!(decide(239, 480), Packing::Zstd);
        assert_eq!(decide(240, 480), Packing::Plain);
        assert_eq!(decide(0, 0), Packing::Plain, "nothing is known");
    }

    #[test]
    fn a_rate_is_bytes_by_time() {
        assert_eq!(rate(1_000, Duration::from_millis(500)), 2_000);
        assert_eq!(rate(0, Duration::ZERO), 0);
        assert_eq!(rate(usize::MAX, Duration::ZERO), u64::MAX);
    }

    #[test]
    fn a_core_packs_something() {
        assert!(packing_speed(Clock) > MEGABYTE);
    }
}
