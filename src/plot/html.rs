//! A page of text, tables and figures that needs nothing beside it: no script, no style sheet, no font, no picture.
//!
//! `templates/page.html` is the frame. Text is escaped by the template engine; only an [`Svg`] goes in as it is, which
//! this room alone can make. Light or dark as the reader's system is, and fit for paper. Left out: what the text says.

use std::borrow::Cow;
use std::collections::BTreeSet;

use askama::Template;

use super::{PlotError, Svg, canvas};

/// A page with its table of contents.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Page {
    pub title: String,
    /// Paragraphs before the first section.
    pub lead: Vec<String>,
    pub sections: Vec<Section>,
}

/// A part of the page, with an entry in the table of contents.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Section {
    pub title: String,
    pub blocks: Vec<Block>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Block {
    /// A heading below that of the section.
    Heading(String),
    /// A paragraph.
    Text(String),
    /// A paragraph that must not be overlooked.
    Note(String),
    List(Vec<String>),
    /// Each row as long as the head. The first column names its row.
    Table { caption: String, head: Vec<Column>, rows: Vec<Vec<String>> },
    Figure { caption: String, svg: Svg },
}

/// The head of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub label: String,
    /// Aligned at the right, in figures of one width.
    pub is_number: bool,
}

impl Column {
    pub fn text(label: impl Into<String>) -> Self {
        Self { label: label.into(), is_number: false }
    }

    pub fn number(label: impl Into<String>) -> Self {
        Self { label: label.into(), is_number: true }
    }
}

#[derive(Template)]
#[template(path = "page.html")]
struct Frame<'a> {
    page: &'a Page,
    /// Of each section, for links to it.
    names: Vec<String>,
}

impl Frame<'_> {
    /// Escaping is the engine's; this takes out what no page may hold.
    fn plain<'t>(&self, text: &'t str) -> Cow<'t, str> {
        canvas::tame(text)
    }

    fn is_number(&self, head: &[Column], place: usize) -> bool {
        head.get(place).is_some_and(|c| c.is_number)
    }
}

impl askama::filters::HtmlSafe for Svg {}

impl Page {
    /// The whole page.
    pub fn html(&self) -> Result<String, PlotError> {
        let frame = Frame { page: self, names: names(&self.sections) };
        frame.render().map_err(|e| PlotError::Page(e.to_string()))
    }
}

/// A name for each section that stays the same as long as its title does.
fn names(sections: &[Section]) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let name = |section: &Section| {
        let plain: String =
            section.title.chars().take(80).map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
        let words: Vec<&str> = plain.split('-').filter(|w| !w.is_empty()).collect();
        let stem = if words.is_empty() { "section".to_owned() } else { words.join("-") };
        let mut name = stem.clone();
        let mut count = 1;
        while !taken.insert(name.clone()) {
            count += 1;
            name = format!("{stem}-{count}");
        }
        name
    };
    sections.iter().map(name).collect()
}
