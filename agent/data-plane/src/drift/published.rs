//! The publisher's half: sends its schema while the subscriber's agent listens.

use std::time::Duration;

use pgportage_link::{Clock, Failure, Tasks};
use pgportage_migration::Participation;
use pgportage_migration::stream::published_name;
use pgportage_postgres::catalog::{self, published_tables, user_tables};
use pgportage_postgres::{Door, Purpose, Session};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::difference::Published;
use super::pace::Pace;

/// A complete look from time to time, for changes that the fingerprint does not show.
pub(super) const WHOLE_LOOK: Duration = Duration::from_secs(300);

/// The schema of this side now and after every change, for the subscriber's agent. Ends with the stream,
/// with the agent, and with a failure; the subscriber's agent then asks again.
#[must_use]
pub fn published(
    door: &Door,
    tasks: &Tasks,
    participation: &Participation,
) -> ReceiverStream<Result<Published, Failure>> {
    let (sender, receiver) = mpsc::channel(1);
    let (door, participation) = (door.clone(), participation.clone());
    let (clock, stop) = (tasks.clock, tasks.stop.clone());
    tasks.spawn(async move {
        let watching = async {
            tokio::select! {
                () = sender.closed() => {}
                Err(failure) = watch(&door, clock, &participation, &sender) => drop(sender.send(Err(failure)).await),
            }
        };
        stop.run_until_cancelled(watching).await;
    });
    ReceiverStream::new(receiver)
}

async fn watch(
    door: &Door,
    clock: Clock,
    participation: &Participation,
    sender: &mpsc::Sender<Result<Published, Failure>>,
) -> Result<(), Failure> {
    let session = door.open(&participation.database, Purpose::Control).await?;
    let (mut known, mut told, mut pace) = (None, None, Pace::default());
    loop {
        let begun = clock.now();
        if changed(&session, &mut known, begun).await? {
            let published = look(&session, participation).await?;
            if told.as_ref() != Some(&published) {
                if sender.send(Ok(published.clone())).await.is_err() {
                    return Ok(());
                }
                told = Some(published);
            }
        }
        clock.sleep(pace.after(clock.now().duration_since(begun))).await;
    }
}

/// Whether a complete look is due: the fingerprint changed, or the last one is long ago.
pub(super) async fn changed(
    session: &Session,
    known: &mut Option<(String, Instant)>,
    now: Instant,
) -> Result<bool, Failure> {
    // Taken before the look: what changes during the look is seen again at the next one.
    let fingerprint = catalog::fingerprint(session).await?;
    if known.as_ref().is_some_and(|(seen, at)| *seen == fingerprint && now.duration_since(*at) < WHOLE_LOOK) {
        return Ok(false);
    }
    *known = Some((fingerprint, now));
    Ok(true)
}

/// A complete look: every object.
pub(super) async fn look(session: &Session, participation: &Participation) -> Result<Published, Failure> {
    let objects = catalog::schema_objects(session).await?;
    let published = published_tables(session, &published_name(participation)).await?;
    let tables = user_tables(session).await?;
    let unpublished = tables.iter().filter(|table| !published.contains(table)).map(|table| format!("table {table}"));
    Ok(Published { objects, unpublished: unpublished.collect() })
}
