//! Every built-in type with the values that are easily mangled.

use std::fmt::Write as _;

use proptest::prelude::*;

/// One type, perhaps with a modifier, and values of it.
#[derive(Clone, Debug)]
pub(super) struct Specimen {
    /// Its name in `pg_type`.
    pub(super) name: &'static str,
    /// How it is written in a statement.
    pub(super) expression: &'static str,
    /// Texts of values, unquoted.
    pub(super) edges: Vec<String>,
    /// What further values are made of.
    pub(super) further: Further,
}

/// Values beside the edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Further {
    /// None.
    Nothing,
    Integers {
        bits: u32,
    },
    Float4,
    Float8,
    Numerics,
    Texts,
    Bytes,
    Bits,
    Documents,
    /// Microseconds from the epoch, as timestamps.
    Moments,
    Addresses,
}

/// Types whose values hold OIDs of objects, which differ between two servers: the
/// binary form cannot be compared.
pub(super) fn holds_oids(name: &str) -> bool {
    name.starts_with("reg") || name == "aclitem"
}

/// Types that exist but have no values.
pub(super) const BARREN: &[&str] = &[
    "pg_node_tree",
    "pg_ndistinct",
    "pg_dependencies",
    "pg_mcv_list",
    "pg_brin_bloom_summary",
    "pg_brin_minmax_multi_summary",
    "gtsvector",
];

/// Arrays themselves, and no elements of an array constructor.
pub(super) const VECTORS: &[&str] = &["int2vector", "oidvector"];

const ODD_TEXTS: &[&str] = &[
    "",
    " ",
    "NULL",
    "null",
    "\\N",
    "\\.",
    "\\",
    "\\\\x41",
    "'",
    "\"",
    "{}",
    "{\"a\",NULL}",
    "(a,b)",
    ",",
    "\t",
    "\n",
    "\r\n",
    "\u{1}\u{8}\u{b}\u{c}\u{7f}",
    "é",
    "e\u{301}",
    "ß\u{fb01}\u{130}",
    "\u{feff}",
    "\u{202e}abc",
    "\u{fffd}\u{ffff}",
    "𝕏🧊👩\u{200d}🚀",
    "\u{10ffff}",
];

