//! What a call costs the application: of a series by its name, and of one that is held.

use criterion::{Criterion, criterion_group, criterion_main};
use healthd_client::{Client, Settings};
use std::hint::black_box;

fn calls(criterion: &mut Criterion) {
    // Nobody listens there: what is cut stays in the outbox.
    let settings = Settings { address: "http://127.0.0.1:9".to_owned(), ..Settings::default() };
    let client = Client::new(&settings).expect("a client");
    for n in 0..1000 {
        client.incr(&format!("other_{n}"), 1.0);
    }
    let counter = client.series("held").label("kind", "counter").counter().expect("a counter");
    let rolling = client.series("held_too").rolling().expect("a rolling metric");
    let mut value = 0.0;
    criterion.bench_function("incr", |b| b.iter(|| client.incr(black_box("orders"), 1.0)));
    criterion.bench_function("incr of a counter that is held", |b| b.iter(|| counter.incr(1.0)));
    criterion.bench_function("observe", |b| {
        b.iter(|| {
            value = (value + 1.7) % 1000.0;
            client.observe(black_box("latency"), value);
        });
    });
    criterion.bench_function("observe of a metric that is held", |b| {
        b.iter(|| {
            value = (value + 1.7) % 1000.0;
            rolling.observe(value);
        });
    });
}

criterion_group!(benches, calls);
criterion_main!(benches);
