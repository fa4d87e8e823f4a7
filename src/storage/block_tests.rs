//! The codec against plain vectors, and against bytes that are not blocks.

use super::*;
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
    let many = (1u64.., special(), special(), special(), special(), any::<i64>()).prop_map(
        |(count, sum, min, max, last, t)| {
            let last_time = Timestamp::from_ms(t);
            if count == 1 {
                Rolling::one(last, last_time)
            } else {
                Rolling { count, sum, min, max, last, last_time }
            }
        },
    );
    prop_oneof![one, many]
}

/// Rows to the bit: NaN equals itself here, and 0.0 is not -0.0.
fn bits(rows: &Rows) -> Vec<(SeriesId, Timestamp, [u64; 6])> {
    let of_counter = |r: &Row<Counter>| (r.series, r.start, [r.fold.sum.to_bits(), 0, 0, 0, 0, 0]);
    let of_rolling = |r: &Row<Rolling>| {
        let f = &r.fold;
        let [sum, min, max, last] = [f.sum, f.min, f.max, f.last].map(f64::to_bits);
        (r.series, r.start, [sum, min, max, last, f.count, f.last_time.as_ms() as u64])
    };
    match rows {
        Rows::Counter(rows) => rows.iter().map(of_counter).collect(),
        Rows::Rolling(rows) => rows.iter().map(of_rolling).collect(),
    }
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
    let rows: Vec<_> = (0..=(MAX_ROWS as u64)).map(row).collect();
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
