//! Pictures are whole, hold no markup of their labels and no number that is none.

use super::*;
use resvg::usvg::roxmltree::{self, Document, Node};

/// What people, tables and peers may name things.
fn hostile() -> Vec<String> {
    [
        "<script>alert(1)</script>",
        "</title></svg><img src=x onerror=alert(1)>",
        "\"' onload=\"alert(1)\" &amp; &lt; &#x3c; ]]> <!-- -->",
        "a\u{0}b\u{1b}[31m\u{8}\u{fffe}\u{ffff}\u{202e}gnp.exe\u{2066}",
        "",
        "漢字 العربية 𝒳 e\u{301}",
    ]
    .map(str::to_owned)
    .into_iter()
    .chain([format!("{} end", "very long ".repeat(5000)), "w".repeat(100_000)])
    .collect()
}

const ODD: [f64; 9] =
    [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN, f64::MIN_POSITIVE, 0.0, -0.0, 1.0];

fn parsed(svg: &Svg) -> Document<'_> {
    roxmltree::Document::parse(svg.as_str()).unwrap_or_else(|e| panic!("{e}: {svg}"))
}

/// Numbers of an element, whichever attribute they stand in.
fn numbers(node: Node<'_, '_>) -> Vec<f64> {
    let names = ["x", "y", "width", "height", "cx", "cy", "r", "points", "d", "transform", "stroke-width"];
    let texts = names.iter().filter_map(|name| node.attribute(*name));
    let digits = |c: char| c.is_ascii_digit() || c == '.' || c == '-';
    texts
        .flat_map(|text| {
            // "7-3.5" is two numbers in a path.
            text.replace('-', " -").split(|c| !digits(c)).filter_map(|n| n.parse().ok()).collect::<Vec<f64>>()
        })
        .collect()
}

/// A drawing is XML of a few kinds of elements, of numbers only, within its bounds, without anything that acts.
fn check(svg: &Svg) {
    let document = parsed(svg);
    let root = document.root_element();
    assert_eq!((root.tag_name().name(), root.attribute("role")), ("svg", Some("img")));
    let (width, height) = svg.size();
    let known = ["svg", "title", "desc", "rect", "path", "polyline", "polygon", "circle", "text", "image"];
    for node in document.descendants().filter(Node::is_element) {
        assert!(known.contains(&node.tag_name().name()), "{}", node.tag_name().name());
        assert_eq!(node.tag_name().namespace(), Some("http://www.w3.org/2000/svg"));
        assert!(node.attributes().all(|a| !a.name().starts_with("on") && a.name() != "id" && a.name() != "style"));
        for name in ["x", "cx"] {
            let Some(at) = node.attribute(name).map(|v| v.parse::<f64>().expect("a number")) else { continue };
            assert!((0.0..=f64::from(width)).contains(&at), "{name} {at} of {width}");
        }
        for name in ["y", "cy"] {
            let Some(at) = node.attribute(name).map(|v| v.parse::<f64>().expect("a number")) else { continue };
            assert!((0.0..=f64::from(height)).contains(&at), "{name} {at} of {height}");
        }
        assert!(numbers(node).iter().all(|v| v.is_finite() && v.abs() < 1e6));
        let href = node.attribute("href").unwrap_or("data:image/png;base64,");
        assert!(href.starts_with("data:image/png;base64,"));
    }
    let names = ["NaN", "inf", "Infinity", "e300"];
    assert!(!document.descendants().filter(Node::is_element).any(|n| {
        n.attributes()
            .any(|a| names.iter().any(|bad| a.value().contains(bad)) && a.name() != "aria-label" && a.name() != "href")
    }));
}

