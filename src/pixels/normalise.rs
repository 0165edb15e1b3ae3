//! Grey values to a model's input contract: pure, the same for the node, the offline commands and training.
//!
//! In the Standard's order (PS3.4 N.2): what the contract masks is set aside, values become 0..1 (`unit`); then
//! orientation, fit and resize, `low..high`. Left out: channels, mean and standard deviation, which are the model's.
//!
//! Fits that keep the aspect ratio keep it of the patient, not of the matrix: pixels that are not square (`geometry`)
//! count by their height and width.

use super::grey::Grey;
use super::resize::{Window, resize};
use super::shutter;
use super::unit::Unit;
use crate::domain::{Contract, Fit, ModelInput, Refusal, Turn};

/// The frame as the model of this contract sees it; every value is finite. The refusal names what the contract asks
/// for and the image does not say.
pub fn normalise(grey: &Grey, contract: &Contract) -> Result<ModelInput, Refusal> {
    contract.admits_units(grey.hounsfield)?;
    let turn = grey.geometry.turn(contract.orientation)?;
    let aspect = aspect(grey, contract.fit, turn)?;
    let hidden = shutter::hidden(grey, &contract.mask)?;
    let unit = Unit::of(grey, contract.range, hidden);
    let (rows, columns) = turn.size(grey.rows, grey.columns);
    let size = contract.size as usize;
    let window = window(rows, columns, aspect, contract.fit);
    let resized = resize(rows, columns, window, size, contract.filter, |row, line| {
        let (start, step) = turn.walk(row, grey.rows, grey.columns);
        unit.read(start, step, line);
    });
    let span = contract.high - contract.low;
    // rounding of the filter weights may leave 0..1 by parts of a millionth
    let plane = resized.into_iter().map(|v| contract.low + span * v.clamp(0.0, 1.0)).collect();
    Ok(ModelInput { contract: contract.digest(), plane })
}

/// Height of a pixel of the turned image over its width; 1 where the fit does not ask.
fn aspect(grey: &Grey, fit: Fit, turn: Turn) -> Result<f64, Refusal> {
    if fit == Fit::Stretch {
        return Ok(1.0);
    }
    let aspect = grey.geometry.aspect.clone()?;
    Ok(if turn.exchanged { 1.0 / aspect } else { aspect })
}

/// The part of the image that becomes the square input.
fn window(rows: usize, columns: usize, aspect: f64, fit: Fit) -> Window {
    // the side of the square, in rows and in columns
    let (height, width) = (rows as f64 * aspect, columns as f64);
    let side = match fit {
        Fit::Stretch => return Window { top: 0, left: 0, rows, columns },
        Fit::CropCenter => height.min(width),
        Fit::PadSquare => height.max(width),
    };
    let side = (((side / aspect).round() as usize).max(1), (side.round() as usize).max(1));
    if fit == Fit::CropCenter {
        // as torchxrayvision's XRayCenterCrop: half of the axis less half of the side, both rounded down
        let (top, left) = ((rows / 2 - side.0 / 2) as isize, (columns / 2 - side.1 / 2) as isize);
        return Window { top, left, rows: side.0, columns: side.1 };
    }
    let (top, left) = (-(((side.0 - rows) / 2) as isize), -(((side.1 - columns) / 2) as isize));
    Window { top, left, rows: side.0, columns: side.1 }
}
