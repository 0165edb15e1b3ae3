//! Samples of a frame: the codes that a decoder returns, and the stored values that they stand for.
//!
//! Unsigned codes whose bits are all used become stored values without a copy. Neighbours: the codecs below, `decode`
//! above. Left out: what a stored value means (`grey`).

/// Samples as stored, colour by pixel, in the narrowest type that holds them.
#[derive(Debug, Clone, PartialEq)]
pub enum Samples {
    U8(Vec<u8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    Int(Vec<i32>),
    /// Floating point, and 32-bit unsigned samples.
    Wide(Vec<f64>),
}

/// Samples as coded: bits outside Bits Stored may hold anything, signed ones are two's complement.
#[derive(Debug, Clone, PartialEq)]
pub enum Codes {
    Bytes(Vec<u8>),
    Words(Vec<u16>),
    Longs(Vec<u32>),
}

// Words are read and hashed as they lie in memory; libtorch comes for such machines only.
const _: () = assert!(cfg!(target_endian = "little"));

/// Samples that are read at a time: 64 or 128 KiB.
const READ_BLOCK: usize = 1 << 15;

impl Samples {
    /// The samples as numbers of one type.
    pub fn values(&self) -> Vec<f64> {
        match (self, self.integers()) {
            (Samples::Wide(v), _) => v.clone(),
            (_, integers) => integers.unwrap_or_default().into_iter().map(f64::from).collect(),
        }
    }

    /// Integers in 16 bits, unsigned, if they fit.
    pub fn narrow(values: Vec<i32>) -> Self {
        match values.iter().map(|v| u16::try_from(*v)).collect() {
            Ok(narrow) => Samples::U16(narrow),
            Err(_) => Samples::Int(values),
        }
    }

    /// The least and the greatest value that does not lie in the range `without` (both ends belong to it); none if
    /// there is no such value. What is not finite is left out.
    pub fn extent(&self, without: Option<(f64, f64)>) -> Option<(f64, f64)> {
        match self {
            Samples::U8(v) => integer_extent(v, without),
            Samples::U16(v) => integer_extent(v, without),
            Samples::I16(v) => integer_extent(v, without),
            Samples::Int(v) => integer_extent(v, without),
            Samples::Wide(v) => {
                let counts = |v: &f64| v.is_finite() && without.is_none_or(|(low, high)| !(low..=high).contains(v));
                let mut counted = v.iter().copied().filter(counts);
                let first = counted.next()?;
                Some(counted.fold((first, first), |(low, high), v| (low.min(v), high.max(v))))
            }
        }
    }

    /// Shows `see` every value that occurs where `hidden` (sample by sample) is not set: each once if they have 8 or
    /// 16 bits.
    pub fn each(&self, hidden: Option<&[bool]>, see: impl FnMut(f64)) {
        match self {
            Samples::U8(v) => each_code(v, hidden, |v| v.into(), f64::from, see),
            Samples::U16(v) => each_code(v, hidden, |v| v, f64::from, see),
            Samples::I16(v) => each_code(v, hidden, |v| v as u16, |code| f64::from(code as i16), see),
            Samples::Int(v) => shown(v, hidden).map(|v| f64::from(*v)).for_each(see),
            Samples::Wide(v) => shown(v, hidden).copied().for_each(see),
        }
    }

