//! Answers instead of points: what the doors of Query say, and refuse.

use crate::support::{
    Backend, Server, at, increment, labelled, observation, on_both, second_ago, time, until,
};
use healthd::serve::proto::v1;
use tonic::Code;

on_both!(
    groups_and_the_others_add_up_to_the_whole,
    a_page_token_goes_on_with_its_own_request_only,
    what_is_wrong_with_a_question_is_named_with_its_field,
    what_was_noted_is_told_with_the_range_that_it_is_in,
    a_summary_finds_what_was_planted_and_says_what_to_ask_next,
    two_ranges_are_compared,
    a_baseline_that_cannot_be_set_beside_the_range_is_named,
    an_effect_does_not_depend_on_what_else_is_chosen,
    changes_are_told_and_go_on_where_they_were_left,
);

fn of_component(name: &str) -> v1::Selector {
    v1::Selector { component: name.to_owned(), ..Default::default() }
}

async fn groups_and_the_others_add_up_to_the_whole(server: Server) {
    let mut client = server.client().await;
    let t = second_ago(600);
    let orders = (0..60i64).map(|n| {
        let labels = [("country", ["ch", "de", "fr", "it", "at"][n as usize % 5]), ("n", "1")];
        at(labelled(increment("shop", "orders", (n % 5 + 1) as f64), &labels), t + n * 1000)
    });
    client.record(orders.collect()).await;
    client.record(vec![at(observation("shop", "latency", 0.25), t)]).await;
    client.record(vec![at(increment("shop", "refunds", 100.0), t)]).await;
    let matcher = |value: &str, how: v1::label_matcher::Match| v1::LabelMatcher {
        name: "country".to_owned(),
        value: value.to_owned(),
        r#match: how.into(),
    };
    let not_italy = matcher("it", v1::label_matcher::Match::IsNot);
    let has_country = matcher("*", v1::label_matcher::Match::Like);
    let request = v1::QueryRequest {
        selector: Some(v1::Selector {
            component: "sh*".to_owned(),
            metrics: vec!["ord*".to_owned(), "latency".to_owned()],
            labels: vec![not_italy, has_country],
        }),
        range: Some(v1::TimeRange { from: "now-1h".to_owned(), ..Default::default() }),
        functions: vec!["rate".to_owned(), "increase".to_owned()],
        group_by: Some(v1::Grouping { labels: vec!["country".to_owned()], ..Default::default() }),
        top: Some(v1::Top { k: 2, by: "increase".to_owned(), ..Default::default() }),
        ..Default::default()
    };
    let answer = client.query.query(request).await.unwrap().into_inner();
    let groups = answer.groups.iter().map(|group| {
        let country = group.labels.get("country").map_or("", |country| country);
        assert_eq!(group.functions[1].function, "increase");
        let steps: f64 = group.functions[1].value.iter().sum();
        assert_eq!(Some(steps), group.functions[1].range);
        assert_eq!(group.time_ms.len(), group.functions[0].value.len());
        (country, group.others, group.series_count, steps)
    });
    let expected = [("at", false, 1, 60.0), ("fr", false, 1, 36.0), ("", true, 2, 36.0)];
    assert_eq!(groups.collect::<Vec<_>>(), expected);
    let coverage = answer.coverage.unwrap();
    assert!(!coverage.truncated && coverage.empty_because.is_empty());
    server.stop().await.unwrap();
}

