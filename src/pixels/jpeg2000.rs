//! JPEG 2000 and HTJ2K (ISO/IEC 15444-1, -15) through OpenJPEG, on the calling thread.
//!
//! Strict: what breaks off within a packet is a refusal, not an image that fades to grey, and so is every warning of
//! the library. It cannot notice packets that are missing at the end of a tile-part, as the tile-part's length leaves
//! them out in an orderly way: that is how quality layers are cut off, and the image has fewer bit planes then.
//! Neighbours: `codestream` read the headers of the frame and its tile-parts, `decode` compared it with the data set.
//! Left out: the boxes of JP2 files, subsampled components.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_void};
use std::ptr;

use openjpeg_sys as opj;

use super::codestream::Codestream;
use super::samples::Codes;
use crate::domain::{Refusal, RefusalCode};

const TRUE: opj::OPJ_BOOL = 1;
/// The library reads through a buffer of this size at most.
const BUFFER_MAX: usize = 1 << 20;

/// Decodes a codestream of a size that was checked; signed components become two's complement words.
pub fn decode(frame: &[u8], codestream: &Codestream) -> Result<Codes, Refusal> {
    let mut input = Input { bytes: frame, at: 0 };
    let (mut error, mut warning) = (String::new(), String::new());
    // all three outlive the decoder, which is dropped first
    let mut decoder = Decoder::new(&mut input, &mut error, &mut warning)?;
    let decoded = decoder.run(codestream);
    drop(decoder);
    match decoded {
        Err(_) if !error.is_empty() => Err(failed(&error)),
        Ok(_) if !warning.is_empty() => Err(failed(&warning)),
        decoded => decoded,
    }
}

/// The frame as the library reads it.
struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

struct Decoder {
    stream: *mut opj::opj_stream_t,
    codec: *mut opj::opj_codec_t,
    image: *mut opj::opj_image_t,
}

impl Decoder {
    /// The arguments must stay where they are until the decoder is dropped.
    fn new(input: &mut Input, error: &mut String, warning: &mut String) -> Result<Self, Refusal> {
        let length = input.bytes.len();
        let input = ptr::from_mut(input).cast::<c_void>();
        let (error, warning) = (ptr::from_mut(error).cast::<c_void>(), ptr::from_mut(warning).cast::<c_void>());
        // SAFETY: the constructors take constants and a size; `decoder` frees what they return, null or not. The
        // callbacks get back the pointers that are registered here, and are called from `run` only, while their
        // referents live and nobody else uses them.
        unsafe {
            let decoder = Self {
                stream: opj::opj_stream_create(length.clamp(1, BUFFER_MAX), TRUE),
                codec: opj::opj_create_decompress(opj::OPJ_CODEC_FORMAT::OPJ_CODEC_J2K),
                image: ptr::null_mut(),
            };
            if decoder.stream.is_null() || decoder.codec.is_null() {
                return Err(failed("no memory for the decoder"));
            }
            opj::opj_stream_set_read_function(decoder.stream, Some(read));
            opj::opj_stream_set_skip_function(decoder.stream, Some(skip));
            opj::opj_stream_set_seek_function(decoder.stream, Some(seek));
            opj::opj_stream_set_user_data(decoder.stream, input, None);
            opj::opj_stream_set_user_data_length(decoder.stream, length as u64);
            opj::opj_set_error_handler(decoder.codec, Some(note), error);
            opj::opj_set_warning_handler(decoder.codec, Some(note), warning);
            Ok(decoder)
        }
    }

    fn run(&mut self, codestream: &Codestream) -> Result<Codes, Refusal> {
        // SAFETY: stream and codec are live; the parameters are filled by the library before it reads them; the image
        // that it creates is freed with the decoder.
        let complete = unsafe {
            let mut parameters: opj::opj_dparameters_t = std::mem::zeroed();
            opj::opj_set_default_decoder_parameters(&mut parameters);
            opj::opj_setup_decoder(self.codec, &mut parameters) == TRUE
                && opj::opj_decoder_set_strict_mode(self.codec, TRUE) == TRUE
                && opj::opj_read_header(self.stream, self.codec, &mut self.image) == TRUE
        };
        if !complete {
            return Err(failed("the header cannot be read"));
        }
        self.components(codestream)?;
        // SAFETY: all three are live, and the header has been read.
        if unsafe { opj::opj_decode(self.codec, self.stream, self.image) } != TRUE {
            return Err(failed("the frame cannot be decoded"));
        }
        let planes = self.components(codestream)?.iter().map(|component| {
            let samples = component.w as usize * component.h as usize;
            if component.data.is_null() {
                return Err(failed("a component was not decoded"));
            }
            // SAFETY: the library allocates w × h samples of 32 bits for a component that it decodes in full
            // resolution, as `components` checked, and keeps them until the image is freed.
            Ok(unsafe { std::slice::from_raw_parts(component.data, samples) })
        });
        let planes = planes.collect::<Result<Vec<&[i32]>, Refusal>>()?;
        Ok(match codestream.precision {
            ..=8 if !codestream.signed => Codes::Bytes(merged(&planes, |v| v as u8)),
            _ => Codes::Words(merged(&planes, |v| v as u16)),
        })
    }

