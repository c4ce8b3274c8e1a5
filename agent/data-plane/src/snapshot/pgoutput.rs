//! Which row a change touches: the part of pgoutput's messages, version 1, that says so.
//!
//! The messages come from a server and may be cut: a change may hold a value of any size, and only its
//! first bytes are asked for. Whatever is not there or makes no sense is reported as missing, never
//! guessed.

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// Describes the relation that later changes name by its number.
    Relation(Relation),
    Insert {
        relation: u32,
        new: Row<'a>,
    },
    /// `old` is there when the row's identity changes.
    Update {
        relation: u32,
        old: Option<Row<'a>>,
        new: Row<'a>,
    },
    Delete {
        relation: u32,
        old: Row<'a>,
    },
    Truncate {
        relations: Vec<u32>,
    },
    /// Begin, commit, and other messages that touch no row.
    Other,
}

/// A relation, as it was when the changes that follow were made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Relation {
    pub(super) relation: u32,
    /// In the order of the fields of its rows.
    pub(super) columns: Vec<Column>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    /// Whether it is part of the replica identity.
    pub(super) identifies: bool,
}

/// The fields of a row that were received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Row<'a>(Vec<Field<'a>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field<'a> {
    Text(&'a str),
    /// A TOASTed value that the change did not touch: it is as in the old row.
    Unchanged,
    /// NULL, or not in text format.
    Absent,
}

impl<'a> Row<'a> {
    /// The text of a field. None when it is NULL, was not sent or was cut off.
    pub(super) fn text(&self, position: usize) -> Option<&'a str> {
        match self.0.get(position) {
            Some(Field::Text(text)) => Some(text),
            Some(Field::Unchanged | Field::Absent) | None => None,
        }
    }

    /// Whether a field was left out because it is the same in the old row.
    pub(super) fn is_unchanged(&self, position: usize) -> bool {
        self.0.get(position) == Some(&Field::Unchanged)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    /// The relation that it is about, if that much is known.
    pub(super) relation: Option<u32>,
}

pub(super) fn read(bytes: &[u8]) -> Result<Message<'_>, Unreadable> {
    let mut rest = Rest(bytes);
    let nothing = Unreadable { relation: None };
    match rest.byte().ok_or(nothing)? {
        b'B' | b'C' | b'O' | b'Y' | b'M' => Ok(Message::Other),
        b'T' => rest.truncate().ok_or(nothing),
        kind @ (b'R' | b'I' | b'U' | b'D') => {
            let relation = rest.number().ok_or(nothing)?;
            let message = match kind {
                b'R' => rest.relation(relation).map(Message::Relation),
                b'I' => rest.insert(relation),
                b'U' => rest.update(relation),
                _ => rest.delete(relation),
            };
            message.ok_or(Unreadable { relation: Some(relation) })
        }
        _ => Err(nothing),
    }
}

