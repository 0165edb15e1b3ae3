//! An audit as a page that people read, and as data: the answer in brief, then finding by finding what it stands on.
//!
//! The same audit gives the same bytes: no clock, no machine. Neighbours: `drawings` has the plots, `plot` makes HTML and
//! PDF of the page. Left out: where files go.

use chrono::NaiveDate;
use serde::Serialize;

use super::documents::{addendum, register};
use super::drawings;
use super::finding::{Block, FindingAudit, SliceTable};
use super::gaps::Verdict;
use super::performance::Metric;
use super::words::{capital, dimension, estimate, group, in_words, named, p, short, told, verdict, warned};
use super::{Audit, Partial};
use crate::domain::Digest;
use crate::plot::{self, Column, Page, PlotError, Section};

/// What was audited, by what: enough for somebody else to do it again.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct About {
    /// First and last Study Date.
    pub from: NaiveDate,
    pub to: NaiveDate,
    /// Version of the program.
    pub sidelight: String,
    /// Of everything that the statistics were made of.
    pub data: Digest,
    /// Keys of the models in use.
    pub models: Vec<String>,
    /// Reported studies whose images say no Study Date, if they are eleven or more.
    pub undated: Option<u64>,
}

/// A report: file names and their bytes.
pub type Files = Vec<(String, Vec<u8>)>;

/// The page in HTML and PDF, everything as JSON, plots as SVG and PNG, the model card's addendum and the register's entry.
pub fn report(audit: &Audit, about: &About) -> Result<Files, PlotError> {
    let mut files = Files::new();
    let page = page(audit, about, &mut files)?;
    files.push(("audit.html".to_owned(), page.html()?.into_bytes()));
    files.push(("audit.pdf".to_owned(), page.pdf()?));
    let all = serde_json::json!({"format": FORMAT, "about": about, "audit": audit});
    let json = serde_json::to_vec_pretty(&all).map_err(|e| PlotError::Page(e.to_string()))?;
    files.push(("audit.json".to_owned(), json));
    files.push(("model-card-addendum.md".to_owned(), addendum(audit, about).into_bytes()));
    files.push(("use-register.md".to_owned(), register(audit, about).into_bytes()));
    Ok(files)
}

/// Of `audit.json`.
const FORMAT: u32 = 1;

fn page(audit: &Audit, about: &About, files: &mut Files) -> Result<Page, PlotError> {
    let mut sections = vec![brief(audit, about)];
    for finding in &audit.findings {
        sections.push(of_finding(finding, files)?);
    }
    sections.push(of_race_model(audit));
    sections.push(method(audit, about));
    Ok(Page {
        title: "Error rates of the clinical models by self-reported race".to_owned(),
        lead: vec![
            "Not for publication: numbers of few people are withheld, but some can still be worked out from what is told \
             (docs/audit.md)."
                .to_owned(),
            format!(
            "Studies of {} to {}. Groups are of people who reported their race themselves; race is a social construct and \
             self-report an imperfect measure of it. A difference between groups is no proof of its cause, and no evidence \
             that any one patient's result is wrong.",
                about.from, about.to
            ),
        ],
        sections,
    })
}

