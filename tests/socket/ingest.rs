//! Samples in, in both forms, and what the acks say.

use crate::support::{
    Backend, Server, at, declare, increment, labelled, observation, on_both, packed, plain,
    second_ago,
};
use healthd::serve::proto::v1::{self, Durability, Kind};
use std::collections::BTreeMap;

on_both!(
    plain_samples_are_folded_acknowledged_and_read_back,
    packed_samples_are_folded_as_plain_ones,
    folds_of_a_client_are_merged_whole,
    a_folding_client_sends_how_its_observations_are_distributed,
    both_forms_in_one_request_meet_in_one_series,
    a_stream_may_send_everything_before_it_reads_an_ack,
    closing_the_sending_side_makes_the_last_ack_durable,
    a_recorded_sample_is_visible_at_once_and_durable_when_asked,
    acks_say_what_durable_means,
    a_ref_can_be_declared_again,
    an_empty_stream_and_an_empty_request_are_answered,
    units_and_descriptions_are_kept_from_the_first_sample,
);

fn extract_seconds(component: &str) -> v1::ExtractRequest {
    v1::ExtractRequest {
        component: component.to_owned(),
        step: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        max_points: 4000,
        ..Default::default()
    }
}

async fn plain_samples_are_folded_acknowledged_and_read_back(server: Server) {
    let mut client = server.client().await;
    let t = second_ago(30);
    let requests = vec![
        plain(vec![
            at(increment("shop", "orders", 2.0), t),
            at(increment("shop", "orders", 3.0), t),
        ]),
        plain(vec![
            at(increment("shop", "orders", 5.0), t + 1999),
            at(observation("shop", "latency", 0.25), t),
            at(observation("shop", "latency", 0.75), t + 1),
        ]),
        plain(vec![at(observation("shop", "latency", -1.0), t + 5000)]),
    ];
    let last = client.stream(requests).await.unwrap().pop().unwrap();
    assert_eq!((last.accepted_through, last.durable_through), (3, 3));
    assert_eq!((last.accepted_samples, last.rejected_count), (6, 0));
    let current = client.current("shop").await;
    assert_eq!(current, BTreeMap::from([("latency".into(), -1.0), ("orders".into(), 10.0)]));
    let (mut series, coverage) = client.extract(extract_seconds("shop")).await.unwrap();
    series.sort_by(|a, b| a.name.cmp(&b.name));
    let (latency, orders) = (&series[0], &series[1]);
    assert_eq!(orders.kind(), Kind::Counter);
    assert_eq!(orders.time_ms, [t, t + 1000]);
    assert_eq!(orders.value, [5.0, 5.0]);
    assert!(orders.count.is_empty());
    assert_eq!(latency.kind(), Kind::Rolling);
    assert_eq!(latency.time_ms, [t, t + 5000]);
    assert_eq!(latency.value, [0.5, -1.0]);
    assert_eq!(latency.count, [2, 1]);
    assert_eq!(latency.min, [0.25, -1.0]);
    assert_eq!(latency.max, [0.75, -1.0]);
    assert_eq!(latency.last, [0.75, -1.0]);
    assert_eq!(coverage.buckets_present, 3);
    server.stop().await.unwrap();
}

async fn packed_samples_are_folded_as_plain_ones(server: Server) {
    let mut client = server.client().await;
    let t = second_ago(30);
    let series = vec![
        declare(0, "p", "hits", Kind::Counter),
        declare(7, "p", "temperature", Kind::Rolling),
        v1::Series {
            labels: BTreeMap::from([("zone".into(), "zürich".into())]),
            ..declare(1, "p", "hits", Kind::Counter)
        },
    ];
    let columns = v1::Packed {
        refs: vec![0, 1, 0, 7, 7],
        increments: vec![1.0, 10.0, 2.0],
        observations: vec![20.5, 21.5],
        times_ms: vec![t, t, t + 1000, t, t + 999],
        ..Default::default()
    };
    let again = v1::Packed {
        refs: vec![0, 7],
        increments: vec![4.0],
        observations: vec![-3.0],
        times_ms: vec![t + 2000],
        ..Default::default()
    };
    let requests = vec![packed(series, columns), packed(Vec::new(), again)];
    let last = client.stream(requests).await.unwrap().pop().unwrap();
    assert_eq!((last.accepted_samples, last.rejected_count), (7, 0));
    let (series, _) = client.extract(extract_seconds("p")).await.unwrap();
    let find = |name: &str, labels: usize| {
        series.iter().find(|s| s.name == name && s.labels.len() == labels).unwrap()
    };
    let hits = find("hits", 0);
    assert_eq!(hits.time_ms, [t, t + 1000, t + 2000]);
    assert_eq!(hits.value, [1.0, 2.0, 4.0]);
    assert_eq!(find("hits", 1).labels["zone"], "zürich");
    assert_eq!(find("hits", 1).value, [10.0]);
    let temperature = find("temperature", 0);
    assert_eq!(temperature.value, [21.0, -3.0]);
    assert_eq!(temperature.count, [2, 1]);
    server.stop().await.unwrap();
}

