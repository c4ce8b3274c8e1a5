//! A figure from a program's metrics endpoint.

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Reads a series, named with its labels as Prometheus prints it.
///
/// # Errors
///
/// When no exporter answers, or the answer has no such series.
pub async fn series(address: &str, name: &str) -> Result<f64> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    value(&answer, name).with_context(|| format!("no {name} at {address}:\n{answer}"))
}

fn value(answer: &str, name: &str) -> Option<f64> {
    answer.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_found_by_its_labels() {
        let answer = "# TYPE a gauge\na{x=\"1\"} 2\na{x=\"2\"} 3.5\n# EOF\n";
        assert_eq!(value(answer, "a{x=\"2\"}"), Some(3.5));
        assert_eq!(value(answer, "a{x=\"3\"}"), None);
    }
}
