//! Bad input: each bad sample is refused by its place and reason, and nothing else is harmed.

use crate::support::{
    Backend, Client, Server, at, declare, increment, labelled, now_ms, observation, on_both,
    packed, plain, second_ago,
};
use healthd::serve::proto::v1::{self, Kind, Reason};
use tonic::{Code, Status};
use tonic_types::StatusExt;

on_both!(
    each_bad_sample_is_refused_by_its_place_and_harms_no_other,
    each_bad_row_is_refused_by_its_place_and_harms_no_other,
    columns_of_unequal_length_are_refused_together,
    a_bad_declaration_is_warned_of_and_its_rows_are_refused_with_its_reason,
    a_request_of_too_many_samples_is_refused_and_the_stream_goes_on,
    folds_that_contradict_themselves_are_refused_and_harm_nothing,
    a_refusal_is_short_however_long_the_name,
    what_a_stream_declares_and_does_not_use_is_bounded,
    every_refused_sample_is_told_however_many_there_are,
    an_oversized_message_ends_its_call_and_nothing_else,
    a_malformed_message_ends_its_call_and_nothing_else,
    an_invalid_page_or_range_names_its_field,
);

/// The rejections as (sequence, index, reason); each must say something.
fn told(rejections: &[v1::Rejection]) -> Vec<(u64, u32, Reason)> {
    rejections
        .iter()
        .map(|one| {
            assert!(!one.message.is_empty(), "{one:?}");
            (one.sequence, one.index, one.reason())
        })
        .collect()
}

