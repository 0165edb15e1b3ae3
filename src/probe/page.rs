//! The report of a run: every row with the paper's figures beside the run's own, plots, and tables for programs.
//!
//! Neighbours: `rows` measures, `plot` draws and writes the page. Left out: computing anything that the run did not
//! keep.

use std::path::Path;

use anyhow::Context;

use super::answers::{self, Answer};
use super::catalogue::{Kind, Published, ROWS, Row, Said};
use super::drawings::{drawings, point};
use super::lines::Whose;
use super::manifest::Manifest;
use super::metrics::{self, Estimate, Level, PATIENTS_MIN, distinct};
use super::parts::Predictions;
use super::pictures::{self, Sample};
use super::plan;
use super::rows::{Data, Figure, Quantity, small};
use super::variants::ORIGINAL;
use crate::domain::Purpose;
use crate::perturb::Form;
use crate::plot::{Block, Column, Lines, Page, Panel, Scale, Section, Series, Shape, Svg};
use crate::train::Part;

/// Rows whose images are those that have what is asked.
const PARTLY: [&str; 2] = ["masks", "occlusion"];

/// What a run came to.
#[derive(Debug)]
pub struct Report {
    pub figures: Vec<Figure>,
    /// By file name: the page, figures as JSON and CSV, plots as SVG and PNG.
    pub files: Vec<(String, Vec<u8>)>,
}

/// Makes the report of a finished run; writes `predictions.parquet` into its folder, everything else is given back.
///
/// # Errors
/// Parts of the run are missing or damaged.
pub fn report(folder: &Path) -> anyhow::Result<Report> {
    let manifest = Manifest::read(folder)?;
    let cohort = manifest.read_cohort(folder)?;
    let places = cohort.of_part(Part::Test);
    let tested = cohort.subset(&places);
    let rows = manifest.rows()?;
    manifest.check_variants()?;
    let with_predictions = rows.iter().any(|row| plan::is_of_predictions(row));
    let predictions = match with_predictions {
        true => Predictions::read(folder, &manifest.asked, &places)?,
        false => Predictions::empty(&manifest.asked, tested.images.len()),
    };
    let whole = distinct(tested.patients().into_iter());
    let data = Data { manifest: &manifest, cohort: &tested, predictions: &predictions, whole };
    let answers = answers::read(folder, &manifest.answers)?;
    let whose = Whose { cohort: &cohort, groups: &manifest.groups };
    answers::write_predictions(folder, whose, (&predictions, &places), &answers)?;
    let sample = pictures::read(folder, &data, &places)?;
    let mut report = Report { figures: Vec::new(), files: Vec::new() };
    let mut sections = vec![of_run(&data, cohort.images.len(), cohort.rejected.len())];
    for row in &rows {
        let own: Vec<&Answer> = answers.values().filter(|answer| answer.row == row.name).collect();
        let section = report.row(row, &data, &own, sample.as_ref())?;
        sections.push(section);
    }
    if let Some(section) = report.joint(&data)? {
        sections.push(section);
    }
    let others: Vec<&Row> = ROWS.iter().filter(|row| !rows.contains(row)).collect();
    if !others.is_empty() {
        sections.push(not_run(&others));
    }
    let page = Page {
        title: "What of race the images show, and what the models make of it".to_owned(),
        lead: vec![
            "Experiments of Gichoya et al. (Lancet Digit Health 2022; 4: e406–14) on this cohort, beside the figures that \
             were published. Intervals are of 95 %. A figure says what a network can tell from images of people who \
             reported their race; it says nothing of any one person, and it is no reason to infer anybody's race."
                .to_owned(),
        ],
        sections,
    };
    report.files.push(("report.html".to_owned(), page.html()?.into_bytes()));
    let json = serde_json::json!({"manifest": manifest, "figures": report.figures});
    report.files.push(("metrics.json".to_owned(), serde_json::to_vec_pretty(&json)?));
    report.files.push(("metrics.csv".to_owned(), csv_of(&report.figures)?));
    Ok(report)
}

