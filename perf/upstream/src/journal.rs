//! What became of each request, one line per request: the backend's half of a reconciliation.
//!
//! It is off unless asked for, and bounded: the oldest lines go first. Lines have numbers that are never used twice, so
//! a reader that follows them sees where some are missing. It is in memory only.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::counters::Ending;

/// Most lines of one page.
const PAGE: usize = 10_000;

/// The lines.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// Most lines that are kept; 0: nothing is noted.
    limit: usize,
    /// Number of the line that stands first.
    first: u64,
    lines: VecDeque<Line>,
}

/// One request.
#[derive(Debug)]
struct Line {
    /// Its `x-request-id`; empty if it had none.
    id: Box<str>,
    /// Microseconds since the Unix epoch.
    arrived_us: u64,
    prompt_tokens: u64,
    completion_tokens: u64,
    /// None while it is under way.
    end: Option<Ending>,
    /// 0: none was sent.
    status: u16,
}

impl Journal {
    /// Keeps at most so many lines from now on.
    pub(crate) fn keep(&mut self, limit: usize) {
        self.limit = limit;
        self.make_room(limit);
    }

    /// Forgets all lines; their numbers stay used.
    pub(crate) fn clear(&mut self) {
        self.make_room(0);
    }

    /// Notes an arrival, and gives its line's number.
    pub(crate) fn arrived(&mut self, id: Option<&[u8]>) -> Option<u64> {
        if self.limit == 0 {
            return None;
        }
        self.make_room(self.limit - 1);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.lines.push_back(Line {
            id: String::from_utf8_lossy(id.unwrap_or_default()).replace(|c: char| c.is_control(), "?").into(),
            arrived_us: u64::try_from(since.as_micros()).unwrap_or(u64::MAX),
            prompt_tokens: 0,
            completion_tokens: 0,
            end: None,
            status: 0,
        });
        Some(self.first + self.lines.len() as u64 - 1)
    }

    /// The request of a line is generated.
    pub(crate) fn generates(&mut self, number: Option<u64>, prompt_tokens: u64) {
        if let Some(line) = self.line(number) {
            line.prompt_tokens = prompt_tokens;
        }
    }

    /// The request of a line has ended. `status` is what its client was sent.
    pub(crate) fn ended(&mut self, number: Option<u64>, ending: Ending, tokens: u64, status: u16) {
        if let Some(line) = self.line(number) {
            (line.completion_tokens, line.end, line.status) = (tokens, Some(ending), status);
        }
    }

    /// The page of lines with numbers above `after`: number, id, arrival, prompt tokens, tokens generated, status and
    /// how it ended, with tabs between them.
    pub(crate) fn page(&self, after: Option<u64>) -> String {
        let mut text = String::new();
        let skipped = after.map_or(0, |after| (after + 1).saturating_sub(self.first));
        let lines = self.lines.iter().zip(self.first..).skip(usize::try_from(skipped).unwrap_or(usize::MAX));
        for (line, number) in lines.take(PAGE) {
            let Line { id, arrived_us, prompt_tokens, completion_tokens, status, .. } = line;
            let end = match line.end {
                None => "open",
                Some(Ending::Completed) => "completed",
                Some(Ending::Aborted) => "aborted",
                Some(Ending::Failed) => "failed",
            };
            let _ = writeln!(
                text,
                "{number}\t{id}\t{arrived_us}\t{prompt_tokens}\t{completion_tokens}\t{status}\t{end}"
            );
        }
        text
    }

    fn line(&mut self, number: Option<u64>) -> Option<&mut Line> {
        self.lines.get_mut(usize::try_from(number?.checked_sub(self.first)?).ok()?)
    }

    fn make_room(&mut self, room: usize) {
        while self.lines.len() > room {
            self.lines.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(page: &str) -> Vec<&str> {
        page.lines().filter_map(|line| line.split('\t').next()).collect()
    }

    #[test]
    fn without_a_limit_nothing_is_noted() {
        let mut journal = Journal::default();
        assert_eq!((journal.arrived(Some(b"a")), journal.page(None).as_str()), (None, ""));
    }

    #[test]
    fn a_line_says_what_became_of_its_request() {
        let mut journal = Journal::default();
        journal.keep(2);
        let number = journal.arrived(Some(b"a\tb"));
        journal.generates(number, 7);
        let fields = |journal: &Journal| {
            let page = journal.page(None);
            page.trim_end().split('\t').map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(fields(&journal)[1], "a?b", "a name holds no tab");
        assert_eq!(fields(&journal)[3..], ["7", "0", "0", "open"]);
        journal.ended(number, Ending::Aborted, 3, 200);
        assert_eq!(fields(&journal)[3..], ["7", "3", "200", "aborted"]);
    }

    #[test]
    fn the_oldest_lines_go_first_and_no_number_is_used_twice() {
        let mut journal = Journal::default();
        journal.keep(2);
        let first = journal.arrived(None);
        for _ in 0..2 {
            journal.arrived(None);
        }
        journal.ended(first, Ending::Completed, 1, 200);
        assert_eq!(numbers(&journal.page(None)), ["1", "2"], "line 0 is gone, and nobody else's changes");
        assert_eq!(numbers(&journal.page(Some(1))), ["2"]);
        assert_eq!(journal.page(Some(2)), "");
        journal.clear();
        assert_eq!((journal.page(None).as_str(), journal.arrived(None)), ("", Some(3)));
    }
}
