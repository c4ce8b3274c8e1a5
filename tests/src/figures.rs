//! Figures in documents, written there by the bench that measured them.
//!
//! A figure stands between two comments that Markdown does not show:
//! `<!-- figure NAME -->` and `<!-- end -->`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Puts a figure into a document.
///
/// # Errors
///
/// When the document has no place for it, or cannot be written.
pub fn record(document: &Path, name: &str, figure: &str) -> Result<()> {
    let text = fs::read_to_string(document).with_context(|| document.display().to_string())?;
    let replaced =
        replace(&text, name, figure).with_context(|| format!("{} has no figure {name}", document.display()))?;
    fs::write(document, replaced).with_context(|| document.display().to_string())
}

fn replace(text: &str, name: &str, figure: &str) -> Option<String> {
    let (before, rest) = text.split_once(&format!("<!-- figure {name} -->"))?;
    let (_old, after) = rest.split_once("<!-- end -->")?;
    Some(format!("{before}<!-- figure {name} -->{figure}<!-- end -->{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_figure_of_that_name_changes() {
        let text = "a <!-- figure x -->1<!-- end --> b <!-- figure y -->2<!-- end -->.";
        assert_eq!(
            replace(text, "y", "3").as_deref(),
            Some("a <!-- figure x -->1<!-- end --> b <!-- figure y -->3<!-- end -->.")
        );
        assert_eq!(replace(text, "z", "3"), None);
    }

    #[test]
    fn the_readme_has_a_place_for_the_idle_agent() {
        let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
        let text = fs::read_to_string(readme).unwrap();
        assert!(replace(&text, "idle-agent", "").is_some());
    }
}