fn lines(labels: &[String], values: &[f64], scale: Scale) -> Lines {
    let label = |i: usize| labels[i % labels.len()].clone();
    let points = |shift: usize| {
        let value = |i: usize| values[i % values.len()];
        let point =
            |i: usize| Point { x: value(i), y: value(i + shift), limits: Some((value(i + 1), value(i + shift + 2))) };
        (0..values.len()).map(point).collect::<Vec<_>>()
    };
    let panel = |range| Panel {
        y: label(1),
        range,
        series: vec![
            Series::joined(label(0), points(0)),
            Series::dots(label(2), points(1)),
            Series::curve(label(3), points(2)),
            Series::joined(label(4), Vec::new()),
        ],
        rules: values.iter().map(|v| Rule { at: *v, label: label(5) }).collect(),
        uprights: values.iter().map(|v| Rule { at: *v, label: label(6) }).collect(),
        has_diagonal: true,
    };
    let panels = vec![panel(None), panel(Some((0.0, 1.0))), panel(Some((values[0], values[1]))), Panel::default()];
    Lines { title: label(0), description: String::new(), x: label(1), scale, shape: Shape::Wide, panels }
}

fn forest(labels: &[String], values: &[f64]) -> Forest {
    let row = |i: usize| {
        let value = |k: usize| values[(i + k) % values.len()];
        ForestRow {
            label: labels[i % labels.len()].clone(),
            estimate: Some(value(0)).filter(|_| i % 5 != 4),
            interval: Some((value(1), value(2))),
            n: (!i.is_multiple_of(3)).then_some(i as u64 * 1000),
            reference: Some(value(3)),
        }
    };
    let group = |heading: &String| ForestGroup { heading: heading.clone(), rows: (0..values.len()).map(row).collect() };
    Forest {
        title: labels[0].clone(),
        description: String::new(),
        value: labels[labels.len() - 1].clone(),
        reference: labels[1 % labels.len()].clone(),
        range: None,
        rule: Some(0.5),
        decimals: 3,
        groups: labels.iter().map(group).collect(),
    }
}

fn grid(labels: &[String], values: &[f64]) -> Grid {
    let cell = |v: &f64| Cell { value: Some(*v), note: labels[0].clone() };
    let panel = |heading: &String| Cells { heading: heading.clone(), cells: values.iter().map(cell).collect() };
    Grid {
        title: labels[0].clone(),
        description: String::new(),
        value: labels[0].clone(),
        columns: labels.iter().take(3).cloned().collect(),
        rows: labels.iter().take(3).cloned().collect(),
        range: None,
        decimals: 3,
        panels: labels.iter().map(panel).collect(),
    }
}

fn gallery(labels: &[String]) -> Gallery {
    let picture = Picture::grey(2, 2, &[0.0, 0.5, 1.0, f32::NAN]).unwrap();
    let tile = |label: &String| Tile { label: label.clone(), picture: Some(picture.clone()) };
    let row = |heading: &String| GalleryRow { heading: heading.clone(), tiles: labels.iter().map(tile).collect() };
    Gallery { title: labels[0].clone(), description: String::new(), side: 96, rows: labels.iter().map(row).collect() }
}

#[test]
fn drawings_are_xml_within_bounds_whatever_they_are_of() {
    let labels = hostile();
    for values in [&ODD[..], &[0.5, 0.5, 0.5], &[0.2, 0.4, 0.9, 200.0], &[1e-12, 1.0 + 1e-15, 1.0]] {
        for scale in [Scale::Linear, Scale::Log, Scale::Names(labels.clone()), Scale::Names(Vec::new())] {
            check(&lines(&labels, values, scale.clone()).svg());
            check(&Lines { shape: Shape::Square, ..lines(&labels, values, scale) }.svg());
        }
        check(&forest(&labels, values).svg());
        check(&Forest { range: Some((0.0, 1.0)), reference: String::new(), ..forest(&labels, values) }.svg());
        check(&grid(&labels, values).svg());
    }
    check(&gallery(&labels).svg());
}

#[test]
fn drawings_of_nothing_are_drawings() {
    let none = [String::new()];
    check(&Lines::default().svg());
    check(&Lines { panels: vec![Panel::default()], ..Lines::default() }.svg());
    check(&Forest { groups: Vec::new(), ..forest(&none, &[1.0]) }.svg());
    check(&Grid { panels: Vec::new(), ..grid(&none, &[1.0]) }.svg());
    check(&Grid { rows: Vec::new(), columns: Vec::new(), ..grid(&none, &[1.0]) }.svg());
    check(&Gallery { rows: Vec::new(), ..gallery(&none) }.svg());
    check(&Gallery { side: 0, ..gallery(&none) }.svg());
}

