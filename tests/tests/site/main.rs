//! Whole migrations: two clusters, the three programs, and writers with a ledger.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::print_stdout, reason = "they print what they measured")]

mod bad_input;
mod busy_source;
mod copy_crash;
mod crash;
mod cutover;
mod explain;
mod large_value;
mod least_privilege;
mod local_verbs;
mod lost_journal;
mod migration;
mod pace;
mod plan;
mod pooler;
mod relay;
mod rollback;
mod secrets;
mod seeded_bugs;
mod switch_faults;
mod telemetry;
mod upgrade;
mod verification;
mod watch;
