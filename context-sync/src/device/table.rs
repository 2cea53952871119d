//! Tables for people.

use std::fmt;

use device::upload::Tally;

/// Longer cells are cut: a line should fit a terminal.
const CELL_CHARS: usize = 72;
const GAP: &str = "  ";

/// Rows under headers; columns of numbers are aligned to the right.
#[derive(Clone, Debug)]
pub struct Table {
    headers: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<const N: usize>(headers: [&str; N]) -> Self {
        Self { headers: headers.map(str::to_owned).into(), rows: Vec::new() }
    }

    /// Adds a row. Control characters are taken out: a message must not command a terminal.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.iter().map(|cell| shown(cell)).collect());
    }

    fn width(&self, column: usize) -> usize {
        let cells = std::iter::once(&self.headers).chain(&self.rows);
        cells.filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    }

    fn is_numbers(&self, column: usize) -> bool {
        let is_number = |cell: &String| {
            cell == "-" || (!cell.is_empty() && cell.bytes().all(|b| b.is_ascii_digit()))
        };
        self.rows.iter().all(|row| row.get(column).is_some_and(is_number))
    }
}

/// What became of messages.
pub fn of_tally(tally: &Tally) -> Table {
    let mut table = Table::new(["pushes", "synced", "skipped", "rejected", "cursor"]);
    let cursor = tally.cursor.map_or_else(|| "-".to_owned(), |cursor| cursor.to_string());
    let [pushes, synced, skipped, rejected] =
        [tally.pushes, tally.synced, tally.skipped, tally.not_taken()].map(|n| n.to_string());
    table.row([pushes, synced, skipped, rejected, cursor]);
    table
}

/// A cell as it is shown: one line, not too long, nothing that is no text.
pub fn shown(text: &str) -> String {
    let line: String =
        text.chars().map(|c| if c.is_control() || is_direction(c) { ' ' } else { c }).collect();
    let mut shown: String = line.trim().chars().take(CELL_CHARS + 1).collect();
    if shown.chars().count() > CELL_CHARS {
        shown = shown.chars().take(CELL_CHARS - 1).collect();
        shown.push('…');
    }
    shown
}

/// Characters that make a terminal show others in another order.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<(usize, bool)> =
            (0..self.headers.len()).map(|c| (self.width(c), self.is_numbers(c))).collect();
        let rule: Vec<String> = columns.iter().map(|(width, _)| "─".repeat(*width)).collect();
        for row in [&self.headers, &rule].into_iter().chain(&self.rows) {
            let cells = row.iter().zip(&columns).map(|(cell, (width, right))| match right {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            });
            let line = cells.collect::<Vec<_>>().join(GAP);
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_numbers_stand_right() {
        let mut table = Table::new(["cursor", "type", "content"]);
        table.row(["7".into(), "decision".into(), "Größe\nzählt".into()]);
        table.row(["1234567".into(), "x".into(), String::new()]);
        assert_eq!(
            table.to_string(),
            " cursor  type      content\n\
             ───────  ────────  ───────────\n      \
             7  decision  Größe zählt\n\
             1234567  x\n"
        );
    }

    #[test]
    fn a_cell_is_one_line_of_text() {
        assert_eq!(shown("\u{1b}[2Jred\u{7}\u{202e}x\r\n"), "[2Jred  x");
        let long = shown(&"é".repeat(100));
        assert_eq!((long.chars().count(), long.ends_with('…')), (CELL_CHARS, true));
        assert_eq!(shown(&"é".repeat(CELL_CHARS)), "é".repeat(CELL_CHARS));
    }

    #[test]
    fn an_empty_table_is_its_headers() {
        assert_eq!(Table::new(["a", "bc"]).to_string(), "a  bc\n─  ──\n");
    }
}
