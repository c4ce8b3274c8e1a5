//! The publisher's half: answers questions, in order, from one session.

use futures_util::{Stream, StreamExt};
use pgportage_data_plane::comparison::{
    ComparedTable, Part, Reader, Which, decode_part, encode_content, encode_digest, encode_row, encode_table,
    encode_written,
};
use pgportage_link::{Effect, Failure};
use pgportage_migration::Participation;
use pgportage_migration::stream::Stream as Changes;
use pgportage_postgres::RelationName;
use pgportage_proto::{Reason, v1};
use tokio::sync::mpsc;
use tonic::Status;
use v1::compare_rows_request::Message as Question;
use v1::compare_rows_response::Message as Answer;

use crate::act::Handles;
use crate::switchover;

/// Tables, rows or contents in one message.
const TABLES: usize = 100;
const ROWS: usize = 2_000;
const CONTENT_BYTES: usize = 1 << 20;

/// Answers on their way to the link.
pub(crate) type Answers = mpsc::Sender<Result<v1::CompareRowsResponse, Status>>;

/// Answers questions until there are none, or the subscriber's agent stops listening. A failure is the
/// answer to its question; a session that is lost is opened again for the next question.
pub(crate) async fn answer(
    handles: Handles,
    participation: Participation,
    mut questions: impl Stream<Item = Result<v1::CompareRowsRequest, Status>> + Unpin,
    answers: Answers,
) {
    let mut source = Source { handles, participation, reader: None, tables: None };
    loop {
        let question = tokio::select! {
            biased;
            () = source.handles.tasks.stop.cancelled() => return,
            () = answers.closed() => return,
            question = questions.next() => question,
        };
        let Some(Ok(question)) = question else { return };
        // The subscriber's agent no longer waits for an answer: the statement ends with its session.
        let messages = tokio::select! {
            biased;
            () = answers.closed() => return,
            messages = source.answer(question.message) => messages,
        };
        let messages = messages.unwrap_or_else(|failure| {
            if failure.reason == Reason::ServerUnreachable {
                source.reader = None;
            }
            vec![Answer::Failure(failure.into())]
        });
        for message in messages {
            if answers.send(Ok(v1::CompareRowsResponse { message: Some(message) })).await.is_err() {
                return;
            }
        }
    }
}

struct Source {
    handles: Handles,
    participation: Participation,
    reader: Option<Reader>,
    /// The tables that may be asked about.
    tables: Option<Vec<ComparedTable>>,
}

impl Source {
    async fn answer(&mut self, question: Option<Question>) -> Result<Vec<Answer>, Failure> {
        match question {
            Some(Question::ListTables(_)) => self.list().await,
            Some(Question::DigestParts(message)) => {
                let parts = message.parts.into_iter().map(|part| decode_part(Some(part)));
                self.digests(parts.collect::<Result<_, _>>()?).await
            }
            Some(Question::ListRows(message)) => self.rows(decode_part(message.part)?).await,
            Some(Question::WriteHeartbeat(_)) => {
                let stream = Changes::published_by(self.participation.side);
                Ok(vec![Answer::Heartbeat(self.reader().await?.beat(stream).await?)])
            }
            Some(Question::ReadRows(message)) => self.contents(decode_part(message.part)?).await,
            Some(Question::ListWritten(message)) => self.written(message.cutover_epoch).await,
            Some(Question::MigrationId(_)) | None => {
                Err(Failure::new(Reason::RequestInvalid, "a comparison knows no such question")
                    .hint("Run the same release on both agents.")
                    .effect(Effect::None)
                    .with("field", "message"))
            }
        }
    }

    async fn reader(&mut self) -> Result<&mut Reader, Failure> {
        if self.reader.is_none() {
            self.reader = Some(Reader::open(&self.handles.door, &self.participation.database).await?);
        }
        self.reader.as_mut().ok_or_else(|| Failure::new(Reason::Internal, "a session was opened and is not there"))
    }