    /// The samples as integers; nothing for [`Samples::Wide`].
    pub fn integers(&self) -> Option<Vec<i32>> {
        match self {
            Samples::U8(v) => Some(v.iter().map(|v| i32::from(*v)).collect()),
            Samples::U16(v) => Some(v.iter().map(|v| i32::from(*v)).collect()),
            Samples::I16(v) => Some(v.iter().map(|v| i32::from(*v)).collect()),
            Samples::Int(v) => Some(v.clone()),
            Samples::Wide(_) => None,
        }
    }
}

impl Codes {
    /// Little endian samples that are 1, 2 or 4 bytes wide.
    pub fn of_bytes(bytes: Vec<u8>, width: usize) -> Self {
        match width {
            1 => Codes::Bytes(bytes),
            2 => Codes::Words(bytes.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b)).collect()),
            _ => Codes::Longs(bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect()),
        }
    }

    /// So many samples of 2 or 4 bytes, which `read` fills in as they lie in the file, a block after the other.
    pub fn read<E>(
        count: usize,
        width: usize,
        big_endian: bool,
        read: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        Ok(match (width, big_endian) {
            (2, false) => Codes::Words(read_blocks(count, |v| v, read)?),
            (2, true) => Codes::Words(read_blocks(count, u16::swap_bytes, read)?),
            (_, false) => Codes::Longs(read_blocks(count, |v| v, read)?),
            (_, true) => Codes::Longs(read_blocks(count, u32::swap_bytes, read)?),
        })
    }

    pub fn len(&self) -> usize {
        match self {
            Codes::Bytes(v) => v.len(),
            Codes::Words(v) => v.len(),
            Codes::Longs(v) => v.len(),
        }
    }

    /// Three planes to three samples of each pixel.
    pub fn interleaved(self) -> Self {
        match self {
            Codes::Bytes(v) => Codes::Bytes(interleave(&v)),
            Codes::Words(v) => Codes::Words(interleave(&v)),
            Codes::Longs(v) => Codes::Longs(interleave(&v)),
        }
    }

    /// Codes of `precision` bits cut off at the ends of the range that `stored` bits have; nothing if one lies beyond
    /// by more than a sixteenth of that range. Signed ones are two's complement of `precision` bits.
    pub fn clamped(self, precision: u16, stored: u16, signed: bool) -> Option<Self> {
        let low = if signed { -(1i64 << (stored - 1)) } else { 0 };
        let high = low + (1i64 << stored) - 1;
        let slack = (high - low) / 16;
        let unused = 64 - u32::from(precision);
        let clamp = |code: u64| {
            let value = if signed { (code << unused) as i64 >> unused } else { code as i64 };
            (low - slack..=high + slack).contains(&value).then(|| value.clamp(low, high))
        };
        Some(match self {
            Codes::Bytes(v) => {
                Codes::Bytes(v.into_iter().map(|v| Some(clamp(v.into())? as u8)).collect::<Option<_>>()?)
            }
            Codes::Words(v) => {
                Codes::Words(v.into_iter().map(|v| Some(clamp(v.into())? as u16)).collect::<Option<_>>()?)
            }
            Codes::Longs(v) => {
                Codes::Longs(v.into_iter().map(|v| Some(clamp(v.into())? as u32)).collect::<Option<_>>()?)
            }
        })
    }

    /// Shift, mask and sign-extend (PS3.5 8.1.1); `shift` is the position of the lowest stored bit.
    pub fn stored(self, bits_stored: u16, shift: u16, signed: bool) -> Samples {
        let shift = u32::from(shift);
        let above = |width: u16| u32::from(width.saturating_sub(bits_stored));
        match self {
            Codes::Bytes(v) if signed => {
                let up = above(8);
                Samples::I16(v.iter().map(|v| i16::from(((v >> shift) << up) as i8 >> up)).collect())
            }
            Codes::Bytes(mut v) => {
                mask(&mut v, |v| (v >> shift) & (u8::MAX >> above(8)), shift == 0 && above(8) == 0);
                Samples::U8(v)
            }
            Codes::Words(v) if signed => {
                let up = above(16);
                Samples::I16(v.into_iter().map(|v| ((v >> shift) << up) as i16 >> up).collect())
            }
            Codes::Words(mut v) => {
                mask(&mut v, |v| (v >> shift) & (u16::MAX >> above(16)), shift == 0 && above(16) == 0);
                Samples::U16(v)
            }
            // whatever was allocated, what fits in 16 bits is kept in 16
            Codes::Longs(v) if bits_stored <= 16 => {
                let words = v.into_iter().map(|v| (v >> shift) as u16).collect();
                Codes::Words(words).stored(bits_stored, 0, signed)
            }
            Codes::Longs(v) if signed => {
                let up = above(32);
                Samples::Int(v.into_iter().map(|v| ((v >> shift) << up) as i32 >> up).collect())
            }
            Codes::Longs(v) if bits_stored == 32 => Samples::Wide(v.into_iter().map(f64::from).collect()),
            Codes::Longs(v) => {
                Samples::Int(v.into_iter().map(|v| ((v >> shift) & (u32::MAX >> above(32))) as i32).collect())
            }
        }
    }
}

fn integer_extent<T>(values: &[T], without: Option<(f64, f64)>) -> Option<(f64, f64)>
where
    T: Copy + Ord + Into<i32>,
{
    let wider = |(low, high): (T, T), v: T| (low.min(v), high.max(v));
    let simd = pulp::Arch::new();
    let (low, high) = match without {
        None => {
            let first = *values.first()?;
            simd.dispatch(|| values.iter().fold((first, first), |extent, v| wider(extent, *v)))
        }
        Some((from, to)) => {
            // the whole numbers among them
            let without = from.ceil() as i32..=to.floor() as i32;
            let counts = |v: T| !without.contains(&v.into());
            let first = *values.iter().find(|v| counts(**v))?;
            let instead = |v: T| if counts(v) { v } else { first };
            simd.dispatch(|| values.iter().fold((first, first), |extent, v| wider(extent, instead(*v))))
        }
    };
    Some((low.into().into(), high.into().into()))
}

