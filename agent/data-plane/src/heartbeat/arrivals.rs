//! The subscriber's half: looks for arrivals while the publisher's agent listens.

use std::time::Duration;

use pgportage_link::{Clock, Failure, Tasks};
use pgportage_migration::Participation;
use pgportage_migration::ledger;
use pgportage_migration::stream::Stream;
use pgportage_postgres::{Door, Purpose, Session, sql_failure};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Time between two looks. The measured lag may be too high by this much.
const INTERVAL: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_secs(1);

/// The query for the newest number of a stream that has arrived.
pub(crate) fn look_statement(stream: Stream) -> String {
    let table = ledger::table(stream.heartbeat_table());
    format!("SELECT sequence FROM {table} WHERE id = 1")
}

/// The numbers of the heartbeat rows that arrive here: the newest now (zero before the first), then each
/// new one. The looking ends when the stream is dropped, or with the agent. It goes on after an outage of
/// the server.
pub fn arrivals(door: &Door, tasks: &Tasks, participation: &Participation) -> ReceiverStream<i64> {
    // Room for one: a slow reader gets the newest number, not a queue of old ones.
    let (sender, receiver) = mpsc::channel(1);
    let (door, participation) = (door.clone(), participation.clone());
    let (clock, stop) = (tasks.clock, tasks.stop.clone());
    tasks.spawn(async move {
        let watching = async {
            tokio::select! {
                () = sender.closed() => {}
                () = watch(&door, clock, &participation, &sender) => {}
            }
        };
        stop.run_until_cancelled(watching).await;
    });
    ReceiverStream::new(receiver)
}

async fn watch(door: &Door, clock: Clock, participation: &Participation, sender: &mpsc::Sender<i64>) {
    let mut session = None;
    let mut told = None;
    loop {
        let pause = match look(door, participation, &mut session).await {
            Ok(number) => {
                if told != Some(number) {
                    if sender.send(number).await.is_err() {
                        return;
                    }
                    told = Some(number);
                }
                INTERVAL
            }
            Err(failure) => {
                tracing::debug!(migration.id = %participation.migration, failure = %failure, detail = failure.detail, "cannot look for heartbeats");
                session = None;
                // The publisher's agent hears at least once, even that nothing has arrived.
                if told.is_none() {
                    if sender.send(0).await.is_err() {
                        return;
                    }
                    told = Some(0);
                }
                PAUSE
            }
        };
        clock.sleep(pause).await;
    }
}

async fn look(door: &Door, participation: &Participation, session: &mut Option<Session>) -> Result<i64, Failure> {
    let open = match session {
        Some(open) => open,
        None => session.insert(door.open(&participation.database, Purpose::Watch).await?),
    };
    let row = open
        .query_opt(&look_statement(Stream::subscribed_by(participation.side)), &[])
        .await
        .map_err(|error| sql_failure(error, "look for heartbeats"))?;
    Ok(row.map_or(0, |row| row.get(0)))
}
