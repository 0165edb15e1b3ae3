//! JPEG Baseline, Extended and Lossless (ISO/IEC 10918-1) through libjpeg-turbo, components as they are coded.
//!
//! Whatever the library warns of (data that breaks off, codes that no table holds, lost restart markers) is a refusal:
//! it would fill the rest of the image with grey. Neighbours: `codestream` read the header, `decode` compared it with
//! the data set, `jpeg_colour` keeps the library from converting colours. Left out: arithmetic and progressive
//! coding, which no transfer syntax has, in frames; pictures of training sets ([`Picture`]) may be progressive.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};

use turbojpeg_sys as tj;

use super::codestream::{Codestream, is_ended};
use super::jpeg_colour::without_transform;
use super::samples::Codes;
use crate::domain::{Refusal, RefusalCode};

/// Scans of a frame: at most one for each component.
const SCANS_MAX: c_int = 3;
/// The one harmless warning: fill bytes behind a scan that was complete.
const FILL_BYTES: &str = "extraneous bytes before marker 0xd9";

/// Decodes a frame of a size that was checked. Lossless frames keep their precision: 2 to 8 bits become bytes, 9 to 16
/// words.
pub fn decode(frame: Vec<u8>, codestream: &Codestream) -> Result<Codes, Refusal> {
    let mut frame = without_transform(frame)?;
    if !is_ended(&frame) {
        // some encoders leave the end out; at the marker the library notices whether data is missing, too
        frame.extend([0xFF, 0xD9]);
    }
    let decoder = Decompressor::new()?;
    decoder.read_header(&frame, codestream)?;
    match codestream.precision {
        ..=8 => decoder.decode(&frame, codestream, tj::tj3Decompress8).map(Codes::Bytes),
        // 9 to 12 bits come as signed numbers, all of them positive
        9..=12 => {
            let samples: Vec<i16> = decoder.decode(&frame, codestream, tj::tj3Decompress12)?;
            Ok(Codes::Words(samples.into_iter().map(i16::cast_unsigned).collect()))
        }
        _ => decoder.decode(&frame, codestream, tj::tj3Decompress16).map(Codes::Words),
    }
}

/// `tj3Decompress8`, `-12` or `-16`: handle, frame, its length, samples, samples per row, pixel format.
type Decompress<T> = unsafe extern "C" fn(tj::tjhandle, *const u8, tj::size_t, *mut T, c_int, c_int) -> c_int;

/// A JPEG file of its own (JFIF, Exif, progressive too), whose header was read.
pub struct Picture {
    decoder: Decompressor,
    rows: usize,
    columns: usize,
}

/// Scans of a progressive picture: a file of many small ones would take long.
const PICTURE_SCANS_MAX: c_int = 100;

impl Picture {
    pub fn open(file: &[u8]) -> Result<Self, Refusal> {
        let decoder = Decompressor::new()?;
        decoder.set(tj::TJPARAM_TJPARAM_SCANLIMIT, PICTURE_SCANS_MAX)?;
        // SAFETY: the handle is live; pointer and length are those of one slice, which is only read.
        if unsafe { tj::tj3DecompressHeader(decoder.0, file.as_ptr(), file.len() as tj::size_t) } != 0 {
            return Err(decoder.failure());
        }
        let [columns, rows] = [tj::TJPARAM_TJPARAM_JPEGWIDTH, tj::TJPARAM_TJPARAM_JPEGHEIGHT]
            .map(|parameter| usize::try_from(decoder.get(parameter)).unwrap_or(0));
        let colour = decoder.get(tj::TJPARAM_TJPARAM_COLORSPACE);
        let known = [tj::TJCS_TJCS_GRAY, tj::TJCS_TJCS_YCbCr, tj::TJCS_TJCS_RGB].map(i64::from);
        if decoder.get(tj::TJPARAM_TJPARAM_PRECISION) != 8 || !known.contains(&colour) {
            return Err(failed("only grey, YCbCr and RGB with 8 bits are supported"));
        }
        Ok(Self { decoder, rows, columns })
    }

    /// Rows and columns.
    pub fn size(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// One value for each pixel. `file` is the one that was opened.
    pub fn luminance(&self, file: &[u8]) -> Result<Vec<u8>, Refusal> {
        let mut samples = vec![0u8; self.rows * self.columns];
        let pitch = c_int::try_from(self.columns).map_err(|_| failed("rows too long"))?;
        self.decoder.read_size(file, self.rows, self.columns)?;
        let (length, format) = (file.len() as tj::size_t, tj::TJPF_TJPF_GRAY);
        // SAFETY: the handle is live and has just read the header of this file, whose size is the one that `samples` was
        // allocated for: rows × pitch samples, which the library writes.
        match unsafe { tj::tj3Decompress8(self.decoder.0, file.as_ptr(), length, samples.as_mut_ptr(), pitch, format) }
        {
            0 => Ok(samples),
            _ => Err(self.decoder.failure()),
        }
    }
}

struct Decompressor(tj::tjhandle);

impl Decompressor {
    fn new() -> Result<Self, Refusal> {
        // SAFETY: no argument but a constant of the library.
        let handle = unsafe { tj::tj3Init(tj::TJINIT_TJINIT_DECOMPRESS as c_int) };
        if handle.is_null() {
            return Err(failed("no memory for the decoder"));
        }
        let decoder = Self(handle);
        decoder.set(tj::TJPARAM_TJPARAM_STOPONWARNING, 1)?;
        decoder.set(tj::TJPARAM_TJPARAM_SCANLIMIT, SCANS_MAX)?;
        Ok(decoder)
    }