async fn a_baseline_that_cannot_be_set_beside_the_range_is_named(server: Server) {
    let mut client = server.client().await;
    client.record(vec![increment("c", "m", 1.0)]).await;
    let range = |from: &str, to: &str| {
        Some(v1::TimeRange { from: from.to_owned(), to: to.to_owned(), ..Default::default() })
    };
    let since = |seconds, nanos| {
        let start = Some(prost_types::Timestamp { seconds, nanos });
        Some(v1::TimeRange { start, ..Default::default() })
    };
    for (baseline, part) in [
        (range("now-2h", "now"), "baseline: from "),
        (range("now-90m", "now-59m"), "baseline: from "),
        (range("1970-01-01", ""), "baseline: it is too long"),
        (since(i64::MIN, -1), "baseline: it is too long"),
        (since(-62_135_596_800, 0), "baseline: it is too long"),
        (range("soon", ""), "baseline.start: "),
        (range("now-3h", "now-4h"), "baseline.end: "),
    ] {
        let compare = v1::CompareRequest { baseline: baseline.clone(), ..Default::default() };
        let summary = v1::GetHealthSummaryRequest { baseline, ..Default::default() };
        let compared = client.query.compare(compare).await.unwrap_err();
        let summarised = client.query.get_health_summary(summary).await.unwrap_err();
        for refused in [compared, summarised] {
            assert_eq!(refused.code(), Code::InvalidArgument);
            assert!(refused.message().starts_with(part), "{part}: {refused:?}");
        }
    }
    // Where it does not say when it ends, it ends where the range begins; and it may be long, or later.
    for baseline in
        [range("now-5h", ""), range("now-8d", ""), range("", "now-3h"), range("now", "now+1h")]
    {
        let compare = v1::CompareRequest { baseline, ..Default::default() };
        client.query.compare(compare).await.unwrap();
    }
    server.stop().await.unwrap();
}

async fn an_effect_does_not_depend_on_what_else_is_chosen(server: Server) {
    let mut client = server.client().await;
    let t = second_ago(7200);
    let sparse = (0..120).map(|n| {
        let amount = (if n < 60 { 10 } else { 70 }) + n % 3;
        at(increment("shop", "errors", f64::from(amount)), t + i64::from(n) * 60_000)
    });
    let dense = (0..1440).map(|n| at(observation("shop", "latency", 1.0), t + n * 5000));
    client.record(sparse.chain(dense).collect()).await;
    let effect = async |metrics: &[&str]| {
        let metrics = metrics.iter().map(|name| (*name).to_owned()).collect();
        let selector = v1::Selector { metrics, ..of_component("shop") };
        // Steps of 10 seconds, most of which have no error.
        let range = v1::TimeRange {
            from: "now-10m".to_owned(),
            to: "now-1m".to_owned(),
            ..Default::default()
        };
        let baseline = v1::TimeRange {
            from: "now-80m".to_owned(),
            to: "now-71m".to_owned(),
            ..Default::default()
        };
        let compare = v1::CompareRequest {
            selector: Some(selector),
            range: Some(range),
            baseline: Some(baseline),
            ..Default::default()
        };
        let compared = server.client().await.query.compare(compare).await.unwrap().into_inner();
        let errors = compared.differences.into_iter().find(|one| one.name == "errors").unwrap();
        (errors.effect.unwrap(), errors.buckets_before, errors.buckets_after)
    };
    let alone = effect(&["errors"]).await;
    assert!(alone.0 > 5.0, "{alone:?}");
    assert_eq!(effect(&["errors", "latency"]).await, alone);
    server.stop().await.unwrap();
}

async fn a_page_token_goes_on_with_its_own_request_only(server: Server) {
    let mut client = server.client().await;
    client.record((0..5).map(|n| increment("c", &format!("m{n}"), 1.0)).collect()).await;
    let request =
        v1::QueryRequest { selector: Some(of_component("c")), max_series: 2, ..Default::default() };
    let first = client.query.query(request.clone()).await.unwrap().into_inner();
    assert_eq!(first.groups.len(), 2);
    let coverage = first.coverage.unwrap();
    assert!((coverage.truncated, coverage.omitted) == (true, 3), "{coverage:?}");
    let page_token = first.next_page_token;
    let next = v1::QueryRequest { page_token: page_token.clone(), ..request.clone() };
    let second = client.query.query(next).await.unwrap().into_inner();
    assert_eq!(second.groups[0].name, "m2");
    let other = v1::QueryRequest { page_token, max_series: 3, ..request };
    let refused = client.query.query(other).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("page_token: "), "{refused:?}");
    server.stop().await.unwrap();
}

