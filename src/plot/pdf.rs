//! A page as PDF: A4 sheets with text that can be searched and copied, drawings as vectors, tagged so that a screen reader
//! finds headings, tables and what figures show (PDF/UA-1, ISO 14289-1).
//!
//! The same page gives the same bytes: no date, no identifier of a machine. Neighbours: `layout` says what is where,
//! `raster` has the fonts, `vector` puts drawings on a sheet. Left out: scripts that need shaping.

use std::num::NonZeroU16;

use krilla::configure::{Accessibility, ConfigurationBuilder};
use krilla::destination::XyzDestination;
use krilla::geom::{PathBuilder, Point, Rect};
use krilla::metadata::Metadata;
use krilla::outline::{Outline, OutlineNode};
use krilla::page::PageSettings;
use krilla::surface::Surface;
use krilla::tagging::{
    Artifact, ArtifactType, ContentTag, Identifier, ListNumbering, SpanTag, TableHeaderScope, Tag, TagGroup, TagKind,
    TagTree,
};
use krilla::text::{Font, GlyphId, KrillaGlyph};
use krilla::{Document, SerializeSettings};
use skrifa::instance::{LocationRef, Size};
use skrifa::{FontRef, MetadataProvider};

use super::canvas::Type;
use super::html::Page;
use super::layout::{Heads, Layout, Mark, Node, Part, SHEET, Sheet, layout};
use super::palette::QUIET;
use super::{PlotError, canvas, raster, vector};

impl Page {
    /// The whole page as PDF.
    pub fn pdf(&self) -> Result<Vec<u8>, PlotError> {
        let fault = |why: &dyn std::fmt::Display| PlotError::Pdf(why.to_string());
        let laid = layout(self);
        let configuration = ConfigurationBuilder::new().with_accessibility_validator(Accessibility::UA1).finish();
        let configuration = configuration.map_err(|e| fault(&format!("{e:?}")))?;
        let mut document = Document::new_with(SerializeSettings { configuration, ..SerializeSettings::default() });
        let fonts = Fonts::new().ok_or_else(|| fault(&"its font cannot be read"))?;
        document.set_metadata(Metadata::new().title(fonts.name(&self.title)).language("en".to_owned()));
        let mut leaves: Vec<Vec<Identifier>> = Vec::new();
        let settings = PageSettings::from_wh(SHEET.0 as f32, SHEET.1 as f32);
        let settings = settings.ok_or_else(|| fault(&"a sheet has no size"))?;
        for (number, sheet) in laid.sheets.iter().enumerate() {
            let mut page = document.start_page_with(settings.clone());
            let mut surface = page.surface();
            draw(&mut surface, sheet, &fonts, &mut leaves).map_err(|e| fault(&e))?;
            foot(&mut surface, &fonts, number + 1, laid.sheets.len());
            surface.finish();
            page.finish();
        }
        document.set_tag_tree(tree(&laid, &leaves, &fonts));
        document.set_outline(outline(&laid, &fonts));
        document.finish().map_err(|e| fault(&format!("{e:?}")))
    }
}

