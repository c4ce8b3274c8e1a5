//! The heartbeat: a row whose arrival measures the lag, on one clock.
//!
//! The agent whose side publishes writes the next number every second, more often
//! while an act waits for it, and hears over the link which number has arrived; both
//! moments are read from its own clock. Runs beside all acts, and survives outages
//! of either server, of the link and of the coordinator: an outage is lag.

mod arrivals;
mod beat;
mod state;

pub use arrivals::arrivals;
pub use arrivals::look_statement;
pub use beat::Heartbeats;
pub use beat::beat_statement;
pub use state::Reading;
