//! Questions and answers between the contract and the words of this module.

use std::sync::Arc;

use pgportage_link::{Effect, Failure};
use pgportage_postgres::RelationName;
use pgportage_proto::{Reason, v1};

use super::part::{Digest, Hashing, Part, PartDigest, RowContent, RowHash, RowKey, Which};
use super::table::{Column, ComparedTable, Form};
use crate::snapshot::WrittenTable;

/// Most buckets that rows may be dealt into: the digests of so many fit into one message.
pub const MOST_BUCKETS: i64 = 1 << 14;

fn invalid(field: &str) -> Failure {
    Failure::new(Reason::RequestInvalid, format!("{field} of a comparison is missing or makes no sense"))
        .effect(Effect::None)
        .with("field", field)
}

/// A table that may be asked about, as a message of the contract.
pub fn encode_table(table: &ComparedTable) -> v1::ComparedTable {
    let column = |column: &Column| v1::ComparedColumn {
        name: column.name.clone(),
        form: match column.form {
            Form::Text => v1::compared_column::Form::Text,
            Form::Bytes => v1::compared_column::Form::Bytes,
            Form::Code => v1::compared_column::Form::Code,
            Form::Generated => v1::compared_column::Form::Generated,
            Form::Value => v1::compared_column::Form::Value,
            Form::Characters => v1::compared_column::Form::Characters,
            Form::Printed => v1::compared_column::Form::Printed,
        }
        .into(),
    };
    v1::ComparedTable {
        table: Some((&table.name).into()),
        columns: table.columns.iter().map(column).collect(),
        key_columns: table.key.clone(),
        size_bytes: table.size_bytes,
    }
}

pub(super) fn decode_table(table: v1::ComparedTable) -> Result<ComparedTable, Failure> {
    let column = |column: v1::ComparedColumn| {
        let form = match column.form() {
            v1::compared_column::Form::Text => Form::Text,
            v1::compared_column::Form::Bytes => Form::Bytes,
            v1::compared_column::Form::Code => Form::Code,
            v1::compared_column::Form::Generated => Form::Generated,
            v1::compared_column::Form::Value => Form::Value,
            v1::compared_column::Form::Characters => Form::Characters,
            v1::compared_column::Form::Printed => Form::Printed,
            v1::compared_column::Form::Unspecified => return Err(invalid("form")),
        };
        Ok(Column { name: column.name, form })
    };
    let name = table.table.ok_or_else(|| invalid("table"))?;
    Ok(ComparedTable {
        name: RelationName::new(name.schema_name, name.relation_name),
        columns: table.columns.into_iter().map(column).collect::<Result<_, _>>()?,
        key: table.key_columns,
        size_bytes: table.size_bytes,
    })
}

fn encode_key(key: &RowKey) -> v1::RowKey {
    v1::RowKey { values: key.0.clone() }
}

pub(super) fn encode_part(part: &Part) -> v1::TablePart {
    let mut message = v1::TablePart {
        table: Some(encode_table(&part.table)),
        hashing: match part.hashing {
            Hashing::Native => v1::table_part::Hashing::Native,
            Hashing::Portable => v1::table_part::Hashing::Portable,
        }
        .into(),
        ..v1::TablePart::default()
    };
    match &part.which {
        Which::Range { first, end } => {
            message.first_key = first.as_ref().map(|key| key.0.clone()).unwrap_or_default();
            message.end_key = end.as_ref().map(|key| key.0.clone()).unwrap_or_default();
        }
        Which::Keys(keys) => message.keys = keys.iter().map(encode_key).collect(),
        Which::Buckets { count, only } => (message.bucket_count, message.buckets) = (*count, only.clone()),
    }
    message
}

