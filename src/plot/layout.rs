//! A page of text, tables and figures, laid out on sheets of A4: what is drawn where, and what it is.
//!
//! Everything that is drawn belongs to a leaf of the tree of headings, paragraphs and tables, or to none where it is but
//! ornament. Neighbours: `pdf` writes it. Left out: fonts and files.

use super::Svg;
use super::canvas::{self, Type};
use super::html::{Block, Column, Page};
use super::palette::{INK, QUIET};

/// Of a sheet, in points (1/72 inch): A4.
pub(super) const SHEET: (f64, f64) = (595.28, 841.89);
const MARGIN: f64 = 50.0;
const WIDTH: f64 = SHEET.0 - 2.0 * MARGIN;
const BOTTOM: f64 = SHEET.1 - MARGIN;
/// Of a line of text, in em.
const LINE: f64 = 1.4;
/// Between a table's columns.
const GAP: f64 = 8.0;
/// Points for each CSS pixel of a drawing.
const PIXEL: f64 = 0.75;
/// Lines of a cell; more is cut.
const CELL_LINES: usize = 6;
const RULE: &str = "#c8c8c8";

const TITLE: Type = Type { size: 18.0, colour: INK, is_bold: true };
const SECTION: Type = Type { size: 13.0, colour: INK, is_bold: true };
const HEADING: Type = Type { size: 10.5, colour: INK, is_bold: true };
const BODY: Type = Type { size: 9.5, colour: INK, is_bold: false };
const CAPTION: Type = Type { size: 8.5, colour: QUIET, is_bold: false };
const HEAD: Type = Type { size: 8.0, colour: INK, is_bold: true };
const CELL: Type = Type { size: 8.0, colour: INK, is_bold: false };

/// What is drawn at a place of a sheet; from its left and top, in points.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Mark {
    /// At the left end of its base line.
    Text {
        at: (f64, f64),
        kind: Type,
        text: String,
    },
    Rule {
        at: (f64, f64),
        width: f64,
        thickness: f64,
        colour: &'static str,
    },
    Drawing {
        at: (f64, f64),
        size: (f64, f64),
        svg: Svg,
    },
}

/// Marks of a sheet, in reading order, each with the leaf that it belongs to.
pub(super) type Sheet = Vec<(Option<usize>, Mark)>;

/// What a part of the document is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Part {
    /// Of the document, or of a section.
    Heading(u16, String),
    Paragraph,
    List,
    Item,
    Table,
    Caption,
    Row,
    /// The head of a column, or of a row.
    Head(Heads),
    Cell,
    /// With what it shows, in words.
    Figure(String),
    Group,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heads {
    Column,
    Row,
}

/// A part with what it holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) part: Part,
    pub(super) children: Vec<Node>,
    /// The leaf that is drawn for it, if any is.
    pub(super) leaf: Option<usize>,
}

/// A laid out document.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Layout {
    pub(super) sheets: Vec<Sheet>,
    pub(super) tree: Vec<Node>,
    /// Titles of sections, with the sheet and height where they begin.
    pub(super) outline: Vec<(String, usize, f64)>,
    leaves: usize,
    at: f64,
}

pub(super) fn layout(page: &Page) -> Layout {
    let mut layout = Layout { at: MARGIN, sheets: vec![Sheet::new()], ..Layout::default() };
    let title = layout.text(&page.title, TITLE, 0.0, 8.0);
    layout.tree.push(node(Part::Heading(1, page.title.clone()), title));
    for text in &page.lead {
        let leaf = layout.text(text, BODY, 0.0, 6.0);
        layout.tree.push(node(Part::Paragraph, leaf));
    }
    for section in &page.sections {
        // A heading does not stand alone at the end of a sheet.
        layout.room(SECTION.size * LINE + 60.0);
        layout.at += 8.0;
        layout.outline.push((section.title.clone(), layout.sheets.len() - 1, layout.at));
        layout.rule(MARGIN, WIDTH, 0.75);
        layout.at += 6.0;
        let leaf = layout.text(&section.title, SECTION, 0.0, 4.0);
        layout.tree.push(node(Part::Heading(2, section.title.clone()), leaf));
        for block in &section.blocks {
            let made = layout.block(block);
            layout.tree.extend(made);
        }
    }
    layout
}

fn node(part: Part, leaf: usize) -> Node {
    Node { part, children: Vec::new(), leaf: Some(leaf) }
}

fn group(part: Part, children: Vec<Node>) -> Node {
    Node { part, children, leaf: None }
}

