//! The list that `status` shows without a name.

use time::OffsetDateTime;

use super::{Style, age, clean, happening, status, table};
use crate::view::Migration;

/// One line for each migration.
pub fn migrations(migrations: &[Migration], now: OffsetDateTime, style: Style) -> String {
    if migrations.is_empty() {
        return "no migrations\n".to_owned();
    }
    let rows: Vec<Vec<String>> = migrations
        .iter()
        .map(|migration| {
            vec![
                clean(&migration.name).into_owned(),
                status::state_word(migration).to_owned(),
                format!("{} > {}", clean(&migration.source_agent), clean(&migration.destination_agent)),
                clean(&migration.database).into_owned(),
                migration.update_time.map_or("-".to_owned(), |time| age(time, now)),
                happening(migration),
            ]
        })
        .collect();
    let head = ["migration", "state", "from > to", "database", "changed", "what is happening"];
    table(style, 0, &head, &rows, |row, column| match column {
        1 => migrations.get(row).map(status::state_tone),
        _ => None,
    })
}