async fn each_bad_sample_is_refused_by_its_place_and_harms_no_other(server: Server) {
    let mut client = server.client().await;
    client.record(vec![increment("b", "counter", 1.0), observation("b", "gauge", 1.0)]).await;
    let good = || increment("b", "counter", 1.0);
    let many: Vec<(String, String)> = (0..33).map(|n| (format!("l{n}"), String::new())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let long = "v".repeat(1025);
    let bad = [
        (increment("b", "", 1.0), Reason::InvalidName),
        (increment("b", "a b", 1.0), Reason::InvalidName),
        (increment("b", &"n".repeat(201), 1.0), Reason::InvalidName),
        (increment("b\n", "n", 1.0), Reason::InvalidName),
        (increment("b", "größe", 1.0), Reason::InvalidName),
        (labelled(good(), &[("a=", "1")]), Reason::InvalidName),
        (labelled(good(), &[("a", "1\u{7}")]), Reason::InvalidLabel),
        (labelled(good(), &[("a", &long)]), Reason::InvalidLabel),
        (labelled(good(), &many), Reason::InvalidLabel),
        (v1::Metric { value: None, ..good() }, Reason::InvalidValue),
        (increment("b", "counter", f64::NAN), Reason::InvalidValue),
        (increment("b", "counter", -1.0), Reason::InvalidValue),
        (observation("b", "gauge", f64::INFINITY), Reason::InvalidValue),
        (observation("b", "gauge", f64::NEG_INFINITY), Reason::InvalidValue),
        (observation("b", "gauge", 1e300), Reason::InvalidValue),
        (at(good(), now_ms() + 660_000), Reason::TimeAhead),
        (at(good(), now_ms() - 4 * 365 * 86_400_000), Reason::TimeTooOld),
        (at(good(), i64::MIN / 2), Reason::TimeTooOld),
        (observation("b", "counter", 1.0), Reason::KindMismatch),
        (increment("b", "gauge", 1.0), Reason::KindMismatch),
        (labelled(observation("b", "counter", 1.0), &[("new", "one")]), Reason::KindMismatch),
        (v1::Metric { unit: "u".repeat(65), ..good() }, Reason::InvalidText),
        (v1::Metric { description: "a\tb".into(), ..good() }, Reason::InvalidText),
    ];
    let expected: Vec<_> = (0u32..).zip(&bad).map(|(n, (_, r))| (1, 2 * n + 1, *r)).collect();
    let count = bad.len() as u64;
    let mixed: Vec<_> = bad.into_iter().flat_map(|(metric, _)| [good(), metric]).collect();
    let answer = client.record(mixed.clone()).await;
    assert_eq!(told(&answer.rejections), expected);
    assert_eq!(answer.accepted, count);
    let acks = client.stream(vec![plain(mixed), plain(vec![good()])]).await.unwrap();
    let rejections: Vec<_> = acks.iter().flat_map(|ack| ack.rejections.clone()).collect();
    assert_eq!(told(&rejections), expected);
    assert_eq!(acks.last().unwrap().rejected_count, count);
    assert_eq!(acks.last().unwrap().accepted_samples, count + 1);
    assert_eq!(client.current("b").await["counter"], 2.0 + 2.0 * count as f64);
    let status = client.status().await;
    assert_eq!(status.series_count, 2, "a refused sample makes no series");
    assert_eq!(status.rejected_by_reason.iter().map(|r| r.count).sum::<u64>(), 2 * count);
    server.stop().await.unwrap();
}

async fn each_bad_row_is_refused_by_its_place_and_harms_no_other(server: Server) {
    let mut client = server.client().await;
    let series =
        vec![declare(0, "rows", "hits", Kind::Counter), declare(1, "rows", "size", Kind::Rolling)];
    let now = now_ms();
    let columns = v1::Packed {
        refs: vec![0, 0, 9, 1, 0, 1, 0, 1, 1, 1],
        increments: vec![1.0, -1.0, 1.0, 1.0, 2.0],
        observations: vec![5.0, 6.0, f64::NAN],
        times_ms: vec![now, now, now, now, now, now, now, now, now, now + 700_000],
        counts: vec![0, 1],
        sums: vec![1.0, 1.0],
        minima: vec![1.0, 1.0],
        maxima: vec![1.0, 1.0],
        lasts: vec![1.0, 1.0],
        ..Default::default()
    };
    let request = v1::IngestRequest {
        metrics: vec![increment("rows", "plain", 1.0), increment("rows", "", 1.0)],
        ..packed(series, columns)
    };
    let acks = client.stream(vec![request]).await.unwrap();
    let rejections: Vec<_> = acks.iter().flat_map(|ack| ack.rejections.clone()).collect();
    let expected = [
        (1, 1, Reason::InvalidName),
        (1, 3, Reason::InvalidValue),
        (1, 4, Reason::UndeclaredRef),
        (1, 5, Reason::KindMismatch),
        (1, 8, Reason::KindMismatch),
        (1, 9, Reason::InvalidValue),
        (1, 10, Reason::InvalidValue),
        (1, 11, Reason::TimeAhead),
    ];
    assert_eq!(told(&rejections), expected);
    let current = client.current("rows").await;
    assert_eq!((current["hits"], current["size"], current["plain"]), (3.0, 5.0, 1.0));
    server.stop().await.unwrap();
}

async fn columns_of_unequal_length_are_refused_together(server: Server) {
    let mut client = server.client().await;
    let good = v1::Packed {
        refs: vec![0, 1],
        increments: vec![1.0],
        counts: vec![1],
        sums: vec![2.0],
        minima: vec![2.0],
        maxima: vec![2.0],
        lasts: vec![2.0],
        ..Default::default()
    };
    let wrong = [
        v1::Packed { refs: vec![0, 1, 1], ..good.clone() },
        v1::Packed { refs: vec![0], ..good.clone() },
        v1::Packed { times_ms: vec![1, 2, 3], ..good.clone() },
        v1::Packed { sums: Vec::new(), ..good.clone() },
        v1::Packed { minima: vec![2.0, 2.0], ..good.clone() },
        v1::Packed { maxima: Vec::new(), ..good.clone() },
        v1::Packed { lasts: Vec::new(), ..good.clone() },
        v1::Packed { sketch_sizes: vec![0, 0], ..good.clone() },
        v1::Packed { sketch_joins: vec![0, 0], ..good.clone() },
        v1::Packed { sketch_sizes: vec![1], bin_keys: vec![1], ..good.clone() },
        v1::Packed { sketch_sizes: vec![u32::MAX], ..good.clone() },
        v1::Packed { bin_keys: vec![1], bin_counts: vec![1], ..good.clone() },
        v1::Packed { sums: vec![1.0; 3], ..Default::default() },
        v1::Packed { times_ms: vec![1, 2, 3], ..Default::default() },
    ];
    let series =
        vec![declare(0, "cols", "hits", Kind::Counter), declare(1, "cols", "size", Kind::Rolling)];
    let mut requests: Vec<_> = wrong.iter().map(|w| packed(Vec::new(), w.clone())).collect();
    requests.insert(0, packed(series, good.clone()));
    requests.push(packed(Vec::new(), good));
    let acks = client.stream(requests).await.unwrap();
    let rejections: Vec<_> = acks.iter().flat_map(|ack| ack.rejections.clone()).collect();
    assert!(rejections.iter().all(|one| one.reason() == Reason::ColumnLength));
    let mut rows = [0u32; 15];
    for (sequence, index, _) in told(&rejections) {
        assert_eq!(index, rows[sequence as usize - 2]);
        rows[sequence as usize - 2] += 1;
    }
    // A column of times that is too long counts too.
    assert_eq!(rows, [3, 2, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 0]);
    assert_eq!(acks.last().unwrap().accepted_samples, 4);
    server.stop().await.unwrap();
}

async fn a_bad_declaration_is_warned_of_and_its_rows_are_refused_with_its_reason(server: Server) {
    let mut client = server.client().await;
    let series = vec![
        declare(0, "d", "good", Kind::Counter),
        declare(1, "d", "bad name", Kind::Counter),
        declare(2, "d", "kindless", Kind::Unspecified),
        declare(4_000_000, "d", "far", Kind::Counter),
    ];
    let columns = v1::Packed {
        refs: vec![1, 0, 2, 4_000_000],
        increments: vec![1.0; 4],
        ..Default::default()
    };
    let acks = client.stream(vec![packed(series, columns)]).await.unwrap();
    let warnings: Vec<_> = acks.iter().flat_map(|ack| ack.warnings.clone()).collect();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings[0].starts_with("series with ref 1: name \"bad name\""), "{warnings:?}");
    let rejections: Vec<_> = acks.iter().flat_map(|ack| ack.rejections.clone()).collect();
    let expected =
        [(1, 0, Reason::InvalidName), (1, 2, Reason::InvalidValue), (1, 3, Reason::UndeclaredRef)];
    assert_eq!(told(&rejections), expected);
    assert_eq!(client.current("d").await.len(), 1);
    server.stop().await.unwrap();
}

