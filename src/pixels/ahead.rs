//! The parts of one image in order, several of them decoded at once by as many workers.
//!
//! What is decoded ahead of the one that is asked for has a bound, and so has the memory of an image of any length.
//! Neighbours: `part` (what a part is), `worker` (the pool).

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use tokio::task::JoinHandle;

use super::part::{Part, further};
use super::{Frames, Workers};
use crate::domain::{Contract, Refusal, RefusalCode};

/// Parts of an image that are decoded ahead of the one that is scored.
const AHEAD: usize = 3;

/// The parts of an image in order, several of them decoded at once.
pub struct Parts {
    workers: Workers,
    file: PathBuf,
    contracts: Vec<Contract>,
    frames: Frames,
    /// Where the parts begin that nobody was asked for yet; `None` before the first has come.
    further: Option<VecDeque<u32>>,
    /// What the first part said of the image, and the last frame that was seen: the others must go on from there.
    chosen: u32,
    last: u32,
    running: VecDeque<JoinHandle<Result<Part, Refusal>>>,
}

impl Parts {
    /// Of the object at `file`; nothing is asked before the first is.
    pub fn of(workers: Workers, file: &Path, contracts: &[Contract], frames: Frames) -> Self {
        let (file, contracts) = (file.to_owned(), contracts.to_vec());
        Self { workers, file, contracts, frames, further: None, chosen: 0, last: 0, running: VecDeque::new() }
    }

    /// `None` when all have been given.
    pub async fn next(&mut self) -> Option<Result<Part, Refusal>> {
        if self.further.is_none() {
            let first = self.workers.part(&self.file, &self.contracts, self.frames, 0).await;
            let further = first.as_ref().map_err(Refusal::clone).and_then(further);
            return Some(match further {
                Ok(further) => {
                    self.further = Some(further.collect());
                    self.chosen = first.as_ref().map_or(0, |part| part.chosen);
                    self.ask_ahead();
                    self.continued(first)
                }
                Err(refusal) => {
                    self.further = Some(VecDeque::new());
                    Err(refusal)
                }
            });
        }
        let part = self.running.pop_front()?.await;
        self.ask_ahead();
        let lost = |e| Refusal::new(RefusalCode::WorkerDied, format!("a part of the image was lost: {e}"));
        let part = part.map_err(lost).flatten();
        Some(self.continued(part))
    }

    /// The part, if it is of the image that the first one was of: workers that disagree decoded different things.
    fn continued(&mut self, part: Result<Part, Refusal>) -> Result<Part, Refusal> {
        let part = part?;
        let first = part.frames.first().map_or(0, |frame| frame.number);
        if part.chosen != self.chosen || first <= self.last {
            return Err(Refusal::new(RefusalCode::DecodeFailed, "the parts of the image are not of one image"));
        }
        self.last = part.frames.last().map_or(self.last, |frame| frame.number);
        Ok(part)
    }

    fn ask_ahead(&mut self) {
        while self.running.len() < AHEAD
            && let Some(from) = self.further.as_mut().and_then(VecDeque::pop_front)
        {
            let (workers, file, contracts) = (self.workers.clone(), self.file.clone(), self.contracts.clone());
            let frames = self.frames;
            let part = async move { workers.part(&file, &contracts, frames, from).await };
            self.running.push_back(tokio::spawn(part));
        }
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        self.running.iter().for_each(JoinHandle::abort);
    }
}
