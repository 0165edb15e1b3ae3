//! A map as colours upon the grey picture that it is of.
//!
//! Colours run from deep violet over red and orange to pale yellow, and grow lighter all the way, so that they keep their
//! order for everybody and in print. The more speaks for the output, the less is seen of the picture beneath; where nothing
//! does, the picture is as it was. Left out: a legend, which would be text burned in.

use crate::domain::AttributionMap;

/// Opacity where the map is largest.
const OPACITY: f32 = 0.65;
/// Equally far apart.
const COLOURS: [[f32; 3]; 7] = [
    [10.0, 7.0, 46.0],
    [74.0, 12.0, 107.0],
    [137.0, 34.0, 106.0],
    [197.0, 60.0, 77.0],
    [237.0, 105.0, 37.0],
    [251.0, 165.0, 10.0],
    [252.0, 255.0, 164.0],
];

/// Red, green and blue of each pixel, row by row. `picture`: the grey values, as many as the map has.
pub fn overlay(picture: &[u8], map: &AttributionMap) -> Vec<u8> {
    let pixel = |(grey, part): (&u8, f32)| {
        let opacity = OPACITY * part.sqrt();
        colour(part).map(|c| (f32::from(*grey) * (1.0 - opacity) + c * opacity).round() as u8)
    };
    picture.iter().zip(map.parts()).flat_map(pixel).collect()
}

fn colour(part: f32) -> [f32; 3] {
    let at = part.clamp(0.0, 1.0) * (COLOURS.len() - 1) as f32;
    let below = (at as usize).min(COLOURS.len() - 2);
    let weight = at - below as f32;
    std::array::from_fn(|i| COLOURS[below][i] * (1.0 - weight) + COLOURS[below + 1][i] * weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{MapMethod, MapTarget, Uid};

    #[test]
    fn what_says_nothing_stays_grey_and_lightness_grows_with_the_map() {
        let model = crate::report::own_identity(&Uid::parse("1.2").unwrap());
        let values = vec![-1.0, 0.0, 0.5, 2.0];
        let map = AttributionMap { method: MapMethod::Occlusion, model, target: MapTarget::Groups, side: 2, values };
        assert_eq!(map.parts(), [0.0, 0.0, 0.25, 1.0]);
        let shown = overlay(&[9, 200, 0, 0], &map);
        assert_eq!(shown[..6], [9, 9, 9, 200, 200, 200]);
        let light = |rgb: [f32; 3]| 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2];
        let ramp: Vec<f32> = (0..=100).map(|i| light(colour(i as f32 / 100.0))).collect();
        assert!(ramp.is_sorted_by(|a, b| a < b));
    }
}
