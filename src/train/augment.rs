//! Random rotation, size, shift and mirroring of training images, one draw per image, by bilinear sampling.
//!
//! Chance is drawn for a whole epoch, by `fit`; the threads of `loader` do the work. What lies beyond the image
//! repeats its border. Left out: changes of grey values.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tch::{TchError, Tensor};

use super::settings::Augment;

/// Sampling modes of libtorch's `grid_sampler`.
const BILINEAR: i64 = 0;
const BORDER: i64 = 1;

/// The affine map from places in the new image to places in the old one, both −1..1, row by row.
pub type Theta = [f32; 6];

/// What is done to so many images; nothing where the recipe asks for nothing.
pub fn draws(options: &Augment, images: usize, rng: &mut ChaCha8Rng) -> Vec<Theta> {
    if *options == Augment::default() {
        return Vec::new();
    }
    (0..images).map(|_| draw(options, rng)).collect()
}

/// The batch with each image changed.
pub fn warp(batch: &Tensor, changes: &[Theta]) -> Result<Tensor, TchError> {
    let size = batch.size();
    let theta = Tensor::f_from_slice(changes.as_flattened())?.f_view([changes.len() as i64, 2, 3])?;
    let grid = Tensor::f_affine_grid_generator(&theta, &size, false)?;
    batch.f_grid_sampler(&grid, BILINEAR, BORDER, false)
}

fn draw(options: &Augment, rng: &mut ChaCha8Rng) -> Theta {
    let mut within = |limit: f64| if limit > 0.0 { rng.random_range(-limit..=limit) } else { 0.0 };
    let angle = within(options.rotation).to_radians();
    let scale = 1.0 / (1.0 + within(options.zoom));
    let (x, y) = (2.0 * within(options.shift), 2.0 * within(options.shift));
    let mirror = if options.horizontal_flip && rng.random() { -1.0 } else { 1.0 };
    let (sin, cos) = angle.sin_cos();
    [mirror * scale * cos, -scale * sin, x, mirror * scale * sin, scale * cos, y].map(|v| v as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use tch::{Device, Kind};

    fn augment(batch: &Tensor, options: &Augment, rng: &mut ChaCha8Rng) -> Tensor {
        match draws(options, batch.size()[0] as usize, rng) {
            changes if changes.is_empty() => batch.shallow_clone(),
            changes => warp(batch, &changes).unwrap(),
        }
    }

    fn ramp() -> Tensor {
        Tensor::arange(16, (Kind::Float, Device::Cpu)).view([1, 1, 4, 4])
    }

    #[test]
    fn nothing_is_changed_unless_asked_for_and_mirroring_mirrors() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        assert_eq!(augment(&ramp(), &Augment::default(), &mut rng), ramp());
        let flip = Augment { horizontal_flip: true, ..Augment::default() };
        let (mut same, mut mirrored) = (0, 0);
        for _ in 0..40 {
            let out = augment(&ramp(), &flip, &mut rng);
            let is = |t: Tensor| f64::try_from((&out - t).abs().max()).unwrap() < 1e-4;
            same += i32::from(is(ramp()));
            mirrored += i32::from(is(ramp().flip([3])));
        }
        assert_eq!(same + mirrored, 40);
        assert!(same > 5 && mirrored > 5, "{same} {mirrored}");
    }

    #[test]
    fn a_quarter_turn_turns_and_values_stay_within_the_image() {
        let quarter = Augment { rotation: 90.0, ..Augment::default() };
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for _ in 0..20 {
            let out = augment(&ramp(), &quarter, &mut rng);
            let (low, high) = (f64::try_from(out.min()).unwrap(), f64::try_from(out.max()).unwrap());
            assert!(low >= -1e-4 && high <= 15.0001, "{low} {high}");
        }
    }
}
