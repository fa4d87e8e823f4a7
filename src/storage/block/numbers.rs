//! Columns of numbers: each written in the smallest of a few ways.
//!
//! What is read is what was written, to the bit. Constant and evenly rising columns cost a few bytes;
//! decimals become whole numbers; what is left is Pcodec's (<https://docs.rs/pco>), in its wrapped
//! format, of which a column has one chunk of one page. The first byte says which way:
//!
//! | code | whole numbers | floats |
//! |---|---|---|
//! | 0 | constant: signed | constant: 8 bytes |
//! | 1 | even: first, step, both signed | |
//! | 2, 3, 4 | Pcodec u16, u32, u64: least, signed; bytes | |
//! | 5 | | decimal: power of ten u8, then whole numbers |
//! | 6 | | Pcodec f64: bytes |
//! | 7 | multiples: least, signed; factor; (number - least) / factor as whole numbers | |
//! | 8 | runs: how many; how long each is, and its number, both as whole numbers of a code below 8 | |
//! | 9 | repeated: of how many numbers; these, as whole numbers of a code below 8 | |
//!
//! Runs and repetitions are what series that share a segment have: each its number, again and again, and the
//! times of all. They are read as such, so neither costs time where it costs no bytes.

use super::BlockError;
use super::bytes::{Reader, write_bytes, write_signed, write_varint};
use pco::data_types::Number;
use pco::wrapped::{FileCompressor, FileDecompressor};
use pco::{ChunkConfig, DeltaSpec, ModeSpec, PagingSpec};

const CONSTANT: u8 = 0;
const EVEN: u8 = 1;
const SMALL: u8 = 2;
const MIDDLE: u8 = 3;
const LARGE: u8 = 4;
const DECIMAL: u8 = 5;
const FLOAT: u8 = 6;
const MULTIPLES: u8 = 7;
const RUNS: u8 = 8;
const REPEATED: u8 = 9;

/// Numbers of a run, on average, from which on runs are written as such: what they save is worth two columns.
const MIN_RUN: usize = 4;

/// Powers of ten that decimals are tried with.
const POWERS: [f64; 10] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];

/// How hard to look for the smallest form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// For what is written once a second and soon rewritten: a few nanoseconds a number.
    Fresh,
    /// For what stays: some tens of nanoseconds a number.
    Settled,
}

impl Effort {
    const fn level(self) -> usize {
        match self {
            Self::Fresh => 2,
            Self::Settled => 6,
        }
    }
}

/// Whether neighbours tell something of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Neighbours {
    /// They do: differences are written.
    Alike,
    /// They do not.
    Apart,
    /// That is to be found out.
    Unknown,
}

/// Pcodec's header, the same for all columns of one writer.
pub(crate) fn header() -> Vec<u8> {
    FileCompressor::default().write_header(Vec::new()).expect("a header into memory")
}

/// Appends a column of whole numbers.
pub(crate) fn write_ints(
    numbers: &[i64],
    neighbours: Neighbours,
    effort: Effort,
    out: &mut Vec<u8>,
) {
    let changes = numbers.windows(2).filter(|pair| pair[0] != pair[1]).count();
    if changes > 0 && (changes + 1) * MIN_RUN <= numbers.len() {
        let runs = || numbers.chunk_by(|a, b| a == b);
        out.push(RUNS);
        write_varint(changes as u64 + 1, out);
        let lengths: Vec<i64> = runs().map(|run| run.len() as i64).collect();
        write_plain(&lengths, neighbours, effort, out);
        return write_plain(&runs().map(|run| run[0]).collect::<Vec<_>>(), neighbours, effort, out);
    }
    match period(numbers) {
        Some(period) => {
            out.push(REPEATED);
            write_varint(period as u64, out);
            write_plain(&numbers[..period], neighbours, effort, out);
        }
        None => write_plain(numbers, neighbours, effort, out),
    }
}

/// After how many numbers they begin again, if they are nothing but that, twice at least.
fn period(numbers: &[i64]) -> Option<usize> {
    let (first, rest) = numbers.split_first()?;
    let period = 1 + rest.iter().position(|number| number == first)?;
    let repeats = || numbers.iter().zip(&numbers[period..]).all(|(one, next)| one == next);
    (period > 1 && numbers.len().is_multiple_of(period) && repeats()).then_some(period)
}

