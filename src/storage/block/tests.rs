//! The codec against plain vectors, and against bytes that are not blocks.

use super::*;
use model::{Many, Sketch};
use proptest::prelude::*;

const WIDTH: Width = Width::from_secs(1);

fn special() -> impl Strategy<Value = f64> {
    prop_oneof![
        Just(0.0),
        Just(-0.0),
        Just(f64::from_bits(1)),
        Just(-f64::MIN_POSITIVE / 2.0),
        Just(9_007_199_254_740_991.0),
        Just(9_007_199_254_740_992.0),
        Just(9_007_199_254_740_993.0),
        Just(9_007_199_254_740_994.0),
        Just(model::MAX_MAGNITUDE),
        Just(-model::MAX_MAGNITUDE),
        Just(f64::MAX),
        Just(0.1),
        (-1e6..1e6).prop_map(f64::round),
        any::<f64>(),
    ]
}

fn rows<F: std::fmt::Debug>(fold: impl Strategy<Value = F>) -> impl Strategy<Value = Vec<Row<F>>> {
    let key = (0u64..1 << 40, -4_000_000_000i64..4_000_000_000);
    proptest::collection::vec((key, fold), 1..200).prop_map(|rows| {
        let mut rows: Vec<Row<F>> = rows
            .into_iter()
            .map(|((series, bucket), fold)| Row {
                series: SeriesId::from_u64(series),
                start: Timestamp::from_ms(bucket * 1000),
                fold,
            })
            .collect();
        rows.sort_by_key(Row::key);
        rows
    })
}

fn rolling() -> impl Strategy<Value = Rolling> {
    let one = (special(), 0..1000i64).prop_map(|(v, t)| Rolling::one(v, Timestamp::from_ms(t)));
    let sketch = proptest::collection::vec(special(), 0..40).prop_map(|values| {
        let mut sketch = Sketch::default();
        values.iter().filter(|value| value.is_finite()).for_each(|value| sketch.add(*value));
        sketch
    });
    let many = (1u64.., special(), special(), special(), special(), any::<i64>(), sketch).prop_map(
        |(count, sum, min, max, last, t, sketch)| {
            let last_time = Timestamp::from_ms(t);
            if count == 1 {
                Rolling::one(last, last_time)
            } else {
                Rolling::Many(Box::new(Many { count, sum, min, max, last, last_time, sketch }))
            }
        },
    );
    let finite = special().prop_filter("finite", |value| value.is_finite());
    let observed = proptest::collection::vec(finite, 1..4)
        .prop_map(|values| Rolling::of(&values, Timestamp::from_ms(7)));
    prop_oneof![one, many, observed]
}

/// A row to the bit: NaN equals itself here, and 0.0 is not -0.0.
type Bits = (SeriesId, Timestamp, [u64; 6], Option<Sketch>);

fn bits(rows: &Rows) -> Vec<Bits> {
    let of_counter =
        |r: &Row<Counter>| (r.series, r.start, [r.fold.sum.to_bits(), 0, 0, 0, 0, 0], None);
    let of_rolling = |r: &Row<Rolling>| {
        let f = &r.fold;
        let [sum, min, max, last] = [f.sum(), f.min(), f.max(), f.last()].map(f64::to_bits);
        let sketch = match f {
            Rolling::One { .. } => None,
            Rolling::Many(many) => Some(many.sketch.clone()),
        };
        let time = f.last_time().as_ms() as u64;
        (r.series, r.start, [sum, min, max, last, f.count(), time], sketch)
    };
    match rows {
        Rows::Counter(rows) => rows.iter().map(of_counter).collect(),
        Rows::Rolling(rows) => rows.iter().map(of_rolling).collect(),
    }
}

/// All that blocks for keeping hold, pushed series by series.
fn settled<F: Columns>(rows: &[Row<F>], block_bytes: usize) -> Vec<Block> {
    let mut writer = Writer::new(WIDTH, block_bytes, 1024);
    let mut blocks = Vec::new();
    for series in rows.chunk_by(|a, b| a.series == b.series) {
        blocks.append(&mut writer.push(&mut series.to_vec()));
    }
    blocks.append(&mut writer.finish());
    blocks
}

