//! The example in `deploy/examples` is what this release reads.

use std::path::Path;

use pgportage_coordinator::settings::Settings;
use pgportage_link::settings::print;

#[test]
fn the_example_loads_and_shows_the_defaults() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/coordinator.toml");
    let settings = Settings::load(&example).unwrap();
    let text = std::fs::read_to_string(&example).unwrap();
    let uncommented: String = text.lines().map(|line| format!("{}\n", uncomment(line))).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), uncommented).unwrap();
    let mut all = Settings::load(file.path()).unwrap();
    // There is no default: nothing is exported unless it is set.
    assert!(settings.telemetry.otlp_endpoint.is_none() && all.telemetry.otlp_endpoint.take().is_some());
    assert_eq!(print(&settings).unwrap(), print(&all).unwrap());
}

/// `#key = value` without its `#`; prose begins with a blank.
fn uncomment(line: &str) -> &str {
    line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase())).unwrap_or(line)
}