/// Appends a column of whole numbers, whatever the runs or repetitions in it.
fn write_plain(numbers: &[i64], neighbours: Neighbours, effort: Effort, out: &mut Vec<u8>) {
    let first = numbers.first().copied().unwrap_or(0);
    let step = numbers.get(1).map_or(0, |second| second.wrapping_sub(first));
    if numbers.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) == step) {
        out.push(if step == 0 { CONSTANT } else { EVEN });
        write_signed(first, out);
        if step != 0 {
            write_signed(step, out);
        }
        return;
    }
    let (least, most) = bounds(numbers);
    if effort == Effort::Settled
        && let Some(factor) = factor(numbers, least)
    {
        out.push(MULTIPLES);
        write_signed(least, out);
        write_varint(factor, out);
        let parts = numbers.iter().map(|n| (n.wrapping_sub(least) as u64 / factor) as i64);
        return write_plain(&parts.collect::<Vec<_>>(), neighbours, effort, out);
    }
    let order = usize::from(match neighbours {
        Neighbours::Alike => true,
        Neighbours::Apart => false,
        Neighbours::Unknown => effort == Effort::Settled && neighbours_are_alike(numbers),
    });
    let offsets = numbers.iter().map(|number| number.wrapping_sub(least) as u64);
    let chunk = match most.wrapping_sub(least) as u64 {
        0..=0xffff => {
            out.push(SMALL);
            compress(&offsets.map(|offset| offset as u16).collect::<Vec<_>>(), order, effort)
        }
        0x1_0000..=0xffff_ffff => {
            out.push(MIDDLE);
            compress(&offsets.map(|offset| offset as u32).collect::<Vec<_>>(), order, effort)
        }
        0x1_0000_0000.. => {
            out.push(LARGE);
            compress(&offsets.collect::<Vec<_>>(), order, effort)
        }
    };
    write_signed(least, out);
    write_bytes(&chunk, out);
}

/// Appends a column of floats.
pub(crate) fn write_floats(
    numbers: &[f64],
    neighbours: Neighbours,
    effort: Effort,
    out: &mut Vec<u8>,
) {
    let first = numbers.first().copied().unwrap_or(0.0);
    if numbers.iter().all(|number| number.to_bits() == first.to_bits()) {
        out.push(CONSTANT);
        out.extend_from_slice(&first.to_le_bytes());
        return;
    }
    if let Some((power, whole)) = decimals(numbers) {
        out.extend_from_slice(&[DECIMAL, power]);
        return write_ints(&whole, neighbours, effort, out);
    }
    out.push(FLOAT);
    let config = match effort {
        Effort::Fresh => config(0, effort),
        // What is no decimal may have another regularity, which Pcodec looks for.
        Effort::Settled => ChunkConfig::default().with_compression_level(effort.level()),
    };
    write_bytes(&chunk(numbers, config), out);
}

/// Reads a column of exactly so many whole numbers.
pub(crate) fn read_ints(
    rows: usize,
    pco: &FileDecompressor,
    reader: &mut Reader<'_>,
) -> Result<Vec<i64>, BlockError> {
    read_as(rows, pco, reader, std::convert::identity::<i64>)
}

/// Reads a column of exactly so many whole numbers, each as what `convert` makes of it: in one pass over
/// what was decompressed.
fn read_as<T: Clone>(
    rows: usize,
    pco: &FileDecompressor,
    reader: &mut Reader<'_>,
    convert: impl Fn(i64) -> T,
) -> Result<Vec<T>, BlockError> {
    let code = reader.byte()?;
    match code {
        RUNS => {
            let mut numbers = Vec::with_capacity(rows);
            for (number, length) in runs(rows, pco, reader)? {
                numbers.resize(numbers.len() + length, convert(number));
            }
            return Ok(numbers);
        }
        REPEATED => {
            let numbers: Vec<T> = repeated(rows, pco, reader)?.into_iter().map(convert).collect();
            return Ok(numbers.iter().cloned().cycle().take(rows).collect());
        }
        _ => {}
    }
    let least = reader.signed()?;
    let up = |offset: u64| convert(least.wrapping_add(offset as i64));
    match code {
        CONSTANT => Ok(vec![convert(least); rows]),
        EVEN => {
            let step = reader.signed()?;
            let number = |n: i64| convert(least.wrapping_add(n.wrapping_mul(step)));
            Ok((0..rows as i64).map(number).collect())
        }
        SMALL => {
            Ok(decompress::<u16>(rows, pco, reader)?.into_iter().map(|n| up(n.into())).collect())
        }
        MIDDLE => {
            Ok(decompress::<u32>(rows, pco, reader)?.into_iter().map(|n| up(n.into())).collect())
        }
        LARGE => Ok(decompress::<u64>(rows, pco, reader)?.into_iter().map(up).collect()),
        MULTIPLES => {
            let factor = reader.varint()?;
            // Parts have no common factor, so there are no multiples of multiples.
            let parts = read_below(MULTIPLES, rows, pco, reader)?;
            Ok(parts.into_iter().map(|part| up((part as u64).wrapping_mul(factor))).collect())
        }
        _ => Err(BlockError::Bounds("a column's form")),
    }
}