fn brief(audit: &Audit, about: &About) -> Section {
    let rows = audit.findings.iter().flat_map(|finding| {
        finding.gaps.primary.iter().map(|gap| {
            vec![
                finding.finding.clone(),
                named(gap.metric).to_owned(),
                told(&gap.gap),
                p(gap.p_adjusted),
                verdict(gap).to_owned(),
            ]
        })
    });
    let head = vec![
        Column::text("finding"),
        Column::text("measure"),
        Column::number("largest difference between groups (95 %)"),
        Column::number("p, adjusted"),
        Column::text("what follows"),
    ];
    let table = plot::Block::Table {
        caption: "The primary measures at the deployed thresholds. Differences are less what chance adds to them; p values are \
                  of permutations, adjusted by Holm over all of them"
            .to_owned(),
        head,
        rows: rows.collect(),
    };
    let mut blocks = Vec::new();
    let differ =
        audit.findings.iter().filter(|f| f.gaps.primary.iter().any(|gap| gap.verdict == Verdict::Differs)).count();
    let of = audit.findings.len();
    blocks.push(plot::Block::Text(match differ {
        0 => format!(
            "Of {of} findings none has error rates that are shown to differ between groups. Where it says undecided, neither \
             a difference nor its absence is shown: that is no clearance."
        ),
        n => format!("Error rates of {n} of {of} findings are shown to differ between groups."),
    }));
    blocks.push(table);
    let count = |n: Option<usize>| n.map_or("fewer than 11".to_owned(), |n| n.to_string());
    let mut rows = vec![
        vec!["reported studies".to_owned(), count(audit.studies)],
        vec!["patients".to_owned(), count(audit.patients)],
    ];
    rows.extend(audit.without_group.iter().map(|(why, n)| {
        vec![format!("studies without a group: {why}"), n.map_or("not told".to_owned(), |n| n.to_string())]
    }));
    if let Some(undated) = about.undated {
        rows.push(vec!["reported studies without a Study Date, in no audit".to_owned(), undated.to_string()]);
    }
    blocks.push(plot::Block::Table {
        caption: "Who is in it".to_owned(),
        head: vec![Column::text("what"), Column::number("number")],
        rows,
    });
    Section { title: "The answer in brief".to_owned(), blocks }
}

fn of_finding(finding: &FindingAudit, files: &mut Files) -> Result<Section, PlotError> {
    let mut blocks = Vec::new();
    let models = finding.models.iter().map(|m| format!("{} (positive from {})", m.model, m.threshold));
    blocks.push(plot::Block::Text(format!("Scored by {}.", models.collect::<Vec<_>>().join("; "))));
    for gap in &finding.gaps.primary {
        blocks.push(plot::Block::Text(format!("{}: {}", capital(named(gap.metric)), in_words(gap))));
    }
    for (name, caption, svg) in drawings::of_finding(finding) {
        let name = format!("plots/{}-{name}", plain(&finding.finding));
        files.push((format!("{name}.svg"), svg.as_str().as_bytes().to_vec()));
        files.push((format!("{name}.png"), svg.png(2.0)?));
        blocks.push(plot::Block::Figure { caption, svg });
    }
    let all: Vec<&Block> = std::iter::once(&finding.overall).chain(&finding.groups).collect();
    blocks.extend(performance("At the deployed threshold, by group", "group", &|| {
        all.iter().map(|b| (group(b), *b)).collect()
    }));
    let rows = finding.gaps.primary.iter().flat_map(|gap| &gap.against_rest).chain(&finding.gaps.secondary);
    blocks.push(plot::Block::Table {
        caption:
            "Each group less all others. Primary measures are adjusted by Holm, the others by Benjamini and Yekutieli"
                .to_owned(),
        head: vec![
            Column::text("measure"),
            Column::text("group"),
            Column::number("difference (95 %)"),
            Column::number("p"),
            Column::number("p, adjusted"),
        ],
        rows: rows
            .map(|of| {
                vec![named(of.metric).to_owned(), of.group.clone(), told(&of.difference), p(of.p), p(of.p_adjusted)]
            })
            .collect(),
    });
    if let Some(matched) = &finding.matched {
        let by: Vec<&str> = matched.by.iter().map(|d| dimension(*d)).collect();
        blocks.push(plot::Block::Table {
            caption: format!(
                "Groups made alike in outcome, {} by weights ({:.0} % of the studies, {} strata): what is left of a difference \
                 is not due to those",
                by.join(", "),
                100.0 * matched.kept,
                matched.strata
            ),
            head: ["measure", "group", "crude", "alike", "crude less the rest", "alike less the rest"]
                .iter()
                .enumerate()
                .map(|(i, label)| if i < 2 { Column::text(*label) } else { Column::number(*label) })
                .collect(),
            rows: matched
                .metrics
                .iter()
                .map(|m| {
                    let figures = [&m.crude, &m.matched, &m.crude_gap, &m.matched_gap].map(told);
                    [named(m.metric).to_owned(), m.group.clone()].into_iter().chain(figures).collect()
                })
                .collect(),
        });
    }
    for partial in &finding.partial {
        blocks.extend(of_partial(partial));
    }
    for slices in &finding.slices {
        blocks.extend(of_slices(slices));
    }
    for versions in &finding.versions {
        let rows = versions.blocks.iter().flat_map(|block| {
            let group = block.group.clone().unwrap_or_else(|| "all".to_owned());
            block
                .differences
                .iter()
                .map(move |d| vec![group.clone(), named(d.metric).to_owned(), told(&d.difference), p(d.p)])
        });
        blocks.push(plot::Block::Table {
            caption: format!("{} less {} on the same studies", versions.model, versions.reference_model),
            head: vec![
                Column::text("group"),
                Column::text("measure"),
                Column::number("difference (95 %)"),
                Column::number("p"),
            ],
            rows: rows.collect(),
        });
    }
    blocks.extend(of_drift(finding));
    Ok(Section { title: finding.finding.clone(), blocks })
}

