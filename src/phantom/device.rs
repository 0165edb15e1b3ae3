//! The invented X-ray systems that phantoms were imaged with: bit depth, photometry, window, noise.
//!
//! Product names are made up. The systems differ in what a reader of DICOM must get right: modality, bits,
//! MONOCHROME1 and MONOCHROME2, images with and without a window. Neighbours: `patient` picks one by chance,
//! `header` and `canvas` obey it. Left out: compression; all files are uncompressed.

/// Whether CR or DX objects are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modality {
    /// Computed Radiography Image Storage.
    Cr,
    /// Digital X-Ray Image Storage – For Presentation.
    Dx,
}

/// Photometric Interpretation (PS3.3 C.7.6.3.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Photometry {
    /// Low values are white.
    Monochrome1,
    /// Low values are black.
    Monochrome2,
}

/// One product.
#[derive(Debug, PartialEq)]
pub struct Device {
    pub manufacturer: &'static str,
    pub model: &'static str,
    pub station: &'static str,
    pub serial: &'static str,
    pub modality: Modality,
    pub photometry: Photometry,
    pub bits_stored: u16,
    /// Whether the images carry a window; those of DX must (PS3.3 C.8.11.3).
    pub has_window: bool,
    /// Stored values of black and white before a MONOCHROME1 image is inverted.
    pub stored: (u16, u16),
    /// Exponent of the grey scale.
    pub gamma: f64,
    /// Standard deviation of the detector noise at mid grey, as a fraction of the range.
    pub noise: f64,
    pub kvp: u32,
}

pub static DEVICES: [Device; 5] = [
    Device {
        manufacturer: "sidelight phantom A",
        model: "Flat Panel 14",
        station: "PHANTOM-A1",
        serial: "A-0001",
        modality: Modality::Dx,
        photometry: Photometry::Monochrome2,
        bits_stored: 14,
        has_window: true,
        stored: (240, 15800),
        gamma: 1.0,
        noise: 0.010,
        kvp: 120,
    },
    Device {
        manufacturer: "sidelight phantom B",
        model: "Flat Panel 12i",
        station: "PHANTOM-B1",
        serial: "B-0001",
        modality: Modality::Dx,
        photometry: Photometry::Monochrome1,
        bits_stored: 12,
        has_window: true,
        stored: (64, 3980),
        gamma: 1.08,
        noise: 0.012,
        kvp: 117,
    },
    Device {
        manufacturer: "sidelight phantom C",
        model: "Plate Reader 12i",
        station: "PHANTOM-C1",
        serial: "C-0001",
        modality: Modality::Cr,
        photometry: Photometry::Monochrome1,
        bits_stored: 12,
        has_window: false,
        stored: (0, 4095),
        gamma: 0.94,
        noise: 0.016,
        kvp: 110,
    },
    Device {
        manufacturer: "sidelight phantom D",
        model: "Plate Reader 16",
        station: "PHANTOM-D1",
        serial: "D-0001",
        modality: Modality::Cr,
        photometry: Photometry::Monochrome2,
        bits_stored: 16,
        has_window: true,
        stored: (2000, 62000),
        gamma: 1.05,
        noise: 0.014,
        kvp: 125,
    },
    Device {
        manufacturer: "sidelight phantom E",
        model: "Plate Reader 15",
        station: "PHANTOM-E1",
        serial: "E-0001",
        modality: Modality::Cr,
        photometry: Photometry::Monochrome2,
        bits_stored: 15,
        has_window: false,
        stored: (500, 31000),
        gamma: 1.0,
        noise: 0.012,
        kvp: 120,
    },
];

impl Device {
    /// What a stored value is for a grey value from 0 (black) to 1 (white).
    pub fn store(&self, grey: f32) -> u16 {
        let (low, high) = (f32::from(self.stored.0), f32::from(self.stored.1));
        let value = (low + (high - low) * grey.clamp(0.0, 1.0).powf(self.gamma as f32)).round() as u16;
        match self.photometry {
            Photometry::Monochrome1 => self.white() - value,
            Photometry::Monochrome2 => value,
        }
    }

    /// Window centre and width (PS3.3 C.11.2.1.2) that show all of the picture.
    pub fn window(&self) -> (f64, f64) {
        let (low, high) = (f64::from(self.stored.0), f64::from(self.stored.1));
        let centre = (low + high + 1.0) / 2.0;
        let centre = match self.photometry {
            Photometry::Monochrome1 => f64::from(self.white()) - centre + 1.0,
            Photometry::Monochrome2 => centre,
        };
        (centre, high - low + 1.0)
    }

    /// The largest value that Bits Stored allows.
    fn white(&self) -> u16 {
        u16::MAX >> (16 - self.bits_stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_values_fit_their_bits_and_run_from_black_to_white() {
        for device in &DEVICES {
            let (black, white) = (device.store(0.0), device.store(1.0));
            assert!(black.max(white) <= device.white(), "{}", device.manufacturer);
            let inverted = device.photometry == Photometry::Monochrome1;
            assert_eq!(black > white, inverted, "{}", device.manufacturer);
            let (centre, width) = device.window();
            let low = f64::from(black.min(white));
            assert!((centre - 0.5 - (width - 1.0) / 2.0 - low).abs() <= 1.0, "{}", device.manufacturer);
        }
    }
}
