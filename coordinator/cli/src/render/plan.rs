//! What a migration will do, before it does it.

use super::{Style, Tone, clean, push_line};
use crate::view::{Plan, PlannedStep};

/// Every step and statement, in order, with the side it runs on.
#[must_use]
pub fn plan(plan: &Plan, style: Style) -> String {
    let mut out = String::new();
    push_line(&mut out, &format!("plan of migration {}", style.paint(Tone::Strong, &clean(&plan.name))));
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