async fn what_is_wrong_with_a_question_is_named_with_its_field(server: Server) {
    let mut client = server.client().await;
    client.record(vec![increment("c", "m", 1.0)]).await;
    let range = |from: &str, to: &str| {
        Some(v1::TimeRange { from: from.to_owned(), to: to.to_owned(), ..Default::default() })
    };
    let none = v1::QueryRequest::default;
    let top = |k, by: &str| Some(v1::Top { k, by: by.to_owned(), ..Default::default() });
    let twice = v1::TimeRange {
        start: Some(prost_types::Timestamp::default()),
        from: "now".to_owned(),
        ..Default::default()
    };
    let nameless = v1::Selector { labels: vec![v1::LabelMatcher::default()], ..Default::default() };
    for (request, part) in [
        (
            v1::QueryRequest { range: range("soon", ""), ..none() },
            "range.start: \"soon\" is no time",
        ),
        (v1::QueryRequest { range: range("", "now-2x"), ..none() }, "range.end: "),
        (v1::QueryRequest { range: range("now", "now-1h"), ..none() }, "range.end: "),
        (v1::QueryRequest { range: Some(twice), ..none() }, "range.start: is given twice"),
        (v1::QueryRequest { selector: Some(nameless), ..none() }, "selector.labels: "),
        (v1::QueryRequest { functions: vec!["p101".into()], ..none() }, "functions: \"p101\""),
        (
            v1::QueryRequest { functions: vec!["max".into()], ..none() },
            "functions: there is no max",
        ),
        (v1::QueryRequest { top: top(0, ""), ..none() }, "top.k: "),
        (v1::QueryRequest { top: top(101, ""), ..none() }, "top.k: "),
        (v1::QueryRequest { top: top(1, "most"), ..none() }, "top.by: \"most\""),
        (v1::QueryRequest { max_points: 50_001, ..none() }, "max_points: "),
        (v1::QueryRequest { max_series: 10_001, ..none() }, "max_series: "),
        (v1::QueryRequest { max_bytes: 99_999_999, ..none() }, "max_bytes: "),
    ] {
        let refused = client.query.query(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(part), "{part}: {refused:?}");
    }
    server.stop().await.unwrap();
}

async fn what_was_noted_is_told_with_the_range_that_it_is_in(mut server: Server) {
    let mut client = server.client().await;
    let t = second_ago(600);
    client.record_durably(vec![at(increment("shop", "orders", 1.0), t)]).await;
    let note = |component: &str, text: &str, ms| v1::AnnotateRequest {
        component: component.to_owned(),
        text: text.to_owned(),
        time: Some(time(ms)),
    };
    let deploy = note("shop", "deployed 1.4.2", t + 5000);
    // Noted twice, as a client does that got no answer; kept once.
    for request in [deploy.clone(), deploy, note("", "power cut", t + 4000)] {
        let answer = client.ingest.annotate(request).await.unwrap().into_inner();
        assert_eq!(answer.durable, server.backend == Backend::Sqlite);
    }
    client.ingest.annotate(note("mail", "not of the shop", t + 5000)).await.unwrap();
    client.ingest.annotate(note("shop", "before the range", t - 1)).await.unwrap();
    for _ in 0..2 {
        let extract = v1::ExtractRequest {
            component: "shop".to_owned(),
            start: Some(time(t)),
            ..Default::default()
        };
        let (_, coverage) = client.extract(extract).await.unwrap();
        let query = v1::QueryRequest {
            selector: Some(of_component("sh*")),
            range: Some(v1::TimeRange { start: Some(time(t)), ..Default::default() }),
            ..Default::default()
        };
        let answer = client.query.query(query).await.unwrap().into_inner();
        for told in [coverage.annotations, answer.coverage.unwrap().annotations] {
            let texts = told.iter().map(|one| (&*one.component, &*one.text, one.time));
            let expected = [
                ("global", "power cut", Some(time(t + 4000))),
                ("shop", "deployed 1.4.2", Some(time(t + 5000))),
            ];
            assert_eq!(texts.collect::<Vec<_>>(), expected);
        }
        if server.backend == Backend::Memory {
            break;
        }
        server = server.restart(&[]).await;
        client = server.client().await;
    }
    for (wrong, field) in [
        (note("shop", " ", t), "text: "),
        (note("shop", "a\nb", t), "text: "),
        (note("sh op", "x", t), "component: "),
        (note("shop", "x", t + 3_600_000), "time: "),
    ] {
        let refused = client.ingest.annotate(wrong).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(field), "{refused:?}");
    }
    server.stop().await.unwrap();
}