struct Fonts {
    regular: (Font, FontRef<'static>),
    bold: (Font, FontRef<'static>),
}

impl Fonts {
    fn new() -> Option<Self> {
        let read = |bytes: &'static [u8]| Some((Font::new(bytes.into(), 0)?, FontRef::new(bytes).ok()?));
        Some(Self { regular: read(raster::REGULAR)?, bold: read(raster::BOLD)? })
    }

    fn of(&self, kind: Type) -> &(Font, FontRef<'static>) {
        if kind.is_bold { &self.bold } else { &self.regular }
    }

    /// The text with a question mark for every character that the fonts have not.
    fn known(&self, text: &str) -> String {
        let has = |c: &char| [&self.regular.1, &self.bold.1].iter().all(|font| font.charmap().map(*c).is_some());
        canvas::tame(text).chars().map(|c| if has(&c) { c } else { '?' }).collect()
    }

    /// The same, for what must have a name.
    fn name(&self, text: &str) -> String {
        Some(self.known(text)).filter(|known| !known.trim().is_empty()).unwrap_or_else(|| "untitled".to_owned())
    }

    /// One glyph for each character, which is enough for Latin and Greek.
    fn glyphs(&self, text: &str, kind: Type) -> Vec<KrillaGlyph> {
        let (font, face) = self.of(kind);
        let (map, widths) = (face.charmap(), face.glyph_metrics(Size::unscaled(), LocationRef::default()));
        let glyph = |(at, c): (usize, char)| {
            let id = map.map(c).unwrap_or_default();
            let advance = widths.advance_width(id).unwrap_or(0.0) / font.units_per_em();
            KrillaGlyph::new(GlyphId::new(id.to_u32()), advance, 0.0, 0.0, 0.0, at..at + c.len_utf8(), None)
        };
        text.char_indices().map(glyph).collect()
    }
}

fn draw(
    surface: &mut Surface<'_>,
    sheet: &Sheet,
    fonts: &Fonts,
    leaves: &mut Vec<Vec<Identifier>>,
) -> Result<(), String> {
    for (leaf, mark) in sheet {
        let tag = match (leaf, mark) {
            (None, _) => ContentTag::Artifact(Artifact::with_kind(ArtifactType::Layout)),
            (Some(_), Mark::Text { .. }) => ContentTag::Span(SpanTag::empty()),
            (Some(_), _) => ContentTag::Other,
        };
        let identifier = surface.start_tagged(tag);
        let drawn = place(surface, mark, fonts);
        surface.end_tagged();
        drawn?;
        if let Some(leaf) = leaf {
            leaves.resize_with(leaves.len().max(leaf + 1), Vec::new);
            leaves[*leaf].push(identifier);
        }
    }
    Ok(())
}

fn place(surface: &mut Surface<'_>, mark: &Mark, fonts: &Fonts) -> Result<(), String> {
    match mark {
        Mark::Text { at, kind, text } => write(surface, *at, *kind, text, fonts),
        Mark::Rule { at, width, thickness, colour } => {
            surface.set_fill(Some(vector::fill(colour)));
            let rect = Rect::from_xywh(at.0 as f32, at.1 as f32, *width as f32, *thickness as f32);
            let mut path = PathBuilder::new();
            path.push_rect(rect.ok_or("a line has no size")?);
            surface.draw_path(&path.finish().ok_or("a line has no path")?);
        }
        Mark::Drawing { at, size, svg } => vector::draw(surface, *at, *size, svg)?,
    }
    Ok(())
}

fn write(surface: &mut Surface<'_>, at: (f64, f64), kind: Type, text: &str, fonts: &Fonts) {
    let text = fonts.known(text);
    surface.set_fill(Some(vector::fill(kind.colour)));
    let place = Point::from_xy(at.0 as f32, at.1 as f32);
    let font = fonts.of(kind).0.clone();
    surface.draw_glyphs(place, &fonts.glyphs(&text, kind), font, &text, kind.size as f32, false);
}

/// The number of the sheet.
fn foot(surface: &mut Surface<'_>, fonts: &Fonts, number: usize, all: usize) {
    const KIND: Type = Type { size: 8.0, colour: QUIET, is_bold: false };
    let text = format!("{number} / {all}");
    let left = (SHEET.0 - canvas::width(&text, KIND)) / 2.0;
    surface.start_tagged(ContentTag::Artifact(Artifact::with_kind(ArtifactType::Footer)));
    write(surface, (left, SHEET.1 - 28.0), KIND, &text, fonts);
    surface.end_tagged();
}

fn tree(laid: &Layout, leaves: &[Vec<Identifier>], fonts: &Fonts) -> TagTree {
    let mut tree = TagTree::new().with_lang(Some("en".to_owned()));
    laid.tree.iter().for_each(|node| tree.push(tagged(node, leaves, fonts)));
    tree
}

fn tagged(node: &Node, leaves: &[Vec<Identifier>], fonts: &Fonts) -> TagGroup {
    let own = || node.leaf.and_then(|leaf| leaves.get(leaf)).into_iter().flatten().cloned();
    let mut group = TagGroup::new(kind(&node.part, fonts));
    if node.part == Part::Item {
        let mut body = TagGroup::new(Tag::LBody);
        own().for_each(|identifier| body.push(identifier));
        group.push(body);
    } else {
        own().for_each(|identifier| group.push(identifier));
    }
    node.children.iter().for_each(|child| group.push(tagged(child, leaves, fonts)));
    group
}

fn kind(part: &Part, fonts: &Fonts) -> TagKind {
    match part {
        Part::Heading(level, title) => {
            Tag::Hn(NonZeroU16::new(*level).unwrap_or(NonZeroU16::MIN), Some(fonts.name(title))).into()
        }
        Part::Paragraph => Tag::P.into(),
        Part::List => Tag::L(ListNumbering::None).into(),
        Part::Item => Tag::LI.into(),
        Part::Table => Tag::Table.into(),
        Part::Caption => Tag::Caption.into(),
        Part::Row => Tag::TR.into(),
        Part::Head(Heads::Column) => Tag::TH(TableHeaderScope::Column).into(),
        Part::Head(Heads::Row) => Tag::TH(TableHeaderScope::Row).into(),
        Part::Cell => Tag::TD.into(),
        Part::Figure(alternative) => Tag::Figure(Some(fonts.name(alternative))).into(),
        Part::Group => Tag::Div.into(),
    }
}

fn outline(laid: &Layout, fonts: &Fonts) -> Outline {
    let mut outline = Outline::new();
    for (title, sheet, at) in &laid.outline {
        let destination = XyzDestination::new(*sheet, Point::from_xy(0.0, *at as f32));
        outline.push_child(OutlineNode::new(fonts.name(title), destination));
    }
    outline
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::{Block, Column, Lines, Panel, Point as Place, Section, Series};

    fn page(text: &str) -> Page {
        let points = vec![Place { x: 1.0, y: 0.5, limits: Some((0.4, 0.6)) }];
        let panel = Panel { y: text.to_owned(), series: vec![Series::joined(text, points)], ..Panel::default() };
        let svg = Lines { title: text.to_owned(), panels: vec![panel], ..Lines::default() }.svg();
        let blocks = vec![
            Block::Heading(text.to_owned()),
            Block::Text(text.to_owned()),
            Block::Note(text.to_owned()),
            Block::List(vec![text.to_owned(), text.to_owned()]),
            Block::Table {
                caption: text.to_owned(),
                head: vec![Column::text(text), Column::number(text)],
                rows: vec![vec![text.to_owned(), "0.5".to_owned()]; 90],
            },
            Block::Figure { caption: text.to_owned(), svg },
        ];
        let sections = vec![Section { title: text.to_owned(), blocks }];
        Page { title: text.to_owned(), lead: vec![text.to_owned()], sections }
    }

    #[test]
    fn a_page_is_an_accessible_pdf_and_the_same_each_time() {
        let bytes = page("Gaps of error").pdf().unwrap();
        assert!(bytes.starts_with(b"%PDF-") && bytes.len() < 200_000, "{}", bytes.len());
        assert_eq!(bytes, page("Gaps of error").pdf().unwrap());
        let has = |what: &[u8]| bytes.windows(what.len()).any(|w| w == what);
        assert!(has(b"/StructTreeRoot") && has(b"/Lang"), "it is tagged");
        Page::default().pdf().unwrap();
    }

    #[test]
    fn any_text_is_written() {
        for text in [
            "",
            " ",
            "日本語",
            "a\u{0}\u{1b}\u{202e}b",
            "(\\)<>[]{}/%",
            "שלום",
            "🙂",
            &"w".repeat(5000),
            "\u{fffd}\u{ad}",
        ] {
            page(text).pdf().unwrap_or_else(|e| panic!("{text:?}: {e}"));
        }
    }
}
