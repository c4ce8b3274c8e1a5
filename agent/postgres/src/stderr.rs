//! The error output of PostgreSQL's own programs, as far as the agent may report it.
//!
//! The agent sends these messages to the coordinator, which never sees a statement or a row. So lines that
//! quote statements are left out; names stay.

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// Most that is kept of a program's error output: the end, where the error is.
const KEPT_BYTES: usize = 16 << 10;
/// Most that is reported of it.
const TOLD_BYTES: usize = 2 << 10;

/// Reads all of a program's error output, so that the program never blocks on it, and keeps the end.
/// `on_line` sees each line. Empty when there is no output to read.
pub async fn read(stderr: Option<impl AsyncRead + Unpin>, mut on_line: impl FnMut(&str)) -> String {
    let Some(stderr) = stderr else { return String::new() };
    let mut lines = BufReader::new(stderr);
    let mut kept = String::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        match lines.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return kept,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        on_line(text.trim_end());
        kept.push_str(&text);
        if kept.len() > 2 * KEPT_BYTES {
            let cut = kept.len() - KEPT_BYTES;
            let boundary = (cut..=kept.len()).find(|at| kept.is_char_boundary(*at)).unwrap_or(cut);
            // The rest of a line may be the rest of a statement.
            let start =
                kept.get(boundary..).and_then(|rest| rest.find('\n')).map_or(kept.len(), |at| boundary + at + 1);
            kept.drain(..start);
        }
    }
}

/// The sentences to report: from the lines of `program` itself, without statements.
pub fn excerpt(program: &str, output: &str) -> String {
    let prefix = format!("{program}: ");
    let mut sentences: Vec<String> = Vec::new();
    let mut length = 0;
    // A quoted statement goes on until the next line of the program itself. The first lines kept may be the
    // end of one.
    let mut quoting = true;
    for line in output.lines() {
        let text = match line.strip_prefix(&prefix) {
            Some(rest) => {
                quoting = false;
                let labelled =
                    ["error: ", "detail: ", "hint: ", "warning: "].iter().find_map(|label| rest.strip_prefix(label));
                match labelled {
                    Some(text) => text.trim(),
                    None if rest.starts_with("from TOC entry") => rest.trim(),
                    None => continue,
                }
            }
            None => line.trim(),
        };
        quoting |= ["Command was:", "Query was:", "The query was:", "LINE ", "CONTEXT:", "QUERY:"]
            .iter()
            .any(|beginning| text.starts_with(beginning));
        let continues = !line.starts_with(&prefix);
        if quoting || text.is_empty() || (continues && !text.starts_with("HINT:") && !text.starts_with("DETAIL:")) {
            continue;
        }
        let sentence = format!("{}.", text.trim_end_matches(['.', ':']));
        length += sentence.len() + 1;
        if length > TOLD_BYTES {
            sentences.push("…".to_owned());
            break;
        }
        sentences.push(sentence);
    }
    sentences.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_left_out() {
        let output = "the end; of a statement\n\
            pg_restore: creating TABLE \"public.w\"\n\
            pg_restore: while PROCESSING TOC:\n\
            pg_restore: from TOC entry 215; 1259 16389 TABLE w app_owner\n\
            pg_restore: error: could not execute query: ERROR:  role \"app_owner\" does not exist\n\
            Command was: ALTER TABLE public.w OWNER TO app_owner;\n\
            COMMENT ON TABLE x IS 'secret';\n\
            \n\
            pg_restore: error: connection to server failed\n";
        assert_eq!(
            excerpt("pg_restore", output),
            "from TOC entry 215; 1259 16389 TABLE w app_owner. \
             could not execute query: ERROR:  role \"app_owner\" does not exist. connection to server failed."
        );
    }

    #[test]
    fn queries_are_left_out_and_hints_stay() {
        let output = "pg_dump: error: query failed: ERROR:  permission denied for table t\n\
            HINT:  Ask the owner.\n\
            pg_dump: detail: Query was: LOCK TABLE public.t IN ACCESS SHARE MODE\n";
        assert_eq!(
            excerpt("pg_dump", output),
            "query failed: ERROR:  permission denied for table t. HINT:  Ask the owner."
        );
    }

    #[tokio::test]
    async fn long_output_is_cut() {
        let output = format!("{}pg_dump: error: the last one\n", "pg_dump: error: ünd so weiter\n".repeat(10_000));
        let mut lines = 0;
        let kept = read(Some(output.as_bytes()), |_| lines += 1).await;
        assert_eq!(lines, 10_001);
        assert!((KEPT_BYTES - 100..=2 * KEPT_BYTES).contains(&kept.len()), "{}", kept.len());
        assert!(kept.ends_with("the last one\n"));
        assert!(excerpt("pg_dump", &kept).len() < TOLD_BYTES + 10);
        let endless = vec![b'x'; 1 << 20];
        assert!(read(Some(endless.as_slice()), |_| ()).await.is_empty());
    }
}
