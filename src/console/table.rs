//! Columns that stand under each other, and lines of points as little bars.

use std::io::{Result, Write};

/// Rows with a head. Numbers stand to the right.
pub(super) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) const fn new(head: Vec<&'static str>) -> Self {
        Self { head, rows: Vec::new() }
    }

    /// Adds a row, with as many cells as the head.
    pub(super) fn add(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    pub(super) fn print(&self, out: &mut impl Write) -> Result<()> {
        let head: Vec<String> = self.head.iter().map(ToString::to_string).collect();
        let all = || std::iter::once(&head).chain(&self.rows);
        let width = |column: usize| all().map(|row| row[column].chars().count()).max();
        let widths: Vec<usize> = (0..head.len()).map(|column| width(column).unwrap_or(0)).collect();
        let is_number = |column: usize| {
            let starts =
                |text: &str| text.starts_with(|c: char| c.is_ascii_digit() || "-+x".contains(c));
            !self.rows.is_empty()
                && self.rows.iter().all(|row| row[column].is_empty() || starts(&row[column]))
        };
        let right: Vec<bool> = (0..head.len()).map(is_number).collect();
        for row in all() {
            let cells = row.iter().enumerate().map(|(column, cell)| {
                let pad = " ".repeat(widths[column] - cell.chars().count());
                if right[column] { pad + cell } else { cell.clone() + &pad }
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Points as bars of eight heights, at most so many: the highest of those that fall together. A gap is a
/// space, and never the lowest bar.
pub(super) fn sparkline(points: &[Option<f64>], most: usize) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let of_bar = points.len().div_ceil(most.max(1)).max(1);
    let bars: Vec<Option<f64>> =
        points.chunks(of_bar).map(|few| few.iter().flatten().copied().reduce(f64::max)).collect();
    let present = || bars.iter().flatten().copied().filter(|value| value.is_finite());
    let (Some(low), Some(high)) = (present().reduce(f64::min), present().reduce(f64::max)) else {
        return String::new();
    };
    // What starts at nothing is seen from nothing on.
    let low = if low > 0.0 && low < high / 2.0 { 0.0 } else { low };
    let bar = |value: &Option<f64>| match value {
        Some(value) if high > low => {
            BARS[(((value - low) / (high - low) * 7.0).round() as usize).min(7)]
        }
        Some(_) => BARS[3],
        None => ' ',
    };
    bars.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other() {
        let mut table = Table::new(vec!["name", "n"]);
        table.add(vec!["a".into(), "1".into()]);
        table.add(vec!["länger".into(), "20.5".into()]);
        let mut out = Vec::new();
        table.print(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "name       n\na          1\nlänger  20.5\n");
    }

    #[test]
    fn a_line_shows_what_rises_and_leaves_gaps() {
        let points = [Some(0.0), Some(1.0), None, Some(7.0)];
        assert_eq!(sparkline(&points, 10), "▁▂ █");
        assert_eq!(sparkline(&points, 2), "▂█", "the highest of two");
        assert_eq!(sparkline(&[Some(5.0), Some(5.0)], 10), "▄▄");
        assert_eq!(sparkline(&[None, None], 10), "");
        assert_eq!(sparkline(&[Some(f64::NAN)], 10), "");
    }
}