impl Layout {
    fn block(&mut self, block: &Block) -> Vec<Node> {
        match block {
            Block::Heading(text) => {
                self.room(HEADING.size * LINE + 40.0);
                let leaf = self.text(text, HEADING, 0.0, 3.0);
                vec![node(Part::Heading(3, text.clone()), leaf)]
            }
            Block::Text(text) => vec![node(Part::Paragraph, self.text(text, BODY, 0.0, 6.0))],
            Block::Note(text) => vec![node(Part::Paragraph, self.text(&format!("Note. {text}"), BODY, 12.0, 6.0))],
            Block::List(items) => {
                let item = |text: &String| node(Part::Item, self.text(&format!("– {text}"), BODY, 8.0, 2.0));
                let items = items.iter().map(item).collect();
                self.at += 4.0;
                vec![group(Part::List, items)]
            }
            Block::Figure { caption, svg } => vec![self.figure(caption, svg)],
            Block::Table { caption, head, rows } => vec![self.table(caption, head, rows)],
        }
    }

    fn figure(&mut self, caption: &str, svg: &Svg) -> Node {
        let (width, height) = (f64::from(svg.size().0) * PIXEL, f64::from(svg.size().1) * PIXEL);
        let most = BOTTOM - MARGIN - 3.0 * CAPTION.size * LINE;
        let scale = (WIDTH / width.max(1.0)).min(most / height.max(1.0)).min(1.0);
        let size = (width * scale, height * scale);
        self.room(size.1 + 2.0 * CAPTION.size * LINE);
        let leaf = self.leaf();
        self.draw(Some(leaf), Mark::Drawing { at: (MARGIN, self.at), size, svg: svg.clone() });
        self.at += size.1 + 2.0;
        let said = self.text(caption, CAPTION, 0.0, 8.0);
        let figure = node(Part::Figure(caption.to_owned()), leaf);
        group(Part::Group, vec![figure, node(Part::Paragraph, said)])
    }

    fn table(&mut self, caption: &str, head: &[Column], rows: &[Vec<String>]) -> Node {
        let widths = widths(head, rows);
        let labels: Vec<String> = head.iter().map(|column| column.label.clone()).collect();
        let first = rows.first().map_or(0.0, |row| height(row, &widths, CELL));
        self.room(2.0 * CAPTION.size * LINE + height(&labels, &widths, HEAD) + first + 8.0);
        let mut children = vec![node(Part::Caption, self.text(caption, CAPTION, 0.0, 2.0))];
        children.push(self.row(&labels, head, &widths, HEAD, Some(Heads::Column)));
        for row in rows {
            let high = height(row, &widths, CELL);
            if self.at + high > BOTTOM {
                self.sheet();
                // The head again, for the eye alone.
                let leaves = self.leaves;
                self.row(&labels, head, &widths, HEAD, Some(Heads::Column));
                self.sheets
                    .iter_mut()
                    .flatten()
                    .filter(|(leaf, _)| leaf.is_some_and(|l| l >= leaves))
                    .for_each(|(leaf, _)| *leaf = None);
                self.leaves = leaves;
            }
            children.push(self.row(row, head, &widths, CELL, None));
        }
        self.at += 10.0;
        group(Part::Table, children)
    }

    /// A row of a table, with a line below it.
    fn row(&mut self, texts: &[String], head: &[Column], widths: &[f64], kind: Type, heads: Option<Heads>) -> Node {
        let high = height(texts, widths, kind);
        let mut cells = Vec::new();
        let mut left = MARGIN;
        for (place, (text, width)) in texts.iter().zip(widths).enumerate() {
            let leaf = self.leaf();
            let is_number = head.get(place).is_some_and(|column| column.is_number);
            let mut at = self.at + kind.size * 1.1;
            for line in canvas::wrapped(text, kind, *width, CELL_LINES) {
                let shift = if is_number { width - canvas::width(&line, kind) } else { 0.0 };
                self.draw(Some(leaf), Mark::Text { at: (left + shift.max(0.0), at), kind, text: line });
                at += kind.size * LINE;
            }
            let part = match heads {
                Some(heads) => Part::Head(heads),
                None if place == 0 => Part::Head(Heads::Row),
                None => Part::Cell,
            };
            cells.push(node(part, leaf));
            left += width + GAP;
        }
        self.at += high;
        self.rule(MARGIN, left - MARGIN - GAP, if heads.is_some() { 1.0 } else { 0.4 });
        self.at += 1.5;
        group(Part::Row, cells)
    }

    /// Lines of text, which may go on on the next sheet; then so much space.
    fn text(&mut self, text: &str, kind: Type, indent: f64, after: f64) -> usize {
        let leaf = self.leaf();
        for line in canvas::wrapped(text, kind, WIDTH - indent, usize::MAX) {
            let high = kind.size * LINE;
            if self.at + high > BOTTOM {
                self.sheet();
            }
            self.draw(Some(leaf), Mark::Text { at: (MARGIN + indent, self.at + kind.size), kind, text: line });
            self.at += high;
        }
        self.at += after;
        leaf
    }

