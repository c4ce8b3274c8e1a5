//! Who is attached.

use time::OffsetDateTime;

use super::{Style, Tone, age, clean, table};
use crate::view::{Agent, AgentState};

/// The agents that the coordinator has heard from.
pub fn agents(agents: &[Agent], now: OffsetDateTime, style: Style) -> String {
    if agents.is_empty() {
        return "no agent has attached yet\n".to_owned();
    }
    let rows: Vec<Vec<String>> = agents
        .iter()
        .map(|agent| {
            vec![
                clean(&agent.name).into_owned(),
                word(agent.state).to_owned(),
                if agent.server_version.is_empty() { "unknown".to_owned() } else { agent.server_version.clone() },
                clean(&agent.software_version).into_owned(),
                agent.contact_time.map_or("never".to_owned(), |time| age(time, now)),
            ]
        })
        .collect();
    table(style, 0, &["agent", "state", "postgresql", "release", "last heard"], &rows, |row, column| match column {
        1 => agents.get(row).map(|agent| tone(agent.state)),
        _ => None,
    })
}

fn word(state: AgentState) -> &'static str {
    match state {
        AgentState::Attached => "attached",
        AgentState::Detached => "detached",
        AgentState::Lost => "lost",
        AgentState::Unrecognised => "unrecognised",
    }
}

fn tone(state: AgentState) -> Tone {
    match state {
        AgentState::Attached => Tone::Good,
        AgentState::Detached => Tone::Careful,
        AgentState::Lost | AgentState::Unrecognised => Tone::Bad,
    }
}
