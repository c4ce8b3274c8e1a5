//! Tables made of specimens.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::specimens::{Specimen, VECTORS, holds_oids};

/// One table of the zoo.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) name: String,
    /// Makes it and fills it.
    pub(super) statements: String,
    /// Its columns but the key.
    pub(super) columns: Vec<String>,
    /// Those whose binary form is the same on every server.
    pub(super) portable: Vec<String>,
}

/// What a column is made of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    One,
    Many,
    Bounded,
    Square,
    Domain,
    Domains,
    Composite,
    Composites,
}

impl Shape {
    const PLAIN: [Self; 4] = [Self::One, Self::Many, Self::Bounded, Self::Square];
    const MADE: [Self; 4] = [Self::Domain, Self::Domains, Self::Composite, Self::Composites];

    fn takes(self, specimen: &Specimen) -> bool {
        match self {
            Self::Many | Self::Bounded | Self::Square => !VECTORS.contains(&specimen.name),
            Self::One | Self::Domain | Self::Domains | Self::Composite | Self::Composites => true,
        }
    }

    /// Arrays of what was made here hold its OID.
    fn is_portable(self) -> bool {
        match self {
            Self::One | Self::Many | Self::Bounded | Self::Square | Self::Domain | Self::Composite => true,
            Self::Domains | Self::Composites => false,
        }
    }
}

/// A cell for each column: NULL, or the values that its shape is made of.
type Row = Vec<Option<Vec<Option<String>>>>;

/// A column: the number of its specimen, and what it is of it.
#[derive(Clone, Copy, Debug)]
struct Column {
    specimen: usize,
    shape: Shape,
}

impl Column {
    fn type_name(self, all: &[Specimen]) -> String {
        let (number, expression) = (self.specimen, all[self.specimen].expression);
        match self.shape {
            Shape::One => expression.to_owned(),
            Shape::Many | Shape::Bounded | Shape::Square => format!("{expression}[]"),
            Shape::Domain => format!("zoo.domain_{number}"),
            Shape::Domains => format!("zoo.domain_{number}[]"),
            Shape::Composite => format!("zoo.composite_{number}"),
            Shape::Composites => format!("zoo.composite_{number}[]"),
        }
    }

