//! A page of text, tables and figures that needs nothing beside it: no script, no style sheet, no font, no picture.
//!
//! `templates/page.html` is the frame. Text is escaped by the template engine; only an [`Svg`] goes in as it is, which
//! this room alone can make. Light or dark as the reader's system is, and fit for paper. Left out: what the text says.

use std::borrow::Cow;
use std::collections::BTreeSet;

use askama::Template;

use super::{PlotError, Svg, canvas};

/// Tables with more lines are folded away.
const LINES_SHOWN: usize = 24;

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
    Table {
        caption: String,
        head: Vec<Column>,
        rows: Vec<Vec<String>>,
    },
    Figure {
        caption: String,
        svg: Svg,
    },
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

    /// A long table is folded away; on paper it stays so.
    fn is_long(&self, rows: &[Vec<String>]) -> bool {
        rows.len() > LINES_SHOWN
    }

    fn is_number(&self, head: &[Column], place: &usize) -> bool {
        head.get(*place).is_some_and(|c| c.is_number)
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
        let plain: String = section
            .title
            .chars()
            .take(80)
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .collect();
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

#[cfg(test)]
mod tests {
    use super::super::{Lines, Panel, Series};
    use super::*;
    use resvg::usvg::roxmltree::Document;

    /// The page as XML: everything that HTML allows to be left open is closed first.
    fn parsed(html: &str) -> String {
        let start = html.find("<body>").expect("a body");
        html[start..].replace("</html>", "")
    }

    fn check(page: &Page, contains: &[&str]) -> String {
        let html = page.html().expect("a page");
        let body = parsed(&html);
        let document = Document::parse(&body).unwrap_or_else(|e| panic!("{e}: {body}"));
        for node in document.descendants().filter(|n| n.is_element()) {
            let name = node.tag_name().name();
            assert!(!["script", "iframe", "object", "link", "img", "form"].contains(&name), "{name}");
            assert!(node.attributes().all(|a| !a.name().starts_with("on")));
            if let Some(target) = node.attribute("href").filter(|_| name == "a") {
                let found = document.descendants().filter(|n| n.attribute("id") == Some(&target[1..])).count();
                assert_eq!((target.starts_with('#'), found), (true, 1), "{target}");
            }
        }
        for text in contains {
            assert!(html.contains(text), "{text}: {html}");
        }
        html
    }

    fn page(text: &str) -> Page {
        let text = || text.to_owned();
        let svg = Lines {
            title: text(),
            panels: vec![Panel { y: text(), series: vec![Series::joined(text(), Vec::new())], ..Panel::default() }],
            ..Lines::default()
        }
        .svg();
        let table =
            |rows| Block::Table { caption: text(), head: vec![Column::text(text()), Column::number(text())], rows };
        let blocks = vec![
            Block::Heading(text()),
            Block::Text(text()),
            Block::Note(text()),
            Block::List(vec![text(), text()]),
            // A row that is longer than the head is a fault of the caller and still a row.
            table(vec![vec![text(), text()], Vec::new(), vec![text(); 3]]),
            Block::Figure { caption: text(), svg },
        ];
        Page {
            title: text(),
            lead: vec![text()],
            sections: vec![Section { title: text(), blocks }, Section { title: text(), blocks: Vec::new() }],
        }
    }

    #[test]
    fn a_page_has_its_parts_where_readers_and_machines_look_for_them() {
        let html = check(
            &page("Patches"),
            &[
                "<html lang=\"en\">",
                "<h1>Patches</h1>",
                "<a href=\"#patches\">Patches</a>",
                "<a href=\"#patches-2\">Patches</a>",
                "<h2 id=\"patches-2\">Patches</h2>",
                "<th scope=\"col\" class=\"n\">Patches</th>",
                "<th scope=\"row\">Patches</th>",
                "<td class=\"n\">Patches</td>",
                "<caption>Patches</caption>",
                "<figcaption>Patches</figcaption>",
                "prefers-color-scheme: dark",
                "@media print",
                "default-src 'none'",
            ],
        );
        assert!(html.starts_with("<!doctype html>") && html.contains("role=\"img\""));
        assert_eq!(html, page("Patches").html().unwrap());
        check(&Page::default(), &["<h1></h1>"]);
    }

    #[test]
    fn no_text_becomes_markup() {
        for text in [
            "<script>alert(1)</script>",
            "</figure></main><img src=x onerror=alert(1)>",
            "\" onmouseover=\"alert(1)\" '",
            "javascript:alert(1)",
            "{{ 7 * 7 }} {% raw %}",
            "a\u{0}\u{1b}\u{202e}b",
            "",
            "&lt;b&gt; &amp;",
        ] {
            let html = check(&page(text), &[]);
            assert!(!html.contains("<script") && !html.contains("<img") && !html.contains("\" onmouseover"), "{html}");
            assert!(!html.contains('\u{0}') && !html.contains('\u{202e}'));
        }
        let long = "long ".repeat(100_000);
        check(&page(&long), &["long long"]);
    }
}
