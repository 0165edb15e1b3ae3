//! The report as files: markdown for people, JSON for programs, a CSV for each table, an SVG for each plot.
//!
//! Neighbours: `crate::plot` draws; the command writes the files. Left out: times and machine, so that the same seed gives the
//! same bytes.

use std::fmt::Write as _;

use super::{Check, Form, Report, Section, Table, Verdict};

impl Report {
    /// Claims that do not hold.
    pub fn missed(&self) -> impl Iterator<Item = &Check> {
        self.checks().filter(|c| c.verdict == Verdict::Miss)
    }

    pub fn checks(&self) -> impl Iterator<Item = &Check> {
        self.sections.iter().flat_map(|s| &s.checks)
    }

    /// Every file by its name.
    pub fn files(&self) -> Vec<(String, String)> {
        let json = serde_json::to_string_pretty(self).expect("a report is plain data") + "\n";
        let mut files = vec![("README.md".to_owned(), self.markdown()), ("validation.json".to_owned(), json)];
        for section in &self.sections {
            files.extend(section.tables.iter().map(|t| (format!("{}.csv", t.name), csv(t))));
            files.extend(section.plots.iter().map(|p| (format!("{}.svg", p.name), p.lines.svg().into())));
        }
        files
    }

    fn markdown(&self) -> String {
        let form = match self.form {
            Form::Short => "short",
            Form::Long => "long",
        };
        let argument = if self.form == Form::Long { " --long" } else { "" };
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "# Validation in worlds with a known truth\n\n\
             Written by `sidelight validate --out DIR{argument} --seed {}` (sidelight {}, {form} form). The worlds are those of \
             `src/phantom/scores/worlds.toml`; all figures are of invented patients. δ is 5 % throughout. What the \
             figures mean, and where the method fails: docs/risk.md.\n\n## Verdicts\n",
            self.seed, self.sidelight
        );
        let count = |verdict| self.checks().filter(|c| c.verdict == verdict).count();
        let _ = writeln!(
            out,
            "{} of {} claims hold, {} are missed, and of {} so many replicates cannot tell (open).\n",
            count(Verdict::Pass),
            self.checks().count(),
            count(Verdict::Miss),
            count(Verdict::Open)
        );
        let row = |c: &Check| [c.planted.clone(), c.must.clone(), c.found.clone(), c.verdict.as_str().into()];
        let rows = self.checks().map(row);
        out.push_str(&grid(&["planted", "must be seen", "found", "verdict"], rows.map(Vec::from)));
        for section in &self.sections {
            section.write(&mut out);
        }
        out
    }
}

impl Section {
    fn write(&self, out: &mut String) {
        let _ = writeln!(out, "\n## {}\n", self.title);
        for paragraph in &self.text {
            let _ = writeln!(out, "{paragraph}\n");
        }
        for plot in &self.plots {
            let _ = writeln!(out, "![{}]({}.svg)\n", plot.lines.title, plot.name);
        }
        for table in &self.tables {
            let _ = writeln!(out, "{} ([{}.csv]({}.csv))\n", table.title, table.name, table.name);
            out.push_str(&grid(&table.columns, table.rows.iter().cloned()));
            out.push('\n');
        }
    }
}

/// A table in markdown.
fn grid(columns: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|c| c.replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut out = line(&columns.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>());
    out.push_str(&line(&vec!["---".to_owned(); columns.len()]));
    rows.for_each(|row| out.push_str(&line(&row)));
    out
}

fn csv(table: &Table) -> String {
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    // Writing to memory cannot fail.
    let _ = writer.write_record(&table.columns);
    table.rows.iter().for_each(|row| drop(writer.write_record(row)));
    String::from_utf8(writer.into_inner().unwrap_or_default()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_never_ends_its_column() {
        let text = grid(&["|s − t|", "b"], std::iter::once(vec!["1".into(), "2".into()]));
        assert_eq!(text, "| \\|s − t\\| | b |\n| --- | --- |\n| 1 | 2 |\n");
    }

    #[test]
    fn cells_with_commas_and_quotes_survive_csv() {
        let rows = vec![vec!["a,b".to_owned(), "say \"no\"".to_owned()]];
        let table = Table { name: "t", title: String::new(), columns: vec!["x", "y"], rows: rows.clone() };
        let text = csv(&table);
        let mut reader = ::csv::Reader::from_reader(text.as_bytes());
        let read: Vec<Vec<String>> = reader.records().map(|r| r.unwrap().iter().map(str::to_owned).collect()).collect();
        assert_eq!(read, rows);
    }
}
