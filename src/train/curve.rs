//! The loss curve of a training, rewritten after each epoch: `losses.csv` for programs, `losses.svg` for people.
//!
//! Both lie beside the checkpoint; a browser that shows `losses.html`, which loads the picture anew, follows the training. Neighbours: `mod` writes them
//! when an epoch has ended; `package` keeps the table. Left out: figures on the test patients.

use std::fs;
use std::path::Path;

use anyhow::Context;

use super::fit::EpochReport;
use crate::plot::{Lines, Panel, Point, Rule, Series, Svg};

/// Shows the curve, and loads it anew every half minute.
const PAGE: &str = "<!doctype html>\n<meta charset=\"utf-8\">\n<meta http-equiv=\"refresh\" content=\"30\">\n\
                    <title>losses</title>\n<img src=\"losses.svg\" alt=\"losses of each epoch\" width=\"960\">\n";

/// Writes the files into `folder`; `keys` are the names of the outputs.
pub fn write(folder: &Path, keys: &[&str], epochs: &[EpochReport]) -> anyhow::Result<()> {
    write_table(&folder.join("losses.csv"), keys, epochs)?;
    replace(&folder.join("losses.svg"), svg(epochs).as_str().as_bytes())?;
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
fn svg(epochs: &[EpochReport]) -> Svg {
    let losses = epochs.iter().flat_map(|e| [e.train_loss, e.validation_loss]).filter(|v| v.is_finite());
    let highest = losses.fold(0.0, f64::max).max(1e-9);
    type Value = fn(&EpochReport) -> f64;
    let curve = |(name, value): (&str, Value)| {
        let point = |e: &EpochReport| Point { x: e.epoch as f64, y: value(e), limits: None };
        let last = epochs.iter().map(value).rfind(|v| v.is_finite());
        let label = last.map_or_else(|| name.to_owned(), |v| format!("{name} {v:.3}"));
        Series::curve(label, epochs.iter().map(point).collect())
    };
    let curves: [(&str, Value); 2] = [("training", |e| e.train_loss), ("validation", |e| e.validation_loss)];
    let best = epochs.iter().rfind(|e| e.best).map(|e| Point { x: e.epoch as f64, y: e.validation_loss, limits: None });
    let changes = epochs.windows(2).filter(|pair| pair[0].learning_rate != pair[1].learning_rate);
    let rule =
        |pair: &[EpochReport]| Rule { at: pair[1].epoch as f64, label: format!("{:.0e}", pair[1].learning_rate) };
    Lines {
        title: "Losses".into(),
        description: "Training and validation loss by epoch. Uprights: the learning rate from there on.".into(),
        x: "epoch".into(),
        panels: vec![Panel {
            y: "loss".into(),
            range: Some((0.0, highest)),
            series: curves.map(curve).into_iter().chain(best.map(|p| Series::dots("best epoch", vec![p]))).collect(),
            uprights: changes.map(rule).collect(),
            ..Panel::default()
        }],
        ..Lines::default()
    }
    .svg()
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
        let lines: Vec<usize> =
            svg.lines().filter(|l| l.contains("<polyline")).map(|l| l.matches(',').count()).collect();
        // Two curves, one with a gap, and their two lines in the legend; dots: after the gap, the best epoch and its legend.
        assert_eq!(lines, [4, 2, 2, 2], "{svg}");
        assert_eq!((svg.matches("stroke=\"white\"").count(), svg.matches("1e-4").count()), (3, 1), "{svg}");
        write(folder.path(), &["a"], &[]).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