    fn set(&self, parameter: tj::TJPARAM, value: c_int) -> Result<(), Refusal> {
        // SAFETY: the handle is live; parameter and value are plain numbers.
        match unsafe { tj::tj3Set(self.0, parameter as c_int, value) } {
            0 => Ok(()),
            _ => Err(self.failure()),
        }
    }

    fn get(&self, parameter: tj::TJPARAM) -> i64 {
        // SAFETY: the handle is live; the parameter is a plain number.
        i64::from(unsafe { tj::tj3Get(self.0, parameter as c_int) })
    }

    /// The library must read the header as `codestream` does: the output is sized by that.
    fn read_header(&self, frame: &[u8], codestream: &Codestream) -> Result<(), Refusal> {
        // SAFETY: the handle is live; pointer and length are those of one slice, which is only read.
        if unsafe { tj::tj3DecompressHeader(self.0, frame.as_ptr(), frame.len() as tj::size_t) } != 0 {
            return Err(self.failure());
        }
        let found = [tj::TJPARAM_TJPARAM_JPEGWIDTH, tj::TJPARAM_TJPARAM_JPEGHEIGHT, tj::TJPARAM_TJPARAM_PRECISION]
            .map(|parameter| self.get(parameter));
        let expected = [codestream.columns, codestream.rows, codestream.precision.into()].map(i64::from);
        let colour = self.get(tj::TJPARAM_TJPARAM_COLORSPACE);
        let wanted = match codestream.components {
            1 => tj::TJCS_TJCS_GRAY,
            3 => tj::TJCS_TJCS_RGB,
            _ => return Err(failed("neither one nor three components")),
        };
        if found != expected || colour != i64::from(wanted) {
            return Err(failed("the frame has a second header that contradicts the first"));
        }
        Ok(())
    }

    /// Reads a header whose size must be this.
    fn read_size(&self, file: &[u8], rows: usize, columns: usize) -> Result<(), Refusal> {
        // SAFETY: the handle is live; pointer and length are those of one slice, which is only read.
        if unsafe { tj::tj3DecompressHeader(self.0, file.as_ptr(), file.len() as tj::size_t) } != 0 {
            return Err(self.failure());
        }
        let found = [tj::TJPARAM_TJPARAM_JPEGHEIGHT, tj::TJPARAM_TJPARAM_JPEGWIDTH].map(|p| self.get(p));
        if found != [rows as i64, columns as i64] {
            return Err(failed("another file than the one that was opened"));
        }
        Ok(())
    }

    fn decode<T: Copy + Default>(
        &self,
        frame: &[u8],
        codestream: &Codestream,
        decompress: Decompress<T>,
    ) -> Result<Vec<T>, Refusal> {
        let format = if codestream.components == 1 { tj::TJPF_TJPF_GRAY } else { tj::TJPF_TJPF_RGB };
        let row = codestream.columns as usize * usize::from(codestream.components);
        let mut samples = vec![T::default(); codestream.samples()];
        let pitch = c_int::try_from(row).map_err(|_| failed("rows too long"))?;
        let mut run = || {
            // SAFETY: the handle is live and has read the header of this frame, whose size and components are those
            // that `samples` was allocated for: rows × pitch samples of type T, which `decompress` writes.
            unsafe {
                decompress(self.0, frame.as_ptr(), frame.len() as tj::size_t, samples.as_mut_ptr(), pitch, format)
            }
        };
        if run() != 0 {
            let failure = self.failure();
            if !(self.warned() && failure.detail.contains(FILL_BYTES)) {
                return Err(failure);
            }
            // that was the first warning, and it comes last: nothing is lost by running past it
            self.set(tj::TJPARAM_TJPARAM_STOPONWARNING, 0)?;
            if run() != 0 && !self.warned() {
                return Err(self.failure());
            }
        }
        Ok(samples)
    }

    /// Whether the last fault was a warning.
    fn warned(&self) -> bool {
        // SAFETY: the handle is live.
        let code = unsafe { tj::tj3GetErrorCode(self.0) };
        code == tj::TJERR_TJERR_WARNING as c_int
    }

    fn failure(&self) -> Refusal {
        // SAFETY: the handle is live; the library returns a string that ends in zero and stays until its next call.
        let message = unsafe { CStr::from_ptr(tj::tj3GetErrorStr(self.0)) };
        failed(&message.to_string_lossy())
    }
}

impl Drop for Decompressor {
    fn drop(&mut self) {
        // SAFETY: the handle is live and not used afterwards.
        unsafe { tj::tj3Destroy(self.0) }
    }
}

fn failed(detail: &str) -> Refusal {
    Refusal::new(RefusalCode::DecodeFailed, format!("JPEG: {detail:.200}"))
}