#[test]
fn a_label_says_what_it_said_and_starts_nothing() {
    let label = "<script>alert(\"x\")</script> & 'y'";
    let svg = lines(&[label.to_owned()], &[0.2, 0.4], Scale::Linear).svg();
    assert!(!svg.as_str().contains("<script") && !svg.as_str().contains("alert(\"x"));
    let document = parsed(&svg);
    let title = document.descendants().find(|n| n.has_tag_name("title")).and_then(|n| n.text());
    assert_eq!((title, document.root_element().attribute("aria-label")), (Some(label), Some(label)));
}

#[test]
fn values_lie_where_they_belong() {
    let point = |x, y| Point { x, y, limits: None };
    let series = |points: &[Point]| Lines {
        scale: Scale::Log,
        panels: vec![Panel {
            range: Some((0.0, 1.0)),
            series: vec![Series::joined("a", points.to_vec())],
            ..Panel::default()
        }],
        ..Lines::default()
    };
    let svg =
        series(&[point(1.0, 0.0), point(10.0, 0.5), point(100.0, 1.0), point(0.0, 0.5), point(f64::NAN, 0.5)]).svg();
    let document = parsed(&svg);
    let centres: Vec<(f64, f64)> = document
        .descendants()
        .filter(|n| n.has_tag_name("circle"))
        .map(|n| (n.attribute("cx").unwrap().parse().unwrap(), n.attribute("cy").unwrap().parse().unwrap()))
        .collect();
    // Three points and the legend's; a decade is as long as the next one, and .5 lies halfway.
    assert_eq!(centres.len(), 4);
    assert!((centres[1].0 - centres[0].0 - (centres[2].0 - centres[1].0)).abs() < 0.2, "{centres:?}");
    assert!((f64::midpoint(centres[0].1, centres[2].1) - centres[1].1).abs() < 0.2 && centres[0].1 > centres[2].1);
    // Outside of the range: an arrow head at the edge, no marker.
    let outside = series(&[point(1.0, 0.5), point(10.0, 1.5)]).svg();
    assert_eq!(parsed(&outside).descendants().filter(|n| n.has_tag_name("circle")).count(), 2);
}

#[test]
fn series_have_one_look_in_all_panels() {
    let series = |labels: &[&str]| Panel {
        series: labels.iter().map(|l| Series::joined(*l, vec![Point { x: 0.0, y: 1.0, limits: None }])).collect(),
        ..Panel::default()
    };
    let svg = Lines { panels: vec![series(&["a", "b"]), series(&["b", "c"])], ..Lines::default() }.svg();
    // Of a: a circle and one in the legend; of b, in both panels: squares.
    assert_eq!((svg.as_str().matches("<circle").count(), svg.as_str().matches("m-3.8-3.8").count()), (2, 4));
}

#[test]
fn a_forest_tells_its_figures_and_marks_what_lies_outside() {
    let row = ForestRow {
        label: "MXR".into(),
        estimate: Some(0.986),
        interval: Some((0.3, 0.99)),
        n: Some(38_240),
        reference: Some(0.98),
    };
    let rows = vec![row.clone(), ForestRow { label: "none".into(), ..ForestRow::default() }];
    let groups = vec![ForestGroup { heading: "internal".into(), rows }];
    let forest = Forest { range: Some((0.5, 1.0)), groups, ..forest(&["AUC".to_owned()], &[1.0]) };
    let svg = forest.svg();
    let document = parsed(&svg);
    let texts: Vec<&str> = document.descendants().filter(|n| n.has_tag_name("text")).filter_map(|n| n.text()).collect();
    for text in ["MXR", "0.986 (0.300–0.990)", "38\u{202f}240", "0.980", "–"] {
        assert!(texts.contains(&text), "{text} in {texts:?}");
    }
}