fn each_code<T: Copy>(
    values: &[T],
    hidden: Option<&[bool]>,
    code: impl Fn(T) -> u16,
    value: impl Fn(u16) -> f64,
    mut see: impl FnMut(f64),
) {
    let mut seen = Box::new([false; 1 << 16]);
    match hidden {
        None => values.iter().for_each(|v| seen[usize::from(code(*v))] = true),
        hidden => shown(values, hidden).for_each(|v| seen[usize::from(code(*v))] = true),
    }
    (0..=u16::MAX).filter(|code| seen[usize::from(*code)]).for_each(|code| see(value(code)));
}

/// In blocks that stay in the cache until they have been put in order: memory is written once, and not cleared before.
fn read_blocks<T: bytemuck::Pod, E>(
    count: usize,
    order: impl Fn(T) -> T,
    mut read: impl FnMut(&mut [u8]) -> Result<(), E>,
) -> Result<Vec<T>, E> {
    let simd = pulp::Arch::new();
    let mut values = Vec::with_capacity(count);
    let mut block = vec![T::zeroed(); READ_BLOCK.min(count)];
    while values.len() < count {
        let block = &mut block[..READ_BLOCK.min(count - values.len())];
        read(bytemuck::cast_slice_mut(block))?;
        simd.dispatch(|| values.extend(block.iter().map(|v| order(*v))));
    }
    Ok(values)
}

fn shown<'a, T>(values: &'a [T], hidden: Option<&'a [bool]>) -> impl Iterator<Item = &'a T> {
    values.iter().enumerate().filter(move |(i, _)| hidden.is_none_or(|h| !h[*i])).map(|(_, v)| v)
}

fn mask<T: Copy>(values: &mut [T], f: impl Fn(T) -> T, nothing_to_do: bool) {
    if !nothing_to_do {
        pulp::Arch::new().dispatch(|| values.iter_mut().for_each(|v| *v = f(*v)));
    }
}

