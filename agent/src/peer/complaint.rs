//! What PostgreSQL's own programs say when they fail, as far as it may be told.
//!
//! Their messages end up at the coordinator, which never sees a statement or a
//! row: lines that quote statements are left out, names stay.

use tokio::io::{AsyncRead, AsyncReadExt};

/// Most that is kept of a program's error output.
const KEPT_BYTES: usize = 16 << 10;
/// Most that is told of it.
const TOLD_BYTES: usize = 2 << 10;

/// Reads everything a program says, so that it never blocks on it, and keeps
/// the beginning.
pub(crate) async fn listen(mut stderr: impl AsyncRead + Unpin) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0_u8; 4096];
    while let Ok(count) = stderr.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        let room = KEPT_BYTES.saturating_sub(kept.len()).min(count);
        kept.extend_from_slice(buffer.get(..room).unwrap_or_default());
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// The sentences to tell: from the lines of `program` itself, without statements.
pub(crate) fn told(program: &str, output: &str) -> String {
    let prefix = format!("{program}: ");
    let mut sentences: Vec<String> = Vec::new();
    let mut length = 0;
    // A message goes on until the next line that begins with the program's name;
    // `Command was:` and `Query was:` begin the quoted statement, which may itself
    // hold lines that look like anything, but never tells us more than it quotes.
    let mut quoting = false;
    for line in output.lines() {
        let (line, begins) = match line.strip_prefix(&prefix) {
            Some(rest) => (rest, true),
            None => (line, false),
        };
        if begins {
            quoting = false;
        }
        let text = ["error: ", "detail: ", "hint: ", "warning: "]
            .iter()
            .find_map(|label| line.strip_prefix(label))
            .unwrap_or(line)
            .trim();
        quoting |= text.starts_with("Command was:")
            || text.starts_with("Query was:")
            || text.starts_with("The query was:")
            || text.starts_with("LINE ")
            || text.starts_with("CONTEXT:");
        let names_an_object = text.starts_with("from TOC entry") || begins;
        let says_more = text.starts_with("HINT:") || text.starts_with("DETAIL:");
        if quoting || text.is_empty() || !(names_an_object || says_more) || text.starts_with("while ") {
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
        let output = "pg_restore: while PROCESSING TOC:\n\
            pg_restore: from TOC entry 215; 1259 16389 TABLE w app_owner\n\
            pg_restore: error: could not execute query: ERROR:  role \"app_owner\" does not exist\n\
            Command was: ALTER TABLE public.w OWNER TO app_owner;\n\
            COMMENT ON TABLE x IS 'secret';\n\
            \n\
            pg_restore: error: connection to server failed\n";
        assert_eq!(
            told("pg_restore", output),
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
            told("pg_dump", output),
            "query failed: ERROR:  permission denied for table t. HINT:  Ask the owner."
        );
    }

    #[tokio::test]
    async fn long_output_is_cut() {
        let output = "pg_dump: error: x\n".repeat(10_000);
        let kept = listen(output.as_bytes()).await;
        assert_eq!(kept.len(), KEPT_BYTES);
        assert!(told("pg_dump", &kept).len() < TOLD_BYTES + 10);
    }
}