fn of_partial(partial: &Partial) -> Vec<plot::Block> {
    let rows = partial.groups.iter().map(|g| {
        let bounds = g.bounds.map_or(String::new(), |(lower, upper)| format!("{lower:.3} to {upper:.3}"));
        let rates = [&g.aipw, &g.labelled_only, &g.weighted, &g.argmax].map(|of| told(&of.rate));
        std::iter::once(g.group.clone()).chain(rates).chain([bounds]).collect()
    });
    let head = [
        "group",
        "AIPW",
        "of the labelled alone",
        "weighted by posterior",
        "by the likeliest group",
        "possible at all",
    ];
    let mut blocks = vec![plot::Block::Table {
        caption: format!(
            "{} where self-report is known for some only. AIPW is the estimate; the likeliest group is shown to see what it \
             would have said, and is biased",
            capital(named(partial.metric))
        ),
        head: head
            .iter()
            .enumerate()
            .map(|(i, l)| if i == 0 { Column::text(*l) } else { Column::number(*l) })
            .collect(),
        rows: rows.collect(),
    }];
    blocks.extend(partial.warnings.iter().map(|warning| plot::Block::Note(warned(warning))));
    blocks
}

fn of_slices(slices: &SliceTable) -> Vec<plot::Block> {
    let known = slices.levels.iter().any(|level| level.level != super::UNKNOWN);
    if !known || slices.levels.len() < 2 {
        return Vec::new();
    }
    let rows = || {
        let mut rows: Vec<(String, &Block)> = Vec::new();
        for level in &slices.levels {
            let blocks = std::iter::once(&level.overall).chain(&level.groups);
            rows.extend(blocks.map(|block| (format!("{}, {}", level.level, group(block)), block)));
        }
        rows
    };
    performance(&format!("By {}", dimension(slices.dimension)), dimension(slices.dimension), &rows)
}

fn of_drift(finding: &FindingAudit) -> Vec<plot::Block> {
    let mut blocks = Vec::new();
    let alarms: Vec<String> = finding
        .drift
        .errors
        .iter()
        .filter_map(|watch| {
            let month = watch.alarm.as_ref()?;
            let what = if watch.misses { "misses" } else { "false alarms" };
            let more = if watch.more { "more" } else { "fewer" };
            Some(format!("{}: {more} {what} than before, from {month} on", watch.group))
        })
        .collect();
    if !alarms.is_empty() {
        blocks.push(plot::Block::Heading("Errors drift".to_owned()));
        blocks.push(plot::Block::List(alarms));
    }
    if !finding.drift.scores.is_empty() {
        let rows = finding.drift.scores.iter().map(|s| {
            vec![
                dimension(s.dimension).to_owned(),
                s.level.clone(),
                s.month.clone(),
                estimate(&s.standardised),
                format!("{:.3}", s.p),
            ]
        });
        blocks.push(plot::Block::Table {
            caption: "Shift of the mean score by month, in standard deviations of the first months".to_owned(),
            head: vec![
                Column::text("by"),
                Column::text("level"),
                Column::text("month"),
                Column::number("shift (95 %)"),
                Column::number("p"),
            ],
            rows: rows.collect(),
        });
    }
    blocks
}