async fn a_request_of_too_many_samples_is_refused_and_the_stream_goes_on(server: Server) {
    let mut client = server.client().await;
    let columns = |count: usize| v1::Packed {
        refs: vec![0; count],
        increments: vec![1.0; count],
        ..Default::default()
    };
    let requests = vec![
        packed(vec![declare(0, "t", "n", Kind::Counter)], columns(1)),
        packed(Vec::new(), columns(65_537)),
        packed(Vec::new(), columns(65_536)),
    ];
    let acks = client.stream(requests).await.unwrap();
    let rejections: Vec<_> = acks.iter().flat_map(|ack| ack.rejections.clone()).collect();
    assert_eq!(told(&rejections), [(2, 0, Reason::TooManySamples)]);
    let last = acks.last().unwrap();
    assert_eq!((last.rejected_count, last.accepted_samples), (65_537, 65_537));
    assert_eq!(client.current("t").await["n"], 65_537.0);
    server.stop().await.unwrap();
}

async fn every_refused_sample_is_told_however_many_there_are(server: Server) {
    let mut client = server.client().await;
    let columns = || v1::Packed {
        refs: vec![5; 65_536],
        increments: vec![1.0; 65_536],
        ..Default::default()
    };
    let requests = (0..4).map(|_| packed(Vec::new(), columns())).collect();
    let acks = client.stream(requests).await.unwrap();
    let rejections: Vec<_> = acks.into_iter().flat_map(|ack| ack.rejections).collect();
    let expected = (1..=4u64).flat_map(|sequence| (0..65_536u32).map(move |n| (sequence, n)));
    assert!(rejections.iter().map(|one| (one.sequence, one.index)).eq(expected));
    assert!(rejections.iter().all(|one| one.reason() == Reason::UndeclaredRef));
    assert_eq!(rejections.iter().filter(|one| !one.message.is_empty()).count(), 400);
    server.stop().await.unwrap();
}

