//! The one place where failures become text.

use pgportage_link::{Effect, Remedy};

use super::{Style, Tone, clean, labelled, push_line};
use crate::view::Failure;

/// A failure: what happened, the facts, what to do, what is underneath, and
/// the page to read. PostgreSQL's three texts, in PostgreSQL's order.
pub fn failure(failure: &Failure, style: Style) -> String {
    let mut out = String::new();
    let code =
        if failure.sqlstate.is_empty() { String::new() } else { format!(", SQLSTATE {}", clean(&failure.sqlstate)) };
    push_line(
        &mut out,
        &format!("{} {} ({}{code})", style.paint(Tone::Bad, "error:"), clean(&failure.message), clean(&failure.reason)),
    );
    let mut pairs = vec![("detail", sentences(&failure.detail)), ("hint", sentences(&failure.hint))];
    pairs.extend(causes(failure).into_iter().map(|cause| ("cause", cause)));
    pairs.push(("left", left_behind(failure).to_owned()));
    pairs.push(("next", who_acts(failure).to_owned()));
    pairs.push(("see", clean(&failure.page).into_owned()));
    out.push_str(&labelled(style, 2, &pairs));
    out
}

/// Line breaks of a text are kept, so that statements can be read and copied.
fn sentences(text: &str) -> String {
    text.lines().map(clean).collect::<Vec<_>>().join("\n")
}

/// The chain, without links that only say again what was said.
fn causes(failure: &Failure) -> Vec<String> {
    let mut said: Vec<&str> = vec![&failure.message, &failure.detail];
    let mut causes = Vec::new();
    for cause in &failure.causes {
        if !said.iter().any(|text| text.contains(cause.as_str())) {
            said.push(cause);
            causes.push(clean(cause).into_owned());
        }
    }
    causes
}

fn left_behind(failure: &Failure) -> &'static str {
    match failure.effect {
        Effect::None => "",
        Effect::Unknown => "perhaps something on a server: the next attempt looks before it acts",
    }
}

fn who_acts(failure: &Failure) -> &'static str {
    match failure.remedy {
        // What waits is tried again by itself, and the hint says the rest.
        Remedy::Operator | Remedy::Wait => "",
        Remedy::Abort => "no retry can help: the migration has to be aborted",
    }
}
