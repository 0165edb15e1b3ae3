//! What a training run tells while it runs, and the bars that show it.
//!
//! `run` only reports [`Event`]s; [`bars`] draws them on standard error (nothing where that is no terminal, except
//! one line per epoch). Left out: the summary, which is the command line's.

use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::fit::EpochReport;

/// A step of a training run.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Patients generated.
    Phantoms { done: u64, total: u64 },
    /// Images decoded.
    Loading { done: u64, total: u64 },
    /// Batches of an epoch.
    Batch { epoch: usize, epochs: usize, done: u64, total: u64, loss: f64 },
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
        Event::Batch { epoch, epochs, done, total, loss } => {
            show(format!("epoch {epoch}/{epochs}"), done, total, format!("loss {loss:.4}"));
        }
        Event::Epoch(report) => tracing::info!(
            epoch = report.epoch,
            learning_rate = report.learning_rate,
            train_loss = report.train_loss,
            validation_loss = report.validation_loss,
            validation_auc = ?report.validation_auc,
            best = report.best,
            "epoch done"
        ),
    }
}