impl Report {
    fn row(
        &mut self,
        row: &Row,
        data: &Data<'_>,
        answers: &[&Answer],
        sample: Option<&Sample>,
    ) -> anyhow::Result<Section> {
        let mut figures = data.figures(row);
        figures.extend(answers.iter().flat_map(|answer| answer.figures.clone()));
        let mut blocks = vec![Block::Text(format!("{}.", capital(row.definition)))];
        if !row.published.is_empty() {
            blocks.push(Block::Text(format!(
                "Published: {}.",
                row.published.iter().map(published).collect::<Vec<_>>().join("; ")
            )));
        }
        let mut notes = data.left_out(row);
        notes.extend(answers.iter().flat_map(|answer| answer.notes.clone()));
        if !notes.is_empty() {
            blocks.push(Block::List(notes));
        }
        if figures.is_empty() && answers.is_empty() && row.kind != Kind::Saliency {
            blocks.push(Block::Note(match row.kind {
                Kind::EqualDisease => "Not run: it trains a network, give --retrain with --recipe.".to_owned(),
                _ => "No figures: the cohort has no column for this row, or no image that could be read.".to_owned(),
            }));
        }
        for (number, (caption, svg)) in drawings(row, data, &figures).into_iter().enumerate() {
            self.draw(&mut blocks, &format!("{:02}-{}-{}", row.number, row.name, number + 1), caption, svg)?;
        }
        if row.kind == Kind::Saliency
            && let Some(gallery) = sample.and_then(Sample::saliency)
        {
            let caption =
                "Mean Grad-CAM maps (by occlusion where a network cannot be looked into), 16 × 16 means of each; \
                           they are of no group's score, but of how sure the model is."
                    .to_owned();
            self.draw(&mut blocks, &format!("{:02}-{}-maps", row.number, row.name), caption, gallery.svg())?;
        }
        if let Some(gallery) = sample.map(|sample| sample.gallery(row, data.manifest)).transpose()?.flatten() {
            let caption =
                "The first test image of the cohort. \"Stretched\": from its least to its largest value.".to_owned();
            self.draw(&mut blocks, &format!("{:02}-{}-images", row.number, row.name), caption, gallery.svg())?;
        }
        if !figures.is_empty() {
            blocks.push(table(&figures));
        }
        self.figures.extend(figures);
        Ok(Section { title: format!("Row {}: {}", row.number, row.title), blocks })
    }

