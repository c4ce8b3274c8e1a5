//! Verbs that the coordinator answers at once: preflight, create, tune, consent.

use pgportage_link::{Effect, Failure};
use pgportage_proto::Reason;

use super::Hand;
use crate::arguments::{Consent, Create, CreateOptions, Preflight, Tune};
use crate::coordinator::Route;
use crate::description;
use crate::exit::{Exit, Stop};
use crate::render;
use crate::view::{Finding, MaxRate, Migration, Severity};

pub(super) async fn preflight(hand: &Hand, arguments: &Preflight) -> Result<Exit, Stop> {
    let report = hand.coordinator.preflight(route(arguments)).await?;
    let text = render::preflight(&report, &arguments.from, &arguments.to, hand.terminal.out);
    hand.terminal.result(&text, &report);
    Ok(if report.passed { Exit::Done } else { Exit::NotMet })
}

pub(super) async fn create(hand: &Hand, arguments: &Create) -> Result<Exit, Stop> {
    let route = match &arguments.file {
        Some(file) => description::read(file)?,
        None => described(&arguments.options),
    };
    let migration = hand.coordinator.create(&arguments.name, route, arguments.validate_only).await?;
    let text = if arguments.validate_only {
        format!("migration {} could be created; nothing was\n", migration.name)
    } else {
        format!("created migration {}\n{}", migration.name, render::conclusion(&migration, hand.terminal.out))
    };
    hand.terminal.result(&text, &migration);
    Ok(Exit::Done)
}

pub(super) async fn tune(hand: &Hand, arguments: &Tune) -> Result<Exit, Stop> {
    let migration = hand.coordinator.tune(&arguments.name, arguments.max_rate).await?;
    let rate = match migration.max_rate_bytes {
        Some(bytes) => format!("{}/s at most", render::size(bytes)),
        None => "as fast as it goes".to_owned(),
    };
    let text = format!("migration {} copies {rate}\n", render::clean(&migration.name));
    hand.terminal.result(&text, &migration);
    Ok(Exit::Done)
}

pub(super) async fn consent(hand: &Hand, arguments: &Consent) -> Result<Exit, Stop> {
    let seen = hand.coordinator.migration(&arguments.name).await?;
    if arguments.findings.is_empty() && !arguments.all {
        return Ok(show_open_consents(hand, &seen));
    }
    let chosen = choose(&seen, &arguments.findings, arguments.all)?;
    let migration = if chosen.is_empty() { seen.clone() } else { hand.coordinator.consent(&seen, &chosen).await? };
    let mut text = String::new();
    for finding in &chosen {
        let object = if finding.object.is_empty() { String::new() } else { format!(" on {}", finding.object) };
        text.push_str(&render::clean(&format!("agreed to {}{object}: {}", finding.code, finding.message)));
        text.push('\n');
    }
    if chosen.is_empty() {
        text.push_str("no finding asks for your consent\n");
    }
    text.push_str(&render::conclusion(&migration, hand.terminal.out));
    hand.terminal.result(&text, &migration);
    Ok(Exit::Done)
}

/// What asks for consent, and how to give it.
fn show_open_consents(hand: &Hand, migration: &Migration) -> Exit {
    let open: Vec<Finding> = migration.open_consents().cloned().collect();
    if open.is_empty() {
        hand.terminal.result("no finding asks for your consent\n", &open);
        return Exit::Done;
    }
    let mut text = render::findings(&open, hand.terminal.out);
    let name = &migration.name;
    text.push_str(&format!(
        "\nto agree, type\n  pgportage consent {name} CODE[:OBJECT]\nor, to all of them\n  pgportage consent {name} --all\n"
    ));
    hand.terminal.result(&text, &open);
    Exit::Waiting
}

fn route(arguments: &Preflight) -> Route {
    Route {
        source_agent: arguments.from.clone(),
        destination_agent: arguments.to.clone(),
        database: arguments.database.clone(),
        max_lag: None,
        way: arguments.chosen.way(),
        max_rate: MaxRate::default(),
        way_back: !arguments.no_way_back,
    }
}

