//! Lists, current values and points, and what an answer says of itself.

use crate::support::{
    Backend, Server, at, increment, labelled, observation, on_both, second_ago, time,
};
use healthd::serve::proto::v1;
use std::collections::BTreeSet;
use tonic::Code;

on_both!(
    lists_are_paged_in_order_without_repeats,
    current_values_are_chosen_by_component_metric_and_label,
    the_last_minute_stands_beside_the_current_value,
    points_stand_at_steps_and_steps_add_up_to_the_range,
    adjacent_ranges_add_up_to_the_whole,
    pending_and_stored_folds_are_counted_once,
    late_samples_are_seen_where_they_belong,
    a_default_step_keeps_within_max_points,
    quantiles_are_those_of_all_observations_in_a_step_and_say_their_error,
    what_does_not_exist_is_named_with_what_does,
    a_large_answer_comes_in_parts_and_in_full,
);

async fn lists_are_paged_in_order_without_repeats(server: Server) {
    let mut client = server.client().await;
    let names: Vec<String> = (0..25).map(|n| format!("c{n:02}")).collect();
    let metrics = names.iter().flat_map(|name| {
        ["b", "a"].map(|metric| labelled(increment(name, metric, 1.0), &[("k", "v")]))
    });
    client.record(metrics.collect()).await;
    let (mut components, mut token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListComponentsRequest { page_size: 7, page_token: token };
        let page = client.query.list_components(request).await.unwrap().into_inner();
        assert!(page.components.len() <= 7);
        components.extend(page.components);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let listed: Vec<_> = components.iter().map(|c| c.name.clone()).collect();
    assert_eq!(listed, names);
    assert!(components.iter().all(|c| (c.metric_count, c.series_count) == (2, 2)));
    assert!(components.iter().all(|c| c.first_time.is_some() && c.first_time == c.last_time));
    let (mut metrics, mut token) = (Vec::new(), String::new());
    loop {
        let request =
            v1::ListMetricsRequest { page_size: 9, page_token: token, ..Default::default() };
        let page = client.query.list_metrics(request).await.unwrap().into_inner();
        metrics.extend(page.metrics.into_iter().map(|m| (m.component, m.name, m.label_keys)));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(metrics.len(), 50);
    assert!(metrics.is_sorted_by(|a, b| a < b));
    assert!(metrics.iter().all(|(_, _, keys)| keys == &["k"]));
    server.stop().await.unwrap();
}

async fn current_values_are_chosen_by_component_metric_and_label(server: Server) {
    let mut client = server.client().await;
    let metrics = (0..30).map(|n| {
        let (component, zone) = (["a", "b"][n % 2], ["x", "y", "z"][n % 3]);
        let labels = [("zone", zone), ("n", &*n.to_string())];
        labelled(increment(component, ["m", "o"][n / 15], n as f64), &labels)
    });
    client.record(metrics.collect()).await;
    let request =
        |component: &str, metrics: &[&str], labels: &[(&str, &str)]| v1::GetCurrentRequest {
            component: component.to_owned(),
            metrics: metrics.iter().map(|m| (*m).to_owned()).collect(),
            labels: labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            page_size: 4,
            page_token: String::new(),
        };
    let all = 0..30usize;
    for (request, expected) in [
        (request("", &[], &[]), all.clone().collect::<BTreeSet<_>>()),
        (request("a", &[], &[]), all.clone().filter(|n| n % 2 == 0).collect()),
        (request("", &["o"], &[]), all.clone().filter(|n| *n >= 15).collect()),
        (request("b", &["m", "o"], &[("zone", "y")]), all.clone().filter(|n| n % 6 == 1).collect()),
        (request("b", &[], &[("zone", "y"), ("n", "7")]), [7].into()),
        (request("nowhere", &[], &[]), [].into()),
    ] {
        let (mut found, mut request) = (BTreeSet::new(), request);
        loop {
            let page = client.query.get_current(request.clone()).await.unwrap().into_inner();
            assert!(page.series.len() <= 4);
            for series in page.series {
                assert!(found.insert(series.labels["n"].parse::<usize>().unwrap()), "no repeats");
            }
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        assert_eq!(found, expected, "{request:?}");
    }
    server.stop().await.unwrap();
}

fn range(component: &str, from: i64, to: i64, step: i64) -> v1::ExtractRequest {
    v1::ExtractRequest {
        component: component.to_owned(),
        start: Some(time(from)),
        end: Some(time(to)),
        step: Some(prost_types::Duration { seconds: step, nanos: 0 }),
        ..Default::default()
    }
}

/// A minute that begins 10 minutes ago, at a multiple of a minute.
fn minute() -> i64 {
    second_ago(600) / 60_000 * 60_000
}

async fn the_last_minute_stands_beside_the_current_value(server: Server) {
    let mut client = server.client().await;
    let now = second_ago(0);
    let orders = [90, 65, 40, 20, 5].map(|ago| at(increment("c", "orders", 6.0), now - ago * 1000));
    let latency =
        [70, 30, 20, 10].map(|ago| at(observation("c", "latency", ago as f64), now - ago * 1000));
    client.record_durably(orders.into_iter().chain(latency).collect()).await;
    client.record(vec![at(observation("c", "latency", 1.0), now - 1000)]).await;
    client.record(vec![at(increment("c", "old", 1.0), now - 600_000)]).await;
    let request = v1::GetCurrentRequest { component: "c".to_owned(), ..Default::default() };
    let answer = client.query.get_current(request).await.unwrap().into_inner();
    let of = |name: &str| answer.series.iter().find(|series| series.name == name).unwrap();
    let orders = of("orders").window.unwrap();
    let (start, end) = (orders.start.unwrap(), orders.end.unwrap());
    let seconds = (end.seconds - start.seconds) as f64 + f64::from(end.nanos - start.nanos) / 1e9;
    assert!((58.0..=61.0).contains(&seconds), "{seconds}");
    assert!((orders.rate * seconds - 18.0).abs() < 1e-6, "three of five were in it: {orders:?}");
    assert_eq!((orders.count, orders.avg), (0, None));
    let latency = of("latency").window.unwrap();
    assert_eq!((latency.count, latency.avg), (4, Some(61.0 / 4.0)));
    assert_eq!((latency.min, latency.max), (Some(1.0), Some(30.0)));
    assert!((latency.p95.unwrap() - 30.0).abs() < 0.2);
    assert_eq!(of("old").window, None, "nothing came, and that is not 0");
    server.stop().await.unwrap();
}

async fn points_stand_at_steps_and_steps_add_up_to_the_range(server: Server) {
    let mut client = server.client().await;
    let t = minute();
    let metrics = (0..60).map(|n| at(increment("g", "n", f64::from(n)), t + i64::from(n) * 1000));
    client.record_durably(metrics.collect()).await;
    let (series, coverage) = client.extract(range("g", t + 5000, t + 45_000, 20)).await.unwrap();
    assert_eq!(series[0].time_ms, [t, t + 20_000, t + 40_000]);
    let sum = |from: i32, to: i32| (from..to).map(f64::from).sum::<f64>();
    assert_eq!(series[0].value, [sum(5, 20), sum(20, 40), sum(40, 45)]);
    assert_eq!((coverage.start, coverage.end), (Some(time(t + 5000)), Some(time(t + 45_000))));
    assert_eq!(coverage.step.unwrap().seconds, 20);
    assert_eq!(coverage.tier.unwrap().seconds, 1);
    assert_eq!((coverage.buckets_expected, coverage.buckets_present), (3, 3));
    assert_eq!(coverage.complete_until, coverage.end);
    assert!(!coverage.truncated && coverage.omitted == 0 && coverage.advice.is_empty());
    assert!(coverage.gaps.is_empty(), "the server was there all the time");
    server.stop().await.unwrap();
}

async fn adjacent_ranges_add_up_to_the_whole(server: Server) {
    let mut client = server.client().await;
    let t = minute();
    let metrics = (0..60).map(|n| at(increment("g", "n", 1.0), t + n * 997));
    client.record_durably(metrics.collect()).await;
    let mut total = async |from: i64, to: i64| {
        let (series, _) = client.extract(range("g", t + from, t + to, 1)).await.unwrap();
        series[0].value.iter().sum::<f64>()
    };
    for cut in [1, 500, 1000, 1001, 30_000, 59_999] {
        assert_eq!(total(0, cut).await + total(cut, 60_000).await, 60.0, "cut at {cut} ms");
    }
    server.stop().await.unwrap();
}

async fn pending_and_stored_folds_are_counted_once(server: Server) {
    let mut client = server.client().await;
    let t = minute();
    for round in 1..=40 {
        let metric = || vec![at(increment("g", "n", 1.0), t + 100)];
        client.record(metric()).await;
        if round % 3 == 0 {
            client.record_durably(vec![at(observation("g", "other", 1.0), t)]).await;
        }
        let request =
            v1::ExtractRequest { metrics: vec!["n".into()], ..range("g", t, t + 1000, 1) };
        let (series, _) = client.extract(request).await.unwrap();
        assert_eq!(series[0].value, [f64::from(round)]);
    }
    server.stop().await.unwrap();
}

async fn late_samples_are_seen_where_they_belong(server: Server) {
    let mut client = server.client().await;
    let t = minute();
    let day = 86_400_000;
    client.record_durably(vec![at(observation("g", "n", 5.0), t + 900)]).await;
    client.record_durably(vec![at(observation("g", "n", 1.0), t + 100)]).await;
    client.record(vec![at(observation("g", "n", 9.0), t - 400 * day)]).await;
    let (series, _) = client.extract(range("g", t, t + 1000, 1)).await.unwrap();
    assert_eq!((series[0].count[0], series[0].value[0], series[0].last[0]), (2, 3.0, 5.0));
    let (series, _) =
        client.extract(range("g", t - 400 * day, t - 400 * day + 1000, 1)).await.unwrap();
    assert_eq!(series[0].value, [9.0]);
    assert_eq!(client.current("g").await["n"], 5.0, "an older sample is not the last");
    server.stop().await.unwrap();
}

async fn a_default_step_keeps_within_max_points(server: Server) {
    let mut client = server.client().await;
    let t = minute();
    client
        .record((0..600).map(|n| at(increment("global", "n", 1.0), t + n * 1000)).collect())
        .await;
    let (_, coverage) = client.extract(v1::ExtractRequest::default()).await.unwrap();
    assert_eq!(coverage.step.unwrap().seconds, 5, "an hour in at most 1,000 points");
    let request = v1::ExtractRequest { max_points: 61, ..Default::default() };
    let (series, coverage) = client.extract(request).await.unwrap();
    assert_eq!(coverage.step.unwrap().seconds, 60);
    assert!(series[0].time_ms.len() <= 61);
    assert_eq!(series[0].value.iter().sum::<f64>(), 600.0);
    server.stop().await.unwrap();
}

async fn what_does_not_exist_is_named_with_what_does(server: Server) {
    let mut client = server.client().await;
    let nothing = client.extract(range("g", 0, 1000, 1)).await.unwrap_err();
    assert!(nothing.message().ends_with("there are none yet"), "{nothing:?}");
    client.record(vec![increment("shop", "orders", 1.0)]).await;
    let wrong = client.extract(range("shpo", 0, 1000, 1)).await.unwrap_err();
    assert_eq!(wrong.code(), Code::NotFound);
    assert!(wrong.message().contains("there are shop"), "{wrong:?}");
    let request = v1::ExtractRequest { metrics: vec!["order".into()], ..range("shop", 0, 1000, 1) };
    let wrong = client.extract(request).await.unwrap_err();
    assert!(wrong.message().contains("its metrics are orders"), "{wrong:?}");
    let (series, coverage) = client.extract(range("shop", 0, 1000, 1)).await.unwrap();
    assert!(series[0].time_ms.is_empty(), "no data is no point, never a zero");
    assert_eq!((coverage.buckets_expected, coverage.buckets_present), (1, 0));
    server.stop().await.unwrap();
}

async fn a_large_answer_comes_in_parts_and_in_full(server: Server) {
    let mut client = server.client().await;
    let t = second_ago(3000);
    for second in 0..50 {
        let metrics = (0..2000)
            .map(|n| at(observation("big", &format!("m{n}"), f64::from(n)), t + second * 1000));
        client.record(metrics.collect()).await;
    }
    let mut answer =
        client.query.extract(range("big", t, t + 50_000, 1)).await.unwrap().into_inner();
    let (mut messages, mut names, mut points) = (0, BTreeSet::new(), 0);
    while let Some(message) = answer.message().await.unwrap() {
        messages += 1;
        points += message.series.iter().map(|s| s.time_ms.len()).sum::<usize>();
        names.extend(message.series.into_iter().map(|s| s.name));
    }
    assert!(messages > 2, "{messages} messages");
    assert_eq!((names.len(), points), (2000, 100_000));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn an_answer_that_nobody_reads_ends_and_the_next_one_gets_its_turn() {
    let flags = ["--flush-interval=1h", "--max-answers=1", "--query-timeout=2s"];
    let server = Server::with(Backend::Memory, &flags).await;
    let mut client = server.client().await;
    let t = second_ago(3000);
    for second in 0..100 {
        let metrics = (0..2000)
            .map(|n| at(observation("big", &format!("m{n}"), f64::from(n)), t + second * 1000));
        client.record(metrics.collect()).await;
    }
    let all = || range("big", t, t + 100_000, 1);
    let mut unread = client.query.extract(all()).await.unwrap().into_inner();
    // It waits for its turn, and gets it when the first one's time is over.
    let mut other = server.client().await;
    let one = v1::ExtractRequest { metrics: vec!["m7".to_owned()], ..all() };
    let short = loop {
        match other.extract(one.clone()).await {
            Ok((series, _)) => break series,
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                assert!(status.message().contains("HEALTH_MAX_ANSWERS"), "{status}");
            }
        }
    };
    assert_eq!(short[0].value.len(), 100);
    let end = loop {
        match unread.message().await {
            Ok(message) => assert!(message.is_some(), "it does not end as if it were whole"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::DeadlineExceeded, "{end}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn an_answer_beyond_the_bound_says_what_it_left_out() {
    let flags = ["--flush-interval=1h", "--max-extract-points=100"];
    let server = Server::with(Backend::Sqlite, &flags).await;
    let mut client = server.client().await;
    let t = minute();
    for n in 0..3 {
        let name = format!("m{n}");
        let samples = (0..60).map(|s| at(increment("g", &name, 1.0), t + s * 1000));
        client.record(samples.collect()).await;
    }
    let many: Vec<_> = (0..1100).map(|n| increment("g", &format!("n{n}"), 1.0)).collect();
    client.record(many).await;
    let (series, coverage) = client.extract(range("g", t, t + 60_000, 1)).await.unwrap();
    assert!(coverage.truncated);
    assert_eq!(series.len() as u64 + coverage.omitted, 1103);
    assert!(coverage.omitted > 0 && coverage.advice.contains("choose metrics or labels"));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn the_memory_backend_says_what_its_budget_dropped() {
    let flags = ["--flush-interval=10ms", "--memory-bytes=3000"];
    let server = Server::with(Backend::Memory, &flags).await;
    let mut client = server.client().await;
    let t = second_ago(600);
    for second in 0..60 {
        client
            .stream(vec![crate::support::plain(vec![at(
                increment("g", "n", 1.0),
                t + second * 1000,
            )])])
            .await
            .unwrap();
    }
    crate::support::until("the last flush is in", async || {
        (client.status().await.pending_folds == 0).then_some(())
    })
    .await;
    let (series, coverage) = client.extract(range("g", t, t + 60_000, 1)).await.unwrap();
    let gap = &coverage.gaps[0];
    assert_eq!(gap.reason(), v1::GapReason::MemoryBudget);
    assert_eq!(gap.start, Some(time(t)));
    assert_eq!(gap.end, Some(time(series[0].time_ms[0])));
    assert_eq!(client.current("g").await["n"], 60.0, "the total outlives its history");
    assert!(client.status().await.storage.unwrap().file_bytes <= 3000);
    server.stop().await.unwrap();
}

async fn quantiles_are_those_of_all_observations_in_a_step_and_say_their_error(server: Server) {
    let mut client = server.client().await;
    let t = second_ago(120) / 60_000 * 60_000;
    // 1 to 1,000 in an order of its own, in two flushes and ten buckets.
    let values: Vec<f64> = (0..1000).map(|n| f64::from((n * 377) % 1000 + 1)).collect();
    for half in values.chunks(500) {
        let sample =
            |(n, value): (i64, &f64)| at(observation("q", "size", *value), t + n % 10 * 1000);
        client.record((0..).zip(half).map(sample).collect()).await;
    }
    client.record(vec![at(increment("q", "count", 1.0), t)]).await;
    let request = v1::ExtractRequest {
        component: "q".to_owned(),
        start: Some(time(t)),
        end: Some(time(t + 60_000)),
        step: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        quantiles: vec![0.0, 0.5, 0.99, 1.0],
        ..Default::default()
    };
    let (series, coverage) = client.extract(request.clone()).await.unwrap();
    let error = coverage.sketch_relative_error;
    assert!(error > 0.0 && error <= 1.0 / 257.0, "{error}");
    let (size, count) = (&series[0], &series[1]);
    assert!(count.quantiles.is_empty(), "a counter has none");
    assert_eq!(size.count, [1000]);
    for (found, exact) in size.quantiles.iter().zip([1.0, 500.0, 990.0, 1000.0]) {
        assert_eq!(found.value.len(), 1);
        assert!((found.value[0] - exact).abs() <= error * exact, "{found:?} for {exact}");
    }
    let without = v1::ExtractRequest { quantiles: Vec::new(), ..request.clone() };
    let (series, coverage) = client.extract(without).await.unwrap();
    assert_eq!((series[0].quantiles.len(), coverage.sketch_relative_error), (0, 0.0));
    for (quantiles, word) in [(vec![99.0], "p99 is 0.99"), (vec![0.5; 11], "at most 10")] {
        let wrong = v1::ExtractRequest { quantiles, ..request.clone() };
        let status = client.extract(wrong).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(word), "{status:?}");
    }
    server.stop().await.unwrap();
}
