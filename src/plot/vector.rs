//! Drawings on a sheet of a PDF, as the paths that they come to.
//!
//! Only what [`super::Svg`] holds is drawn, which this room wrote: plain colours, lines, text as outlines. Left out:
//! gradients, patterns, masks and filters, which it never writes; pictures, for which the writer of PDFs would bring
//! readers of four formats.

use krilla::color::rgb;
use krilla::geom::{Path, PathBuilder, Transform};
use krilla::num::NormalizedF32;
use krilla::paint::{Fill, FillRule, LineCap, LineJoin, Stroke, StrokeDash};
use krilla::surface::Surface;
use resvg::{tiny_skia, usvg};

use super::{Svg, raster};

/// Draws with its left upper corner there, so wide and high in points.
pub(super) fn draw(surface: &mut Surface<'_>, at: (f64, f64), size: (f64, f64), svg: &Svg) -> Result<(), String> {
    let options = usvg::Options { fontdb: raster::fonts(), ..usvg::Options::default() };
    let tree = usvg::Tree::from_str(svg.as_str(), &options).map_err(|e| e.to_string())?;
    let scale = (size.0 as f32 / tree.size().width(), size.1 as f32 / tree.size().height());
    surface.push_transform(&Transform::from_row(scale.0, 0.0, 0.0, scale.1, at.0 as f32, at.1 as f32));
    let drawn = group(surface, tree.root());
    surface.pop();
    drawn
}

fn group(surface: &mut Surface<'_>, of: &usvg::Group) -> Result<(), String> {
    surface.push_transform(&transform(of.transform()));
    let is_clear = of.opacity().get() < 1.0;
    if is_clear {
        surface.push_opacity(opacity(of.opacity().get()));
    }
    let drawn = of.children().iter().try_for_each(|node| match node {
        usvg::Node::Group(inner) => group(surface, inner),
        usvg::Node::Text(text) => group(surface, text.flattened()),
        usvg::Node::Path(path) => {
            paint(surface, path);
            Ok(())
        }
        usvg::Node::Image(_) => Err("a drawing holds a picture, which a PDF of this program cannot".to_owned()),
    });
    if is_clear {
        surface.pop();
    }
    surface.pop();
    drawn
}

fn paint(surface: &mut Surface<'_>, of: &usvg::Path) {
    let Some(path) = outline(of.data()).filter(|_| of.is_visible()) else { return };
    let fill = of.fill().map(|fill| Fill {
        paint: colour(fill.paint()).into(),
        opacity: opacity(fill.opacity().get()),
        rule: match fill.rule() {
            usvg::FillRule::NonZero => FillRule::NonZero,
            usvg::FillRule::EvenOdd => FillRule::EvenOdd,
        },
    });
    let stroke = of.stroke().map(|stroke| Stroke {
        paint: colour(stroke.paint()).into(),
        width: stroke.width().get(),
        line_cap: match stroke.linecap() {
            usvg::LineCap::Butt => LineCap::Butt,
            usvg::LineCap::Round => LineCap::Round,
            usvg::LineCap::Square => LineCap::Square,
        },
        line_join: match stroke.linejoin() {
            usvg::LineJoin::Round => LineJoin::Round,
            usvg::LineJoin::Bevel => LineJoin::Bevel,
            usvg::LineJoin::Miter | usvg::LineJoin::MiterClip => LineJoin::Miter,
        },
        opacity: opacity(stroke.opacity().get()),
        dash: stroke.dasharray().map(|array| StrokeDash { array: array.to_vec(), offset: stroke.dashoffset() }),
        ..Stroke::default()
    });
    surface.set_fill(fill);
    surface.set_stroke(stroke);
    surface.draw_path(&path);
    surface.set_stroke(None);
}

fn outline(of: &tiny_skia::Path) -> Option<Path> {
    let mut path = PathBuilder::new();
    for segment in of.segments() {
        match segment {
            tiny_skia::PathSegment::MoveTo(p) => path.move_to(p.x, p.y),
            tiny_skia::PathSegment::LineTo(p) => path.line_to(p.x, p.y),
            tiny_skia::PathSegment::QuadTo(c, p) => path.quad_to(c.x, c.y, p.x, p.y),
            tiny_skia::PathSegment::CubicTo(c, d, p) => path.cubic_to(c.x, c.y, d.x, d.y, p.x, p.y),
            tiny_skia::PathSegment::Close => path.close(),
        }
    }
    path.finish()
}

fn transform(of: usvg::Transform) -> Transform {
    Transform::from_row(of.sx, of.ky, of.kx, of.sy, of.tx, of.ty)
}

/// Black for what is no plain colour.
fn colour(of: &usvg::Paint) -> rgb::Color {
    match of {
        usvg::Paint::Color(c) => rgb::Color::new(c.red, c.green, c.blue),
        _ => rgb::Color::new(0, 0, 0),
    }
}

fn opacity(value: f32) -> NormalizedF32 {
    NormalizedF32::new(value).unwrap_or(NormalizedF32::ONE)
}

/// `#rrggbb`; black for anything else.
pub(super) fn fill(colour: &str) -> Fill {
    let part = |from: usize| colour.get(from..from + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok()).unwrap_or(0);
    Fill { paint: rgb::Color::new(part(1), part(3), part(5)).into(), ..Fill::default() }
}
