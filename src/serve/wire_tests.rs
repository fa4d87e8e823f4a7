//! Whatever bytes come, they are read as prost reads them.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn metric() -> impl Strategy<Value = v1::Metric> {
    let text = || prop_oneof![Just(String::new()), "[a-c]{1,3}", "\\PC{0,3}"];
    let labels = proptest::collection::btree_map(text(), text(), 0..3);
    let value = prop_oneof![
        any::<f64>().prop_map(v1::metric::Value::Increment),
        any::<f64>().prop_map(v1::metric::Value::Observation),
    ];
    let time = (any::<i64>(), any::<i32>())
        .prop_map(|(seconds, nanos)| prost_types::Timestamp { seconds, nanos });
    let (value, time) = (proptest::option::of(value), proptest::option::of(time));
    (text(), text(), labels, value, time, text()).prop_map(
        |(component, name, labels, value, time, unit)| {
            let description = String::new();
            v1::Metric { component, name, value, labels, time, unit, description }
        },
    )
}

fn columns() -> impl Strategy<Value = v1::Packed> {
    let numbers = || proptest::collection::vec(any::<f64>(), 0..3);
    let refs = prop_oneof![0u32..200, 0u32..20_000, any::<u32>()];
    let refs = proptest::collection::vec(refs, 0..5);
    let times_ms = proptest::collection::vec(any::<i64>(), 0..3);
    let bin_keys = proptest::collection::vec(any::<i32>(), 0..3);
    let numbers = (numbers(), numbers(), numbers(), numbers(), numbers(), numbers());
    (refs, times_ms, bin_keys, numbers).prop_map(
        |(refs, times_ms, bin_keys, (increments, observations, sums, minima, maxima, lasts))| {
            let counts: Vec<u64> = times_ms.iter().map(|time| *time as u64).collect();
            let (sketch_sizes, sketch_joins) = (refs.clone(), refs.clone());
            v1::Packed {
                refs,
                increments,
                observations,
                times_ms,
                bin_counts: counts.clone(),
                counts,
                sums,
                minima,
                maxima,
                lasts,
                sketch_sizes,
                sketch_joins,
                bin_keys,
            }
        },
    )
}

/// Bytes of a request, of two in a row, or of something near one.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let series = proptest::collection::vec(any::<u32>(), 0..3);
    let request = (proptest::collection::vec(metric(), 0..5), series, columns()).prop_map(
        |(metrics, refs, packed)| {
            let series =
                refs.iter().map(|r| v1::Series { r#ref: *r, ..Default::default() }).collect();
            let packed = Some(packed);
            let hello = packed
                .as_ref()
                .and_then(|packed| packed.refs.first())
                .map(|epoch| v1::Hello { epoch: u64::from(*epoch), ..Default::default() });
            let sequence = metrics.len() as u64;
            v1::IngestRequest { hello, sequence, metrics, series, packed }.encode_to_vec()
        },
    );
    let request = request.boxed();
    let request =
        prop_oneof![request.clone(), (request.clone(), request).prop_map(|(a, b)| [a, b].concat())];
    let harm = (any::<prop::sample::Index>(), any::<u8>(), 0u8..4);
    (request, harm).prop_map(|(mut bytes, (place, byte, how))| {
        match how {
            0 if !bytes.is_empty() => bytes.truncate(place.index(bytes.len())),
            1 if !bytes.is_empty() => {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            2 => bytes.insert(place.index(bytes.len() + 1), byte),
            _ => {}
        }
        bytes
    })
}

/// What a sample says, comparable also where a number is none.
type Said<'a> = (&'a str, &'a str, &'a BTreeMap<String, String>, &'a str, String, Option<i64>);

fn said(source: engine::Source<'_>, value: Option<Value>, time: Option<i64>) -> Said<'_> {
    let value = match value {
        Some(Value::Increment(number)) => format!("+{:x}", number.to_bits()),
        Some(Value::Observation(number)) => format!("={:x}", number.to_bits()),
        None => String::new(),
    };
    (source.component, source.name, source.labels, source.unit, value, time)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn bytes_are_read_as_prost_reads_them(bytes in bytes()) {
        let expected = v1::IngestRequest::decode(&*bytes);
        let mut reading = Reading::default();
        let read = reading.read(&bytes, &engine::Stream::default());
        prop_assert_eq!(read.is_ok(), expected.is_ok(), "{:?} {:?}", read, expected);
        let Ok(expected) = expected else { return Ok(()) };
        prop_assert_eq!(reading.hello(), expected.hello.as_ref());
        prop_assert_eq!(reading.sequence(), expected.sequence);
        let found: Vec<_> = reading.samples().map(|sample| {
            let Of::Named(source, _) = sample.of else { unreachable!("nothing is known") };
            said(source, sample.value, sample.time.map(model::Timestamp::as_ms))
        }).collect();
        let expected_samples: Vec<_> = expected.metrics.iter().map(convert::plain).map(|plain| {
            said(plain.source, plain.value, plain.time.map(model::Timestamp::as_ms))
        }).collect();
        prop_assert_eq!(found, expected_samples);
        let refs: Vec<u32> = expected.series.iter().map(|series| series.r#ref).collect();
        prop_assert_eq!(reading.declared().map(|one| one.reference).collect::<Vec<_>>(), refs);
        let packed = expected.packed.unwrap_or_default();
        // As bytes: some of their numbers are none.
        prop_assert_eq!(reading.packed.encode_to_vec(), packed.encode_to_vec());
    }

    #[test]
    fn columns_in_single_numbers_are_read_too(refs in proptest::collection::vec(any::<u32>(), 0..9)) {
        let mut columns = Vec::new();
        for number in &refs {
            prost::encoding::uint32::encode(1, number, &mut columns);
            prost::encoding::double::encode(2, &f64::from(*number), &mut columns);
        }
        let mut request = Vec::new();
        prost::encoding::bytes::encode(5, &columns, &mut request);
        let mut reading = Reading::default();
        reading.read(&request, &engine::Stream::default()).unwrap();
        prop_assert_eq!(&reading.packed.refs, &refs);
        let increments: Vec<f64> = refs.iter().map(|number| f64::from(*number)).collect();
        prop_assert_eq!(&reading.packed.increments, &increments);
    }

    #[test]
    fn the_same_words_have_the_same_identity_whatever_value_and_time(
        metric in metric(), increment in any::<f64>(), seconds in any::<i64>()
    ) {
        let other = v1::Metric {
            value: Some(v1::metric::Value::Increment(increment)),
            time: Some(prost_types::Timestamp { seconds, nanos: 0 }),
            ..metric.clone()
        };
        let request = v1::IngestRequest { metrics: vec![metric, other], ..Default::default() };
        let mut reading = Reading::default();
        reading.read(&request.encode_to_vec(), &engine::Stream::default()).unwrap();
        let identities: Vec<_> = reading.samples().map(|sample| match sample.of {
            Of::Named(_, identity) => identity.to_vec(),
            Of::Known(_) => unreachable!("nothing is known"),
        }).collect();
        prop_assert_eq!(&identities[0], &identities[1]);
    }
}
