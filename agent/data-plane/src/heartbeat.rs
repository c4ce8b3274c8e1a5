//! The heartbeat: a row whose arrival measures the lag, on one clock.
//!
//! The publisher's agent writes the next number every second, and more often while an act waits for it.
//! Over the link the subscriber's agent reports which number has arrived. The publisher's agent takes both
//! moments from its own clock. The heartbeat runs beside all acts and survives outages of either server, of
//! the link and of the coordinator: an outage shows as lag.

mod arrivals;
mod beat;
mod state;

pub use arrivals::arrivals;
pub(crate) use arrivals::look_statement;
pub use beat::Heartbeats;
pub(crate) use beat::beat_statement;
pub use state::Reading;