async fn folds_that_contradict_themselves_are_refused_and_harm_nothing(server: Server) {
    let mut client = server.client().await;
    let columns = || v1::Packed {
        refs: vec![0; 4],
        counts: vec![1 << 63, 1 << 48, 1, (1 << 48) + 1],
        sums: vec![0.0, 0.0, 1.0, 0.0],
        minima: vec![0.0; 4],
        maxima: vec![0.0, 0.0, 2.0, 0.0],
        lasts: vec![0.0, 0.0, 2.0, 0.0],
        ..Default::default()
    };
    let declared = vec![declare(0, "f", "n", Kind::Rolling)];
    let requests = vec![packed(declared, columns()), packed(Vec::new(), columns())];
    let acks = client.stream(requests).await.unwrap();
    let rejections: Vec<_> = acks.iter().flat_map(|ack| ack.rejections.clone()).collect();
    let of = |sequence| [0, 2, 3].map(|index| (sequence, index, Reason::InvalidValue));
    assert_eq!(told(&rejections), [of(1), of(2)].concat());
    let request = v1::ExtractRequest { component: "f".to_owned(), ..Default::default() };
    let (series, _) = client.extract(request).await.unwrap();
    assert_eq!(series[0].count.iter().sum::<u64>(), 2 << 48);
    server.stop().await.unwrap();
}

async fn a_refusal_is_short_however_long_the_name(server: Server) {
    let mut client = server.client().await;
    let long = "\u{1}".repeat(100_000);
    let metrics = (0..100).map(|_| labelled(increment("l", "n", 1.0), &[(&long, "v")]));
    let answer = client.record(metrics.chain([increment("l", "n", 1.0)]).collect()).await;
    assert_eq!((answer.accepted, answer.rejections.len()), (1, 100));
    assert!(prost::Message::encoded_len(&answer) < 100_000);
    let series = v1::Series {
        labels: [(long.clone(), String::new())].into(),
        ..declare(0, "l", "n", Kind::Counter)
    };
    let columns =
        v1::Packed { refs: vec![0; 65_536], increments: vec![1.0; 65_536], ..Default::default() };
    let acks = client.stream(vec![packed(vec![series], columns)]).await.unwrap();
    assert!(acks.iter().all(|ack| prost::Message::encoded_len(ack) < 2 << 20));
    assert_eq!(acks.last().unwrap().rejected_count, 65_536);
    server.stop().await.unwrap();
}

async fn what_a_stream_declares_and_does_not_use_is_bounded(server: Server) {
    let mut client = server.client().await;
    let series = |first: u32| {
        let one = |n| v1::Series {
            labels: (0..30).map(|l| (format!("l{l}"), "v".repeat(1000))).collect(),
            ..declare(n, "d", "n", Kind::Counter)
        };
        v1::IngestRequest { series: (first..first + 100).map(one).collect(), ..Default::default() }
    };
    let requests = (0..26).map(|n| series(n * 100)).collect();
    let acks = client.stream(requests).await.unwrap();
    let warnings: Vec<_> = acks.iter().flat_map(|ack| ack.warnings.clone()).collect();
    assert!(!warnings.is_empty(), "78 MB were declared");
    assert!(warnings.iter().all(|text| text.contains("send their samples first")), "{warnings:?}");
    assert_eq!(client.status().await.series_count, 0, "declaring makes nothing");
    server.stop().await.unwrap();
}