/// The bytes that are still to be read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn count(&mut self) -> Option<u16> {
        self.take(2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_be_bytes)
    }

    fn number(&mut self) -> Option<u32> {
        self.take(4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes)
    }

    /// A text that ends with a zero byte.
    fn name(&mut self) -> Option<&'a str> {
        let length = self.0.iter().position(|&byte| byte == 0)?;
        let name = self.take(length)?;
        self.byte()?;
        std::str::from_utf8(name).ok()
    }

    fn relation(&mut self, relation: u32) -> Option<Relation> {
        let (_schema, _name, _identity) = (self.name()?, self.name()?, self.byte()?);
        let count = self.count()?;
        let columns = (0..count).map(|_| self.column()).collect::<Option<_>>()?;
        Some(Relation { relation, columns })
    }

    fn column(&mut self) -> Option<Column> {
        let flags = self.byte()?;
        let name = self.name()?.to_owned();
        let (_type, _modifier) = (self.number()?, self.number()?);
        Some(Column { name, identifies: flags & 1 == 1 })
    }

    fn insert(&mut self, relation: u32) -> Option<Message<'a>> {
        match self.byte()? {
            b'N' => Some(Message::Insert { relation, new: self.row()? }),
            _ => None,
        }
    }

    fn update(&mut self, relation: u32) -> Option<Message<'a>> {
        match self.byte()? {
            b'N' => Some(Message::Update { relation, old: None, new: self.row()? }),
            b'K' | b'O' => {
                let old = self.row()?;
                // Where the message was cut in the old row, there is no new row.
                match self.byte()? {
                    b'N' => Some(Message::Update { relation, old: Some(old), new: self.row()? }),
                    _ => None,
                }
            }
            _ => None,
        }
    }

    fn delete(&mut self, relation: u32) -> Option<Message<'a>> {
        match self.byte()? {
            b'K' | b'O' => Some(Message::Delete { relation, old: self.row()? }),
            _ => None,
        }
    }

    fn truncate(&mut self) -> Option<Message<'a>> {
        let count = self.number()?;
        let _options = self.byte()?;
        // No more than the message can hold: the count may be wrong.
        let most = u32::try_from(self.0.len() / 4).unwrap_or(u32::MAX);
        if count > most {
            return None;
        }
        let relations = (0..count).map(|_| self.number()).collect::<Option<_>>()?;
        Some(Message::Truncate { relations })
    }

    /// The fields up to where the message was cut.
    fn row(&mut self) -> Option<Row<'a>> {
        let count = self.count()?;
        let mut fields = Vec::new();
        for _ in 0..count {
            let field = match self.byte() {
                Some(b'n') => Field::Absent,
                Some(b'u') => Field::Unchanged,
                Some(kind @ (b't' | b'b')) => {
                    let Some(value) = self.number().and_then(|length| self.take(usize::try_from(length).ok()?)) else {
                        self.0 = &[];
                        break;
                    };
                    match std::str::from_utf8(value) {
                        Ok(text) if kind == b't' => Field::Text(text),
                        Ok(_) | Err(_) => Field::Absent,
                    }
                }
                Some(_) => return None,
                None => break,
            };
            fields.push(field);
        }
        Some(Row(fields))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    pub(in crate::snapshot) enum Sent<'a> {
        Text(&'a str),
        Null,
        Unchanged,
    }

    pub(in crate::snapshot) fn row(fields: &[Sent<'_>]) -> Vec<u8> {
        let mut bytes = u16::try_from(fields.len()).unwrap().to_be_bytes().to_vec();
        for field in fields {
            match field {
                Sent::Null => bytes.push(b'n'),
                Sent::Unchanged => bytes.push(b'u'),
                Sent::Text(text) => {
                    bytes.push(b't');
                    bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                    bytes.extend(text.as_bytes());
                }
            }
        }
        bytes
    }

    /// A change: its kind, its relation, and its rows, each behind its letter.
    pub(in crate::snapshot) fn change(kind: u8, relation: u32, rows: &[(u8, &[Sent<'_>])]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend(relation.to_be_bytes());
        for (letter, fields) in rows {
            bytes.push(*letter);
            bytes.extend(row(fields));
        }
        bytes
    }

    pub(in crate::snapshot) fn relation(relation: u32, columns: &[(&str, bool)]) -> Vec<u8> {
        let mut bytes = vec![b'R'];
        bytes.extend(relation.to_be_bytes());
        bytes.extend(b"public\0t\0d");
        bytes.extend(u16::try_from(columns.len()).unwrap().to_be_bytes());
        for (name, identifies) in columns {
            bytes.push(u8::from(*identifies));
            bytes.extend(name.as_bytes());
            bytes.push(0);
            bytes.extend([0; 8]);
        }
        bytes
    }

    pub(in crate::snapshot) fn truncate(relations: &[u32]) -> Vec<u8> {
        let mut bytes = vec![b'T'];
        bytes.extend(u32::try_from(relations.len()).unwrap().to_be_bytes());
        bytes.push(0);
        bytes.extend(relations.iter().flat_map(|relation| relation.to_be_bytes()));
        bytes
    }

    fn texts<'a>(row: &Row<'a>, count: usize) -> Vec<Option<&'a str>> {
        (0..count).map(|position| row.text(position)).collect()
    }

    #[test]
    fn changes_name_their_rows() {
        let Ok(Message::Relation(known)) = read(&relation(7, &[("id", true), ("v", false)])) else { panic!() };
        assert_eq!(known.relation, 7);
        assert_eq!(known.columns[0], Column { name: "id".to_owned(), identifies: true });
        assert!(!known.columns[1].identifies);

        let bytes = change(b'I', 7, &[(b'N', &[Sent::Text("1"), Sent::Null])]);
        let Ok(Message::Insert { relation: 7, new }) = read(&bytes) else { panic!() };
        assert_eq!(texts(&new, 3), [Some("1"), None, None]);

        let bytes =
            change(b'U', 7, &[(b'K', &[Sent::Text("1"), Sent::Null]), (b'N', &[Sent::Text("2"), Sent::Unchanged])]);
        let Ok(Message::Update { relation: 7, old: Some(old), new }) = read(&bytes) else { panic!() };
        assert_eq!((old.text(0), new.text(0), new.text(1)), (Some("1"), Some("2"), None));
        assert!(new.is_unchanged(1) && !new.is_unchanged(0) && !new.is_unchanged(2) && !old.is_unchanged(1));

        let bytes = change(b'D', 7, &[(b'K', &[Sent::Text("2"), Sent::Null])]);
        let Ok(Message::Delete { relation: 7, old }) = read(&bytes) else { panic!() };
        assert_eq!(old.text(0), Some("2"));
        assert_eq!(read(&truncate(&[7, 8])), Ok(Message::Truncate { relations: vec![7, 8] }));
        assert_eq!(read(b"B12345678"), Ok(Message::Other));
    }

    #[test]
    fn nonsense_names_its_relation_where_it_can() {
        assert_eq!(read(b""), Err(Unreadable { relation: None }));
        assert_eq!(read(b"?"), Err(Unreadable { relation: None }));
        assert_eq!(read(b"I\0\0"), Err(Unreadable { relation: None }));
        assert_eq!(read(b"I\0\0\0\x07"), Err(Unreadable { relation: Some(7) }));
        assert_eq!(read(b"I\0\0\0\x07X"), Err(Unreadable { relation: Some(7) }));
        // A count of relations that would take all memory.
        assert_eq!(read(b"T\xff\xff\xff\xff\0\0\0\0\x01"), Err(Unreadable { relation: None }));
        let bytes = change(b'I', 7, &[(b'N', &[Sent::Text("\0")])]);
        let broken: Vec<u8> = bytes[..bytes.len() - 1].iter().copied().chain([0xff]).collect();
        let Ok(Message::Insert { new, .. }) = read(&broken) else { panic!() };
        assert_eq!(new.text(0), None, "no UTF-8");
    }

    proptest! {
        /// Wherever a change is cut, it says the same as before or less.
        #[test]
        fn a_cut_change_says_nothing_else(key in ".{0,20}", value in ".{0,60}", share in 0.0..1.0_f64) {
            let rows: [&[Sent<'_>]; 2] = [&[Sent::Text(&key), Sent::Null], &[Sent::Text("new"), Sent::Text(&value)]];
            let whole = change(b'U', 7, &[(b'K', rows[0]), (b'N', rows[1])]);
            let cut = &whole[..(whole.len() as f64 * share) as usize];
            match read(cut) {
                Ok(Message::Update { relation, old: Some(old), new }) => {
                    prop_assert_eq!(relation, 7);
                    prop_assert_eq!(old.text(0), Some(key.as_str()));
                    prop_assert!(new.text(0).is_none_or(|text| text == "new"));
                    prop_assert!(new.text(1).is_none_or(|text| text == value));
                    prop_assert!(!new.is_unchanged(0) && !new.is_unchanged(1));
                }
                Ok(other) => prop_assert!(false, "{:?}", other),
                Err(unreadable) => prop_assert!(unreadable.relation.is_none_or(|relation| relation == 7)),
            }
        }

        /// Whatever a server sends, the agent does not panic.
        #[test]
        fn anything_may_come(kind in prop::sample::select(b"BCORYIUDTM?".to_vec()), bytes: Vec<u8>) {
            let message: Vec<u8> = [vec![kind], bytes].concat();
            let _answer = read(&message);
        }
    }
}
