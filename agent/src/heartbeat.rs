//! The heartbeat: a row whose arrival measures the lag, on one clock.
//!
//! The source agent writes the next number every second and hears over the link
//! which number has arrived; both moments are read from its own clock. Runs
//! beside all steps, and survives outages of either server, of the link and of
//! the coordinator: an outage is lag.

mod arrivals;
mod beat;
mod state;

pub(crate) use arrivals::LOOK;
pub use arrivals::arrivals;
pub(crate) use beat::BEAT;
pub use beat::Heartbeats;
pub use state::Reading;
