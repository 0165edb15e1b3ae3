//! What is salient to a model: maps, their means over cells, the box around a peak.
//!
//! Neighbours: `analyse` asks for Grad-CAM, or for scores of covered images where a network cannot be looked into. Left
//! out: pictures of maps (`plot`).

use crate::analyse::Scorers;
use crate::domain::Fill;
use crate::infer::{ExplainError, Occlusion, Package, distance};
use crate::perturb::{Form, Plane, Transform};

/// A map is kept as means over so many cells down and across.
pub(super) const CELLS: usize = 16;
/// What belongs to a peak, as a share of the map's largest value.
const PEAK: f32 = 0.6;
/// Side of the heat map that the paper's code takes the box from, and of the image that it applies it to.
const PUBLISHED_SIDES: (f64, f64) = (256.0, 224.0);

/// Name of the set of vectors that the maps of the race model with this place are kept in.
pub(super) fn set(model: usize) -> String {
    format!("saliency-{}", model + 1)
}

/// Grad-CAM of how sure the race model is, or the change of its answer by occlusion where it cannot be looked into; of
/// no group. Row by row, the largest value 1; `None` where nothing speaks for its answer.
pub(super) async fn map(scorers: &Scorers, package: &Package, plane: &Plane) -> anyhow::Result<Option<Vec<f32>>> {
    let contract = &package.contract;
    let input = plane.to_input(contract);
    match scorers.grad_cam(package, input.clone()).await {
        Ok(maps) => return Ok(maps.into_iter().next().flatten()),
        Err(ExplainError::Unavailable(_)) => {}
        Err(error) => return Err(anyhow::anyhow!("{}: {error}", package.identity.name)),
    }
    let occlusion = Occlusion::of(0, 0, Fill::Mean, contract.size);
    let places = occlusion.places(contract.size);
    let inputs: Vec<_> = std::iter::once(input.clone())
        .chain(places.iter().map(|place| occlusion.covered(&input, contract, *place)))
        .collect();
    let scores = scorers.score_all_covered(package, inputs.into_iter()).await;
    let scores = scores.map_err(|error| anyhow::anyhow!("{}: {error}", package.identity.name))?;
    let mut changes = occlusion.changes(contract.size);
    for (place, score) in places.iter().zip(&scores[1..]) {
        changes.note(*place, distance(&scores[0], score));
    }
    let map = changes.map();
    let largest = map.iter().copied().fold(0.0, f32::max);
    Ok((largest > 0.0).then(|| map.iter().map(|v| v / largest).collect()))
}

/// Means over cells, row by row.
pub(super) fn cells(map: &[f32]) -> Vec<f32> {
    let side = map.len().isqrt();
    let mut sums = vec![(0.0, 0usize); CELLS * CELLS];
    for (at, value) in map.iter().enumerate() {
        let (row, column) = (at / side * CELLS / side, at % side * CELLS / side);
        let (sum, count) = &mut sums[row * CELLS + column];
        *sum += f64::from(*value);
        *count += 1;
    }
    sums.iter().map(|(sum, count)| (sum / (*count).max(1) as f64) as f32).collect()
}

/// A part of a plane, in parts of its side: top, left, bottom, right.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Salient([f64; 4]);

impl Salient {
    /// The bounding box of what is connected with the largest value and at least 60 % of it. As published it is read
    /// from a map of 256 pixels and applied to an image of 224, which moves and enlarges it by a seventh.
    pub(super) fn of_peak(map: &[f32], form: Form) -> Option<Self> {
        let side = map.len().isqrt();
        let (peak, largest) = map.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1))?;
        if side * side != map.len() || !largest.is_finite() || largest <= 0.0 {
            return None;
        }
        let mut seen = vec![false; map.len()];
        let mut open = vec![peak];
        seen[peak] = true;
        let (mut low, mut high) = ((side, side), (0, 0));
        while let Some(at) = open.pop() {
            let (row, column) = (at / side, at % side);
            low = (low.0.min(row), low.1.min(column));
            high = (high.0.max(row + 1), high.1.max(column + 1));
            let near = [
                (row > 0).then(|| at - side),
                (row + 1 < side).then(|| at + side),
                (column > 0).then(|| at - 1),
                (column + 1 < side).then(|| at + 1),
            ];
            for next in near.into_iter().flatten() {
                if !seen[next] && map[next] >= PEAK * largest {
                    seen[next] = true;
                    open.push(next);
                }
            }
        }
        let scale = match form {
            Form::AsPublished => PUBLISHED_SIDES.0 / PUBLISHED_SIDES.1,
            Form::Corrected => 1.0,
        };
        let part = |pixels: usize| (scale * pixels as f64 / side as f64).min(1.0);
        Some(Self([part(low.0), part(low.1), part(high.0), part(high.1)]))
    }

    /// The change that blackens it in planes of this side.
    pub(super) fn blackened(&self, side: usize) -> Transform {
        let [top, left, bottom, right] = self.0.map(|part| (part * side as f64).round() as u32);
        Transform::Box { top, left, bottom, right }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::perturb::Lab;

    #[test]
    fn the_box_holds_the_peak_and_what_hangs_together_with_it() {
        let side = 10;
        let mut map = vec![0.1f32; side * side];
        for at in [34, 35, 45] {
            map[at] = 0.7;
        }
        (map[44], map[88]) = (1.0, 0.9);
        let region = Salient::of_peak(&map, Form::Corrected).unwrap();
        assert_eq!(region, Salient([0.3, 0.4, 0.5, 0.6]));
        let plane = Plane::new(20, vec![1.0; 400]).unwrap();
        let blackened = Lab::default().apply(region.blackened(20), &plane);
        assert_eq!(blackened.values().iter().filter(|v| **v == 0.0).count(), 16);
        assert_eq!((blackened.values()[6 * 20 + 8], blackened.values()[6 * 20 + 7]), (0.0, 1.0));
        let published = Salient::of_peak(&map, Form::AsPublished).unwrap();
        assert!((published.0[3] - 0.6 * 8.0 / 7.0).abs() < 1e-12);
        assert_eq!(Salient::of_peak(&[0.0; 100], Form::Corrected), None);
        assert_eq!(Salient::of_peak(&[f32::NAN; 4], Form::Corrected), None);
        let mut last = vec![0.0; 100];
        last[99] = 1.0;
        assert_eq!(Salient::of_peak(&last, Form::AsPublished).unwrap().0[2], 1.0, "no box leaves the image");
    }

    #[test]
    fn cells_are_means() {
        let map: Vec<f32> = (0..32 * 32).map(|at| if at / 32 < 2 && at % 32 < 2 { 1.0 } else { 0.0 }).collect();
        let cells = cells(&map);
        assert_eq!((cells[0], cells[1], cells.len()), (1.0, 0.0, 256));
    }
}
