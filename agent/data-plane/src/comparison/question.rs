//! The subscriber's half: asks the publisher's agent, one question after the other.

use pgportage_link::status::from_status;
use pgportage_link::{Effect, Failure, Remedy};
use pgportage_proto::{Reason, v1};
use tokio::sync::mpsc;
use tonic::Streaming;
use v1::compare_rows_request::Message as Question;
use v1::compare_rows_response::Message as Answer;

use super::message::{decode_content, decode_digest, decode_row, decode_table, decode_written, encode_part};
use super::part::{Part, PartDigest, RowContent, RowHash};
use super::table::ComparedTable;
use crate::snapshot::WrittenTable;

/// Questions to one session of the source. **A future that was dropped leaves its answer in the stream**: a
/// caller that drops one must drop this value too.
#[derive(Debug)]
pub struct Questions {
    questions: mpsc::Sender<v1::CompareRowsRequest>,
    answers: Streaming<v1::CompareRowsResponse>,
    peer: String,
}

impl Questions {
    /// Asks over a call that the other agent has accepted.
    pub fn new(
        questions: mpsc::Sender<v1::CompareRowsRequest>,
        answers: Streaming<v1::CompareRowsResponse>,
        peer: &str,
    ) -> Self {
        Self { questions, answers, peer: peer.to_owned() }
    }

    /// Every table that the source replicates, and the answer of its hash function to the probe.
    pub async fn tables(&mut self) -> Result<(Vec<ComparedTable>, String), Failure> {
        self.ask(Question::ListTables(v1::ListComparedTables {})).await?;
        let mut tables = Vec::new();
        loop {
            let Answer::Tables(message) = self.hear().await? else { return Err(self.confused()) };
            tables.extend(message.tables.into_iter().map(decode_table).collect::<Result<Vec<_>, _>>()?);
            if message.complete {
                return Ok((tables, message.probe));
            }
        }
    }

    /// The digests of parts, as [`super::Reader::digests`].
    pub async fn digests(&mut self, parts: &[Part]) -> Result<Vec<PartDigest>, Failure> {
        self.ask(Question::DigestParts(v1::DigestParts { parts: parts.iter().map(encode_part).collect() })).await?;
        match self.hear().await? {
            Answer::Digests(message) => message.digests.iter().map(decode_digest).collect(),
            _other => Err(self.confused()),
        }
    }

    /// The rows of a part by their hashes.
    pub async fn rows(&mut self, part: &Part) -> Result<Vec<RowHash>, Failure> {
        self.ask(Question::ListRows(v1::ListRows { part: Some(encode_part(part)) })).await?;
        let mut rows = Vec::new();
        loop {
            let Answer::Rows(message) = self.hear().await? else { return Err(self.confused()) };
            rows.extend(message.rows.into_iter().map(decode_row).collect::<Result<Vec<_>, _>>()?);
            if message.complete {
                return Ok(rows);
            }
        }
    }

    /// The contents of rows with keys.
    pub async fn contents(&mut self, part: &Part) -> Result<Vec<RowContent>, Failure> {
        self.ask(Question::ReadRows(v1::ReadRows { part: Some(encode_part(part)) })).await?;
        let mut rows = Vec::new();
        loop {
            let Answer::Contents(message) = self.hear().await? else { return Err(self.confused()) };
            rows.extend(message.rows.into_iter().map(decode_content).collect::<Result<Vec<_>, _>>()?);
            if message.complete {
                return Ok(rows);
            }
        }
    }

    /// Lets the source write a heartbeat that follows everything it has answered.
    pub async fn heartbeat(&mut self) -> Result<i64, Failure> {
        self.ask(Question::WriteHeartbeat(v1::WriteHeartbeat {})).await?;
        match self.hear().await? {
            Answer::Heartbeat(number) => Ok(number),
            _other => Err(self.confused()),
        }
    }

    /// Which rows applications wrote on the other side since the switchover that enters this side began.
    pub async fn written(&mut self, cutover_epoch: i64) -> Result<Vec<WrittenTable>, Failure> {
        self.ask(Question::ListWritten(v1::ListWritten { cutover_epoch })).await?;
        let mut tables = Vec::new();
        loop {
            let Answer::Written(message) = self.hear().await? else { return Err(self.confused()) };
            let complete = message.complete;
            decode_written(message, &mut tables)?;
            if complete {
                return Ok(tables);
            }
        }
    }

    async fn ask(&self, question: Question) -> Result<(), Failure> {
        let request = v1::CompareRowsRequest { message: Some(question) };
        self.questions.send(request).await.map_err(|_| self.silent("It hears no more questions."))
    }

    /// Without a time limit: a large table takes long, and the connection notices a peer that is gone.
    async fn hear(&mut self) -> Result<Answer, Failure> {
        let message = self.answers.message().await.map_err(|status| from_status(status).with("peer", &self.peer))?;
        match message.and_then(|message| message.message) {
            Some(Answer::Failure(failure)) => Err(failure.into()),
            Some(answer) => Ok(answer),
            None => Err(self.silent("It ended the comparison.")),
        }
    }

    fn silent(&self, detail: &str) -> Failure {
        Failure::new(Reason::PeerUnreachable, format!("agent {} answers no questions about rows", self.peer))
            .detail(detail)
            .remedy(Remedy::Wait)
            .effect(Effect::None)
            .with("peer", &self.peer)
    }

    fn confused(&self) -> Failure {
        Failure::new(Reason::Internal, format!("agent {} answered another question", self.peer))
            .hint("Run the same release on both agents.")
            .effect(Effect::None)
    }
}