fn all_bits(blocks: &[Block]) -> Vec<Bits> {
    let rows = |block: &Block| decode_checked(&block.data, block.bounds.checksum).unwrap();
    blocks.iter().flat_map(|block| bits(&rows(block))).collect()
}

proptest! {
    #[test]
    fn counters_come_back_to_the_bit(rows in rows(special().prop_map(|sum| Counter { sum }))) {
        let block = encode(&rows, WIDTH).next().unwrap();
        let back = decode_checked(&block.data, block.bounds.checksum).unwrap();
        prop_assert_eq!(bits(&back), bits(&Rows::Counter(rows.clone())));
        prop_assert_eq!(block.bounds.first_series, rows[0].series);
        prop_assert!(rows.iter().all(|row| block.bounds.first <= row.start));
        prop_assert!(rows.iter().all(|row| row.start <= block.bounds.last));
    }

    #[test]
    fn rolling_folds_come_back_to_the_bit(rows in rows(rolling())) {
        let block = encode(&rows, WIDTH).next().unwrap();
        let back = decode_checked(&block.data, block.bounds.checksum).unwrap();
        prop_assert_eq!(bits(&back), bits(&Rows::Rolling(rows)));
    }

    #[test]
    fn what_is_kept_comes_back_to_the_bit(
        short in rows(rolling()), long in rows(rolling()), repeat in 1usize..9000, block_bytes in 1usize..5000,
    ) {
        // One series long enough for segments of its own, among others that are not.
        let mut rows = short;
        let series = SeriesId::from_u64(1 << 41);
        let cycle = long.iter().cycle().take(repeat).zip(0i64..);
        rows.extend(cycle.map(|(row, n)| Row {
            series,
            start: Timestamp::from_ms(n * 1000),
            fold: row.fold.clone(),
        }));
        let blocks = settled(&rows, block_bytes);
        prop_assert!(blocks.is_sorted_by_key(|block| block.bounds.first_series));
        prop_assert_eq!(blocks.iter().map(|b| b.bounds.rows as usize).sum::<usize>(), rows.len());
        prop_assert_eq!(all_bits(&blocks), bits(&Rows::Rolling(rows)));
    }

    #[test]
    fn damaged_bytes_are_an_error_and_never_a_panic(
        rows in rows(rolling()), at in any::<usize>(), flip in 1u8..,
    ) {
        let mut block = encode(&rows, WIDTH).next().unwrap();
        let at = at % block.data.len();
        block.data[at] ^= flip;
        let checked = decode_checked(&block.data, block.bounds.checksum);
        prop_assert_eq!(checked, Err(BlockError::Checksum));
        drop(decode(&block.data));
        prop_assert!(decode(&block.data[..at]).is_err());
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        drop(decode(&bytes));
        if let Some(first) = bytes.first_mut() {
            *first = VERSION;
        }
        drop(decode(&bytes));
    }
}

#[test]
fn rows_beyond_a_block_go_into_the_next() {
    let row = |n: u64| Row {
        series: SeriesId::from_u64(n),
        start: Timestamp::from_ms(0),
        fold: Counter { sum: 1.0 },
    };
    let rows: Vec<_> = (0..=(MAX_FRESH_ROWS as u64)).map(row).collect();
    let blocks: Vec<Block> = encode(&rows, WIDTH).collect();
    assert_eq!(blocks.iter().map(|b| b.bounds.rows).collect::<Vec<_>>(), [1024, 1]);
    assert_eq!(blocks[1].bounds.first_series, SeriesId::from_u64(1024));
}

#[test]
fn a_block_of_a_newer_version_says_so() {
    assert_eq!(decode(&[2, 1]), Err(BlockError::Newer(2)));
    assert_eq!(decode(&[]), Err(BlockError::Short));
    assert_eq!(decode(&[1, 9]), Err(BlockError::Bounds("the kind")));
}