/// Reads a column that is part of another: of a code below that one's, so that none is without end.
fn read_below(
    code: u8,
    rows: usize,
    pco: &FileDecompressor,
    reader: &mut Reader<'_>,
) -> Result<Vec<i64>, BlockError> {
    if reader.rest().first().is_some_and(|part| *part >= code) {
        return Err(BlockError::Bounds("a column's form"));
    }
    read_ints(rows, pco, reader)
}

/// Reads a column of exactly so many whole numbers as runs: each number and how often it stands there.
pub(super) fn read_runs(
    rows: usize,
    pco: &FileDecompressor,
    reader: &mut Reader<'_>,
) -> Result<Vec<(i64, usize)>, BlockError> {
    if reader.rest().first() == Some(&RUNS) {
        reader.byte()?;
        return runs(rows, pco, reader);
    }
    let numbers = read_ints(rows, pco, reader)?;
    Ok(numbers.chunk_by(|a, b| a == b).map(|run| (run[0], run.len())).collect())
}

fn runs(
    rows: usize,
    pco: &FileDecompressor,
    reader: &mut Reader<'_>,
) -> Result<Vec<(i64, usize)>, BlockError> {
    let wrong = || BlockError::Bounds("the number of runs");
    let count = usize::try_from(reader.varint()?).ok().filter(|count| *count <= rows);
    let count = count.ok_or_else(wrong)?;
    let lengths = read_below(RUNS, count, pco, reader)?;
    let numbers = read_below(RUNS, count, pco, reader)?;
    let mut left = rows;
    let runs = numbers.into_iter().zip(lengths).map(|(number, length)| {
        let length = usize::try_from(length).ok().filter(|length| (1..=left).contains(length));
        let length = length.ok_or_else(wrong)?;
        left -= length;
        Ok((number, length))
    });
    let runs = runs.collect::<Result<_, BlockError>>()?;
    if left == 0 { Ok(runs) } else { Err(wrong()) }
}

/// Reads a column of exactly so many whole numbers; of one that repeats itself, once what it repeats.
pub(super) fn read_once(
    rows: usize,
    pco: &FileDecompressor,
    reader: &mut Reader<'_>,
) -> Result<Vec<i64>, BlockError> {
    if reader.rest().first() == Some(&REPEATED) {
        reader.byte()?;
        return repeated(rows, pco, reader);
    }
    read_ints(rows, pco, reader)
}

fn repeated(
    rows: usize,
    pco: &FileDecompressor,
    reader: &mut Reader<'_>,
) -> Result<Vec<i64>, BlockError> {
    let period = usize::try_from(reader.varint()?).ok();
    let period =
        period.filter(|period| (1..=rows).contains(period) && rows.is_multiple_of(*period));
    let period = period.ok_or(BlockError::Bounds("a period"))?;
    read_below(RUNS, period, pco, reader)
}

/// Reads a column of whole numbers that are all the same; of others, nothing.
pub(super) fn read_constant(reader: &mut Reader<'_>) -> Result<Option<i64>, BlockError> {
    if reader.rest().first() != Some(&CONSTANT) {
        return Ok(None);
    }
    reader.byte()?;
    reader.signed().map(Some)
}

/// Reads a column of exactly so many floats.
pub(crate) fn read_floats(
    rows: usize,
    pco: &FileDecompressor,
    reader: &mut Reader<'_>,
) -> Result<Vec<f64>, BlockError> {
    match reader.byte()? {
        CONSTANT => {
            let bytes = reader.take(8)?.try_into().map_err(|_| BlockError::Short)?;
            Ok(vec![f64::from_le_bytes(bytes); rows])
        }
        DECIMAL => {
            let power = POWERS.get(usize::from(reader.byte()?));
            let power = *power.ok_or(BlockError::Bounds("a power of ten"))?;
            read_as(rows, pco, reader, |whole| whole as f64 / power)
        }
        FLOAT => decompress(rows, pco, reader),
        _ => Err(BlockError::Bounds("a column's form")),
    }
}

