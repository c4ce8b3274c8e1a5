//! Every reason has a page that an operator can act on, and every page a reason.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use pgportage_proto::Reason;

/// What each page has, in this order.
const SECTIONS: [&str; 2] = ["## How to see it\n", "## What to do\n"];

fn pages() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors")
}

#[test]
fn pages_and_reasons_are_the_same() {
    let reasons: BTreeSet<String> = Reason::ALL.iter().map(|reason| format!("{reason}.md")).collect();
    let pages: BTreeSet<String> =
        fs::read_dir(pages()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let missing: Vec<_> = reasons.difference(&pages).collect();
    let left_over: Vec<_> = pages.difference(&reasons).collect();
    assert!(missing.is_empty() && left_over.is_empty(), "no page: {missing:?}, no reason: {left_over:?}");
}

#[test]
fn each_page_says_what_happened_how_to_see_it_and_what_to_do() {
    for &reason in Reason::ALL {
        let mut rest =
            reason.page().strip_prefix(&format!("# {reason}\n")).unwrap_or_else(|| panic!("{reason}: the title"));
        for section in SECTIONS {
            let (text, after) = rest.split_once(section).unwrap_or_else(|| panic!("{reason}: no {section}"));
            assert!(!text.trim().is_empty(), "{reason}: nothing before {section}");
            rest = after;
        }
        assert!(!rest.trim().is_empty(), "{reason}: nothing to do");
    }
}

#[test]
fn reasons_have_the_form_of_their_standard() {
    // AIP-193: `[A-Z][A-Z0-9_]+[A-Z0-9]`, at most 63 characters.
    for &reason in Reason::ALL {
        let text = reason.as_str();
        let inner = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit();
        assert!(
            text.len() <= 63 && text.starts_with(|c: char| c.is_ascii_uppercase()) && text.ends_with(inner),
            "{text}"
        );
        assert!(text.chars().all(|c| inner(c) || c == '_'), "{text}");
        assert_eq!(text.parse(), Ok(reason), "two reasons with the text {text}");
    }
}

#[test]
fn a_mistyped_reason_is_near_what_was_meant() {
    for (typed, meant) in [
        ("SLOT_LOSST", Reason::SlotLost),
        ("BARIER_TIMEOUT", Reason::BarrierTimeout),
        ("STALLED_", Reason::Stalled),
        ("COLLATION", Reason::CollationDiffers),
    ] {
        assert_eq!(Reason::nearest(typed).first(), Some(&meant), "{typed}");
    }
    assert_eq!(Reason::nearest("cutovr"), []);
    assert_eq!(Reason::nearest(""), []);
}