fn interleave<T: Copy + Default>(planes: &[T]) -> Vec<T> {
    let pixels = planes.len() / 3;
    let (red, rest) = planes.split_at(pixels);
    let (green, blue) = rest.split_at(pixels);
    let mut samples = vec![T::default(); pixels * 3];
    let values = red.iter().zip(green).zip(blue);
    for (pixel, ((r, g), b)) in samples.as_chunks_mut::<3>().0.iter_mut().zip(values) {
        *pixel = [*r, *g, *b];
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_become_stored_values() {
        let words = |v: &[u16]| Codes::Words(v.to_vec());
        let rows = [
            (words(&[0xF001, 0xFFFF]), 12, 0, false, Samples::U16(vec![1, 4095])),
            (words(&[0xF001, 0xFFFF]), 16, 0, false, Samples::U16(vec![0xF001, 0xFFFF])),
            (words(&[0x001F, 0x8000]), 12, 4, true, Samples::I16(vec![1, -2048])),
            (words(&[0x0FFF, 0xF7FF]), 12, 0, true, Samples::I16(vec![-1, 2047])),
            (Codes::Bytes(vec![0x7F, 0xC0]), 7, 0, true, Samples::I16(vec![-1, -64])),
            (Codes::Bytes(vec![0x7F, 0xC0]), 7, 1, false, Samples::U8(vec![0x3F, 0x60])),
            (Codes::Longs(vec![u32::MAX, 1]), 32, 0, false, Samples::Wide(vec![4_294_967_295.0, 1.0])),
            (Codes::Longs(vec![u32::MAX, 1]), 24, 0, false, Samples::Int(vec![0xFF_FFFF, 1])),
            (Codes::Longs(vec![0x1_F000, 0xFFFF]), 16, 0, false, Samples::U16(vec![0xF000, 0xFFFF])),
            (Codes::Longs(vec![0x8000, 0x1F_FFF0]), 12, 4, true, Samples::I16(vec![-2048, -1])),
            (Codes::Longs(vec![u32::MAX, 1]), 32, 0, true, Samples::Int(vec![-1, 1])),
        ];
        for (codes, bits, shift, signed, expected) in rows {
            assert_eq!(codes.clone().stored(bits, shift, signed), expected, "{codes:?} {bits} {shift} {signed}");
        }
        assert_eq!(words(&[1, 4, 2, 5, 3, 6]).interleaved(), words(&[1, 2, 3, 4, 5, 6]));
    }

    #[test]
    fn extents_leave_out_padding_and_what_is_no_number() {
        let wide = |v: &[f64]| Samples::Wide(v.to_vec());
        let none = None;
        let rows = [
            (Samples::U8(vec![7, 0, 255]), none, Some((0.0, 255.0))),
            (Samples::U8(vec![7, 0, 255]), Some((255.0, 300.0)), Some((0.0, 7.0))),
            (Samples::U16(vec![9, 65535, 4]), none, Some((4.0, 65535.0))),
            (Samples::U16(vec![0, 9, 65535, 4, 0]), Some((0.0, 0.0)), Some((4.0, 65535.0))),
            (Samples::U16(vec![3, 3]), Some((0.0, 9.0)), None),
            (Samples::U16(Vec::new()), none, None),
            (Samples::I16(vec![-2000, 5, -3]), Some((-2000.0, -2000.0)), Some((-3.0, 5.0))),
            (Samples::I16(vec![i16::MIN, i16::MAX]), none, Some((-32768.0, 32767.0))),
            (Samples::Int(vec![i32::MIN, 1, i32::MAX]), none, Some((-2147483648.0, 2147483647.0))),
            (Samples::Int(vec![i32::MIN, 1, i32::MAX]), Some((-1e300, 0.5)), Some((1.0, 2147483647.0))),
            // no whole number lies there
            (Samples::Int(vec![1, 2, 3]), Some((1.2, 1.8)), Some((1.0, 3.0))),
            (wide(&[f64::NAN, 2.0, f64::INFINITY, -1.5]), none, Some((-1.5, 2.0))),
            (wide(&[f64::NAN, 2.0, -1.5]), Some((-2.0, 0.0)), Some((2.0, 2.0))),
            (wide(&[f64::NAN]), none, None),
        ];
        for (samples, without, expected) in rows {
            assert_eq!(samples.extent(without), expected, "{samples:?} {without:?}");
        }
        // long enough for every way through the loop
        let long = Samples::U16((0..1000).map(|i| 30_000 + i).collect());
        assert_eq!(long.extent(Some((30_990.0, 31_000.0))), Some((30_000.0, 30_989.0)));
    }

    #[test]
    fn samples_are_read_block_by_block() {
        let count = 2 * READ_BLOCK + 3;
        let expected: Vec<u16> = (0..count).map(|i| i as u16).collect();
        for big_endian in [false, true] {
            let order = if big_endian { u16::to_be_bytes } else { u16::to_le_bytes };
            let bytes: Vec<u8> = expected.iter().flat_map(|v| order(*v)).collect();
            let mut rest = bytes.as_slice();
            let codes = Codes::read(count, 2, big_endian, |block| std::io::Read::read_exact(&mut rest, block));
            assert_eq!(codes.expect("enough bytes"), Codes::Words(expected.clone()));
        }
        let nothing = Codes::read(count, 4, false, |block| std::io::Read::read_exact(&mut [1u8; 7].as_slice(), block));
        assert!(nothing.is_err());
    }

    #[test]
    fn a_little_overshoot_is_cut_off_and_more_is_refused() {
        let words = |v: &[u16]| Codes::Words(v.to_vec());
        let signed = |v: &[i16]| words(&v.iter().map(|v| v.cast_unsigned()).collect::<Vec<_>>());
        let rows = [
            (words(&[0, 4095, 4096, 4350]), 16, 12, false, Some(words(&[0, 4095, 4095, 4095]))),
            (words(&[4351]), 16, 12, false, None),
            (words(&[1023, 1086]), 12, 10, false, Some(words(&[1023, 1023]))),
            (words(&[1087]), 12, 10, false, None),
            (
                signed(&[-2303, -2048, -1, 0, 2047, 2302]),
                16,
                12,
                true,
                Some(signed(&[-2048, -2048, -1, 0, 2047, 2047])),
            ),
            (signed(&[2303]), 16, 12, true, None),
            (signed(&[-2304]), 16, 12, true, None),
            // 14 bits in a word: -2050, 2050
            (words(&[0x37FE, 0x0802]), 14, 12, true, Some(signed(&[-2048, 2047]))),
            (Codes::Bytes(vec![127, 128, 134]), 8, 7, false, Some(Codes::Bytes(vec![127, 127, 127]))),
            (Codes::Bytes(vec![135]), 8, 7, false, None),
            (Codes::Bytes(vec![0xBE, 0x41]), 8, 7, true, Some(Codes::Bytes(vec![0xC0, 0x3F]))),
        ];
        for (codes, precision, stored, is_signed, expected) in rows {
            assert_eq!(codes.clone().clamped(precision, stored, is_signed), expected, "{codes:?}");
        }
    }
}