fn bounds(numbers: &[i64]) -> (i64, i64) {
    let start = numbers.first().copied().unwrap_or(0);
    numbers.iter().fold((start, start), |(least, most), n| (least.min(*n), most.max(*n)))
}

/// The largest number above 1 of which all distances from the least one are multiples: sizes in bytes
/// are often those of pages or blocks. None if there is none.
fn factor(numbers: &[i64], least: i64) -> Option<u64> {
    let mut factor = 0;
    for number in numbers {
        let (mut a, mut b) = (number.wrapping_sub(least) as u64, factor);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        factor = a;
        if factor == 1 {
            return None;
        }
    }
    (factor > 1).then_some(factor)
}

/// Whether differences are shorter, in bits, than distances from the middle.
fn neighbours_are_alike(numbers: &[i64]) -> bool {
    let bits = |number: i64| u64::from(u64::BITS - number.unsigned_abs().leading_zeros());
    let mut sorted = numbers.to_vec();
    let middle = sorted.len() / 2;
    let median = *sorted.select_nth_unstable(middle).1;
    let apart: u64 = numbers.iter().map(|n| bits(n.wrapping_sub(median))).sum();
    let alike: u64 = numbers.windows(2).map(|pair| bits(pair[1].wrapping_sub(pair[0]))).sum();
    alike < apart
}

/// The numbers as whole numbers over a power of ten, if all of them are that to the bit.
fn decimals(numbers: &[f64]) -> Option<(u8, Vec<i64>)> {
    let fits = |number: f64, power: f64| {
        let whole = (number * power).round_ties_even();
        let same = (whole as i64 as f64 / power).to_bits() == number.to_bits();
        same.then_some(whole as i64)
    };
    let mut least = 0;
    let mut whole = Vec::with_capacity(numbers.len());
    // A number that needs a higher power starts over: what fits one power need not fit the next.
    'powers: loop {
        let power = *POWERS.get(least)?;
        whole.clear();
        for number in numbers {
            let Some(fitting) = fits(*number, power) else {
                least = (least + 1..POWERS.len()).find(|p| fits(*number, POWERS[*p]).is_some())?;
                continue 'powers;
            };
            whole.push(fitting);
        }
        return Some((least as u8, whole));
    }
}

fn config(order: usize, effort: Effort) -> ChunkConfig {
    let delta = if order == 0 { DeltaSpec::NoOp } else { DeltaSpec::TryConsecutive(order) };
    ChunkConfig::default()
        .with_compression_level(effort.level())
        .with_mode_spec(ModeSpec::Classic)
        .with_delta_spec(delta)
}

fn compress<T: Number>(numbers: &[T], order: usize, effort: Effort) -> Vec<u8> {
    chunk(numbers, config(order, effort))
}

fn chunk<T: Number>(numbers: &[T], config: ChunkConfig) -> Vec<u8> {
    let config = config.with_paging_spec(PagingSpec::Exact(vec![numbers.len()]));
    let written =
        FileCompressor::default().chunk_compressor(numbers, &config).and_then(|mut chunk| {
            let mut out = Vec::with_capacity(chunk.meta_size_hint() + chunk.page_size_hint(0));
            chunk.write_meta(&mut out)?;
            chunk.write_page(0, &mut out)?;
            Ok(out)
        });
    written.expect("a column is not longer than a page may be, and goes into memory")
}

fn decompress<T: Number + Default>(
    rows: usize,
    pco: &FileDecompressor,
    reader: &mut Reader<'_>,
) -> Result<Vec<T>, BlockError> {
    let bytes = reader.bytes()?;
    let mut numbers = vec![T::default(); rows];
    let read = pco.chunk_decompressor::<T, _>(bytes).and_then(|(mut chunk, rest)| {
        let mut page = chunk.page_decompressor(rest, rows)?;
        Ok((page.read(&mut numbers)?, page.into_src().is_empty()))
    });
    match read {
        Ok((progress, true)) if progress.finished && progress.n_processed == rows => Ok(numbers),
        Ok(_) => Err(BlockError::Bounds("a column's length")),
        Err(error) => Err(BlockError::Column(error.to_string())),
    }
}
