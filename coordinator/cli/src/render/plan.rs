//! What a migration will do, before it does it.

use time::format_description::well_known::Rfc3339;

use super::{Style, Tone, clean, push_line};
use crate::view::{Plan, PlannedStep};

/// Every step and statement, in order, with the side it runs on.
pub fn plan(plan: &Plan, style: Style) -> String {
    let mut out = String::new();
    push_line(&mut out, &format!("plan of migration {}", style.paint(Tone::Strong, &clean(&plan.name))));
    match plan.record_time {
        Some(time) => {
            let time = time.format(&Rfc3339).unwrap_or_default();
            push_line(&mut out, &style.paint(Tone::Quiet, &format!("as both servers were at {time}")));
        }
        None => push_line(
            &mut out,
            &style.paint(Tone::Careful, "neither server was read yet: `…` stands for what only they know"),
        ),
    }
    if let Some(obstacle) = &plan.obstacle {
        push_line(
            &mut out,
            &style.paint(Tone::Careful, &format!("they could not be read: {}", clean(&obstacle.message))),
        );
    }
    let mut number = 0;
    let mut previous = "";
    for step in &plan.steps {
        if step.name != previous {
            number += 1;
            previous = &step.name;
            out.push('\n');
            if step.held {
                push_line(
                    &mut out,
                    &style.paint(
                        Tone::Careful,
                        &format!(
                            "   -- waits here until you type `pgportage {} {}`",
                            clean(&step.name),
                            clean(&plan.name)
                        ),
                    ),
                );
            }
            push_line(&mut out, &format!("{number:2} {}", style.paint(Tone::Strong, &clean(&step.name))));
        }
        out.push_str(&part(step, style));
    }
    if !plan.summary.is_empty() {
        out.push('\n');
        for line in &plan.summary {
            push_line(&mut out, &clean(line));
        }
    }
    if !plan.changes.is_empty() {
        out.push('\n');
        let title = "differs from the plan before the start, as the inspection found the servers:";
        push_line(&mut out, &style.paint(Tone::Careful, title));
        for line in &plan.changes {
            push_line(&mut out, &format!("  {}", clean(line)));
        }
    }
    if !plan.digest.is_empty() {
        out.push('\n');
        push_line(&mut out, &style.paint(Tone::Quiet, &format!("plan digest {}", plan.digest)));
    }
    out
}

fn part(step: &PlannedStep, style: Style) -> String {
    let mut out = String::new();
    let undo = if step.undoable { String::new() } else { style.paint(Tone::Careful, ", cannot be taken back") };
    push_line(&mut out, &format!("   on {}{undo}", clean(&step.agent)));
    for statement in &step.statements {
        for line in statement.lines() {
            push_line(&mut out, &format!("     {}", clean(line)));
        }
    }
    out
}