/// A stream of a healthy client that is open while others send nonsense, closed and checked after.
async fn undisturbed(client: &Client, nonsense: impl AsyncFnOnce(Client)) {
    let mut healthy = client.clone();
    let (sender, requests) = tokio::sync::mpsc::channel(4);
    let stream = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut acks = healthy.ingest.ingest(stream).await.unwrap().into_inner();
    sender.send(plain(vec![increment("healthy", "n", 1.0)])).await.unwrap();
    assert_eq!(acks.message().await.unwrap().unwrap().accepted_through, 1);
    nonsense(client.clone()).await;
    sender.send(plain(vec![increment("healthy", "n", 1.0)])).await.unwrap();
    drop(sender);
    let mut last = None;
    while let Some(ack) = acks.message().await.unwrap() {
        last = Some(ack);
    }
    assert_eq!(last.unwrap().durable_through, 2);
    assert_eq!(healthy.current("healthy").await["n"], 2.0);
}

async fn an_oversized_message_ends_its_call_and_nothing_else(server: Server) {
    let check = |status: &Status| {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert!(status.message().contains("HEALTH_MAX_MESSAGE_BYTES"), "{status:?}");
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "MESSAGE_TOO_LARGE");
        assert!(details.retry_info().is_none(), "sending it again does not help");
    };
    undisturbed(&server.client().await, async |mut client| {
        let large = || v1::Metric { description: "x".repeat(17 << 20), ..increment("o", "n", 1.0) };
        let request =
            v1::RecordRequest { metrics: vec![large()], wait_durable: false, ..Default::default() };
        check(&client.ingest.record(request.clone()).await.unwrap_err());
        let requests = vec![plain(vec![increment("o", "before", 1.0)]), plain(vec![large()])];
        let mut acks =
            client.ingest.ingest(tokio_stream::iter(requests)).await.unwrap().into_inner();
        // An ack may have come before the last one, when the large message was long on its way.
        let mut last = v1::IngestResponse::default();
        let status = loop {
            match acks.message().await {
                Ok(ack) => last = ack.expect("the stream must end with an error"),
                Err(status) => break status,
            }
        };
        assert_eq!((last.accepted_through, last.durable_through), (1, 1), "the good one counts");
        check(&status);
        // Small on the wire, large after decompression.
        let mut zipped =
            client.ingest.clone().send_compressed(tonic::codec::CompressionEncoding::Gzip);
        check(&zipped.record(request).await.unwrap_err());
        assert_eq!(client.current("o").await.len(), 1);
    })
    .await;
    server.stop().await.unwrap();
}