    /// Race and clinical figures of every change above one another: does the clinical model live on what shows race?
    fn joint(&mut self, data: &Data<'_>) -> anyhow::Result<Option<Section>> {
        let clinical: Vec<&Figure> = self.figures.iter().filter(|f| f.quantity == Quantity::FindingAuc).collect();
        if clinical.is_empty() {
            return Ok(None);
        }
        let names: Vec<String> = data.manifest.asked.variants.clone();
        let mut blocks = vec![Block::Text(
            "Each change of the image, the race model's mean AUC, the clinical model's AUC and the gap of its miss rates \
             between groups, on the test images that have what is asked (a truth, a mask). Where a change takes race away \
             and leaves the finding, the finding does not need what shows race; where both fall together, they hang on the \
             same part of the image, which is no proof that the clinical model uses race."
                .to_owned(),
        )];
        let kinds = [
            (Quantity::MacroAuc, "race, mean AUC", Some((0.4, 1.0))),
            (Quantity::FindingAuc, "finding, AUC", Some((0.4, 1.0))),
            (Quantity::MissGap, "gap of miss rates", Some((0.0, 1.0))),
        ];
        let mut panels = Vec::new();
        for (quantity, y, range) in kinds {
            let own = self.figures.iter().filter(|f| {
                let is_pair = quantity == Quantity::MacroAuc
                    && f.quantity == Quantity::RaceAuc
                    && data.manifest.groups.len() == 2;
                (f.quantity == quantity || is_pair) && f.level == Level::Image && f.stratum.is_empty()
            });
            let own: Vec<&Figure> = own.filter(|f| data.manifest.models.iter().any(|m| m.name == f.model)).collect();
            // Of all images rather than of those that have a mask or a box.
            let is_of_all = |f: &&&Figure| f.variant != ORIGINAL || !PARTLY.contains(&f.row.as_str());
            let of_all: Vec<&Figure> = own.iter().filter(is_of_all).copied().collect();
            let own = if of_all.iter().any(|f| f.variant == ORIGINAL) { of_all } else { own };
            let mut labels: Vec<String> = own.iter().map(|f| format!("{}: {}", f.model, f.of)).collect();
            labels.sort();
            labels.dedup();
            let series = labels.iter().map(|label| {
                let of = |name: &String| {
                    own.iter()
                        .find(|f| f.variant == *name && format!("{}: {}", f.model, f.of) == *label)
                        .and_then(|f| f.estimate)
                };
                let points = names.iter().zip(0u32..).filter_map(|(name, x)| Some(point(f64::from(x), of(name)?)));
                Series::dots(label.clone(), points.collect())
            });
            let rules = if quantity == Quantity::MissGap { Vec::new() } else { vec![0.5.into()] };
            panels.push(Panel { y: y.to_owned(), range, series: series.collect(), rules, ..Panel::default() });
        }
        let lines = Lines {
            title: "Race, finding and gap under every change".to_owned(),
            x: String::new(),
            scale: Scale::Names(names),
            shape: Shape::Wide,
            panels,
            ..Lines::default()
        };
        self.draw(&mut blocks, "joint", "All changes of this run; bars are 95 % intervals.".to_owned(), lines.svg())?;
        blocks.push(self.falls(data));
        Ok(Some(Section { title: "Race and finding together".to_owned(), blocks }))
    }

    /// By how much each change moves race AUCs and those of findings, side by side.
    fn falls(&self, data: &Data<'_>) -> Block {
        let race = if data.manifest.groups.len() == 2 { Quantity::RaceAuc } else { Quantity::MacroAuc };
        let moved = |f: &&Figure| f.change.is_some() && (f.quantity == race || f.quantity == Quantity::FindingAuc);
        let moved: Vec<&Figure> = self.figures.iter().filter(moved).collect();
        let name = |f: &Figure| if f.quantity == race { f.model.clone() } else { format!("{}: {}", f.model, f.of) };
        let mut columns: Vec<(bool, String)> = moved.iter().map(|f| (f.quantity != race, name(f))).collect();
        columns.sort();
        columns.dedup();
        let cell = |variant: &str, column: &str| {
            let found = moved.iter().find(|f| f.variant == variant && name(f) == column);
            found.and_then(|f| f.change).map_or("too few".to_owned(), change)
        };
        let row = |variant: &String| {
            let cells = columns.iter().map(|(_, column)| cell(variant, column));
            std::iter::once(variant.clone()).chain(cells).collect::<Vec<String>>()
        };
        let head = columns.iter().map(|(_, name)| Column::number(name));
        Block::Table {
            caption: "AUC under each change less that of the same images as they are, each interval of 95 % by itself"
                .to_owned(),
            head: std::iter::once(Column::text("change")).chain(head).collect(),
            rows: data.manifest.asked.variants.iter().filter(|name| *name != ORIGINAL).map(row).collect(),
        }
    }

    fn draw(&mut self, blocks: &mut Vec<Block>, name: &str, caption: String, svg: Svg) -> anyhow::Result<()> {
        self.files.push((format!("plots/{name}.svg"), svg.as_str().as_bytes().to_vec()));
        self.files.push((format!("plots/{name}.png"), svg.png(2.0).with_context(|| name.to_owned())?));
        blocks.push(Block::Figure { caption, svg });
        Ok(())
    }
}

