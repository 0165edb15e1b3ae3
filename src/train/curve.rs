//! The loss curve of a training, rewritten after each epoch: `losses.csv` for programs, `losses.svg` for people.
//!
//! Both lie beside the checkpoint; a browser that shows `losses.html`, which loads the picture anew, follows the training. Neighbours: `mod` writes them
//! when an epoch has ended; `package` keeps the table. Left out: figures on the test patients.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context;

use super::fit::EpochReport;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 44.0;

/// Shows the curve, and loads it anew every half minute.
const PAGE: &str = "<!doctype html>\n<meta charset=\"utf-8\">\n<meta http-equiv=\"refresh\" content=\"30\">\n\
                    <title>losses</title>\n<img src=\"losses.svg\" alt=\"losses of each epoch\" width=\"960\">\n";

/// Writes the files into `folder`; `keys` are the names of the outputs.
pub fn write(folder: &Path, keys: &[&str], epochs: &[EpochReport]) -> anyhow::Result<()> {
    write_table(&folder.join("losses.csv"), keys, epochs)?;
    replace(&folder.join("losses.svg"), svg(epochs).as_bytes())?;
    replace(&folder.join("losses.html"), PAGE.as_bytes())
}

/// One row per epoch.
pub fn write_table(path: &Path, keys: &[&str], epochs: &[EpochReport]) -> anyhow::Result<()> {
    let mut table = csv::Writer::from_writer(Vec::new());
    let aucs = keys.iter().map(|key| format!("validation_auc_{key}")).collect::<Vec<_>>();
    let fixed = ["epoch", "learning_rate", "train_loss", "validation_loss", "best"].map(str::to_owned);
    table.write_record(fixed.iter().chain(&aucs))?;
    for e in epochs {
        let mut record = vec![
            e.epoch.to_string(),
            format!("{:e}", e.learning_rate),
            format!("{:.5}", e.train_loss),
            format!("{:.5}", e.validation_loss),
            e.best.to_string(),
        ];
        record.extend(e.validation_auc.iter().map(|a| format!("{a:.4}")));
        table.write_record(&record)?;
    }
    replace(path, &table.into_inner().context("a table in memory")?)
}

/// Whoever reads at that moment sees the old file or the new one.
fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    fs::write(&aside, bytes).and_then(|()| fs::rename(&aside, path)).with_context(|| path.display().to_string())
}

/// The curve of both losses, with the best epoch and each change of the learning rate marked.
fn svg(epochs: &[EpochReport]) -> String {
    let last = epochs.last().map_or(1, |e| e.epoch).max(2) as f64;
    let losses = || epochs.iter().flat_map(|e| [e.train_loss, e.validation_loss]).filter(|v| v.is_finite());
    let highest = losses().fold(0.0, f64::max).max(1e-9);
    let x = |epoch: f64| LEFT + (epoch - 1.0) / (last - 1.0) * (WIDTH - LEFT - RIGHT);
    let y = |loss: f64| HEIGHT - BOTTOM - (loss / highest).clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    let mut add = |line: String| {
        let _ = writeln!(out, "{line}");
    };
    for tick in 0..=4 {
        let loss = highest * f64::from(tick) / 4.0;
        let (at, right, end) = (y(loss), WIDTH - RIGHT, LEFT - 8.0);
        add(format!("<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#ddd\"/>"));
        add(format!("<text x=\"{end}\" y=\"{:.1}\" text-anchor=\"end\">{loss:.3}</text>", at + 4.0));
    }
    let step = (last / 10.0).ceil().max(1.0) as usize;
    for epoch in (1..=last as usize).step_by(step) {
        let at = HEIGHT - BOTTOM + 18.0;
        add(format!("<text x=\"{:.1}\" y=\"{at}\" text-anchor=\"middle\">{epoch}</text>", x(epoch as f64)));
    }
    for pair in epochs.windows(2).filter(|pair| pair[0].learning_rate != pair[1].learning_rate) {
        let (at, foot, rate) = (x(pair[1].epoch as f64), HEIGHT - BOTTOM, pair[1].learning_rate);
        add(format!("<path d=\"M{at:.1} {TOP}V{foot}\" stroke=\"#999\" stroke-dasharray=\"3 3\"/>"));
        add(format!("<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#666\">{rate:.0e}</text>", TOP - 6.0));
    }
    type Value = fn(&EpochReport) -> f64;
    let curves: [(&str, &str, Value); 2] =
        [("training", "#1f77b4", |e| e.train_loss), ("validation", "#d62728", |e| e.validation_loss)];
    for (name, colour, value) in curves {
        let points: Vec<String> = epochs
            .iter()
            .filter(|e| value(e).is_finite())
            .map(|e| format!("{:.1},{:.1}", x(e.epoch as f64), y(value(e))))
            .collect();
        add(format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        ));
        if let Some(end) = epochs.iter().rfind(|e| value(e).is_finite()) {
            let (at, level) = (x(end.epoch as f64) + 8.0, y(value(end)) + 4.0);
            add(format!("<text x=\"{at:.1}\" y=\"{level:.1}\" fill=\"{colour}\">{name} {:.3}</text>", value(end)));
        }
    }
    if let Some(best) = epochs.iter().rfind(|e| e.best) {
        let (at, level) = (x(best.epoch as f64), y(best.validation_loss));
        add(format!("<circle cx=\"{at:.1}\" cy=\"{level:.1}\" r=\"4\" fill=\"#d62728\"/>"));
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_has_every_epoch_and_marks_the_best() {
        let report = |epoch: usize, validation_loss: f64, best| EpochReport {
            epoch,
            learning_rate: if epoch < 3 { 1e-3 } else { 1e-4 },
            train_loss: 1.0 / epoch as f64,
            validation_loss,
            validation_auc: vec![0.75],
            best,
            waited: 0.0,
        };
        let epochs = [report(1, 0.9, true), report(2, 0.5, true), report(3, f64::NAN, false), report(4, 0.6, false)];
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &["a"], &epochs).unwrap();
        let table = fs::read_to_string(folder.path().join("losses.csv")).unwrap();
        assert!(
            table.starts_with("epoch,learning_rate,train_loss,validation_loss,best,validation_auc_a\n1,1e-3,1.00000,")
        );
        assert_eq!(table.lines().count(), 5);
        let svg = fs::read_to_string(folder.path().join("losses.svg")).unwrap();
        let points = |n: usize| svg.split("points=\"").nth(n).unwrap().split('"').next().unwrap().split(' ').count();
        assert_eq!((points(1), points(2), svg.matches("<circle").count(), svg.matches("1e-4").count()), (4, 3, 1, 1));
        write(folder.path(), &["a"], &[]).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