/// What the command line describes. It holds all three names where no file is named.
fn described(options: &CreateOptions) -> Route {
    let name = |name: &Option<String>| name.clone().unwrap_or_default();
    Route {
        source_agent: name(&options.from),
        destination_agent: name(&options.to),
        database: name(&options.database),
        max_lag: options.max_lag,
        way: options.chosen.way(),
        max_rate: options.max_rate.unwrap_or_default(),
        way_back: !options.no_way_back,
    }
}

/// The findings meant by `CODE[:OBJECT]`, or all that ask for consent.
fn choose<'a>(migration: &'a Migration, wanted: &[String], all: bool) -> Result<Vec<&'a Finding>, Failure> {
    if all {
        return Ok(migration.open_consents().collect());
    }
    let mut chosen: Vec<&Finding> = Vec::new();
    for text in wanted {
        let (code, object) = match text.split_once(':') {
            Some((code, object)) => (code, Some(object)),
            None => (text.as_str(), None),
        };
        let meant = |finding: &&Finding| {
            finding.severity == Severity::Consent
                && finding.code == code
                && object.is_none_or(|object| finding.object == object)
        };
        let before = chosen.len();
        chosen.extend(migration.findings().filter(meant));
        if chosen.len() == before {
            return Err(no_such_finding(migration, text));
        }
    }
    chosen.retain(|finding| !finding.agreed);
    chosen.dedup();
    Ok(chosen)
}

fn no_such_finding(migration: &Migration, text: &str) -> Failure {
    let open: Vec<_> = migration
        .open_consents()
        .map(|finding| match finding.object.as_str() {
            "" => finding.code.clone(),
            object => format!("{}:{object}", finding.code),
        })
        .collect();
    let detail = if open.is_empty() {
        "No finding of the latest inspection asks for consent.".to_owned()
    } else {
        format!("These ask for consent:\n{}", open.join("\n"))
    };
    Failure::new(
        Reason::RequestInvalid,
        format!("migration {} has no finding {text:?} that asks for consent", migration.name),
    )
    .detail(detail)
    .hint("A migration is inspected when it is started; `pgportage preflight` shows the findings before that.")
    .effect(Effect::None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgportage_proto::v1;

    fn migration() -> Migration {
        let finding = |code: &str, object: &str, severity: v1::finding::Severity| v1::Finding {
            code: code.to_owned(),
            object: object.to_owned(),
            severity: severity.into(),
            ..Default::default()
        };
        Migration::from(v1::Migration {
            id: "shop".to_owned(),
            source_findings: vec![
                finding("A", "public.x", v1::finding::Severity::Consent),
                finding("A", "public.y", v1::finding::Severity::Consent),
                finding("B", "", v1::finding::Severity::Refuse),
                finding("C", "a:b", v1::finding::Severity::Consent),
            ],
            ..Default::default()
        })
    }

    fn objects(wanted: &[&str], all: bool) -> Result<Vec<String>, Failure> {
        let wanted: Vec<_> = wanted.iter().map(|text| (*text).to_owned()).collect();
        Ok(choose(&migration(), &wanted, all)?.iter().map(|finding| finding.object.clone()).collect())
    }

    #[test]
    fn a_code_means_all_its_findings_and_an_object_one() {
        assert_eq!(objects(&["A"], false).unwrap(), ["public.x", "public.y"]);
        assert_eq!(objects(&["A:public.y"], false).unwrap(), ["public.y"]);
        assert_eq!(objects(&["C:a:b"], false).unwrap(), ["a:b"]);
        assert_eq!(objects(&[], true).unwrap(), ["public.x", "public.y", "a:b"]);
    }

    #[test]
    fn a_refusal_cannot_be_agreed_to() {
        let failure = objects(&["B"], false).unwrap_err();
        assert_eq!(failure.reason, Reason::RequestInvalid);
        assert!(failure.detail.contains("A:public.x"), "{}", failure.detail);
    }
}