#[test]
fn a_sampled_decimal_takes_about_a_byte_and_a_constant_nearly_none() {
    let row = |series: u64, n: i64, value: f64| Row {
        series: SeriesId::from_u64(series),
        start: Timestamp::from_ms(1_767_225_600_000 + n * 10_000),
        fold: Rolling::one(value, Timestamp::from_ms(1_767_225_600_000 + n * 10_000)),
    };
    let noise = |n: i64| ((n * 7919) % 101) as f64 / 100.0;
    let noisy: Vec<_> = (0..8640).map(|n| row(1, n, 20.0 + noise(n))).collect();
    let constant: Vec<_> = (0..8640).map(|n| row(1, n, 3.25)).collect();
    let bytes = |rows: &[Row<Rolling>]| -> usize {
        settled(rows, 1 << 17).iter().map(|block| block.data.len()).sum()
    };
    assert!(bytes(&noisy) < 8640, "{}", bytes(&noisy));
    assert!(bytes(&constant) < 200, "{}", bytes(&constant));
}

#[test]
fn sizes_in_pages_take_no_more_than_their_count_of_pages() {
    let size = |scale: f64| {
        let mut random = 1u64;
        let rows = (0..1000i64).map(|n| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let value = 1e9 + (random >> 56) as f64 * scale;
            let start = Timestamp::from_ms(n * 1000);
            Row { series: SeriesId::new(1, 1), start, fold: Rolling::one(value, start) }
        });
        let rows: Vec<_> = rows.collect();
        let blocks = settled(&rows, 1 << 20);
        assert_eq!(all_bits(&blocks), bits(&Rows::Rolling(rows)));
        blocks.iter().map(|block| block.data.len()).sum::<usize>()
    };
    assert!(size(4096.0) < size(1.0) + 10, "{} {}", size(4096.0), size(1.0));
}

#[test]
fn two_observations_take_no_more_room_together_than_apart() {
    let mut random = 1u64;
    let values: Vec<f64> = (0..2000)
        .map(|_| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            f64::from_bits(random >> 12 | 1 << 62) // from 2 to 4, all of 52 bits used
        })
        .collect();
    let size = |values_each: usize| {
        let rows = values.chunks(values_each).zip(0..).map(|(values, n)| {
            let start = Timestamp::from_ms(n * 1000);
            Row { series: SeriesId::new(1, 1), start, fold: Rolling::of(values, start) }
        });
        let rows: Vec<_> = rows.collect();
        let blocks = settled(&rows, 1 << 20);
        assert_eq!(all_bits(&blocks), bits(&Rows::Rolling(rows)));
        blocks.iter().map(|block| block.data.len()).sum::<usize>()
    };
    // Which of two is the last takes a bit.
    assert!(size(2) < size(1) + 2000 / 8 + 200, "{} {}", size(2), size(1));
}

#[test]
fn series_that_were_sampled_together_share_their_times() {
    let rows: Vec<Row<Counter>> = (0..40u64)
        .flat_map(|series| {
            (0..500i64).map(move |n| Row {
                series: SeriesId::from_u64(series),
                start: Timestamp::from_ms((n * 10 + (n * n) % 7) * 1000),
                fold: Counter { sum: 1.0 },
            })
        })
        .collect();
    let together: usize = settled(&rows, 1 << 17).iter().map(|block| block.data.len()).sum();
    let alone: usize = settled(&rows[..500], 1 << 17).iter().map(|block| block.data.len()).sum();
    assert!(together < 3 * alone + 40 * 20, "{together} for 40 series, {alone} for one");
}

#[test]
fn one_segment_is_read_without_the_others() {
    let rows: Vec<Row<Counter>> = (0..10u64)
        .flat_map(|series| {
            (0..6000i64).map(move |n| Row {
                series: SeriesId::from_u64(series),
                start: Timestamp::from_ms(n * 1000),
                fold: Counter { sum: ((n * 31) % 97) as f64 },
            })
        })
        .collect();
    let blocks = settled(&rows, 1 << 20);
    let view = View::checked(&*blocks[0].data, blocks[0].bounds.checksum).unwrap();
    let wanted: Vec<_> =
        view.segments().iter().filter(|s| s.first_series == SeriesId::from_u64(4)).collect();
    assert_eq!(wanted.len(), 2, "a long series is cut, so that a part of it can be read");
    let back: Vec<Row<Counter>> =
        wanted.iter().flat_map(|s| view.rows(s, Parts::All).unwrap()).collect();
    assert_eq!(back, rows[24_000..30_000]);
}

