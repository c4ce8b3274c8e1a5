//! The publisher's schema on its way to the subscriber's agent.

use pgportage_link::status::{from_status, to_status};
use pgportage_link::{Effect, Failure};
use pgportage_postgres::catalog::SchemaObject;
use pgportage_proto::{Reason, v1};
use tonic::{Status, Streaming};

use super::client::{CALL_TIMEOUT, PeerClient};
use crate::drift::Published;

/// Objects in one message. At a hundred bytes each that is far below the limit of a message.
const OBJECTS: usize = 4_000;

/// Listings of the publisher's schema, the newest as soon as it changes. Dropping the stream ends the
/// looking on the publisher.
#[derive(Debug)]
pub struct PublishedStream {
    messages: Streaming<v1::WatchSchemaResponse>,
    /// The part of the next listing that has arrived.
    arriving: Vec<SchemaObject>,
}

impl PublishedStream {
    /// The next listing; none when the other agent ends. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Published>, Failure> {
        while let Some(message) = self.messages.message().await.map_err(from_status)? {
            for object in message.objects {
                let digest = object.digest.try_into().map_err(|_| malformed("digest"))?;
                self.arriving.push(SchemaObject { identity: object.identity, digest });
            }
            if message.complete {
                let objects = std::mem::take(&mut self.arriving);
                return Ok(Some(Published { objects, unpublished: message.unpublished }));
            }
        }
        Ok(None)
    }
}

impl PeerClient {
    /// On the subscriber: the schema of the publisher, now and after every change.
    pub async fn watch_schema(&self) -> Result<PublishedStream, Failure> {
        let request = v1::WatchSchemaRequest { migration_id: self.migration.to_string() };
        let messages = self.within(CALL_TIMEOUT, self.client.clone().watch_schema(request)).await?;
        Ok(PublishedStream { messages, arriving: Vec::new() })
    }
}

/// A listing, in as many messages as it needs.
pub fn encode_listing(listing: Result<Published, Failure>) -> Vec<Result<v1::WatchSchemaResponse, Status>> {
    let Published { objects, unpublished } = match listing {
        Ok(listing) => listing,
        Err(failure) => return vec![Err(to_status(failure))],
    };
    let object =
        |object: &SchemaObject| v1::SchemaObject { identity: object.identity.clone(), digest: object.digest.to_vec() };
    let part = |objects: &[SchemaObject]| v1::WatchSchemaResponse {
        objects: objects.iter().map(object).collect(),
        ..v1::WatchSchemaResponse::default()
    };
    let last = v1::WatchSchemaResponse { objects: Vec::new(), complete: true, unpublished };
    objects.chunks(OBJECTS).map(part).chain([last]).map(Ok).collect()
}

fn malformed(field: &str) -> Failure {
    Failure::new(Reason::RequestInvalid, format!("the other agent's answer lacks its {field}"))
        .hint("Run the same release on both agents.")
        .effect(Effect::None)
        .with("field", field)
}
