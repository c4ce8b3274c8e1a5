//! Values with a unit, as people write them.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// A number of bytes, written as PostgreSQL writes it: `256 MB`, `64kB`, `1GB`.
/// Units are powers of 1024 there and here; `MiB` is accepted for `MB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

const UNITS: [(&str, u32); 5] = [("TB", 40), ("GB", 30), ("MB", 20), ("kB", 10), ("B", 0)];

impl ByteSize {
    /// A number of bytes.
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// A number of megabytes of 1024 times 1024 bytes.
    pub const fn megabytes(megabytes: u32) -> Self {
        Self((megabytes as u64) << 20)
    }

    /// The number of bytes.
    pub const fn as_bytes(self) -> u64 {
        self.0
    }
}

/// A text that is no number of bytes.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("\"{0}\" is no size: write a whole number and one of B, kB, MB, GB and TB, as in \"256 MB\"")]
pub struct MalformedSize(pub String);

impl FromStr for ByteSize {
    type Err = MalformedSize;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || MalformedSize(text.to_owned());
        let trimmed = text.trim();
        let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let number: u64 = number.parse().map_err(|_| malformed())?;
        let unit = unit.trim().to_ascii_lowercase().replace("ib", "b");
        let shift = if unit.is_empty() {
            0
        } else {
            UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(&unit)).ok_or_else(malformed)?.1
        };
        number.checked_mul(1 << shift).map(Self).ok_or_else(malformed)
    }
}

impl fmt::Display for ByteSize {
    /// In the largest unit that leaves a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |shift: u32| self.0 != 0 && self.0.is_multiple_of(1 << shift);
        let (unit, shift) = UNITS.iter().find(|(_, shift)| whole(*shift)).copied().unwrap_or(("B", 0));
        write!(f, "{} {unit}", self.0 >> shift)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Size;

        impl Visitor<'_> for Size {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"256 MB\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                u64::try_from(bytes).map(ByteSize).map_err(|_| E::custom(MalformedSize(bytes.to_string())))
            }
        }

        deserializer.deserialize_any(Size)
    }
}

/// A span of time as `1h 30m`, `500ms`: `#[serde(with = "pgportage_link::settings::duration")]`.
pub mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de};

    /// Writes the span as people do.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*value))
    }

    /// Reads a span as people write it.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text)
            .map_err(|error| de::Error::custom(format!("\"{text}\" is no span of time such as \"30s\": {error}")))
    }
}

/// As [`duration`], for fields that may be left out: add `#[serde(default)]`.
pub mod optional_duration {
    use std::time::Duration;

    use serde::{Deserializer, Serializer};

    /// Writes the span as people do, or nothing.
    pub fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => super::duration::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Reads a span as people write it.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        super::duration::deserialize(deserializer).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_postgresql_reads_them() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("1 B", 1),
            ("64kB", 64 << 10),
            ("256 MB", 256 << 20),
            ("2GiB", 2 << 30),
            ("1TB", 1 << 40),
        ] {
            assert_eq!(text.parse::<ByteSize>().unwrap().as_bytes(), bytes, "{text}");
        }
        for text in ["", "MB", "1.5 GB", "-1", "1 XB", "99999999999 TB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_read_back_as_printed() {
        for bytes in [0, 1, 1023, 1024, 1536, 1 << 20, 3 << 30, u64::MAX] {
            let size = ByteSize::bytes(bytes);
            assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
        }
        assert_eq!(ByteSize::megabytes(256).to_string(), "256 MB");
    }
}
