//! Zstandard on the bytes of the link.
//!
//! Each chunk is one frame for itself: with chunks of this size a stream over all
//! of them packs no better and takes longer. Level 1, because it is the only one
//! that keeps up with what a server reads.

use std::fmt;

use bytes::Bytes;
use pgportage_link::{Effect, Failure};
use pgportage_proto::{Reason, v1};
use serde::{Deserialize, Serialize};
use zstd::bulk::{Compressor, Decompressor};

use crate::figures::Traffic;

/// About 480 MB of COPY data a second on one core, packed to a quarter. Level 3, gRPC's own, takes 1.6
/// times as long.
const LEVEL: i32 = 1;
/// Most bytes of a chunk when unpacked, by the contract. A chunk that claims to be larger is refused before
/// memory is taken for it.
const MOST_BYTES: usize = 256 << 10;
/// Chunks below this are sent as they are: what could be saved is less than what
/// HTTP/2 and TLS add anyway.
const LEAST_BYTES: usize = 256;

/// Whether rows and the subscription's stream are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Packed when the link is slower than a core packs; the agent measures both.
    #[default]
    Auto,
    /// Always packed.
    Zstd,
    /// Never packed.
    Off,
}

/// How one stream is packed: the decision that [`Compression`] led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Packing {
    /// As they are.
    #[default]
    Plain,
    /// By Zstandard, each chunk as one frame.
    Zstd,
}

impl Packing {
    pub(super) fn to_wire(self) -> v1::Compression {
        match self {
            Self::Plain => v1::Compression::Unspecified,
            Self::Zstd => v1::Compression::Zstd,
        }
    }

    /// How the other agent wants a stream to be packed.
    pub fn from_wire(wire: v1::Compression) -> Self {
        match wire {
            v1::Compression::Unspecified => Self::Plain,
            v1::Compression::Zstd => Self::Zstd,
        }
    }
}

/// Bytes as they travel over the link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// What is sent.
    pub bytes: Bytes,
    /// Whether they are packed, as one frame.
    pub zstd: bool,
}

/// Packs the chunks of one stream, and counts their bytes.
pub struct Packer {
    compressor: Option<Compressor<'static>>,
    packed: Vec<u8>,
    traffic: Traffic,
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packer").field("packs", &self.compressor.is_some()).finish_non_exhaustive()
    }
}

impl Packer {
    /// Packs as `packing` says, and counts the bytes before and after.
    pub fn new(packing: Packing, traffic: Traffic) -> Self {
        let compressor = match packing {
            Packing::Plain => None,
            Packing::Zstd => Compressor::new(LEVEL)
                .inspect_err(|error| tracing::warn!(%error, "no memory for packing; a stream goes plain"))
                .ok(),
        };
        Self { compressor, packed: Vec::new(), traffic }
    }

    /// The chunk for the link: packed if that makes it smaller. Takes about 0.3 ms
    /// of a core for 128 KiB.
    pub fn pack(&mut self, bytes: Bytes) -> Chunk {
        let plain = bytes.len();
        let chunk = match self.smaller(&bytes) {
            Some(packed) => Chunk { bytes: packed, zstd: true },
            None => Chunk { bytes, zstd: false },
        };
        self.traffic.count(plain, chunk.bytes.len());
        chunk
    }

    fn smaller(&mut self, bytes: &[u8]) -> Option<Bytes> {
        let compressor = self.compressor.as_mut().filter(|_| bytes.len() >= LEAST_BYTES)?;
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(bytes.len()));
        let length = compressor.compress_to_buffer(bytes, &mut self.packed).ok()?;
        // Copied, so that a chunk that waits holds no more memory than it needs.
        (length < bytes.len()).then(|| Bytes::copy_from_slice(&self.packed))
    }
}

#[derive(Default)]
pub(crate) struct Unpacker(Option<Decompressor<'static>>);

impl fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Unpacker").finish_non_exhaustive()
    }
}

impl Unpacker {
    /// The bytes as they were.
    ///
    /// # Errors
    ///
    /// [`Reason::Internal`] for a frame that is none, or is larger than allowed.
    pub(crate) fn unpack(&mut self, chunk: Chunk) -> Result<Bytes, Failure> {
        if !chunk.zstd {
            return Ok(chunk.bytes);
        }
        let broken = |error: std::io::Error| {
            Failure::new(Reason::Internal, "a chunk from the other agent cannot be unpacked")
                .hint("Set `link.compression = \"off\"` in agent.toml on the destination, restart its agent, and report this.")
                .effect(Effect::None)
                .because(&error)
        };
        let decompressor = match &mut self.0 {
            Some(decompressor) => decompressor,
            none => none.insert(Decompressor::new().map_err(broken)?),
        };
        decompressor.decompress(&chunk.bytes, MOST_BYTES).map(Bytes::from).map_err(broken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_packed_comes_out_as_it_was(
            parts in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 1..40), 1..2_000_usize), 0..4),
            zstd: bool,
        ) {
            let bytes: Vec<u8> = parts.iter().flat_map(|(part, times)| part.repeat(*times)).take(MOST_BYTES).collect();
            let packing = if zstd { Packing::Zstd } else { Packing::Plain };
            let (mut packer, mut unpacker) = (Packer::new(packing, Traffic::default()), Unpacker::default());
            for _ in 0..2 {
                let chunk = packer.pack(Bytes::from(bytes.clone()));
                prop_assert!(chunk.bytes.len() <= bytes.len());
                prop_assert!(zstd || !chunk.zstd);
                prop_assert_eq!(&unpacker.unpack(chunk).unwrap()[..], &bytes[..]);
            }
        }

        #[test]
        fn garbage_is_refused(bytes in proptest::collection::vec(any::<u8>(), 1..200)) {
            // A frame begins with a magic number, so nothing random is one.
            let unpacked = Unpacker::default().unpack(Chunk { bytes: bytes.into(), zstd: true });
            prop_assert!(unpacked.is_err());
        }
    }

    #[test]
    fn rows_become_smaller_and_noise_stays() {
        let traffic = Traffic::default();
        let mut packer = Packer::new(Packing::Zstd, traffic.clone());
        let rows: Vec<u8> = (0..4_000).flat_map(|n| format!("{n}\torder {}\topen\n", n % 97).into_bytes()).collect();
        let packed = packer.pack(rows.clone().into());
        assert!(packed.zstd && packed.bytes.len() * 3 < rows.len(), "{} of {}", packed.bytes.len(), rows.len());
        assert_eq!(traffic.plain_bytes(), rows.len() as u64);
        assert_eq!(traffic.sent_bytes(), packed.bytes.len() as u64);
        let noise = Bytes::from(super::super::speed::noise(128 << 10));
        assert_eq!(packer.pack(noise.clone()), Chunk { bytes: noise, zstd: false });
    }

    #[test]
    fn a_frame_that_would_fill_the_memory_is_refused() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], LEVEL).unwrap();
        assert!(bomb.len() < 16 << 10);
        let failure = Unpacker::default().unpack(Chunk { bytes: bomb.into(), zstd: true }).unwrap_err();
        assert_eq!(failure.reason, Reason::Internal);
        let exactly = zstd::bulk::compress(&vec![0; MOST_BYTES], LEVEL).unwrap();
        assert_eq!(Unpacker::default().unpack(Chunk { bytes: exactly.into(), zstd: true }).unwrap().len(), MOST_BYTES);
    }
}