/// What was run, on what.
fn of_run(data: &Data<'_>, images: usize, rejected: usize) -> Section {
    let manifest = data.manifest;
    let mode = if manifest.form == Form::AsPublished { "as published" } else { "corrected" };
    let mut rows = vec![
        vec!["cohort".to_owned(), format!("{}, {}", manifest.cohort, manifest.cohort_digest)],
        vec![
            "images".to_owned(),
            format!(
                "{images}, of which {} for tests, of {} patients",
                small(data.cohort.images.len()),
                small(data.whole)
            ),
        ],
        vec!["rows of the table that were not used".to_owned(), small(rejected)],
        vec!["test images that could not be read".to_owned(), small(data.predictions.refused.len())],
        vec!["test images that some model refused".to_owned(), small(data.predictions.partly.len())],
        vec!["mode".to_owned(), mode.to_owned()],
        vec!["seed".to_owned(), manifest.seed.to_string()],
        vec!["sidelight".to_owned(), manifest.sidelight.clone()],
    ];
    for model in &manifest.models {
        let kind = if model.purpose == Purpose::Race { "race model" } else { "clinical model" };
        let precision = model.precision.as_deref().map_or(String::new(), |p| format!(", computed in {p}"));
        rows.push(vec![kind.to_owned(), format!("{}{precision}", model.key)]);
    }
    if let Some(recipe) = &manifest.recipe {
        rows.push(vec!["recipe of trained networks".to_owned(), recipe.to_string()]);
    }
    let numbers = data.cohort.patients();
    let of_group = |g: usize| (0..numbers.len()).filter(move |i| data.cohort.images[*i].group == g);
    let people: Vec<usize> =
        (0..manifest.groups.len()).map(|g| distinct(of_group(g).map(|image| numbers[image]))).collect();
    let hidden = metrics::hidden(&people, 0);
    let count = |g: usize, count: usize| few(Some(count).filter(|_| !hidden[g]));
    let counts = manifest.groups.iter().enumerate();
    let counts = counts.map(|(g, group)| vec![group.clone(), count(g, of_group(g).count()), count(g, people[g])]);
    let head = vec![Column::text("what"), Column::text("value")];
    let groups = vec![Column::text("self-reported group"), Column::number("test images"), Column::number("patients")];
    Section {
        title: "The run".to_owned(),
        blocks: vec![
            Block::Table { caption: "What was run".to_owned(), head, rows },
            Block::Table { caption: "Who is in it".to_owned(), head: groups, rows: counts.collect() },
        ],
    }
}

fn not_run(rows: &[&Row]) -> Section {
    let rows = rows.iter().map(|row| {
        let told: Vec<String> = row.published.iter().map(published).collect();
        vec![row.number.to_string(), row.name.to_owned(), row.title.to_owned(), told.join("; ")]
    });
    let head = vec![Column::text("row"), Column::text("name"), Column::text("what"), Column::text("published")];
    let table = Block::Table {
        caption: "Rows of the catalogue that this run does not have".to_owned(),
        head,
        rows: rows.collect(),
    };
    Section { title: "Not run".to_owned(), blocks: vec![table] }
}