/// Reads a part from the contract. Refuses one that is missing or contradicts itself; whether the table
/// exists is not checked here.
pub fn decode_part(message: Option<v1::TablePart>) -> Result<Part, Failure> {
    let message = message.ok_or_else(|| invalid("part"))?;
    let hashing = match message.hashing() {
        v1::table_part::Hashing::Native => Hashing::Native,
        v1::table_part::Hashing::Portable => Hashing::Portable,
        v1::table_part::Hashing::Unspecified => return Err(invalid("hashing")),
    };
    let table = decode_table(message.table.ok_or_else(|| invalid("table"))?)?;
    let key_length = if table.key.is_empty() { 2 } else { table.key.len() };
    let key = |values: Vec<String>, field: &str| {
        let whole = values.len() == key_length && !values.iter().any(|value| value.contains('\0'));
        whole.then_some(RowKey(values)).ok_or_else(|| invalid(field))
    };
    let end = |values: Vec<String>, field: &str| {
        if values.is_empty() { Ok(None) } else { key(values, field).map(Some) }
    };
    let which = if !message.keys.is_empty() {
        Which::Keys(message.keys.into_iter().map(|row| key(row.values, "keys")).collect::<Result<_, _>>()?)
    } else if message.bucket_count != 0 {
        let count = message.bucket_count;
        if !(1..=MOST_BUCKETS).contains(&count) || count & (count - 1) != 0 {
            return Err(invalid("bucket_count"));
        }
        Which::Buckets { count, only: message.buckets }
    } else {
        Which::Range { first: end(message.first_key, "first_key")?, end: end(message.end_key, "end_key")? }
    };
    if table.key.is_empty() && matches!(&which, Which::Range { first, end } if first.is_some() || end.is_some()) {
        return Err(invalid("first_key"));
    }
    Ok(Part { table: Arc::new(table), hashing, which })
}

/// The keys of written rows, in messages of so many keys. The last message is marked as the last.
pub fn encode_written(tables: Vec<WrittenTable>, keys_at_a_time: usize) -> Vec<v1::WrittenRows> {
    let mut messages = Vec::new();
    for WrittenTable { name, key, keys } in tables {
        let message = v1::WrittenRows {
            table: Some(name.into()),
            key_columns: key,
            unknown: keys.is_none(),
            ..v1::WrittenRows::default()
        };
        let keys: Vec<_> = keys.unwrap_or_default().into_iter().map(|values| v1::RowKey { values }).collect();
        if keys.is_empty() {
            messages.push(message);
            continue;
        }
        messages
            .extend(keys.chunks(keys_at_a_time).map(|keys| v1::WrittenRows { keys: keys.to_vec(), ..message.clone() }));
    }
    messages.push(v1::WrittenRows { complete: true, ..v1::WrittenRows::default() });
    messages
}

/// Adds one message to what was written. Several messages may name one table.
pub(super) fn decode_written(message: v1::WrittenRows, tables: &mut Vec<WrittenTable>) -> Result<(), Failure> {
    let v1::WrittenRows { table, key_columns, keys, unknown, complete: _ } = message;
    let Some(name) = table else { return Ok(()) };
    let name = RelationName::new(name.schema_name, name.relation_name);
    if keys.iter().any(|key| key.values.len() != key_columns.len() || key.values.is_empty()) {
        return Err(invalid("keys"));
    }
    let keys: Vec<_> = keys.into_iter().map(|key| key.values).collect();
    match tables.last_mut().filter(|last| last.name == name) {
        Some(WrittenTable { keys: Some(known), .. }) if !unknown => known.extend(keys),
        Some(last) => last.keys = None,
        None => tables.push(WrittenTable { name, key: key_columns, keys: (!unknown).then_some(keys) }),
    }
    Ok(())
}

/// The digest of one part, as a message of the contract.
pub fn encode_digest(digest: &PartDigest) -> v1::PartDigest {
    v1::PartDigest {
        part: i32::try_from(digest.part).unwrap_or(i32::MAX),
        bucket: digest.bucket,
        row_count: digest.digest.row_count,
        sum: digest.digest.bytes(),
        size_bytes: digest.size_bytes,
        disordered: digest.disordered,
    }
}

pub(super) fn decode_digest(message: &v1::PartDigest) -> Result<PartDigest, Failure> {
    let half = |index: usize| {
        let bytes = message.sum.get(index * 16..(index + 1) * 16).and_then(|bytes| bytes.try_into().ok());
        bytes.map(i128::from_be_bytes).ok_or_else(|| invalid("sum"))
    };
    Ok(PartDigest {
        part: usize::try_from(message.part).map_err(|_| invalid("part"))?,
        bucket: message.bucket,
        digest: Digest { row_count: message.row_count, sums: [half(0)?, half(1)?] },
        size_bytes: message.size_bytes,
        disordered: message.disordered,
    })
}

