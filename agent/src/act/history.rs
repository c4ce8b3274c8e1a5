//! Whether the server that follows is the one that began to follow.
//!
//! A standby that is promoted may lack what the old primary had received and confirmed. The publisher's
//! slot is behind that, so the new primary never gets it, and no position and no lag shows the hole. So the
//! ledger on this server says which server began to follow, or was compared row by row since, and on which
//! timeline. **Invariant:** no switchover enters a server with another history.

use pgportage_link::{Effect, Failure, Remedy};
use pgportage_migration::ledger;
use pgportage_postgres::{Purpose, history, sql_failure};
use pgportage_proto::{ActKind, Reason, Side, Verb};
use tokio_postgres::GenericClient;

use super::Context;

/// The acts whose ledger rows say it.
const NOTED_BY: [ActKind; 4] =
    [ActKind::CreateSubscription, ActKind::CreateWayBack, ActKind::FollowStream, ActKind::CompareRows];

/// What the ledger says. None where an older release began to follow.
pub(super) async fn noted(client: &impl GenericClient) -> Result<Option<String>, Failure> {
    let row = ledger::latest_result(client, &NOTED_BY).await?;
    Ok(row.map(|row| String::from_utf8_lossy(&row).into_owned()))
}

/// Notes that every row was compared on the server of this history. Nothing to do when that is known.
pub(super) async fn take_up(cx: &Context, server: &str) -> Result<(), Failure> {
    let failure = |error| sql_failure(error, "note the server that was compared");
    let mut session = cx.door.open(&cx.participation.database, Purpose::Control).await?;
    if noted(&*session).await?.is_none_or(|noted| noted == server) {
        return Ok(());
    }
    let transaction = session.transaction().await.map_err(failure)?;
    let (kind, server) = (ActKind::CompareRows, Some(server.as_bytes()));
    ledger::record_with(&transaction, cx.entry(), kind, Verb::Perform, server).await?;
    transaction.commit().await.map_err(failure)
}

/// Refuses a server that was failed over since.
///
/// # Errors
///
/// [`Reason::ResyncRequired`], or what the server reports.
pub(super) async fn expect_unbroken(client: &impl GenericClient, side: Side) -> Result<(), Failure> {
    let (noted, now) = (noted(client).await?, history(client).await?);
    match noted {
        Some(noted) if noted != now => {
            Err(Failure::new(Reason::ResyncRequired, format!("the {side} server was failed over: rows may be missing"))
                .detail(format!("Its system identifier and timeline were {noted}, and are {now}."))
                .hint("Compare every row with `pgportage verify`; when none differs, try again.")
                .remedy(Remedy::Operator)
                .effect(Effect::None))
        }
        Some(_) | None => Ok(()),
    }
}
