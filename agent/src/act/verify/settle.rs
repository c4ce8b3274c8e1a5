//! Looks at rows under suspicion until each is cleared or reported as different.

use std::sync::Arc;
use std::time::Duration;

use pgportage_data_plane::comparison::{
    ComparedTable, Difference, Part, RowContent, RowHash, RowKey, Suspect, Verdict, Which,
};
use pgportage_link::Failure;
use pgportage_migration::stream::Stream;

use super::checkpoint::TableNote;
use super::repair::statement;
use super::scan::Worker;
use crate::act::patience::{Patience, stalled};

/// Most looks at each side. A row that was written between all of them stays unsettled.
const ROUNDS: u32 = 40;
/// The same for few rows: a row that is written a thousand times a second is found equal by looking often,
/// not by waiting.
const ROUNDS_OF_FEW: u32 = 400;
/// Rounds without a pause between them. After them the pause doubles up to the longest.
const QUICK_ROUNDS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Up to so many rows are looked at all the time: they are few, and probably written all the time.
const PEEKED: usize = 50;
/// Time between two looks for the heartbeat.
const LOOK: Duration = Duration::from_millis(10);

type Look = fn(&mut Suspect, Option<&RowHash>) -> Option<Verdict>;

impl Worker<'_> {
    /// Empties the list of suspects. Rows that differ go into the note and the report.
    pub(super) async fn settle(
        &mut self,
        table: &Arc<ComparedTable>,
        note: &mut TableNote,
        suspects: &mut Vec<Suspect>,
    ) -> Result<(), Failure> {
        if suspects.is_empty() {
            return Ok(());
        }
        self.queue.rechecked(suspects.len());
        let (mut found, mut pause) = (Vec::new(), FIRST_PAUSE);
        for round in 0..ROUNDS_OF_FEW {
            self.cx.safe_point()?;
            let part = self.part_of(table, suspects);
            let rows = self.ends().await?.0.rows(&part).await?;
            found.extend(look(suspects, &rows, Suspect::on_destination));
            if suspects.is_empty() {
                break;
            }
            let peeking = round > 0 && suspects.len() <= PEEKED && !table.key.is_empty();
            let part = self.part_of(table, suspects);
            let rows = self.look_there(&part, suspects, peeking).await?;
            found.extend(look(suspects, &rows, Suspect::on_source));
            if suspects.is_empty() {
                break;
            }
            self.fence(table, suspects, peeking).await?;
            if peeking {
                continue;
            }
            if round + 1 >= ROUNDS {
                break;
            }
            if round >= QUICK_ROUNDS {
                self.cx.pause(pause).await?;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
        for suspect in suspects.drain(..) {
            match suspect.at_last() {
                Some(Verdict::Differs(difference)) => found.push((suspect.key, difference)),
                Some(Verdict::Equal) => {}
                None => note.unsettled += 1,
            }
        }
        self.tell(table, note, &found).await
    }

    fn part_of(&self, table: &Arc<ComparedTable>, suspects: &[Suspect]) -> Part {
        self.part(table, Which::Keys(suspects.iter().map(|suspect| suspect.key.clone()).collect()))
    }

    /// Looks at the source. In the meantime, where that may help, looks at the destination.
    async fn look_there(
        &mut self,
        part: &Part,
        suspects: &mut Vec<Suspect>,
        peeking: bool,
    ) -> Result<Vec<RowHash>, Failure> {
        let (here, there) = self.ends().await?;
        let answer = there.rows(part);
        tokio::pin!(answer);
        loop {
            tokio::select! {
                biased;
                rows = &mut answer => return rows,
                rows = here.rows(part), if peeking => drop(look(suspects, &rows?, Suspect::peek)),
            }
        }
    }

    /// Waits until everything that the source has shown is on the destination.
    async fn fence(
        &mut self,
        table: &Arc<ComparedTable>,
        suspects: &mut Vec<Suspect>,
        peeking: bool,
    ) -> Result<(), Failure> {
        let (cx, mut patience) = (self.cx, Patience::new(self.cx));
        let stream = Stream::subscribed_by(cx.participation.side);
        let number = self.ends().await?.1.heartbeat().await?;
        let mut newest = 0;
        loop {
            let arrived = self.ends().await?.0.arrived(stream).await?;
            if arrived >= number {
                return Ok(());
            }
            if arrived > newest {
                newest = arrived;
                patience.moved(cx);
            }
            if patience.is_over(cx) {
                return Err(stalled(cx, "a heartbeat to arrive, so that rows can be compared"));
            }
            cx.safe_point()?;
            if peeking && !suspects.is_empty() {
                let part = self.part_of(table, suspects);
                let rows = self.ends().await?.0.rows(&part).await?;
                drop(look(suspects, &rows, Suspect::peek));
            } else {
                cx.pause(LOOK).await?;
            }
        }
    }

    /// Reports rows that differ, with the statements that would correct them.
    async fn tell(
        &mut self,
        table: &Arc<ComparedTable>,
        note: &mut TableNote,
        found: &[(RowKey, Difference)],
    ) -> Result<(), Failure> {
        let contents = self.contents(table, found).await?;
        for (key, difference) in found {
            note.differs(*difference);
            let content = contents.iter().find(|content| content.key == *key);
            let statement = if self.queue.mends() { statement(table, *difference, key, content) } else { None };
            self.queue.differs(table, *difference, key, statement.as_deref())?;
        }
        Ok(())
    }

    /// The source's rows, where a statement needs them.
    async fn contents(
        &mut self,
        table: &Arc<ComparedTable>,
        found: &[(RowKey, Difference)],
    ) -> Result<Vec<RowContent>, Failure> {
        let keys: Vec<_> = found
            .iter()
            .filter(|(_, difference)| *difference != Difference::Extra)
            .map(|(key, _)| key.clone())
            .collect();
        if !self.queue.mends() || table.key.is_empty() || keys.is_empty() {
            return Ok(Vec::new());
        }
        let part = self.part(table, Which::Keys(keys));
        self.ends().await?.1.contents(&part).await
    }
}

/// Shows every suspect its row. Suspects with a verdict leave the list; those that differ are returned.
fn look(suspects: &mut Vec<Suspect>, rows: &[RowHash], look: Look) -> Vec<(RowKey, Difference)> {
    let rows: std::collections::HashMap<_, _> = rows.iter().map(|row| (&row.key, row)).collect();
    let mut found = Vec::new();
    suspects.retain_mut(|suspect| match look(suspect, rows.get(&suspect.key).copied()) {
        None => true,
        Some(Verdict::Equal) => false,
        Some(Verdict::Differs(difference)) => {
            found.push((suspect.key.clone(), difference));
            false
        }
    });
    found
}