    /// An expression of its value, made of any number of values of its specimen.
    fn value(self, all: &[Specimen], values: &[Option<String>]) -> String {
        let expression = all[self.specimen].expression;
        let whole = self.type_name(all);
        let element = |made: &str, value: &Option<String>| match value {
            Some(value) => format!("{}::{made}", quoted(value)),
            None => format!("NULL::{made}"),
        };
        let list = |made: &str| values.iter().map(|value| element(made, value)).collect::<Vec<_>>().join(", ");
        let first = values.first().cloned().flatten();
        let part = whole.trim_end_matches("[]");
        match self.shape {
            Shape::One | Shape::Domain => element(&whole, &first),
            Shape::Many | Shape::Domains => format!("ARRAY[{}]::{whole}", list(part)),
            Shape::Bounded if values.is_empty() => format!("'{{}}'::{whole}"),
            Shape::Bounded => {
                let last = i64::try_from(values.len()).unwrap() - 4;
                format!("('[-3:{last}]=' || ARRAY[{}]::{whole}::text)::{whole}", list(expression))
            }
            Shape::Square => format!("ARRAY[ARRAY[{0}], ARRAY[{0}]]::{whole}", list(expression)),
            Shape::Composite => format!("ROW({}, 'a\\b')::{whole}", element(expression, &first)),
            Shape::Composites => {
                let rows = values.iter().map(|value| format!("ROW({}, NULL)::{part}", element(expression, value)));
                format!("ARRAY[{}]::{whole}", rows.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// What is made of every type.
pub(super) fn types_of(all: &[Specimen]) -> String {
    let made = all.iter().enumerate().map(|(number, Specimen { expression, .. })| {
        format!(
            "CREATE DOMAIN zoo.domain_{number} AS {expression};\n\
             CREATE TYPE zoo.composite_{number} AS (a {expression}, b text);\n"
        )
    });
    made.collect()
}

/// Every type in every shape, with every edge value: two tables for each.
pub(super) fn systematic(all: &[Specimen]) -> Vec<Table> {
    let kinds = [("plain", Shape::PLAIN), ("made", Shape::MADE)];
    let mut tables = Vec::new();
    for (number, specimen) in all.iter().enumerate() {
        for (kind, shapes) in kinds {
            let shapes = shapes.into_iter().filter(|shape| shape.takes(specimen));
            let columns: Vec<Column> = shapes.map(|shape| Column { specimen: number, shape }).collect();
            let mut rows: Vec<Row> = Vec::new();
            for edge in &specimen.edges {
                let edge = Some(edge.clone());
                rows.push(vec![Some(vec![edge.clone(), None, edge]); columns.len()]);
            }
            rows.push(vec![None; columns.len()]);
            rows.push(vec![Some(Vec::new()); columns.len()]);
            tables.push(table(&format!("{kind}_{number}"), all, &columns, &rows));
        }
    }
    tables
}

/// Random tables. The same seed gives the same tables.
pub(super) fn generated(all: &[Specimen], count: usize, seed: [u8; 32]) -> Vec<Table> {
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let strategy = plan(all);
    (0..count)
        .map(|number| {
            let (columns, rows) = strategy.new_tree(&mut runner).unwrap().current();
            table(&format!("generated_{number}"), all, &columns, &rows)
        })
        .collect()
}

fn plan(all: &[Specimen]) -> impl Strategy<Value = (Vec<Column>, Vec<Row>)> {
    let pool = all.to_vec();
    let choices: Vec<Column> = all
        .iter()
        .enumerate()
        .flat_map(|(specimen, kind)| {
            let shapes = Shape::PLAIN.into_iter().chain(Shape::MADE).filter(move |shape| shape.takes(kind));
            shapes.map(move |shape| Column { specimen, shape })
        })
        .collect();
    // Half of the tables are of one shape only, so that enough of them go the
    // binary way.
    let plain: Vec<Column> = choices
        .iter()
        .filter(|column| column.shape == Shape::One && !pool[column.specimen].expression.contains("zoo."))
        .filter(|column| !holds_oids(pool[column.specimen].name))
        .copied()
        .collect();
    let columns = |choices: Vec<Column>| proptest::collection::vec(proptest::sample::select(choices), 1..12);
    prop_oneof![columns(plain), columns(choices)].prop_flat_map(move |columns| {
        let cells: Vec<_> = columns
            .iter()
            .map(|column| {
                let value = proptest::option::weighted(0.9, pool[column.specimen].value());
                proptest::option::weighted(0.9, proptest::collection::vec(value, 0..4))
            })
            .collect();
        (Just(columns), proptest::collection::vec(cells, 0..40))
    })
}

fn table(name: &str, all: &[Specimen], columns: &[Column], rows: &[Row]) -> Table {
    let name = format!("zoo.{name}");
    let names: Vec<String> = (0..columns.len()).map(|number| format!("c{number}")).collect();
    let definitions: Vec<String> =
        names.iter().zip(columns).map(|(name, column)| format!("{name} {}", column.type_name(all))).collect();
    // A dropped column shifts the numbers of those behind it.
    let mut statements = format!(
        "CREATE TABLE {name} (gone text, {}, id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY);\n\
         ALTER TABLE {name} DROP COLUMN gone;\n",
        definitions.join(", ")
    );
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(columns)
            .map(|(cell, column)| match cell {
                Some(values) => column.value(all, values),
                None => "NULL".to_owned(),
            })
            .collect();
        statements.push_str(&format!("INSERT INTO {name} ({}) VALUES ({});\n", names.join(", "), cells.join(", ")));
    }
    let portable = names
        .iter()
        .zip(columns)
        .filter(|(_, column)| {
            let specimen = &all[column.specimen];
            column.shape.is_portable() && !specimen.expression.contains("zoo.") && !holds_oids(specimen.name)
        })
        .map(|(name, _)| name.clone())
        .collect();
    Table { name, statements, columns: names, portable }
}