    async fn list(&mut self) -> Result<Vec<Answer>, Failure> {
        let participation = self.participation.clone();
        let reader = self.reader().await?;
        let probe = reader.probe().await?;
        let tables = reader.tables(&participation).await?;
        let mut messages: Vec<_> = tables
            .chunks(TABLES)
            .map(|tables| v1::ComparedTables {
                tables: tables.iter().map(encode_table).collect(),
                probe: probe.clone(),
                complete: false,
            })
            .collect();
        messages.push(v1::ComparedTables { tables: Vec::new(), probe, complete: true });
        self.tables = Some(tables);
        Ok(messages.into_iter().map(Answer::Tables).collect())
    }

    /// Makes sure that a part belongs to a table of the migration: the other agent gets hashes of no other
    /// table.
    async fn check(&mut self, part: &Part) -> Result<(), Failure> {
        if self.tables.is_none() {
            self.list().await?;
        }
        let asked = &part.table;
        let known = self.tables.iter().flatten().find(|known| known.name == asked.name);
        let is_column = |name: &String| asked.columns.iter().any(|column| column.name == *name);
        if known.is_some_and(|known| known.columns == asked.columns) && asked.key.iter().all(is_column) {
            return Ok(());
        }
        Err(unknown(&asked.name))
    }

    async fn digests(&mut self, parts: Vec<Part>) -> Result<Vec<Answer>, Failure> {
        for part in &parts {
            self.check(part).await?;
        }
        let permit = self.handles.snapshots.permit(&self.participation.migration)?;
        permit.wait().await;
        let digests = self.reader().await?.digests(&parts).await?;
        let bytes: i64 = digests.iter().map(|digest| digest.size_bytes).sum();
        permit.charge(usize::try_from(bytes).unwrap_or(0)).await;
        Ok(vec![Answer::Digests(v1::PartDigests { digests: digests.iter().map(encode_digest).collect() })])
    }

    async fn rows(&mut self, part: Part) -> Result<Vec<Answer>, Failure> {
        self.check(&part).await?;
        let rows = self.reader().await?.rows(&part).await?;
        let mut messages: Vec<_> = rows
            .chunks(ROWS)
            .map(|rows| v1::RowHashes { rows: rows.iter().map(encode_row).collect(), complete: false })
            .collect();
        messages.push(v1::RowHashes { rows: Vec::new(), complete: true });
        Ok(messages.into_iter().map(Answer::Rows).collect())
    }

    async fn written(&mut self, cutover_epoch: i64) -> Result<Vec<Answer>, Failure> {
        let written = switchover::written(&self.handles.switchovers, &self.participation, cutover_epoch).await?;
        let tables = written.until_the_marker().await?;
        Ok(encode_written(tables, ROWS).into_iter().map(Answer::Written).collect())
    }

    async fn contents(&mut self, part: Part) -> Result<Vec<Answer>, Failure> {
        self.check(&part).await?;
        if part.table.key.is_empty() || !matches!(part.which, Which::Keys(_)) {
            return Err(unknown(&part.table.name));
        }
        let (mut messages, mut message, mut bytes) = (Vec::new(), v1::RowContents::default(), 0);
        for row in self.reader().await?.contents(&part).await? {
            let size: usize = row.values.iter().flatten().map(String::len).sum();
            if bytes + size > CONTENT_BYTES && !message.rows.is_empty() {
                messages.push(Answer::Contents(std::mem::take(&mut message)));
                bytes = 0;
            }
            bytes += size;
            message.rows.push(encode_content(row));
        }
        message.complete = true;
        messages.push(Answer::Contents(message));
        Ok(messages)
    }
}

fn unknown(table: &RelationName) -> Failure {
    Failure::new(Reason::RequestInvalid, format!("table {table} is not replicated, or not with these columns"))
        .effect(Effect::None)
        .with("field", "table")
}
