//! Grey values to a model's input contract: pure, the same for the node, the offline commands and training.
//!
//! In the Standard's order (PS3.4 N.2): what the contract masks is set aside, values become 0..1 (`unit`); then
//! orientation, fit and resize, `low..high`. Where pixels come to lie ([`Placement`]) does not depend on their values,
//! so that a mask of the image goes the same way (`mask`). Left out: channels, mean and standard deviation, which are
//! the model's.
//!
//! Fits that keep the aspect ratio keep it of the patient, not of the matrix: pixels that are not square (`geometry`)
//! count by their height and width.

use super::geometry::Geometry;
use super::grey::Grey;
use super::resize::{Window, resize};
use super::shutter;
use super::unit::Unit;
use crate::domain::{Contract, Filter, Fit, ModelInput, Refusal, Turn};

/// The frame as the model of this contract sees it; every value is finite. The refusal names what the contract asks
/// for and the image does not say.
pub fn normalise(grey: &Grey, contract: &Contract) -> Result<ModelInput, Refusal> {
    contract.admits_units(grey.hounsfield)?;
    let placement = Placement::of(grey.rows, grey.columns, &grey.geometry, contract)?;
    let hidden = shutter::hidden(grey, &contract.mask)?;
    let unit = Unit::of(grey, contract.range, hidden);
    let resized = placement.resized(contract.filter, |start, step, line| unit.read(start, step, line));
    let span = contract.high - contract.low;
    // rounding of the filter weights may leave 0..1 by parts of a millionth
    let plane = resized.into_iter().map(|v| contract.low + span * v.clamp(0.0, 1.0)).collect();
    Ok(ModelInput { contract: contract.digest(), plane })
}

/// Where the pixels of a frame come to lie in the plane of a contract: turned, cropped or padded, brought to its size.
pub struct Placement {
    /// Of the frame as stored.
    rows: usize,
    columns: usize,
    turn: Turn,
    /// Of the turned frame.
    window: Window,
    /// Side of the plane, pixels.
    size: usize,
}

impl Placement {
    /// Refused where the frame does not say how it lies and the contract asks.
    pub fn of(rows: usize, columns: usize, geometry: &Geometry, contract: &Contract) -> Result<Self, Refusal> {
        let turn = geometry.turn(contract.orientation)?;
        let aspect = aspect(geometry, contract.fit, turn)?;
        let turned = turn.size(rows, columns);
        let window = window(turned.0, turned.1, aspect, contract.fit);
        Ok(Self { rows, columns, turn, window, size: contract.size as usize })
    }

    /// The plane, row by row. `read` writes the values of pixels of the frame as stored, from the index of the first
    /// on, each so many further than the one before.
    pub fn resized(&self, filter: Filter, mut read: impl FnMut(usize, isize, &mut [f32])) -> Vec<f32> {
        let (rows, columns) = self.turn.size(self.rows, self.columns);
        resize(rows, columns, self.window, self.size, filter, |row, line| {
            let (start, step) = self.turn.walk(row, self.rows, self.columns);
            read(start, step, line);
        })
    }
}

/// Height of a pixel of the turned image over its width; 1 where the fit does not ask.
fn aspect(geometry: &Geometry, fit: Fit, turn: Turn) -> Result<f64, Refusal> {
    if fit == Fit::Stretch {
        return Ok(1.0);
    }
    let aspect = geometry.aspect.clone()?;
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