/// The key of a row and the hash of its values, as a message of the contract.
pub fn encode_row(row: &RowHash) -> v1::RowHash {
    v1::RowHash {
        key: Some(encode_key(&row.key)),
        hash: row.hash.iter().flat_map(|half| half.to_be_bytes()).collect(),
        version: row.version.clone(),
    }
}

pub(super) fn decode_row(message: v1::RowHash) -> Result<RowHash, Failure> {
    let half = |index: usize| {
        let bytes = message.hash.get(index * 8..(index + 1) * 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map(i64::from_be_bytes).ok_or_else(|| invalid("hash"))
    };
    let hash = [half(0)?, half(1)?];
    let key = RowKey(message.key.ok_or_else(|| invalid("key"))?.values);
    Ok(RowHash { key, hash, version: message.version })
}

/// The values of a row, as a message of the contract.
pub fn encode_content(row: RowContent) -> v1::RowContent {
    v1::RowContent {
        key: Some(encode_key(&row.key)),
        values: row.values.into_iter().map(|text| v1::RowValue { text }).collect(),
    }
}

pub(super) fn decode_content(message: v1::RowContent) -> Result<RowContent, Failure> {
    Ok(RowContent {
        key: RowKey(message.key.ok_or_else(|| invalid("key"))?.values),
        values: message.values.into_iter().map(|value| value.text).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::table;
    use super::*;

    fn part(key: &[&str], which: Which) -> Part {
        let forms =
            [Form::Text, Form::Bytes, Form::Code, Form::Generated, Form::Value, Form::Characters, Form::Printed];
        let columns = forms.map(|form| ("c", form));
        Part { table: Arc::new(table(&columns, key)), hashing: Hashing::Portable, which }
    }

    #[test]
    fn every_question_survives_the_way() {
        let key = |value: &str| RowKey(vec![value.to_owned()]);
        let two = RowKey(vec!["1".to_owned(), "-2".to_owned()]);
        for question in [
            part(&["id"], Which::ALL),
            part(&["id"], Which::Range { first: Some(key("1")), end: None }),
            part(&["id"], Which::Range { first: None, end: Some(key("'")) }),
            part(&["id"], Which::Keys(vec![key("1"), key("2")])),
            part(&[], Which::Keys(vec![two])),
            part(&[], Which::Buckets { count: 8, only: vec![0, 7] }),
        ] {
            assert_eq!(decode_part(Some(encode_part(&question))).unwrap(), question);
        }
    }

    #[test]
    fn every_answer_survives_the_way() {
        let digest = PartDigest {
            part: 3,
            bucket: 5,
            digest: Digest { row_count: 7, sums: [i128::MIN, -1] },
            size_bytes: 99,
            disordered: true,
        };
        assert_eq!(decode_digest(&encode_digest(&digest)).unwrap(), digest);
        let row = RowHash { key: RowKey(vec![String::new()]), hash: [i64::MIN, -1], version: "7 (0,1)".to_owned() };
        assert_eq!(decode_row(encode_row(&row)).unwrap(), row);
        let content = RowContent { key: RowKey(vec!["1".to_owned()]), values: vec![None, Some(String::new())] };
        assert_eq!(decode_content(encode_content(content.clone())).unwrap(), content);
    }

    #[test]
    fn nonsense_is_refused() {
        let field = |message: v1::TablePart| decode_part(Some(message)).unwrap_err().metadata["field"].clone();
        let whole = encode_part(&part(&["id"], Which::ALL));
        assert_eq!(field(v1::TablePart { table: None, ..whole.clone() }), "table");
        assert_eq!(field(v1::TablePart { hashing: 0, ..whole.clone() }), "hashing");
        assert_eq!(
            field(v1::TablePart { first_key: vec!["1".to_owned(), "2".to_owned()], ..whole.clone() }),
            "first_key"
        );
        assert_eq!(field(v1::TablePart { end_key: vec!["\0".to_owned()], ..whole.clone() }), "end_key");
        for count in [-1, 3, MOST_BUCKETS * 2] {
            assert_eq!(field(v1::TablePart { bucket_count: count, ..whole.clone() }), "bucket_count");
        }
        let keyless = encode_part(&part(&[], Which::ALL));
        let half = vec!["1".to_owned(), "2".to_owned()];
        assert_eq!(field(v1::TablePart { first_key: half, ..keyless }), "first_key");
    }
}