/// Series that were sampled at the same times, which are not evenly apart.
fn sharing(series: u32, times: i64) -> Vec<Row<Rolling>> {
    let row = |series: u32, n: i64| {
        let start = Timestamp::from_ms(1_000_000 + n * 7_000 + n % 3 * 1000);
        let fold = Rolling::one((n * 31 % 17) as f64 / 4.0, start);
        Row { series: SeriesId::new(1 + series / 7, series % 7), start, fold }
    };
    (0..series).flat_map(|series| (0..times).map(move |n| row(series, n))).collect()
}

#[test]
fn series_that_share_a_segment_take_no_bytes_for_their_numbers_and_times() {
    let mut rows = sharing(60, 60);
    let values = |row: &mut Row<Rolling>| row.fold = Rolling::one(1.5, row.start);
    rows.iter_mut().for_each(values);
    let bytes: usize = settled(&rows, usize::MAX).iter().map(|block| block.data.len()).sum();
    assert!(bytes < 400, "{bytes} bytes for {} rows of a constant", rows.len());
}

#[test]
fn columns_of_a_segment_are_read_as_its_rows_are() {
    for (series, times) in [(60, 60), (1, 200), (200, 1), (3, 20), (2, 2)] {
        let mut rows = sharing(series, times);
        for is_even in [true, false] {
            for block in settled(&rows, 1 << 14)
                .iter()
                .chain(&encode(&rows, Width::from_secs(1)).collect::<Vec<_>>())
            {
                let view = View::new(&block.data).unwrap();
                for segment in view.segments() {
                    let singles = view.singles(segment, Parts::All).unwrap().unwrap();
                    let sums = view.singles(segment, Parts::Sums).unwrap().unwrap();
                    assert_eq!(singles.values(), sums.values());
                    let Rows::Rolling(read) = view.read(segment, Parts::All).unwrap() else {
                        panic!()
                    };
                    let mut place = 0;
                    for (id, rows, at) in singles.runs() {
                        for (row, at) in rows.zip(at) {
                            let fold = singles.fold(row..row + 1, Parts::All);
                            let same = Row { series: id, start: singles.starts()[at], fold };
                            let Row { series, start, fold } = read[place].clone();
                            assert_eq!(same, Row { series, start, fold: fold.into() });
                            place += 1;
                        }
                    }
                    assert_eq!(place, read.len());
                }
            }
            // One series lacks a bucket, so that times no longer repeat themselves for all.
            if is_even {
                rows.remove(rows.len() / 2);
            }
            if rows.is_empty() {
                break;
            }
        }
    }
}

#[test]
fn a_column_of_runs_or_repetitions_that_cannot_be_is_refused() {
    use super::numbers::{read_ints, read_runs, write_ints};
    let (_, effort) = (Neighbours::Unknown, Effort::Settled);
    let pco = pco::wrapped::FileDecompressor::new(header().as_slice()).unwrap().0;
    let written = |numbers: &[i64]| {
        let mut out = Vec::new();
        write_ints(numbers, Neighbours::Unknown, effort, &mut out);
        out
    };
    let read = |bytes: &[u8], rows| read_ints(rows, &pco, &mut Reader::new(bytes));
    let runs: Vec<i64> = [5, 9, -3].into_iter().flat_map(|n| [n; 6]).collect();
    let repeated: Vec<i64> = [5, 9, -3].into_iter().cycle().take(18).collect();
    for (numbers, code) in [(&runs, 8), (&repeated, 9)] {
        let bytes = written(numbers);
        assert_eq!(bytes[0], code);
        assert_eq!(read(&bytes, 18), Ok(numbers.clone()));
        assert!(read(&bytes, 17).is_err() && read(&bytes, 19).is_err(), "of another length");
    }
    assert_eq!(
        read_runs(18, &pco, &mut Reader::new(&written(&runs))),
        Ok(vec![(5, 6), (9, 6), (-3, 6)])
    );
    // Constant lengths of 0, and of -1; runs of runs; a period of none.
    for bytes in [
        &[8, 1, 0, 0, 0, 2][..],
        &[8, 1, 0, 1, 0, 2],
        &[8, 1, 8, 1, 0, 2, 0, 2],
        &[9, 0, 0, 2],
        &[9, 1, 9, 1, 0, 2],
    ] {
        assert!(read(bytes, 1).is_err(), "{bytes:?}");
    }
}
