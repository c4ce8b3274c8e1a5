//! An inspection without a migration.

use pgportage_link::status::from_status;
use pgportage_proto::{Reason, v1};

use crate::house::{House, spec};
use crate::scripted::{Scripted, accepted};

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_are_asked_and_nothing_is_kept() {
    let house = House::new();
    let run = house.start().await;
    let mut operator = house.operator(run.address).await;
    let request = v1::RunPreflightRequest { spec: Some(spec()) };
    let refused = operator.migrations.run_preflight(request.clone()).await.map_err(from_status).unwrap_err();
    assert_eq!(refused.reason, Reason::AgentNotAttached);

    let (mut berlin, _) = Scripted::attach(&house, run.address, "berlin").await;
    let (mut oslo, _) = Scripted::attach(&house, run.address, "oslo").await;
    berlin.beat(1).await;
    oslo.beat(1).await;
    let answered = |found: &str| {
        let finding = v1::Finding {
            code: found.to_owned(),
            severity: v1::finding::Severity::Note.into(),
            ..v1::Finding::default()
        };
        let inventory = v1::Inventory { table_count: 3, ..v1::Inventory::default() };
        let result = v1::CheckServerResult { inventory: Some(inventory), findings: vec![finding] };
        v1::command_fact::Fact::Succeeded(v1::CommandResult {
            result: Some(v1::command_result::Result::CheckServer(result)),
        })
    };
    // Until the first beat is heard the agents take no commands.
    let asked = tokio::spawn(async move {
        loop {
            match operator.migrations.run_preflight(request.clone()).await.map_err(from_status) {
                Ok(answer) => return answer.into_inner(),
                Err(failure) if failure.reason == Reason::AgentNotAttached => {}
                Err(failure) => panic!("{failure:?}"),
            }
            tokio::task::yield_now().await;
        }
    });
    let command = berlin.command().await;
    berlin.fact(&command.id, 1, accepted()).await;
    berlin.fact(&command.id, 2, answered("ON_SOURCE")).await;
    let command = oslo.command().await;
    let Some(v1::command::Action::CheckServer(check)) = command.action else { panic!() };
    assert_eq!(check.source.unwrap().table_count, 3, "the destination is told what the source is");
    oslo.fact(&command.id, 1, accepted()).await;
    oslo.fact(&command.id, 2, answered("ON_DESTINATION")).await;
    let answer = asked.await.unwrap();
    assert_eq!(answer.source_findings[0].code, "ON_SOURCE");
    assert_eq!(answer.destination_findings[0].code, "ON_DESTINATION");
    assert_eq!(oslo.ack().await, (command.id.clone(), 1));
    assert_eq!(oslo.ack().await, (command.id, 2));
    let mut operator = house.operator(run.address).await;
    let list = operator.migrations.list_migrations(v1::ListMigrationsRequest::default()).await.unwrap();
    assert!(list.into_inner().migrations.is_empty());
}