const TYPES: &[(&str, &str, Further, &[&str])] = &[
    ("bool", "boolean", Further::Nothing, &["t", "f"]),
    ("int2", "smallint", Further::Integers { bits: 16 }, &["-32768", "-1", "0", "32767"]),
    ("int4", "integer", Further::Integers { bits: 32 }, &["-2147483648", "-1", "0", "2147483647"]),
    ("int8", "bigint", Further::Integers { bits: 64 }, &["-9223372036854775808", "-1", "0", "9223372036854775807"]),
    (
        "float4",
        "real",
        Further::Float4,
        &["-0", "0", "NaN", "Infinity", "-Infinity", "1e-45", "1.1754942e-38", "3.4028235e38", "-3.4028235e38", "0.1"],
    ),
    (
        "float8",
        "double precision",
        Further::Float8,
        &[
            "-0",
            "0",
            "NaN",
            "Infinity",
            "-Infinity",
            "5e-324",
            "2.225073858507201e-308",
            "1.7976931348623157e308",
            "-1.7976931348623157e308",
            "0.1",
            "0.30000000000000004",
        ],
    ),
    (
        "numeric",
        "numeric",
        Further::Numerics,
        &[
            "NaN",
            "Infinity",
            "-Infinity",
            "0",
            "0.000000",
            "-0.10",
            "1e131071",
            "-1e131071",
            "1e-16383",
            "10000",
            "9999.9999",
            "0.0001",
            "100000000000000000000",
        ],
    ),
    ("numeric", "numeric(10,3)", Further::Nothing, &["NaN", "-9999999.999", "0", "1.5"]),
    ("numeric", "numeric(3,-5)", Further::Nothing, &["99900000", "0", "-12300000"]),
    ("numeric", "numeric(5,10)", Further::Nothing, &["0.0000012345", "-0.0000099999"]),
    ("money", "money", Further::Nothing, &["-92233720368547758.08", "92233720368547758.07", "0", "-0.01"]),
    ("text", "text", Further::Texts, ODD_TEXTS),
    ("varchar", "varchar", Further::Texts, ODD_TEXTS),
    ("varchar", "varchar(3)", Further::Nothing, &["", "   ", "a\\\t", "🧊🧊🧊"]),
    ("bpchar", "bpchar", Further::Texts, &["", "a", "trailing   ", "\\N"]),
    ("bpchar", "char(5)", Further::Nothing, &["", "a", "🧊", "\\.   "]),
    ("char", "\"char\"", Further::Nothing, &["", "a", "\\", "'", "\t", "\u{7f}"]),
    (
        "name",
        "name",
        Further::Nothing,
        &["", "a", "Quoted \"name\"", "123456789012345678901234567890123456789012345678901234567890123"],
    ),
    ("bytea", "bytea", Further::Bytes, &["\\x", "\\x00", "\\x00ff5c27220a0d09", "\\x5c2e"]),
    ("bit", "bit(5)", Further::Nothing, &["00000", "11111", "10101"]),
    ("bit", "bit(9)", Further::Nothing, &["000000000", "111111111", "100000001"]),
    ("varbit", "bit varying", Further::Bits, &["", "0", "1", "10000000", "100000001"]),
    (
        "date",
        "date",
        Further::Nothing,
        &[
            "-infinity",
            "infinity",
            "4714-11-24 BC",
            "0001-12-31 BC",
            "0001-01-01",
            "1900-02-28",
            "2000-02-29",
            "5874897-12-31",
        ],
    ),
    ("time", "time", Further::Nothing, &["00:00:00", "24:00:00", "23:59:59.999999", "12:00:00.000001"]),
    ("time", "time(2)", Further::Nothing, &["23:59:59.99"]),
    (
        "timetz",
        "timetz",
        Further::Nothing,
        &["00:00:00+00", "24:00:00-15:59:59", "23:59:59.999999+15:59:59", "12:00:00-03:30"],
    ),
    (
        "timestamp",
        "timestamp",
        Further::Moments,
        &[
            "-infinity",
            "infinity",
            "4714-11-24 00:00:00 BC",
            "1969-12-31 23:59:59.999999",
            "294276-12-31 23:59:59.999999",
        ],
    ),
    ("timestamp", "timestamp(0)", Further::Moments, &["2000-01-01 00:00:00"]),
    (
        "timestamptz",
        "timestamptz",
        Further::Moments,
        &[
            "-infinity",
            "infinity",
            "4714-11-24 00:00:00+00 BC",
            "1883-11-18 12:03:57-05",
            "294276-12-31 23:59:59.999999+00",
        ],
    ),
    (
        "interval",
        "interval",
        Further::Nothing,
        &[
            "0",
            "-178000000 years",
            "178000000 years",
            "1 mon -1 day 00:00:00.000001",
            "-2147483648 days",
            "2147483647 days 2147483647 mons",
            "2562047788:00:54.775807",
            "-2562047788:00:54.775807",
        ],
    ),
    ("interval", "interval year to month", Further::Nothing, &["1 year 2 mons", "-13 mons"]),
    ("interval", "interval second(3)", Further::Nothing, &["00:00:01.234"]),
    (
        "json",
        "json",
        Further::Documents,
        &[
            "null",
            "{\"a\" :1,  \"a\":2}",
            "\"\\u0000\"",
            "[ ]",
            "1e400",
            "-0",
            "\"\\ud83e\\uddca\"",
            "{\"\": {\"\\\\\": [[[]]]}}",
        ],
    ),
    (
        "jsonb",
        "jsonb",
        Further::Documents,
        &["null", "{\"b\": 1, \"a\": [1, null, \"\\u00e9\"]}", "[]", "{}", "1e400", "-0", "0.10", "\"\\t\""],
    ),
    (
        "jsonpath",
        "jsonpath",
        Further::Nothing,
        &["$", "strict $.a[*] ? (@ > 1 && @ starts with \"x\")", "$.\"k\\n\"[last]"],
    ),
    (
        "uuid",
        "uuid",
        Further::Nothing,
        &["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
    ),
    (
        "inet",
        "inet",
        Further::Addresses,
        &["0.0.0.0/0", "255.255.255.255", "10.1.2.3/8", "::", "::1/0", "::ffff:1.2.3.4", "2001:db8::1/64"],
    ),
    ("cidr", "cidr", Further::Nothing, &["0.0.0.0/0", "10.0.0.0/8", "255.255.255.255/32", "::/0", "2001:db8::/32"]),
    ("macaddr", "macaddr", Further::Nothing, &["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"]),
    ("macaddr8", "macaddr8", Further::Nothing, &["00:00:00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff:ff:fe"]),
    ("point", "point", Further::Nothing, &["(-0,0)", "(NaN,Infinity)", "(1e-300,-1e300)"]),
    ("line", "line", Further::Nothing, &["{1,-1,0}", "{0,1,-0.1}"]),
    ("lseg", "lseg", Further::Nothing, &["[(0,0),(1,1)]", "[(NaN,0),(-0,Infinity)]"]),
    ("box", "box", Further::Nothing, &["(1,1),(0,0)", "(Infinity,0.1),(-Infinity,-0.1)"]),
    ("path", "path", Further::Nothing, &["((0,0),(1,1))", "[(0,0),(1,1),(2,0.1)]", "[(0,0)]"]),
    ("polygon", "polygon", Further::Nothing, &["((0,0),(1,1),(1,0))", "((0.1,0.1))"]),
    ("circle", "circle", Further::Nothing, &["<(0,0),0>", "<(-1e10,0.1),Infinity>"]),
    ("tsvector", "tsvector", Further::Nothing, &["", "a:1A,2B,3C,16383 'b c' 'it''s':5", "'\\\\' é:1"]),
    ("tsquery", "tsquery", Further::Nothing, &["", "!a", "a & (b | !'c d') <-> e:*AB", "a <16384> b"]),
    ("xml", "xml", Further::Nothing, &["<a/>", "text &amp; <b c=\"d\">é</b>"]),
    ("pg_lsn", "pg_lsn", Further::Nothing, &["0/0", "FFFFFFFF/FFFFFFFF", "16/B374D848"]),
    ("oid", "oid", Further::Nothing, &["0", "4294967295", "16384"]),
    ("xid", "xid", Further::Nothing, &["0", "3", "4294967295"]),
    ("xid8", "xid8", Further::Nothing, &["0", "18446744073709551615"]),
    ("cid", "cid", Further::Nothing, &["0", "4294967295"]),
    ("tid", "tid", Further::Nothing, &["(0,0)", "(4294967295,65535)"]),
    ("pg_snapshot", "pg_snapshot", Further::Nothing, &["10:20:10,14,15", "1:1:"]),
    ("txid_snapshot", "txid_snapshot", Further::Nothing, &["10:20:10,14,15", "1:1:"]),
    ("int2vector", "int2vector", Further::Nothing, &["", "1 -2 32767"]),
    ("oidvector", "oidvector", Further::Nothing, &["", "0 4294967295"]),
    ("refcursor", "refcursor", Further::Texts, &["", "a \"cursor\""]),
    ("regclass", "regclass", Further::Nothing, &["0", "pg_class", "zoo.\"Odd \"\"one\"\"\"", "4000000000"]),
    ("regcollation", "regcollation", Further::Nothing, &["0", "\"C\"", "4000000000"]),
    ("regconfig", "regconfig", Further::Nothing, &["0", "simple", "english"]),
    ("regdictionary", "regdictionary", Further::Nothing, &["0", "simple"]),
    ("regnamespace", "regnamespace", Further::Nothing, &["0", "pg_catalog", "zoo"]),
    ("regoper", "regoper", Further::Nothing, &["0", "^@"]),
    ("regoperator", "regoperator", Further::Nothing, &["0", "+(integer,integer)", "-(NONE,bigint)"]),
    ("regproc", "regproc", Further::Nothing, &["0", "now"]),
    ("regprocedure", "regprocedure", Further::Nothing, &["0", "abs(integer)", "now()"]),
    ("regrole", "regrole", Further::Nothing, &["0", "app", "postgres"]),
    ("regtype", "regtype", Further::Nothing, &["0", "integer", "timestamp with time zone", "zoo.mood", "zoo.mood[]"]),
    ("aclitem", "aclitem", Further::Nothing, &["app=r*w/postgres", "=/app"]),
    ("int4range", "int4range", Further::Nothing, &["empty", "(,)", "[1,10)", "[-2147483648,2147483647)"]),
    ("int8range", "int8range", Further::Nothing, &["empty", "(,)", "[-9223372036854775808,1)"]),
    ("numrange", "numrange", Further::Nothing, &["empty", "(,)", "(0.10,1e100]", "[NaN,NaN]", "[-Infinity,Infinity]"]),
    ("daterange", "daterange", Further::Nothing, &["empty", "(,)", "[-infinity,infinity]", "[2000-02-29,2000-03-01)"]),
    ("tsrange", "tsrange", Further::Nothing, &["empty", "(,)", "[2000-01-01 00:00:00.000001,infinity]"]),
    ("tstzrange", "tstzrange", Further::Nothing, &["empty", "(,)", "(-infinity,2000-01-01 00:00:00+00]"]),
    ("int4multirange", "int4multirange", Further::Nothing, &["{}", "{(,)}", "{[1,2),[5,10)}"]),
    ("int8multirange", "int8multirange", Further::Nothing, &["{}", "{(,1),[5,10),[20,)}"]),
    ("nummultirange", "nummultirange", Further::Nothing, &["{}", "{[0.10,0.2),(0.20,0.3]}"]),
    ("datemultirange", "datemultirange", Further::Nothing, &["{}", "{[-infinity,2000-01-01),[2001-01-01,infinity)}"]),
    ("tsmultirange", "tsmultirange", Further::Nothing, &["{}", "{[2000-01-01,2001-01-01)}"]),
    ("tstzmultirange", "tstzmultirange", Further::Nothing, &["{}", "{(,2000-01-01 00:00:00+00)}"]),
    // Not built in: made by the tests, or by extensions that come with the server.
    ("mood", "zoo.mood", Further::Nothing, &["", "fine", "it's \\ complicated", "NULL"]),
    ("pair", "zoo.pair", Further::Nothing, &["(,)", "(1,\"a\\tb\\\\\")", "(-1,\"\"\"q\"\"\")"]),
    ("span", "zoo.span", Further::Nothing, &["empty", "(,)", "[\"\",fine)"]),
    ("span_multirange", "zoo.span_multirange", Further::Nothing, &["{}", "{[\"\",fine)}"]),
    ("hstore", "zoo.hstore", Further::Nothing, &["", "a=>NULL, \"b \\\" c\"=>\"\", é=>\"\\\\N\""]),
    ("citext", "zoo.citext", Further::Texts, &["", "MiXed", "\\N"]),
    ("ltree", "zoo.ltree", Further::Nothing, &["", "Top.Science_1.Astronomy"]),
    ("lquery", "zoo.lquery", Further::Nothing, &["*.a.*{1,2}", "!b|c@*"]),
    ("cube", "zoo.cube", Further::Nothing, &["(1,-2,0.1)", "(0),(1)"]),
];

/// Values that only newer servers take: since, type, value.
const LATER: &[(u32, &str, &str)] = &[
    (17, "interval", "infinity"),
    (17, "interval", "-infinity"),
    (16, "char", "\\377"),
    (16, "char", "\\200"),
    (16, "char", "\\001"),
];

/// All that a server of this major version takes.
pub(super) fn all(major: u32) -> Vec<Specimen> {
    let mut all: Vec<Specimen> = TYPES
        .iter()
        .map(|(name, expression, further, edges)| Specimen {
            name,
            expression,
            edges: edges.iter().map(|&edge| edge.to_owned()).collect(),
            further: *further,
        })
        .collect();
    for specimen in &mut all {
        specimen.edges.extend(long_values(specimen.name, specimen.expression));
        let later = LATER.iter().filter(|(since, ..)| *since <= major);
        let later = later.filter(|(_, expression, _)| specimen.expression.trim_matches('"') == *expression);
        specimen.edges.extend(later.map(|(_, _, value)| (*value).to_owned()));
    }
    all
}

/// Values too long to be written down.
fn long_values(name: &str, expression: &str) -> Vec<String> {
    match (name, expression) {
        ("numeric", "numeric") => vec![format!("{}.{}", "9".repeat(5000), "8".repeat(5000))],
        ("text" | "varchar", "text" | "varchar") => vec!["ab\\ü".repeat(60_000)],
        ("bytea", "bytea") => vec![format!("\\x{}", "00ff5c".repeat(100_000))],
        ("varbit", "bit varying") => vec!["101".repeat(50_001)],
        ("json" | "jsonb", _) => vec![format!("[{}\"end\"]", "{\"key\": [1, 2.50, null]}, ".repeat(5000))],
        _ => Vec::new(),
    }
}

impl Specimen {
    /// Any value: an edge, or a random one.
    pub(super) fn value(&self) -> BoxedStrategy<String> {
        // Long values have tables of their own.
        let edges: Vec<String> = self.edges.iter().filter(|edge| edge.len() < 1000).cloned().collect();
        let edge = proptest::sample::select(edges);
        match self.further {
            Further::Nothing => edge.boxed(),
            further => prop_oneof![edge, further.value()].boxed(),
        }
    }
}

impl Further {
    fn value(self) -> BoxedStrategy<String> {
        match self {
            Self::Nothing => Just(String::new()).boxed(),
            Self::Integers { bits } => any::<i64>().prop_map(move |value| (value >> (64 - bits)).to_string()).boxed(),
            Self::Float4 => {
                proptest::num::f32::ANY.prop_map(|value| format!("{value:e}").replace("inf", "Infinity")).boxed()
            }
            Self::Float8 => {
                proptest::num::f64::ANY.prop_map(|value| format!("{value:e}").replace("inf", "Infinity")).boxed()
            }
            Self::Numerics => "-?[0-9]{1,40}(\\.[0-9]{1,40})?".boxed(),
            Self::Texts => proptest::collection::vec(any::<char>().prop_filter("no zero bytes", |c| *c != '\0'), 0..40)
                .prop_map(|characters| characters.into_iter().collect())
                .boxed(),
            Self::Bytes => proptest::collection::vec(any::<u8>(), 0..60)
                .prop_map(|bytes| {
                    bytes.iter().fold("\\x".to_owned(), |mut text, byte| {
                        // Writing to a string cannot fail.
                        let _written = write!(text, "{byte:02x}");
                        text
                    })
                })
                .boxed(),
            Self::Bits => "[01]{0,70}".boxed(),
            Self::Documents => (any::<i64>(), "\\PC{0,20}").prop_map(|(number, text)| document(number, &text)).boxed(),
            Self::Moments => (0_i64..9000, 1_u8..=12, 1_u8..=28, 0_u32..86_400, 0_u32..1_000_000)
                .prop_map(|(year, month, day, second, micros)| {
                    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
                    format!("{:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06}", year + 1)
                })
                .boxed(),
            Self::Addresses => prop_oneof![
                (any::<std::net::Ipv4Addr>(), 0_u8..=32).prop_map(|(address, bits)| format!("{address}/{bits}")),
                (any::<std::net::Ipv6Addr>(), 0_u8..=128).prop_map(|(address, bits)| format!("{address}/{bits}")),
            ]
            .boxed(),
        }
    }
}

/// A document with a number and a text in it.
fn document(number: i64, text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("{{\"n\": {number}, \"{text}\": [\"{text}\", {{}}]}}")
}