/// Two hours of orders by the minute, five times as many for ten minutes from half an hour ago.
async fn record_a_jump(client: &mut crate::support::Client) -> i64 {
    let minute = second_ago(0) / 60_000 * 60_000;
    let orders = (1..=300i64).flat_map(|ago| {
        let amount = if (20..30).contains(&ago) { 500.0 } else { 100.0 };
        let time = minute - ago * 60_000;
        ["ch", "de"].map(|country| {
            at(labelled(increment("shop", "orders", amount), &[("country", country)]), time)
        })
    });
    client.record(orders.collect()).await;
    minute
}

async fn a_summary_finds_what_was_planted_and_says_what_to_ask_next(server: Server) {
    let mut client = server.client().await;
    let request = v1::GetHealthSummaryRequest::default;
    let nothing = client.query.get_health_summary(request()).await.unwrap().into_inner();
    assert_eq!(nothing.verdict(), v1::Verdict::NoData);
    assert!(!nothing.coverage.unwrap().empty_because.is_empty());
    let minute = record_a_jump(&mut client).await;
    let summary = client.query.get_health_summary(request()).await.unwrap().into_inner();
    assert_eq!(
        (summary.verdict(), summary.findings.len()),
        (v1::Verdict::Notable, 1),
        "{summary:?}"
    );
    let finding = &summary.findings[0];
    assert_eq!(
        (&*finding.component, &*finding.name, &*finding.function),
        ("shop", "orders", "rate")
    );
    assert_eq!(finding.direction(), v1::finding::Direction::Above);
    assert_eq!(finding.onset, Some(time(minute - 29 * 60_000)));
    assert_eq!(finding.recovered, Some(time(minute - 19 * 60_000)));
    assert!((finding.ratio.unwrap() - 5.0).abs() < 1e-9);
    let next: serde_json::Value = serde_json::from_str(&finding.next).unwrap();
    assert_eq!(next["selector"]["component"], "shop");
    assert_eq!(next["groupBy"]["labels"][0], "country");
    let row = &summary.components[0].metrics[0];
    assert_eq!((&*row.name, row.series_count), ("orders", 2));
    let service = summary.service.unwrap();
    assert_eq!((&*service.storage_error, service.rejected_samples), ("", 0));
    let few = v1::Thresholds { deviations: 0.5, ..Default::default() };
    let wrong = v1::GetHealthSummaryRequest { thresholds: Some(few), ..request() };
    let refused = client.query.get_health_summary(wrong).await.unwrap_err();
    assert!(refused.message().starts_with("thresholds.deviations: "), "{refused:?}");
    let unknown = v1::GetHealthSummaryRequest { selector: Some(of_component("shpo")), ..request() };
    let refused = client.query.get_health_summary(unknown).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    server.stop().await.unwrap();
}

