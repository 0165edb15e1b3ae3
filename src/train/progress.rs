//! What a training run tells while it runs, and the bars that show it.
//!
//! `run` only reports [`Event`]s; [`bars`] draws them on standard error (nothing where that is no terminal, except
//! one line per epoch). Left out: the summary, which is the command line's.

use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::infer::StartWeights;

use super::fit::EpochReport;

/// A step of a training run.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Patients generated.
    Phantoms { done: u64, total: u64 },
    /// Images decoded.
    Loading { done: u64, total: u64 },
    /// What the manifest came to.
    Data { images: u64, patients: u64, rejected: u64 },
    /// Weights of a file that the network starts from.
    Start(StartWeights),
    /// An interrupted training goes on, after these epochs and so many batches of the next.
    Resumed { epochs: Vec<EpochReport>, batch: usize },
    /// Batches of an epoch; the loss of this one, and the mean of all so far.
    Batch { epoch: usize, epochs: usize, done: u64, total: u64, loss: f64, mean: f64 },
    /// An epoch has ended and been measured on the validation patients.
    Epoch(EpochReport),
}

/// A listener that draws progress bars.
pub fn bars() -> impl Fn(Event) + Sync {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
    let template = "{prefix:>12} {wide_bar} {pos}/{len} {msg} {eta}";
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    let stage = Mutex::new(String::new());
    let show = move |name: String, done: u64, total: u64, message: String| {
        let mut shown = stage.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *shown != name {
            bar.reset();
            bar.set_prefix(name.clone());
            *shown = name;
        }
        bar.set_length(total);
        // Events of several threads may overtake one another.
        bar.set_position(done.max(bar.position()));
        bar.set_message(message);
        if done == total {
            bar.finish_and_clear();
        }
    };
    move |event| match event {
        Event::Phantoms { done, total } => show("phantoms".into(), done, total, String::new()),
        Event::Loading { done, total } => show("images".into(), done, total, String::new()),
        Event::Data { images, patients, rejected } => {
            tracing::info!(images, patients, rejected, "data read");
        }
        Event::Start(start) => {
            tracing::info!(parameters = start.taken, fresh_head = start.fresh_head, "start weights taken");
        }
        Event::Resumed { epochs, batch } => tracing::info!(epochs = epochs.len(), batch, "training goes on"),
        Event::Batch { epoch, epochs, done, total, mean, .. } => {
            show(format!("epoch {epoch}/{epochs}"), done, total, format!("loss {mean:.4}"));
        }
        Event::Epoch(report) => tracing::info!(
            epoch = report.epoch,
            learning_rate = report.learning_rate,
            train_loss = report.train_loss,
            validation_loss = report.validation_loss,
            validation_auc = ?report.validation_auc,
            best = report.best,
            waited_for_images = report.waited,
            "epoch done"
        ),
    }
}
