//! Positions in the write-ahead log.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use bytes::BytesMut;
use postgres_types::{FromSql, IsNull, PgLsn, ToSql, Type, to_sql_checked};

/// A position in the write-ahead log of one server. Positions of different servers cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

impl Lsn {
    /// The position with this 64-bit value.
    pub fn new(value: u64) -> Self {
        Self(value)
    }

    /// The 64-bit value.
    pub fn value(self) -> u64 {
        self.0
    }
}

/// A text that is no LSN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LsnInvalid(pub String);

impl fmt::Display for LsnInvalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid LSN {:?}", self.0)
    }
}

impl Error for LsnInvalid {}

impl FromStr for Lsn {
    type Err = LsnInvalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half = |part: &str| {
            let fits = (1..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            fits.then(|| u32::from_str_radix(part, 16).ok()).flatten().map(u64::from)
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| LsnInvalid(text.to_owned()))
    }
}

impl fmt::Display for Lsn {
    /// PostgreSQL's notation, for example `16/B374D848`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl<'a> FromSql<'a> for Lsn {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        PgLsn::from_sql(ty, raw).map(|lsn| Self(lsn.into()))
    }

    fn accepts(ty: &Type) -> bool {
        <PgLsn as FromSql>::accepts(ty)
    }
}

impl ToSql for Lsn {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        PgLsn::from(self.0).to_sql(ty, out)
    }

    fn accepts(ty: &Type) -> bool {
        <PgLsn as ToSql>::accepts(ty)
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notation() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!(lsn.value(), 0x16_B374_D848);
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert_eq!("0/0".parse(), Ok(Lsn::new(0)));
        assert_eq!("16/0B374D84".parse::<Lsn>().unwrap().to_string(), "16/B374D84");
        for text in ["", "16", "/", "16/", "+1/2", "1/123456789", "1/2/3", "g/0"] {
            assert_eq!(text.parse::<Lsn>(), Err(LsnInvalid(text.to_owned())), "{text:?}");
        }
    }
}
