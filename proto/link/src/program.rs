//! What the three programs say at their command line in the same words: help for
//! their verbs, the pages of reasons, and why they end.

use std::fmt::Write;

use std::process::ExitCode;

use clap::Command;
use pgportage_proto::Reason;

use crate::Failure;

/// Words that `help` knows neither as a verb nor as a reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownTopic {
    /// What is wrong, one clause.
    pub message: String,
    /// What to type instead.
    pub hint: String,
}

/// What `PROGRAM help WORDS` prints: the help of the program or of one of its verbs,
/// or the page of a reason, however it is capitalised.
pub fn help(mut command: Command, words: &[String]) -> Result<String, UnknownTopic> {
    command.build();
    let program = command.get_name().to_owned();
    if let [word] = words
        && command.find_subcommand(word).is_none()
    {
        return page(&program, word).map(str::to_owned);
    }
    let mut about = &mut command;
    for word in words {
        let Some(verb) = about.find_subcommand_mut(word) else {
            return Err(UnknownTopic {
                message: format!("there is no verb {:?}", words.join(" ")),
                hint: format!("Type {program} --help for the list of verbs."),
            });
        };
        about = verb;
    }
    Ok(about.render_long_help().to_string())
}

fn page(program: &str, code: &str) -> Result<&'static str, UnknownTopic> {
    let wanted = code.to_ascii_uppercase().replace('-', "_");
    if let Ok(reason) = wanted.parse::<Reason>() {
        return Ok(reason.page());
    }
    let near: Vec<_> = Reason::nearest(&wanted).into_iter().map(|reason| format!("{program} help {reason}")).collect();
    let hint = match near.as_slice() {
        [] => format!("Type {program} --help for the list of verbs."),
        [one] => format!("Type {one}."),
        [several @ .., last] => format!("Type {} or {last}.", several.join(", ")),
    };
    Err(UnknownTopic { message: format!("there is no verb and no reason {code:?}"), hint })
}

/// Prints [`help`], for a program that does nothing else on its standard output.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "what was asked for")]
pub fn print_help(command: Command, words: &[String]) -> ExitCode {
    let program = command.get_name().to_owned();
    match help(command, words) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(UnknownTopic { message, hint }) => {
            eprintln!("{program}: {message}\n  hint: {hint}");
            ExitCode::from(2)
        }
    }
}

/// Says why a program ends, whose log may not have been started.
#[expect(clippy::print_stderr, reason = "the log may not have been started")]
pub fn end(program: &str, failure: &Failure) -> ExitCode {
    eprint!("{}", complaint(program, failure));
    ExitCode::FAILURE
}

fn complaint(program: &str, failure: &Failure) -> String {
    let mut text = format!("{program}: {failure} ({})\n", failure.reason);
    let mut line = |label: &str, line: &str| {
        // Writing into a string does not fail.
        let _ = writeln!(text, "  {label}: {line}");
    };
    for (label, sentences) in [("detail", &failure.detail), ("hint", &failure.hint)] {
        sentences.lines().for_each(|sentence| line(label, sentence));
    }
    failure.causes.iter().for_each(|cause| line("because", cause));
    line("see", &format!("{program} help {}", failure.reason));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> Command {
        Command::new("portage").about("Moves.").subcommand(
            Command::new("certs")
                .about("Makes certificates.")
                .subcommand(Command::new("ca").about("Makes the authority.")),
        )
    }

    fn told(words: &[&str]) -> Result<String, UnknownTopic> {
        help(program(), &words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn verbs_have_their_help_and_reasons_their_page() {
        assert!(told(&[]).unwrap().contains("Moves."));
        let authority = told(&["certs", "ca"]).unwrap();
        assert!(authority.contains("Makes the authority.") && authority.contains("portage certs ca"), "{authority}");
        for typed in ["SLOT_LOST", "slot_lost", "Slot-Lost"] {
            assert_eq!(told(&[typed]).unwrap(), Reason::SlotLost.page());
        }
    }

    #[test]
    fn what_is_unknown_is_told_with_what_is_near() {
        let unknown = told(&["SLOT_LOSST"]).unwrap_err();
        assert_eq!(unknown.message, "there is no verb and no reason \"SLOT_LOSST\"");
        assert!(unknown.hint.starts_with("Type portage help SLOT_LOST"), "{}", unknown.hint);
        assert_eq!(told(&["zzzz"]).unwrap_err().hint, "Type portage --help for the list of verbs.");
        assert!(told(&["certs", "nonsense"]).is_err());
    }

    #[test]
    fn a_failure_ends_with_the_command_that_explains_it() {
        let failure = Failure::new(Reason::StoreInUse, "the store is in use").detail("By another.").hint("Stop it.");
        assert_eq!(
            complaint("portage", &failure),
            "portage: the store is in use (STORE_IN_USE)\n  detail: By another.\n  hint: Stop it.\n  \
             see: portage help STORE_IN_USE\n"
        );
    }
}
