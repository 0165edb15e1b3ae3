//! SVG to PNG, with a font that the program carries, so that a machine without fonts draws the same.
//!
//! Only what [`super::Svg`] holds is drawn, which this room wrote. resvg's own pictures would bring readers of GIF, WebP
//! and JPEG with them; the PNGs of a gallery are therefore laid upon the drawing here.

use std::sync::{Arc, LazyLock};

use resvg::{tiny_skia, usvg};

use super::{PlotError, Svg};

/// Latin, Greek and signs of DejaVu Sans; licence and recipe lie beside.
pub(super) const REGULAR: &[u8] = include_bytes!("fonts/sans.ttf");
pub(super) const BOLD: &[u8] = include_bytes!("fonts/sans-bold.ttf");
const PIXELS_MAX: f64 = 64.0e6;

static FONTS: LazyLock<Arc<usvg::fontdb::Database>> = LazyLock::new(|| {
    let mut fonts = usvg::fontdb::Database::new();
    fonts.load_font_data(REGULAR.to_vec());
    fonts.load_font_data(BOLD.to_vec());
    let family = fonts.faces().next().and_then(|face| face.families.first()).map(|f| f.0.clone());
    fonts.set_sans_serif_family(family.unwrap_or_default());
    Arc::new(fonts)
});

/// The fonts of drawings.
pub(super) fn fonts() -> Arc<usvg::fontdb::Database> {
    FONTS.clone()
}

pub(super) fn png(svg: &Svg, scale: f32) -> Result<Vec<u8>, PlotError> {
    let fault = |why: &dyn std::fmt::Display| PlotError::Raster(why.to_string());
    let (width, height) = svg.size();
    let sides = [width, height].map(|v| (f64::from(v) * f64::from(scale)).round());
    let is_drawable = sides.iter().all(|v| (1.0..=f64::from(u16::MAX)).contains(v));
    if !is_drawable || sides[0] * sides[1] > PIXELS_MAX {
        return Err(PlotError::Scale { width, height, scale: scale.to_string() });
    }
    let options = usvg::Options { fontdb: fonts(), ..usvg::Options::default() };
    let tree = usvg::Tree::from_str(svg.as_str(), &options).map_err(|e| fault(&e))?;
    let mut pixels = tiny_skia::Pixmap::new(sides[0] as u32, sides[1] as u32).ok_or_else(|| fault(&"no memory"))?;
    let scaled = tiny_skia::Transform::from_scale(scale, scale);
    resvg::render(&tree, scaled, &mut pixels.as_mut());
    pictures(tree.root(), scaled, &mut pixels);
    pixels.encode_png().map_err(|e| fault(&e))
}

/// Lays the pictures of a group where the drawing has them.
fn pictures(group: &usvg::Group, scaled: tiny_skia::Transform, pixels: &mut tiny_skia::Pixmap) {
    for node in group.children() {
        match node {
            usvg::Node::Group(inner) => pictures(inner, scaled, pixels),
            usvg::Node::Image(image) => {
                let usvg::ImageKind::PNG(bytes) = image.kind() else { continue };
                let Ok(picture) = tiny_skia::Pixmap::decode_png(bytes) else { continue };
                let at = image.abs_transform().post_concat(scaled);
                let paint = tiny_skia::PixmapPaint {
                    quality: tiny_skia::FilterQuality::Bicubic,
                    ..tiny_skia::PixmapPaint::default()
                };
                pixels.draw_pixmap(0, 0, picture.as_ref(), &paint, at, None);
            }
            _ => {}
        }
    }
}
