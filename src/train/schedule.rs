//! Learning rate and end of training, from the epochs and their validation losses. Pure.
//!
//! `plateau` is PyTorch's `ReduceLROnPlateau` without a threshold; `exponential` multiplies by e^−decay after every
//! `decay_epochs` epochs. Neighbours: `fit`, which asks; `checkpoint`, which keeps the state.

use super::settings::{ScheduleKind, Training};

#[derive(Debug, Clone)]
pub struct Schedule {
    training: Training,
    pub state: ScheduleState,
}

/// What a checkpoint keeps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScheduleState {
    pub learning_rate: f64,
    /// The lowest validation loss so far.
    pub lowest: f64,
    pub since_best: usize,
    pub since_change: usize,
    /// Epochs that have ended.
    pub epochs: usize,
}

impl Schedule {
    pub fn new(training: &Training) -> Self {
        let state = ScheduleState {
            learning_rate: training.learning_rate,
            lowest: f64::INFINITY,
            since_best: 0,
            since_change: 0,
            epochs: 0,
        };
        Self { training: *training, state }
    }

    /// Takes an epoch's validation loss; whether it is the lowest so far.
    pub fn step(&mut self, loss: f64) -> bool {
        let (t, s) = (&self.training, &mut self.state);
        s.epochs += 1;
        if t.schedule == ScheduleKind::Exponential {
            let steps = (s.epochs / t.decay_epochs) as f64;
            s.learning_rate = (t.learning_rate * (-t.decay * steps).exp()).max(t.learning_rate_min);
        }
        if loss < s.lowest {
            (s.lowest, s.since_best, s.since_change) = (loss, 0, 0);
            return true;
        }
        s.since_best += 1;
        s.since_change += 1;
        if t.schedule == ScheduleKind::Plateau && s.since_change > t.plateau_patience {
            s.learning_rate = (s.learning_rate * t.plateau_factor).max(t.learning_rate_min);
            s.since_change = 0;
        }
        false
    }

    pub fn is_over(&self) -> bool {
        self.state.since_best >= self.training.early_stop || self.state.epochs >= self.training.epochs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn training(more: &str) -> Training {
        toml::from_str(&format!("learning_rate = 1e-2\nbatch = 1\nepochs = 100\nearly_stop = 5\n{more}")).unwrap()
    }

    #[test]
    fn the_learning_rate_falls_on_a_plateau_and_training_stops_early() {
        let mut schedule = Schedule::new(&training("plateau_patience = 1\nlearning_rate_min = 5e-4"));
        let mut rates = Vec::new();
        for loss in [1.0, 0.5, 0.6, 0.7, 0.4, 0.4, 0.4, 0.4, 0.4, f64::NAN] {
            schedule.step(loss);
            rates.push(schedule.state.learning_rate);
            if schedule.is_over() {
                break;
            }
        }
        assert_eq!(rates, [1e-2, 1e-2, 1e-2, 1e-3, 1e-3, 1e-3, 5e-4, 5e-4, 5e-4, 5e-4]);
        assert!(schedule.is_over());
    }

    #[test]
    fn it_falls_after_every_second_epoch_whatever_the_loss_or_never() {
        let mut schedule = Schedule::new(&training("schedule = \"exponential\""));
        for epoch in 1..=6 {
            schedule.step(1.0 / f64::from(epoch));
            let expected = 1e-2 * (-0.05 * f64::from(epoch / 2)).exp();
            assert!((schedule.state.learning_rate - expected).abs() < 1e-12, "after epoch {epoch}");
        }
        let mut constant = Schedule::new(&training("schedule = \"constant\""));
        assert_eq!((0..5).map(|_| constant.step(1.0)).collect::<Vec<_>>(), [true, false, false, false, false]);
        assert_eq!(constant.state.learning_rate, 1e-2);
    }
}