fn table(figures: &[Figure]) -> Block {
    let what = |f: &Figure| {
        let parts = [f.stratum.as_str(), f.variant.as_str()];
        let parts: Vec<&str> = parts.into_iter().filter(|t| !t.is_empty() && *t != ORIGINAL).collect();
        if parts.is_empty() { "whole image".to_owned() } else { parts.join(", ") }
    };
    let level = |f: &Figure| if f.level == Level::Study { "study" } else { "image" }.to_owned();
    type Cell<'a> = &'a dyn Fn(&Figure) -> String;
    let columns: [(Column, bool, Cell<'_>); 9] = [
        (Column::text("part or change"), true, &what),
        (Column::text("of"), true, &|f| f.of.clone()),
        (Column::text("model"), true, &|f| f.model.clone()),
        (Column::text("quantity"), true, &|f| f.quantity.as_str().to_owned()),
        // What is the same in all lines is in none.
        (Column::text("level"), figures.iter().any(|f| f.level == Level::Study), &level),
        (Column::number("images or studies"), figures.iter().any(|f| f.count != f.patients), &|f| few(f.count)),
        (Column::number("patients"), true, &|f| few(f.patients)),
        (Column::number("estimate (95 %)"), true, &|f| told(f.estimate)),
        (Column::number("less the whole image's"), figures.iter().any(|f| f.change.is_some()), &|f| {
            f.change.map_or(String::new(), change)
        }),
    ];
    let has_p = figures.iter().any(|f| f.p.is_some());
    let p: Cell<'_> = &|f| f.p.map_or(String::new(), |p| format!("{p:.3}"));
    let columns: Vec<(Column, bool, Cell<'_>)> = columns
        .into_iter()
        .chain([(Column::number("p of no gap"), has_p, p)])
        .filter(|(_, is_there, _)| *is_there)
        .collect();
    let rows = figures.iter().map(|f| columns.iter().map(|(.., cell)| cell(f)).collect()).collect();
    let head = columns.into_iter().map(|(column, ..)| column).collect();
    let mut caption = format!(
        "All figures of this row. None where fewer than {PATIENTS_MIN} patients are on either side; numbers that would tell \
         of fewer than {PATIENTS_MIN}, alone or by subtracting, are left out"
    );
    if has_p {
        caption.push_str(
            ". A gap is the largest miss rate of a group less the smallest, less what chance adds to it; its limits are \
             those of all pairs of groups at once; p: how often groups drawn at random have as large a gap",
        );
    }
    Block::Table { caption, head, rows }
}

fn change(e: Estimate) -> String {
    format!("{:+.3} ({:+.3} to {:+.3})", e.value, e.lower, e.upper)
}

/// Numbers of figures that are told.
fn few(count: Option<usize>) -> String {
    count.map_or("not told".to_owned(), |count| count.to_string())
}

fn told(estimate: Option<Estimate>) -> String {
    estimate.map_or("too few".to_owned(), |e| format!("{:.4} ({:.4} to {:.4})", e.value, e.lower, e.upper))
}

fn published(p: &Published) -> String {
    let limits = p.limits.map_or(String::new(), |(lower, upper)| format!(" ({lower} to {upper})"));
    match p.value {
        Said::Is(v) => format!("{} {v}{limits}", p.of),
        Said::AtMost(v) => format!("{} at most {v}", p.of),
        Said::AtLeast(v) => format!("{} at least {v}", p.of),
        Said::Between(lower, upper) => format!("{} {lower} to {upper}", p.of),
        Said::That(text) => format!("{}: {text}", p.of),
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

fn csv_of(figures: &[Figure]) -> anyhow::Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record([
        "row",
        "model",
        "quantity",
        "of",
        "level",
        "stratum",
        "variant",
        "count",
        "patients",
        "estimate",
        "lower",
        "upper",
        "change",
        "change_lower",
        "change_upper",
        "p",
    ])?;
    for f in figures {
        let number = |v: Option<f64>| v.map_or(String::new(), |v| format!("{v:.6}"));
        let level = if f.level == Level::Study { "study" } else { "image" };
        writer.write_record([
            f.row.as_str(),
            &f.model,
            f.quantity.as_str(),
            &f.of,
            level,
            &f.stratum,
            &f.variant,
            &f.count.map_or(String::new(), |count| count.to_string()),
            &f.patients.map_or(String::new(), |count| count.to_string()),
            &number(f.estimate.map(|e| e.value)),
            &number(f.estimate.map(|e| e.lower)),
            &number(f.estimate.map(|e| e.upper)),
            &number(f.change.map(|e| e.value)),
            &number(f.change.map(|e| e.lower)),
            &number(f.change.map(|e| e.upper)),
            &number(f.p),
        ])?;
    }
    Ok(writer.into_inner()?)
}