async fn folds_of_a_client_are_merged_whole(server: Server) {
    let mut client = server.client().await;
    let t = second_ago(30);
    let columns = v1::Packed {
        refs: vec![1, 1],
        times_ms: vec![t + 400, t + 900],
        counts: vec![3, 2],
        sums: vec![6.0, 30.0],
        minima: vec![1.0, 10.0],
        maxima: vec![3.0, 20.0],
        lasts: vec![2.0, 20.0],
        ..Default::default()
    };
    let request = packed(vec![declare(1, "f", "size", Kind::Rolling)], columns);
    let last = client.stream(vec![request]).await.unwrap().pop().unwrap();
    assert_eq!((last.accepted_samples, last.rejected_count), (2, 0));
    let (series, _) = client.extract(extract_seconds("f")).await.unwrap();
    let size = &series[0];
    assert_eq!((size.time_ms.as_slice(), size.count.as_slice()), (&[t][..], &[5][..]));
    assert_eq!(size.value, [36.0 / 5.0]);
    assert_eq!((size.min[0], size.max[0], size.last[0]), (1.0, 20.0, 20.0));
    server.stop().await.unwrap();
}

async fn a_folding_client_sends_how_its_observations_are_distributed(server: Server) {
    let mut client = server.client().await;
    let t = second_ago(30);
    // 1, 2, ... 1000 in one bucket: the first half as a fold without joins, the second with two of them.
    let (mut sketch_sizes, mut bin_keys, mut bin_counts) = (Vec::new(), Vec::new(), Vec::new());
    for (values, joins) in [(1..=500, 0), (501..=1000, 2)] {
        let mut bins = BTreeMap::<i32, u64>::new();
        for value in values {
            // As the contract says it.
            let mut key = (f64::from(value).to_bits() >> 45) as i32 - 127;
            for _ in 0..joins {
                key = ((key - 1) >> 1) + 1;
            }
            *bins.entry(key).or_default() += 1;
        }
        sketch_sizes.push(bins.len() as u32);
        bin_keys.extend(bins.keys());
        bin_counts.extend(bins.values());
    }
    let columns = v1::Packed {
        refs: vec![1, 2, 1],
        times_ms: vec![t, t, t + 1],
        observations: Vec::new(),
        counts: vec![500, 2, 500],
        sums: vec![125_250.0, 3.0, 375_250.0],
        minima: vec![1.0, 1.0, 501.0],
        maxima: vec![500.0, 2.0, 1000.0],
        lasts: vec![500.0, 2.0, 1000.0],
        sketch_sizes: vec![sketch_sizes[0], 0, sketch_sizes[1]],
        sketch_joins: vec![0, 0, 2],
        bin_keys,
        bin_counts,
        ..Default::default()
    };
    let series =
        vec![declare(1, "f", "size", Kind::Rolling), declare(2, "f", "blind", Kind::Rolling)];
    let last = client.stream(vec![packed(series, columns)]).await.unwrap().pop().unwrap();
    assert_eq!((last.accepted_samples, last.rejected_count), (3, 0));
    let asked = v1::ExtractRequest { quantiles: vec![0.25, 0.99], ..extract_seconds("f") };
    let (series, coverage) = client.extract(asked).await.unwrap();
    let size = series.iter().find(|series| series.name == "size").unwrap();
    assert_eq!((size.count[0], size.quantiles[0].value.len()), (1000, 1));
    // Two joins: bins of 1/32 of a power of two.
    assert!((coverage.sketch_relative_error - 1.0 / 65.0).abs() < 1e-12);
    for (quantile, exact) in size.quantiles.iter().zip([250.0, 990.0]) {
        assert!((quantile.value[0] - exact).abs() <= exact / 65.0, "{quantile:?}");
    }
    let blind = series.iter().find(|series| series.name == "blind").unwrap();
    assert!(blind.quantiles.iter().all(|quantile| quantile.value[0].is_nan()));
    server.stop().await.unwrap();
}

async fn both_forms_in_one_request_meet_in_one_series(server: Server) {
    let mut client = server.client().await;
    let request = v1::IngestRequest {
        metrics: vec![increment("m", "n", 1.0)],
        series: vec![declare(3, "m", "n", Kind::Counter)],
        packed: Some(v1::Packed { refs: vec![3], increments: vec![2.0], ..Default::default() }),
        ..Default::default()
    };
    client.stream(vec![request]).await.unwrap();
    assert_eq!(client.current("m").await, BTreeMap::from([("n".into(), 3.0)]));
    assert_eq!(client.status().await.series_count, 1);
    server.stop().await.unwrap();
}