fn of_race_model(audit: &Audit) -> Section {
    let Some(model) = &audit.race_model else {
        let blocks = vec![plot::Block::Text("No race model took part: nothing here is inferred.".to_owned())];
        return Section { title: "The race model".to_owned(), blocks };
    };
    let mut blocks = vec![plot::Block::Text(format!(
        "{model} inferred a posterior for studies; it stands in no group and is in no patient's record. Where people reported \
         their race, what it infers can be checked."
    ))];
    let rows = audit.race_calibration.iter();
    blocks.push(plot::Block::Table {
        caption: "Share of a group among the newly labelled less the mean posterior, by month".to_owned(),
        head: vec![Column::text("month"), Column::text("group"), Column::number("excess (95 %)"), Column::number("p")],
        rows: rows
            .map(|c| vec![c.month.clone(), c.group.clone(), estimate(&c.excess), format!("{:.3}", c.p)])
            .collect(),
    });
    Section { title: "The race model".to_owned(), blocks }
}

fn method(audit: &Audit, about: &About) -> Section {
    let options = &audit.options;
    let rows = vec![
        vec!["studies".to_owned(), format!("reported, Study Date {} to {}", about.from, about.to)],
        vec!["data".to_owned(), about.data.to_string()],
        vec!["models".to_owned(), about.models.join(", ")],
        vec!["race model".to_owned(), audit.race_model.clone().unwrap_or_else(|| "none".to_owned())],
        vec!["draws, seed".to_owned(), format!("{}, {}", options.draws, options.seed)],
        vec![
            "margins of equivalence".to_owned(),
            format!(
                "{} of a rate, {} of a calibration intercept",
                options.gaps.margin_rate, options.gaps.margin_intercept
            ),
        ],
        vec!["sidelight".to_owned(), about.sidelight.clone()],
    ];
    let text = "Rates have Wilson's limits, or those of patients as clusters where patients have several studies; AUROC \
                DeLong's; average precision and calibration error those of draws of patients. Numbers of 1 to 10 patients \
                are not told, nor others from which they could be had by subtracting; a rate needs 30 studies below its line. \
                Two audits of overlapping studies can tell together what neither tells alone: whoever passes them on has to \
                mind that."
        .to_owned();
    let table = plot::Block::Table {
        caption: "What was computed, of what".to_owned(),
        head: vec![Column::text("what"), Column::text("value")],
        rows,
    };
    Section { title: "How it was made".to_owned(), blocks: vec![plot::Block::Text(text), table] }
}

/// Tables of errors and of everything else, each narrow enough for a sheet of paper.
fn performance<'a>(caption: &str, first: &str, rows: &dyn Fn() -> Vec<(String, &'a Block)>) -> Vec<plot::Block> {
    const ERRORS: [Metric; 4] = [
        Metric::FalseNegativeRate,
        Metric::FalsePositiveRate,
        Metric::PositivePredictiveValue,
        Metric::NegativePredictiveValue,
    ];
    const OTHERS: [Metric; 6] = [
        Metric::Auroc,
        Metric::Auprc,
        Metric::Brier,
        Metric::CalibrationIntercept,
        Metric::CalibrationSlope,
        Metric::NetBenefit,
    ];
    let head = |labels: &[&str]| {
        labels.iter().enumerate().map(|(i, l)| if i == 0 { Column::text(*l) } else { Column::number(*l) }).collect()
    };
    let count = |n: Option<usize>| n.map_or("–".to_owned(), |n| n.to_string());
    let figure = |block: &Block, metric: Metric| block.metrics.get(&metric).map_or(String::new(), told);
    let errors = rows().into_iter().map(|(name, block)| {
        let counts = [name, count(block.counts.studies), count(block.counts.events)];
        counts.into_iter().chain(ERRORS.map(|metric| figure(block, metric))).collect()
    });
    let others = rows()
        .into_iter()
        .map(|(name, block)| std::iter::once(name).chain(OTHERS.map(|metric| figure(block, metric))).collect());
    let labels: Vec<&str> = [first, "studies", "with finding"].into_iter().chain(ERRORS.map(short)).collect();
    let errors = plot::Block::Table {
        caption: format!("{caption}: errors. –: not told, since it would tell of fewer than 11 patients"),
        head: head(&labels),
        rows: errors.collect(),
    };
    let labels: Vec<&str> = [first].into_iter().chain(OTHERS.map(short)).collect();
    let caption = format!("{caption}: discrimination, calibration, net benefit");
    vec![errors, plot::Block::Table { caption, head: head(&labels), rows: others.collect() }]
}

/// A finding's key as part of a file name.
fn plain(text: &str) -> String {
    text.chars().take(60).map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}