async fn two_ranges_are_compared(server: Server) {
    let mut client = server.client().await;
    let minute = record_a_jump(&mut client).await;
    let range = |from: i64, to: i64| v1::TimeRange {
        start: Some(time(minute - from * 60_000)),
        end: Some(time(minute - to * 60_000)),
        ..Default::default()
    };
    let request = v1::CompareRequest {
        range: Some(range(29, 19)),
        baseline: Some(range(60, 50)),
        group_by: Some(v1::Grouping { labels: vec!["country".to_owned()], ..Default::default() }),
        ..Default::default()
    };
    let answer = client.query.compare(request).await.unwrap().into_inner();
    let told = answer.differences.iter().map(|one| {
        assert!((one.change.unwrap() - 400.0 / 60.0).abs() < 1e-9);
        (&*one.labels["country"], &*one.function, one.ratio, one.buckets_before, one.buckets_after)
    });
    let expected = ["ch", "de"].map(|country| (country, "rate", Some(5.0), 10, 10));
    assert_eq!(told.collect::<Vec<_>>(), expected);
    assert_eq!(answer.baseline_end, Some(time(minute - 50 * 60_000)));
    let many = v1::CompareRequest { k: 1001, ..Default::default() };
    assert_eq!(client.query.compare(many).await.unwrap_err().code(), Code::InvalidArgument);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_fires_makes_the_verdict_and_a_wrong_file_is_told() {
    let server = Server::start(Backend::Sqlite).await;
    let mut client = server.client().await;
    let now = second_ago(0);
    let errors = (0..600).map(|ago| at(increment("shop", "errors", 2.0), now - ago * 1000));
    client.record_durably(errors.collect()).await;
    let rules = server.path().with_file_name("rules.toml");
    let rule = "[[rule]]\ncomponent = 'shop'\nmetric = '*'\nfunction = 'rate'\nop = '>='\nvalue = 2\n\
                for = '3m'\nseverity = 'critical'\nmessage = 'orders fail'";
    std::fs::write(&rules, rule).unwrap();
    let flag = format!("--rules-file={}", rules.display());
    let server = server.restart(&[&flag]).await;
    let mut client = server.client().await;
    let request = v1::GetHealthSummaryRequest::default;
    let summary = until("the rules are looked at", async || {
        let summary = client.query.get_health_summary(request()).await.unwrap().into_inner();
        (!summary.rules.is_empty()).then_some(summary)
    });
    let summary = summary.await;
    assert_eq!(summary.verdict(), v1::Verdict::Unhealthy);
    assert!(summary.headline.starts_with("orders fail: a rule fires; "), "{}", summary.headline);
    let fired = &summary.rules[0];
    assert_eq!((fired.state(), fired.severity()), (v1::RuleState::Firing, v1::Severity::Critical));
    assert_eq!((&*fired.component, &*fired.name, fired.value), ("shop", "errors", Some(2.0)));
    assert_eq!(fired.rule, "rate of shop/* over 1m >= 2 for 3m");
    std::fs::write(&rules, "[[rule]]\nspeed = 1").unwrap();
    let server = server.restart(&[&flag]).await;
    let mut client = server.client().await;
    let error = until("the wrong file is told", async || {
        let summary = client.query.get_health_summary(request()).await.unwrap().into_inner();
        assert_ne!(summary.verdict(), v1::Verdict::Unhealthy);
        (!summary.rules_error.is_empty()).then_some(summary.rules_error)
    });
    let error = error.await;
    assert!(error.contains("rules.toml") && error.contains("speed"), "{error}");
    server.stop().await.unwrap();
}

async fn changes_are_told_and_go_on_where_they_were_left(server: Server) {
    let mut client = server.client().await;
    let request = v1::WatchRequest {
        selector: Some(of_component("shop")),
        interval: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..Default::default()
    };
    let (mut told, mut sent, mut token, mut end) = (0.0, 0.0, String::new(), None);
    // Three times somebody looks at some changes and goes away.
    for turn in 0..3 {
        let request = v1::WatchRequest { resume_token: token.clone(), ..request.clone() };
        let mut changes = client.query.watch(request).await.unwrap().into_inner();
        for _ in 0..2 {
            client
                .record(vec![increment("shop", "orders", 1.0), increment("mail", "sent", 1.0)])
                .await;
            sent += 1.0;
            let change = changes.message().await.unwrap().expect("it goes on");
            assert!(end.is_none() || change.start == end, "no gap and no repeat");
            end = change.end;
            told += change.groups.iter().filter_map(|group| group.functions[0].range).sum::<f64>();
            assert!(change.groups.iter().all(|group| group.component == "shop"));
            token = change.resume_token;
        }
        drop(changes);
        if turn == 0 {
            client.record(vec![increment("shop", "orders", 5.0)]).await;
            sent += 5.0;
        }
    }
    // What came last is told within some more.
    let request = v1::WatchRequest { resume_token: token, ..request };
    let mut changes = client.query.watch(request.clone()).await.unwrap().into_inner();
    while told < sent {
        let change = changes.message().await.unwrap().expect("it goes on");
        told += change.groups.iter().filter_map(|group| group.functions[0].range).sum::<f64>();
    }
    assert_eq!(told, sent);
    let other = v1::WatchRequest { rules: true, ..request };
    let refused = client.query.watch(other).await.unwrap_err();
    assert!(refused.message().starts_with("resume_token: "), "{refused:?}");
    server.tell();
    while let Ok(change) = changes.message().await {
        assert!(change.is_some(), "a stop is no end of what there is to see");
    }
    server.stop().await.unwrap();
}
