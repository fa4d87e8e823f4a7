// A client of healthd as a Node service would be: it sends samples, and reads back what it sent.
//
//     NODE_PATH=NODE_MODULES node tests/clients/round_trip.js ADDRESS COMPONENT
//
// It loads the contract from proto/ as it stands, without generated code. All values are whole or
// quarters, so that sums are exact in any order. COMPONENT must be new to the server.
"use strict";

const assert = require("node:assert/strict");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");

const DEADLINE_MS = 60_000; // A debug build on a busy machine needs a few seconds.
const RANGE = 300; // Seconds that are read back.
const PER_SECOND = 20; // Samples a used second; every third second is left empty.
const REQUESTS = 5; // Requests in which each form is sent.
const GZIP = 2;

const ROOT = path.join(__dirname, "..", "..", "proto");
const { healthd } = grpc.loadPackageDefinition(
  protoLoader.loadSync(["healthd/v1/ingest_service.proto", "healthd/v1/query_service.proto"], {
    includeDirs: [ROOT],
    keepCase: true,
    longs: Number, // All numbers here are below 2^53.
    enums: String,
    defaults: true,
    oneofs: true,
  }),
);

const options = () => ({ deadline: Date.now() + DEADLINE_MS });
const timestamp = (ms) => ({ seconds: Math.floor(ms / 1000), nanos: (ms % 1000) * 1e6 });

// One series, and per second the account of what was sent to it.
class Series {
  constructor(name, kind, unit, labels) {
    Object.assign(this, { name, kind, unit, labels, buckets: new Map() });
  }

  // Within a second the times of this client never go back, so the last call is the last sample.
  fold(ms, count, sum, min, max, last) {
    const second = Math.floor(ms / 1000);
    const old = this.buckets.get(second) ?? { sum: 0, count: 0, min: Infinity, max: -Infinity };
    this.buckets.set(second, {
      sum: old.sum + sum,
      count: old.count + count,
      min: Math.min(old.min, min),
      max: Math.max(old.max, max),
      last,
    });
  }

  add(ms, value) {
    this.fold(ms, 1, value, value, value, value);
  }

  // A whole increment, or a quarter between -50 and 199.75; the same ones in every run.
  value(n) {
    const mixed = (n * 2654435761) % 1000;
    return this.kind === "KIND_COUNTER" ? mixed % 10 : mixed / 4 - 50;
  }

  seconds() {
    return [...this.buckets.keys()].sort((a, b) => a - b);
  }

  total() {
    return [...this.buckets.values()].reduce((sum, bucket) => sum + bucket.sum, 0);
  }
}

const key = ({ name, labels }) => JSON.stringify([name, Object.entries(labels).sort()]);

function chunks(items, count) {
  const size = Math.ceil(items.length / count);
  return Array.from({ length: count }, (_, i) => items.slice(i * size, (i + 1) * size));
}

// The plain form, at the first 400 ms of each second.
function plainRequests(component, series, seconds) {
  let n = 0;
  return chunks(seconds, REQUESTS).map((chunk) => ({
    metrics: chunk.flatMap((second) =>
      Array.from({ length: PER_SECOND }, (_, place) => {
        const one = series[n % series.length];
        const ms = second * 1000 + place * 10;
        const value = one.value(n++);
        one.add(ms, value);
        return {
          component,
          name: one.name,
          labels: one.labels,
          unit: one.unit,
          time: timestamp(ms),
          ...(one.kind === "KIND_COUNTER" ? { increment: value } : { observation: value }),
        };
      }),
    ),
  }));
}

// The packed form, after the first 400 ms of each second; the last row of each second is a fold.
function packedRequests(component, series, seconds) {
  let n = 7;
  const folded = series.length - 1;
  return chunks(seconds, REQUESTS).map((chunk, number) => {
    const [increments, observations, folds] = [[], [], []];
    for (const second of chunk) {
      for (let place = 0; place < PER_SECOND - 1; place++) {
        const ref = n % series.length;
        const row = { ref, ms: second * 1000 + 400 + place * 10, value: series[ref].value(n++) };
        series[ref].add(row.ms, row.value);
        (series[ref].kind === "KIND_COUNTER" ? increments : observations).push(row);
      }
      const values = Array.from({ length: 1 + (n % 9) }, (_, i) => series[folded].value(n + i));
      const row = {
        ref: folded,
        ms: second * 1000 + 900,
        count: values.length,
        sum: values.reduce((sum, value) => sum + value, 0),
        min: Math.min(...values),
        max: Math.max(...values),
        last: values.at(-1),
      };
      series[folded].fold(row.ms, row.count, row.sum, row.min, row.max, row.last);
      folds.push(row);
    }
    const rows = [...increments, ...observations, ...folds];
    return {
      series:
        number > 0
          ? []
          : series.map(({ name, kind, unit, labels }, ref) => ({ ref, component, name, kind, unit, labels })),
      packed: {
        refs: rows.map((row) => row.ref),
        times_ms: rows.map((row) => row.ms),
        increments: increments.map((row) => row.value),
        observations: observations.map((row) => row.value),
        counts: folds.map((row) => row.count),
        sums: folds.map((row) => row.sum),
        minima: folds.map((row) => row.min),
        maxima: folds.map((row) => row.max),
        lasts: folds.map((row) => row.last),
      },
    };
  });
}