#[test]
fn a_png_has_the_size_that_was_asked_for_and_something_on_it() {
    let labels = ["AUC".to_owned(), "Asian".to_owned()];
    for svg in [
        lines(&labels, &[0.2, 0.4, 0.9], Scale::Linear).svg(),
        forest(&labels, &[0.2, 0.4, 0.9]).svg(),
        grid(&labels, &[0.2, 0.4, 0.9]).svg(),
        gallery(&labels).svg(),
    ] {
        let (width, height) = svg.size();
        let bytes = svg.png(2.0).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (2 * width, 2 * height));
        let dark = pixels.chunks(4).filter(|p| p[0] < 128).count();
        assert!(dark > 300, "{dark}");
        assert_eq!(bytes, svg.png(2.0).unwrap());
    }
    let svg = Lines::default().svg();
    for scale in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-6, 1000.0] {
        assert!(matches!(svg.png(scale), Err(PlotError::Scale { .. })), "{scale}");
    }
}

#[test]
fn a_picture_is_seen_as_it_is_on_the_png() {
    // Left half black, right half white, with a blue and a red row of tiles.
    let grey = Picture::grey(2, 1, &[-3.0, 7.0]).unwrap();
    let red = Picture::rgb(1, 1, &[255, 0, 0]).unwrap();
    let tile = |picture: &Picture| Tile { label: String::new(), picture: Some(picture.clone()) };
    let row = |picture| GalleryRow { heading: String::new(), tiles: vec![tile(picture)] };
    let gallery = Gallery { side: 100, rows: vec![row(&grey), row(&red)], ..gallery(&[String::new()]) };
    let svg = gallery.svg();
    let document = parsed(&svg);
    let places: Vec<[f64; 4]> = document
        .descendants()
        .filter(|n| n.has_tag_name("image"))
        .map(|n| ["x", "y", "width", "height"].map(|a| n.attribute(a).unwrap().parse().unwrap()))
        .collect();
    // A picture keeps its shape.
    assert_eq!(places.iter().map(|p| (p[2], p[3])).collect::<Vec<_>>(), [(100.0, 50.0), (100.0, 100.0)]);
    let bytes = svg.png(1.0).unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(&bytes)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    let at = |x: f64, y: f64| {
        let place = (y as usize * info.width as usize + x as usize) * info.color_type.samples();
        pixels[place..place + 3].to_vec()
    };
    let [x, y, _, _] = places[0];
    assert_eq!((at(x + 10.0, y + 25.0), at(x + 90.0, y + 25.0)), (vec![0; 3], vec![255; 3]));
    let [x, y, _, _] = places[1];
    assert_eq!(at(x + 50.0, y + 50.0), [255, 0, 0]);
}

#[test]
fn pictures_need_as_many_values_as_they_have_pixels() {
    let fault = |r: Result<Picture, PlotError>| matches!(r, Err(PlotError::Samples { .. }));
    assert!(fault(Picture::grey(2, 2, &[0.0; 3])) && fault(Picture::grey(0, 0, &[])));
    assert!(fault(Picture::rgb(1, 1, &[0; 4])) && fault(Picture::grey(5000, 1, &[0.0; 5000])));
    let stretched = Picture::stretched(3, 1, &[-0.02, 0.0, 0.02]).unwrap();
    assert_eq!(stretched, Picture::grey(3, 1, &[0.0, 0.5, 1.0]).unwrap());
    assert!(Picture::stretched(2, 1, &[f32::NAN, 3.0]).is_ok());
}

#[test]
fn text_is_as_wide_as_it_was_taken_for() {
    // By the font of the PNGs: ink of a text from the left to the right edge, bearing aside.
    for (text, kind) in
        [("The quick brown fox jumps 0123456789 (.95–.98)", canvas::BODY), ("MXR → Emory CXR WMi", canvas::TITLE)]
    {
        let mut drawing = canvas::Canvas::default();
        drawing.text((0.0, 20.0), canvas::Anchor::Start, kind, text);
        let svg = drawing.finish("", "", 800.0, 40.0);
        let bytes = svg.png(1.0).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        let is_ink = |i: &usize| pixels[i * info.color_type.samples()] < 200;
        let right = (0..pixels.len() / info.color_type.samples()).filter(is_ink).map(|i| i % 800).max().unwrap();
        let taken = canvas::width(text, kind);
        assert!((taken * 0.94 - 3.0..taken * 1.02).contains(&(right as f64)), "{right} for {taken}: {text}");
    }
}