async fn a_malformed_message_ends_its_call_and_nothing_else(server: Server) {
    undisturbed(&server.client().await, async |client| {
        // Field 1 is a text here and a message there.
        let wrong =
            v1::ListMetricsRequest { component: "not a metric".into(), ..Default::default() };
        let mut raw = tonic::client::Grpc::new(client.channel);
        raw.ready().await.unwrap();
        let path = http::uri::PathAndQuery::from_static("/healthd.v1.IngestService/Record");
        let codec = tonic_prost::ProstCodec::<_, v1::RecordResponse>::default();
        let status = raw.unary(tonic::Request::new(wrong), path, codec).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "MALFORMED_MESSAGE");
        // On a stream: field 3 is a text here and a message there.
        let wrong =
            v1::ListMetricsRequest { page_token: "not a metric".into(), ..Default::default() };
        raw.ready().await.unwrap();
        let path = http::uri::PathAndQuery::from_static("/healthd.v1.IngestService/Ingest");
        let codec = tonic_prost::ProstCodec::<_, v1::IngestResponse>::default();
        let requests = tonic::Request::new(tokio_stream::iter([wrong]));
        let mut acks = raw.streaming(requests, path, codec).await.unwrap().into_inner();
        let status = loop {
            match acks.message().await {
                Ok(ack) => assert!(ack.is_some(), "the stream must end with an error"),
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    })
    .await;
    server.stop().await.unwrap();
}

async fn an_invalid_page_or_range_names_its_field(server: Server) {
    let mut client = server.client().await;
    client.record(vec![increment("global", "n", 1.0)]).await;
    let field = |status: Status| {
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        status.get_error_details().bad_request().unwrap().field_violations[0].field.clone()
    };
    let list = |page_size: i32, token: &str| v1::ListComponentsRequest {
        page_size,
        page_token: token.to_owned(),
    };
    let negative = client.query.list_components(list(-1, "")).await.unwrap_err();
    assert_eq!(field(negative), "page_size");
    let foreign = client.query.list_components(list(0, "foreign")).await.unwrap_err();
    assert_eq!(field(foreign), "page_token");
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let extreme = Some(prost_types::Duration { seconds: i64::MIN, nanos: i32::MIN });
    let moment = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let extract = v1::ExtractRequest::default;
    for (request, expected) in [
        (v1::ExtractRequest { start: moment(20), end: moment(20), ..extract() }, "end"),
        (v1::ExtractRequest { step: seconds(-1), ..extract() }, "step"),
        (v1::ExtractRequest { step: extreme, ..extract() }, "step"),
        (v1::ExtractRequest { step: seconds(1), ..extract() }, "step"),
        (v1::ExtractRequest { step: seconds(0), ..extract() }, "step"),
        (v1::ExtractRequest { max_points: 50_001, ..extract() }, "max_points"),
        (v1::ExtractRequest { start: moment(-1 << 40), ..extract() }, "start"),
    ] {
        let status = client.extract(request).await.unwrap_err();
        assert_eq!(field(status), expected);
    }
    let query = v1::QueryRequest { step: extreme, ..Default::default() };
    assert_eq!(field(client.query.query(query).await.unwrap_err()), "step");
    let many = vec!["rate".to_owned(); 21];
    for (request, expected) in [
        (v1::WatchRequest { interval: extreme, ..Default::default() }, "interval"),
        (v1::WatchRequest { functions: many, ..Default::default() }, "functions"),
    ] {
        assert_eq!(field(client.query.watch(request).await.unwrap_err()), expected);
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_sample_is_too_old_by_the_retention_of_its_own_series() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("retention");
    std::fs::write(&file, "short/*=1s:2d\nlong/*=1s:30d\n").unwrap();
    let file = format!("--retention-file={}", file.display());
    let server = Server::with(Backend::Memory, &["--retention=1s:4d", &file]).await;
    let mut client = server.client().await;
    let components = ["short", "base", "long"];
    let declared =
        (0..).zip(components).map(|(n, name)| declare(n, name, "packed", v1::Kind::Counter));
    let mut requests = vec![packed(declared.collect(), v1::Packed::default())];
    // The second time each series is known, by its ref and by its bytes.
    for days in [1, 3, 1, 3, 5, 31] {
        let time = second_ago(days * 86_400);
        let metrics = components.map(|name| at(increment(name, "plain", 1.0), time));
        let row = v1::Packed {
            refs: vec![0, 1, 2],
            increments: vec![1.0; 3],
            times_ms: vec![time],
            ..Default::default()
        };
        requests.push(v1::IngestRequest { metrics: metrics.to_vec(), ..packed(Vec::new(), row) });
    }
    let acks = client.stream(requests).await.unwrap();
    let refused = acks.iter().flat_map(|ack| &ack.rejections);
    let mut refused: Vec<_> = refused.map(|one| (one.sequence, one.index, one.reason())).collect();
    refused.sort_unstable_by_key(|(sequence, index, _)| (*sequence, *index));
    let old = v1::Reason::TimeTooOld;
    let expected = [(3, &[0][..]), (5, &[0]), (6, &[0, 1]), (7, &[0, 1, 2])];
    let expected: Vec<_> = expected
        .into_iter()
        .flat_map(|(sequence, of)| {
            let both = of.iter().copied().chain(of.iter().map(|index| index + 3));
            both.map(move |index| (sequence, index, old))
        })
        .collect();
    assert_eq!(refused, expected);
    server.stop().await.unwrap();
}
