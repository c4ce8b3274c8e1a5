//! A cutover or rollback in doubt: what is known, what one agent asks the other, and what
//! the operator may do.

use super::{Style, Tone, clean, labelled, push_line};
use crate::view::{CutoverPhase, Migration};

/// Empty unless it is in doubt.
pub(crate) fn doubt(migration: &Migration, style: Style) -> String {
    let Some(cutover) = migration.cutover.as_ref().filter(|cutover| cutover.phase == CutoverPhase::InDoubt) else {
        return String::new();
    };
    let (left, entered, left_agent, entered_agent) = if cutover.rollback {
        ("destination", "source", &migration.destination_agent, &migration.source_agent)
    } else {
        ("source", "destination", &migration.source_agent, &migration.destination_agent)
    };
    let (left_agent, entered_agent) = (clean(left_agent), clean(entered_agent));
    let name = clean(&migration.name);
    let known = format!(
        "the {left} is closed to applications, and everything acknowledged there had arrived before the {entered} was \
         asked to open; at most one side is open"
    );
    let asked = format!(
        "agent {left_agent} asks agent {entered_agent} whether the {entered} has opened, again and again and without \
         the coordinator; agent {entered_agent} says that it has, or promises that it never will, and then agent \
         {left_agent} opens the {left} again"
    );
    let may = format!(
        "bring agent {entered_agent}, its server and the network between the agents back; the agents do the rest. \
         Only if the {entered} is destroyed for good, on the machine of agent {left_agent}:"
    );
    let mut out = String::new();
    push_line(&mut out, &style.paint(Tone::Strong, "in doubt"));
    let command = style.paint(Tone::Strong, &format!("pgportage-agent unfence {name} --{entered}-destroyed"));
    out.push_str(&labelled(style, 2, &[("known", known), ("asked", asked), ("you may", format!("{may}\n{command}"))]));
    out
}