    fn rule(&mut self, left: f64, width: f64, thickness: f64) {
        self.draw(None, Mark::Rule { at: (left, self.at), width, thickness, colour: RULE });
    }

    fn leaf(&mut self) -> usize {
        self.leaves += 1;
        self.leaves - 1
    }

    fn draw(&mut self, leaf: Option<usize>, mark: Mark) {
        if let Some(sheet) = self.sheets.last_mut() {
            sheet.push((leaf, mark));
        }
    }

    /// A new sheet where less than this is left.
    fn room(&mut self, height: f64) {
        if self.at + height > BOTTOM && self.at > MARGIN {
            self.sheet();
        }
    }

    fn sheet(&mut self) {
        self.sheets.push(Sheet::new());
        self.at = MARGIN;
    }
}

/// What columns need, and where that is more than there is, what the wide ones leave to the narrow ones.
fn widths(head: &[Column], rows: &[Vec<String>]) -> Vec<f64> {
    let longest = |place: usize| {
        let cells = rows.iter().filter_map(|row| row.get(place)).map(|text| canvas::width(text, CELL));
        cells.fold(canvas::width(&head[place].label, HEAD), f64::max) + 1.0
    };
    let wanted: Vec<f64> = (0..head.len()).map(longest).collect();
    let room = (WIDTH - GAP * head.len().saturating_sub(1) as f64).max(1.0);
    if wanted.iter().sum::<f64>() <= room {
        return wanted;
    }
    // The limit for wide columns: from the narrowest on, each takes what it needs or an even share of what is left.
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|a, b| wanted[*a].total_cmp(&wanted[*b]));
    let (mut left, mut given) = (room, vec![0.0; wanted.len()]);
    for (taken, place) in order.iter().enumerate() {
        given[*place] = wanted[*place].min(left / (wanted.len() - taken) as f64);
        left -= given[*place];
    }
    given
}

fn height(texts: &[String], widths: &[f64], kind: Type) -> f64 {
    let lines = texts.iter().zip(widths).map(|(text, width)| canvas::wrapped(text, kind, *width, CELL_LINES).len());
    lines.max().unwrap_or(1).max(1) as f64 * kind.size * LINE + 1.5
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::Section;

    fn table(rows: usize) -> Page {
        let row = |i: usize| vec![format!("row {i}"), format!("{i}.25"), "a text of some length ".repeat(i % 7)];
        let head = vec![Column::text("name"), Column::number("value"), Column::text("what")];
        let block = Block::Table { caption: "All".to_owned(), head, rows: (0..rows).map(row).collect() };
        let section = Section { title: "Rows".to_owned(), blocks: vec![block] };
        Page { title: "T".to_owned(), lead: vec!["word ".repeat(3000)], sections: vec![section] }
    }

    #[test]
    fn nothing_leaves_its_sheet_and_every_leaf_is_drawn_once_in_the_tree() {
        let laid = layout(&table(200));
        assert!(laid.sheets.len() > 5, "{}", laid.sheets.len());
        for (leaf, mark) in laid.sheets.iter().flatten() {
            let (right, bottom) = match mark {
                Mark::Text { at, kind, text } => (at.0 + canvas::width(text, *kind), at.1),
                Mark::Rule { at, width, .. } => (at.0 + width, at.1),
                Mark::Drawing { at, size, .. } => (at.0 + size.0, at.1 + size.1),
            };
            assert!(right <= SHEET.0 - MARGIN + 1.0 && bottom <= BOTTOM + 2.0, "{leaf:?} {right} {bottom}");
        }
        fn leaves(nodes: &[Node], found: &mut Vec<usize>) {
            for node in nodes {
                found.extend(node.leaf);
                leaves(&node.children, found);
            }
        }
        let mut in_tree = Vec::new();
        leaves(&laid.tree, &mut in_tree);
        let drawn: std::collections::BTreeSet<usize> =
            laid.sheets.iter().flatten().filter_map(|(leaf, _)| *leaf).collect();
        assert!(drawn.iter().all(|leaf| in_tree.contains(leaf)), "what is drawn is in the tree");
        in_tree.sort_unstable();
        let count = in_tree.len();
        in_tree.dedup();
        assert_eq!(in_tree.len(), count, "a leaf has one place");
    }

    #[test]
    fn columns_share_what_there_is() {
        let head = vec![Column::text("a"), Column::text("b"), Column::text("c")];
        let rows = vec![vec!["short".to_owned(), "w".repeat(400), "v".repeat(400)]];
        let shared = widths(&head, &rows);
        assert!((shared.iter().sum::<f64>() + 2.0 * GAP - WIDTH).abs() < 1e-6, "{shared:?}");
        assert!(shared[0] < 40.0 && (shared[1] - shared[2]).abs() < 1e-6, "{shared:?}");
    }
}