// Streams requests in, closes the sending side, reads to the end and checks the last ack.
async function send(client, requests, what) {
  const call = client.Ingest(options());
  for (const request of requests) call.write(request);
  call.end();
  const acks = [];
  for await (const ack of call) acks.push(ack);
  assert.ok(acks.length > 0, `no ack of the ${what} form`);
  const last = acks.at(-1);
  const samples = requests.reduce(
    (sum, { metrics, packed }) => sum + (metrics?.length ?? 0) + (packed?.refs.length ?? 0),
    0,
  );
  assert.deepEqual(acks.flatMap((ack) => ack.rejections), [], `rejections of the ${what} form`);
  assert.deepEqual(acks.flatMap((ack) => ack.warnings), [], `warnings of the ${what} form`);
  assert.equal(last.accepted_through, requests.length, `accepted_through of the ${what} form`);
  assert.equal(last.durable_through, requests.length, `durable_through of the ${what} form`);
  assert.equal(last.rejected_count, 0, `rejected_count of the ${what} form`);
  assert.equal(last.accepted_samples, samples, `accepted_samples of the ${what} form`);
  return samples;
}

function unary(client, method, request) {
  return new Promise((resolve, reject) => {
    client[method](request, options(), (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

function byKey(answers, series, what) {
  const found = new Map(answers.map((one) => [key(one), one]));
  assert.deepEqual(answers.map(key).sort(), series.map(key).sort(), `the series of ${what}`);
  return found;
}

async function checkCurrent(client, component, series) {
  const answers = [];
  let token = "";
  do {
    const page = await unary(client, "GetCurrent", { component, page_size: 2, page_token: token });
    answers.push(...page.series);
    token = page.next_page_token;
  } while (token !== "");
  const found = byKey(answers, series, "GetCurrent");
  for (const one of series) {
    const { kind, unit, value, total, last, last_time: time } = found.get(key(one));
    const newest = one.seconds().at(-1);
    const what = `GetCurrent of ${key(one)}`;
    assert.deepEqual([kind, unit], [one.kind, one.unit], what);
    if (kind === "KIND_COUNTER") assert.deepEqual([value, total], ["total", one.total()], what);
    else assert.deepEqual([value, last], ["last", one.buckets.get(newest).last], what);
    assert.deepEqual({ ...time }, { seconds: newest, nanos: 0 }, `${what}: last_time`);
  }
}

async function checkExtract(client, component, series, base) {
  const start = timestamp(base * 1000);
  const end = timestamp((base + RANGE) * 1000);
  const messages = [];
  for await (const message of client.Extract({ component, start, end, step: { seconds: 1 } }, options())) {
    messages.push(message);
  }
  assert.deepEqual(
    messages.map((message) => message.coverage !== null),
    messages.map((_, i) => i === messages.length - 1),
    "coverage stands in the last message only",
  );
  const found = byKey(messages.flatMap((message) => message.series), series, "Extract");
  for (const one of series) {
    const points = found.get(key(one));
    const what = `Extract of ${key(one)}`;
    const seconds = one.seconds();
    const buckets = seconds.map((second) => one.buckets.get(second));
    const rolling = one.kind === "KIND_ROLLING";
    assert.deepEqual([points.kind, points.unit], [one.kind, one.unit], what);
    assert.deepEqual(points.time_ms, seconds.map((second) => second * 1000), `${what}: times`);
    const values = buckets.map(({ sum, count }) => (rolling ? sum / count : sum));
    assert.deepEqual(points.value, values, `${what}: values`);
    for (const column of ["count", "min", "max", "last"]) {
      const sent = rolling ? buckets.map((bucket) => bucket[column]) : [];
      assert.deepEqual(points[column], sent, `${what}: ${column}`);
    }
  }
  const { coverage } = messages.at(-1);
  assert.equal(coverage.step.seconds, 1, "the step of the coverage");
  assert.equal(coverage.buckets_expected, RANGE, "buckets_expected");
  const present = new Set(series.flatMap((one) => one.seconds())).size;
  assert.equal(coverage.buckets_present, present, "buckets_present");
  assert.equal(coverage.truncated, false, "truncated");
  return series.reduce((sum, one) => sum + one.buckets.size, 0);
}

async function main([address, component]) {
  assert.ok(address && component, "usage: round_trip.js ADDRESS COMPONENT");
  const channel = [address, grpc.credentials.createInsecure(), { "grpc.default_compression_algorithm": GZIP }];
  const ingest = new healthd.v1.IngestService(...channel);
  const query = new healthd.v1.QueryService(...channel);
  await new Promise((resolve, reject) => {
    ingest.waitForReady(Date.now() + DEADLINE_MS, (error) => (error ? reject(error) : resolve()));
  });

  const series = [
    new Series("requests_total", "KIND_COUNTER", "requests", { city: "Zürich", route: "/" }),
    new Series("requests_total", "KIND_COUNTER", "requests", { city: "東京", route: "/\u{1d11e}" }),
    new Series("queue_depth", "KIND_ROLLING", "items", { queue: "main" }),
    new Series("latency_seconds", "KIND_ROLLING", "seconds", {}),
  ];
  const base = Math.floor(Date.now() / 1000) - RANGE - 5;
  const seconds = Array.from({ length: RANGE }, (_, i) => base + i).filter((_, i) => i % 3 !== 2);
  const plain = await send(ingest, plainRequests(component, series, seconds), "plain");
  // The same seconds again, newest first: what is stored by now and what comes must merge.
  const packed = await send(ingest, packedRequests(component, series, seconds.reverse()), "packed");
  await checkCurrent(query, component, series);
  const points = await checkExtract(query, component, series, base);
  ingest.close();
  query.close();
  console.log(
    `node: ${plain} plain and ${packed} packed samples acknowledged as durable, totals and lasts of ` +
      `${series.length} series and ${points} points read back as sent`,
  );
}

main(process.argv.slice(2)).catch((error) => {
  console.error(`node: ${error.message}`);
  process.exit(1);
});