    /// The components, which must be those that `codestream` describes.
    fn components(&self, codestream: &Codestream) -> Result<&[opj::opj_image_comp_t], Refusal> {
        // SAFETY: the library sets the image when it has read the header, with `numcomps` components.
        let components = unsafe {
            let Some(image) = self.image.as_ref().filter(|image| !image.comps.is_null()) else {
                return Err(failed("the header describes no image"));
            };
            std::slice::from_raw_parts(image.comps, image.numcomps as usize)
        };
        let expected =
            (codestream.columns, codestream.rows, u32::from(codestream.precision), u32::from(codestream.signed), 0);
        let right = components.iter().all(|c| (c.w, c.h, c.prec, c.sgnd, c.factor) == expected);
        match right && components.len() == usize::from(codestream.components) {
            true => Ok(components),
            false => Err(failed("the library reads another header than the data set was compared with")),
        }
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: each was created by the library, is freed once, and the library accepts null.
        unsafe {
            opj::opj_image_destroy(self.image);
            opj::opj_destroy_codec(self.codec);
            opj::opj_stream_destroy(self.stream);
        }
    }
}

/// One plane, or several put together pixel by pixel.
fn merged<T: Copy + Default>(planes: &[&[i32]], narrow: impl Fn(i32) -> T) -> Vec<T> {
    if let [plane] = planes {
        return plane.iter().map(|v| narrow(*v)).collect();
    }
    let mut samples = vec![T::default(); planes.iter().map(|p| p.len()).sum()];
    for (first, plane) in planes.iter().enumerate() {
        let targets = samples[first..].iter_mut().step_by(planes.len());
        targets.zip(*plane).for_each(|(target, v)| *target = narrow(*v));
    }
    samples
}

/// Copies at most `wanted` bytes to `buffer`; all ones at the end.
unsafe extern "C" fn read(buffer: *mut c_void, wanted: usize, input: *mut c_void) -> usize {
    // SAFETY: `input` is the pointer that `Decoder::new` registered, used by nobody else during the call; the library
    // owns `wanted` bytes at `buffer`.
    unsafe {
        let input = &mut *input.cast::<Input>();
        let rest = &input.bytes[input.at..];
        let count = rest.len().min(wanted);
        if count == 0 {
            return usize::MAX;
        }
        ptr::copy_nonoverlapping(rest.as_ptr(), buffer.cast(), count);
        input.at += count;
        count
    }
}

/// Moves ahead by at most what is left; minus one at the end.
unsafe extern "C" fn skip(bytes: opj::OPJ_OFF_T, input: *mut c_void) -> opj::OPJ_OFF_T {
    // SAFETY: as in `read`.
    let input = unsafe { &mut *input.cast::<Input>() };
    let count = usize::try_from(bytes).unwrap_or(0).min(input.bytes.len() - input.at);
    if count == 0 {
        return -1;
    }
    input.at += count;
    count as opj::OPJ_OFF_T
}

unsafe extern "C" fn seek(to: opj::OPJ_OFF_T, input: *mut c_void) -> opj::OPJ_BOOL {
    // SAFETY: as in `read`.
    let input = unsafe { &mut *input.cast::<Input>() };
    match usize::try_from(to).ok().filter(|to| *to <= input.bytes.len()) {
        Some(to) => {
            input.at = to;
            TRUE
        }
        None => 0,
    }
}

/// Keeps the first message, which is the cause of those that follow.
unsafe extern "C" fn note(text: *const c_char, message: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: the library passes a string that ends in zero, and the pointer that `Decoder::new` registered.
    let (text, message) = unsafe { (CStr::from_ptr(text), &mut *message.cast::<String>()) };
    if message.is_empty() {
        message.push_str(text.to_string_lossy().trim());
    }
}

fn failed(detail: &str) -> Refusal {
    Refusal::new(RefusalCode::DecodeFailed, format!("JPEG 2000: {detail:.200}"))
}
