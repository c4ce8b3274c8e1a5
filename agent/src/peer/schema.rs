//! What the schema of the side that publishes is made of, on its way to the side
//! that follows.

use pgportage_link::status::{from_status, to_status};
use pgportage_link::{Effect, Failure};
use pgportage_proto::{Reason, v1};
use tonic::{Status, Streaming};

use super::client::{CALL_TIMEOUT, PeerClient};
use crate::drift::Published;
use crate::postgres::catalog::{Column, ObjectDefinition, PrivilegeGrant, SchemaObject};

/// Objects in one message: a hundred bytes each, far below what one may hold.
const OBJECTS: usize = 4_000;

/// Listings of the publisher's schema, the newest as soon as it changes. Dropping
/// it ends the looking.
#[derive(Debug)]
pub struct PublishedStream {
    messages: Streaming<v1::WatchSchemaResponse>,
    /// What has come of the next listing.
    arriving: Vec<SchemaObject>,
}

impl PublishedStream {
    /// The next listing; none when the other agent ends. Losing the future loses
    /// nothing.
    ///
    /// # Errors
    ///
    /// What the other agent reports.
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
    /// On the side that follows: what the schema of the other side is made of, now
    /// and after every change.
    ///
    /// # Errors
    ///
    /// What the other side reports.
    pub async fn watch_schema(&self) -> Result<PublishedStream, Failure> {
        let request = v1::WatchSchemaRequest { migration_id: self.migration.to_string() };
        let messages = self.within(CALL_TIMEOUT, self.client.clone().watch_schema(request)).await?;
        Ok(PublishedStream { messages, arriving: Vec::new() })
    }

    /// On the side that follows: how objects of these kinds are defined on the other
    /// side.
    ///
    /// # Errors
    ///
    /// What the other side reports.
    pub async fn define_objects(&self, kinds: &[String]) -> Result<Vec<ObjectDefinition>, Failure> {
        let request = v1::DefineObjectsRequest { migration_id: self.migration.to_string(), kinds: kinds.to_vec() };
        let mut messages = self.within(CALL_TIMEOUT, self.client.clone().define_objects(request)).await?;
        let mut definitions = Vec::new();
        while let Some(message) = messages.message().await.map_err(from_status)? {
            definitions.push(decode_definition(message.definition.ok_or_else(|| malformed("definition"))?));
        }
        Ok(definitions)
    }
}

/// A listing, in as many messages as it needs.
pub(super) fn encode_listing(listing: Result<Published, Failure>) -> Vec<Result<v1::WatchSchemaResponse, Status>> {
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

/// One definition.
pub(super) fn encode_definition(definition: ObjectDefinition) -> v1::DefineObjectsResponse {
    let column = |column: Column| v1::ColumnDefinition {
        name: column.name,
        r#type: column.type_name,
        collation: column.collation,
        not_null: column.not_null,
        default_expression: column.default,
        identity: column.identity,
        generated: column.generated,
        inherited: column.inherited,
    };
    let grants = |grants: Vec<PrivilegeGrant>| {
        let grant =
            |PrivilegeGrant { grantee, privilege, grantable }| v1::PrivilegeGrant { grantee, privilege, grantable };
        grants.into_iter().map(grant).collect()
    };
    let definition = v1::ObjectDefinition {
        identity: definition.identity,
        belongs_to: definition.belongs_to.unwrap_or_default(),
        create_statement: definition.create,
        drop_statement: definition.drop,
        order: definition.order,
        replaceable_as: definition.replaceable_as.unwrap_or_default(),
        columns: definition.columns.into_iter().map(column).collect(),
        labels: definition.labels,
        settings: definition.settings,
        grant_name: definition.grant_name,
        grants: grants(definition.grants),
        default_grants: grants(definition.default_grants),
        table_name: definition.table_name,
    };
    v1::DefineObjectsResponse { definition: Some(definition) }
}

fn decode_definition(message: v1::ObjectDefinition) -> ObjectDefinition {
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let column = |column: v1::ColumnDefinition| Column {
        name: column.name,
        type_name: column.r#type,
        collation: column.collation,
        not_null: column.not_null,
        default: column.default_expression,
        identity: column.identity,
        generated: column.generated,
        inherited: column.inherited,
    };
    let grants = |grants: Vec<v1::PrivilegeGrant>| {
        let grant =
            |v1::PrivilegeGrant { grantee, privilege, grantable }| PrivilegeGrant { grantee, privilege, grantable };
        grants.into_iter().map(grant).collect()
    };
    ObjectDefinition {
        identity: message.identity,
        belongs_to: some(message.belongs_to),
        create: message.create_statement,
        drop: message.drop_statement,
        order: message.order,
        replaceable_as: some(message.replaceable_as),
        columns: message.columns.into_iter().map(column).collect(),
        labels: message.labels,
        settings: message.settings,
        grant_name: message.grant_name,
        grants: grants(message.grants),
        default_grants: grants(message.default_grants),
        table_name: message.table_name,
    }
}

fn malformed(field: &str) -> Failure {
    Failure::new(Reason::RequestInvalid, format!("the other agent's answer lacks its {field}"))
        .hint("Run the same release on both agents.")
        .effect(Effect::None)
        .with("field", field)
}