async fn a_stream_may_send_everything_before_it_reads_an_ack(server: Server) {
    let mut client = server.client().await;
    let (sender, requests) = tokio::sync::mpsc::channel(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut acks = client.ingest.ingest(stream).await.unwrap().into_inner();
    for _ in 0..20_000 {
        sender.send(plain(vec![increment("s", "n", 1.0)])).await.unwrap();
    }
    drop(sender);
    let (mut before, mut count) = (v1::IngestResponse::default(), 0);
    while let Some(ack) = acks.message().await.unwrap() {
        assert!(ack.accepted_through >= before.accepted_through, "acks are cumulative");
        assert!(ack.durable_through >= before.durable_through, "acks are cumulative");
        assert!(ack.durable_through <= ack.accepted_through);
        (before, count) = (ack, count + 1);
    }
    assert_eq!((before.accepted_through, before.durable_through), (20_000, 20_000));
    assert!(count < 10_000, "acks are coalesced: {count}");
    assert_eq!(client.current("s").await["n"], 20_000.0);
    server.stop().await.unwrap();
}

async fn closing_the_sending_side_makes_the_last_ack_durable(server: Server) {
    // The flush interval is an hour: only the close can have flushed.
    let mut client = server.client().await;
    let acks = client.stream(vec![plain(vec![increment("c", "n", 1.0)])]).await.unwrap();
    assert_eq!(acks.last().unwrap().durable_through, 1);
    let status = client.status().await;
    assert_eq!((status.pending_folds, status.flush_lag), (0, None));
    assert_eq!(status.storage.unwrap().flush_seq, 1);
    server.stop().await.unwrap();
}

async fn a_recorded_sample_is_visible_at_once_and_durable_when_asked(server: Server) {
    let mut client = server.client().await;
    let answer = client.record(vec![increment("r", "n", 1.5)]).await;
    assert_eq!((answer.accepted, answer.durable), (1, false));
    assert_eq!(client.current("r").await["n"], 1.5);
    let (series, _) = client.extract(extract_seconds("r")).await.unwrap();
    assert_eq!(series[0].value.iter().sum::<f64>(), 1.5);
    assert_eq!(client.status().await.pending_folds, 1);
    let answer = client.record_durably(vec![increment("r", "n", 2.0)]).await;
    assert_eq!(answer.durable, server.backend == Backend::Sqlite);
    let (series, _) = client.extract(extract_seconds("r")).await.unwrap();
    assert_eq!(series[0].value.iter().sum::<f64>(), 3.5);
    server.stop().await.unwrap();
}

async fn acks_say_what_durable_means(server: Server) {
    let mut client = server.client().await;
    let expected = match server.backend {
        Backend::Sqlite => Durability::Synced,
        Backend::Memory => Durability::None,
    };
    let acks = client.stream(vec![plain(vec![increment("d", "n", 1.0)])]).await.unwrap();
    assert!(acks.iter().all(|ack| ack.durability() == expected), "{acks:?}");
    assert_eq!(client.status().await.durability(), expected);
    server.stop().await.unwrap();
}

async fn a_ref_can_be_declared_again(server: Server) {
    let mut client = server.client().await;
    let columns = || v1::Packed { refs: vec![0], increments: vec![1.0], ..Default::default() };
    let requests = vec![
        packed(vec![declare(0, "again", "a", Kind::Counter)], columns()),
        packed(vec![declare(0, "again", "b", Kind::Counter)], columns()),
        packed(Vec::new(), columns()),
    ];
    client.stream(requests).await.unwrap();
    let expected = BTreeMap::from([("a".into(), 1.0), ("b".into(), 2.0)]);
    assert_eq!(client.current("again").await, expected);
    server.stop().await.unwrap();
}

async fn an_empty_stream_and_an_empty_request_are_answered(server: Server) {
    let mut client = server.client().await;
    let acks = client.stream(Vec::new()).await.unwrap();
    assert_eq!(acks.len(), 1);
    assert_eq!((acks[0].accepted_through, acks[0].durable_through), (0, 0));
    let acks = client.stream(vec![plain(Vec::new())]).await.unwrap();
    let last = acks.last().unwrap();
    assert_eq!((last.accepted_through, last.durable_through), (1, 1));
    let answer = client.record(Vec::new()).await;
    assert_eq!((answer.accepted, answer.durable), (0, false));
    server.stop().await.unwrap();
}

async fn units_and_descriptions_are_kept_from_the_first_sample(server: Server) {
    let mut client = server.client().await;
    let said = |unit: &str| v1::Metric {
        unit: unit.to_owned(),
        description: "how long it took".to_owned(),
        ..observation("u", "took", 1.0)
    };
    assert!(client.record(vec![said("seconds")]).await.warnings.is_empty());
    assert!(client.record(vec![said("")]).await.warnings.is_empty());
    let answer = client.record(vec![labelled(said("ms"), &[("a", "b")])]).await;
    assert_eq!(answer.accepted, 1);
    assert!(answer.warnings[0].contains("\"seconds\""), "{:?}", answer.warnings);
    let request = v1::ListMetricsRequest { component: "u".to_owned(), ..Default::default() };
    let metrics = client.query.list_metrics(request).await.unwrap().into_inner().metrics;
    assert_eq!(metrics[0].unit, "seconds");
    assert_eq!(metrics[0].description, "how long it took");
    assert_eq!(
        (metrics[0].series_count, metrics[0].label_keys.as_slice()),
        (2, &["a".to_owned()][..])
    );
    server.stop().await.unwrap();
}
