"""A client of healthd as a Python service would be: it sends samples, and reads back what it sent.

    PYTHONPATH=STUBS python tests/clients/round_trip.py ADDRESS COMPONENT

It keeps its own account of every sample, apart from the server's code, and holds each answer to it.
All values but those of one counter are whole or quarters, so that sums are exact in any order and
"equal" means equal. COMPONENT must be new to the server.
"""

import math
import random
import sys
import time
from dataclasses import dataclass, field

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from healthd.v1 import ingest_service_pb2 as ingest
from healthd.v1 import query_service_pb2 as query
from healthd.v1 import types_pb2 as types
from healthd.v1.ingest_service_pb2_grpc import IngestServiceStub
from healthd.v1.query_service_pb2_grpc import QueryServiceStub

DEADLINE = 60  # Seconds a call. A debug build on a busy machine needs a few.
RANGE = 590  # Seconds that are read back.
USED = 500  # Seconds of them that get samples, so that 90 stay gaps.
PER_SECOND = 40  # Samples a used second: 20,000 in each form.
REQUESTS = 10  # Requests in which each form is sent.
FRACTION_TOLERANCE = 1e-12  # What is promised for sums of fractions.

COUNTER, ROLLING = types.KIND_COUNTER, types.KIND_ROLLING


class Failed(Exception):
    """The server did not do what its contract says."""


def check(condition, message):
    if not condition:
        raise Failed(message)


def check_equal(got, expected, what):
    if isinstance(got, list) and len(got) == len(expected):
        # Of two columns, the first difference says more than a thousand numbers.
        for place, (one, other) in enumerate(zip(got, expected)):
            check(one == other, f"{what}, place {place}: got {one!r}, expected {other!r}")
    check(got == expected, f"{what}: got {got!r}, expected {expected!r}")


def close(got, expected, series):
    """Whether two sums of a series agree as far as the contract promises."""
    if series.fractional:
        return math.isclose(got, expected, rel_tol=FRACTION_TOLERANCE, abs_tol=0.0)
    return got == expected


@dataclass
class Bucket:
    """What one series saw in one second."""

    sum: float = 0.0
    count: int = 0
    min: float = math.inf
    max: float = -math.inf
    last: float = 0.0
    last_ms: int = -1


@dataclass
class Series:
    """One series and the account of what was sent to it."""

    name: str
    kind: int
    unit: str
    labels: dict = field(default_factory=dict)
    fractional: bool = False
    buckets: dict = field(default_factory=dict)

    def key(self):
        return (self.name, tuple(sorted(self.labels.items())))

    def fold(self, ms, count, total, low, high, last):
        bucket = self.buckets.setdefault(ms // 1000, Bucket())
        # Within a second, this client's times never go back: then time and arrival agree on what
        # came last. The seconds themselves are sent in no order.
        assert ms >= bucket.last_ms, "the script's own times go back within a second"
        bucket.sum += total
        bucket.count += count
        bucket.min = min(bucket.min, low)
        bucket.max = max(bucket.max, high)
        bucket.last, bucket.last_ms = last, ms

    def add(self, ms, value):
        self.fold(ms, 1, value, value, value, value)

    def total(self):
        return math.fsum(bucket.sum for bucket in self.buckets.values())

    def newest(self):
        return max(self.buckets)

    def value(self, rng):
        if self.kind == ROLLING:
            return rng.randint(-400, 4000) / 4
        return rng.randint(0, 90) / 10 if self.fractional else float(rng.randint(0, 9))


def all_series():
    """The series of the test; label values beyond ASCII, and one of four bytes a character."""
    return [
        Series("requests_total", COUNTER, "requests", {"route": "/", "city": "Zürich"}),
        Series("requests_total", COUNTER, "requests", {"route": "/größe", "city": "東京"}),
        Series("requests_total", COUNTER, "requests", {"route": "/", "city": "\U0001d11e = 'clef'"}),
        Series("cpu_seconds_total", COUNTER, "seconds", fractional=True),
        Series("queue_depth", ROLLING, "items", {"queue": "main"}),
        Series("queue_depth", ROLLING, "items", {"queue": "spät, \\ und \"quer\""}),
        Series("latency_seconds", ROLLING, "seconds"),
    ]


def timestamp(ms):
    return Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)


def chunks(items, count):
    size = len(items) // count
    return [items[start : start + size] for start in range(0, len(items), size)]


def plain_requests(component, series, seconds, rng):
    """The plain form, at the first 400 ms of each second."""
    for chunk in chunks(seconds, REQUESTS):
        metrics = []
        for second in chunk:
            for place in range(PER_SECOND):
                one, ms = rng.choice(series), second * 1000 + place * 10
                value = one.value(rng)
                one.add(ms, value)
                metric = ingest.Metric(
                    component=component,
                    name=one.name,
                    labels=one.labels,
                    time=timestamp(ms),
                    unit=one.unit,
                    description=f"{one.name} of the Python client.",
                )
                if one.kind == COUNTER:
                    metric.increment = value
                else:
                    metric.observation = value
                metrics.append(metric)
        yield ingest.IngestRequest(metrics=metrics)


def declaration(component, ref, one):
    return ingest.Series(
        ref=ref, component=component, name=one.name, kind=one.kind, labels=one.labels, unit=one.unit
    )


class Rows:
    """The rows of one packed message, by group."""

    def __init__(self):
        self.increments, self.observations, self.folds = [], [], []

    def add(self, ref, one, ms, value):
        one.add(ms, value)
        (self.increments if one.kind == COUNTER else self.observations).append((ref, ms, value))

    def add_fold(self, ref, one, ms, values):
        fold = (len(values), sum(values), min(values), max(values), values[-1])
        one.fold(ms, *fold)
        self.folds.append((ref, ms, *fold))

    def packed(self, times):
        rows = self.increments + self.observations + self.folds
        return ingest.Packed(
            refs=[row[0] for row in rows],
            increments=[row[2] for row in self.increments],
            observations=[row[2] for row in self.observations],
            times_ms=[row[1] for row in rows] if times == "each" else times,
            counts=[row[2] for row in self.folds],
            sums=[row[3] for row in self.folds],
            minima=[row[4] for row in self.folds],
            maxima=[row[5] for row in self.folds],
            lasts=[row[6] for row in self.folds],
        )


def packed_requests(component, series, heartbeats, seconds, rng):
    """The packed form, after the first 400 ms of each second; the last two rows of a second are
    folds. Two more requests follow: one time for all rows, and no time."""
    refs = dict(enumerate(series))
    counters = [ref for ref, one in refs.items() if one.kind == COUNTER]
    folded = [ref for ref, one in refs.items() if one.kind == ROLLING][1:]
    for number, chunk in enumerate(chunks(seconds, REQUESTS)):
        declared = refs if number == 0 else {}
        if number == REQUESTS // 2:
            # From here on two refs mean each other's series.
            first, second = counters[:2]
            refs[first], refs[second] = refs[second], refs[first]
            declared = {ref: refs[ref] for ref in (first, second)}
        rows = Rows()
        for second in chunk:
            for place in range(PER_SECOND - len(folded)):
                ref = rng.choice(list(refs))
                rows.add(ref, refs[ref], second * 1000 + 400 + place * 10, refs[ref].value(rng))
            for ref in folded:
                values = [refs[ref].value(rng) for _ in range(rng.randint(1, 20))]
                rows.add_fold(ref, refs[ref], second * 1000 + 900 + ref, values)
        yield ingest.IngestRequest(
            series=[declaration(component, ref, one) for ref, one in declared.items()],
            packed=rows.packed("each"),
        )

    rows, ms = Rows(), seconds[0] * 1000 + 990
    rows.add(counters[0], refs[counters[0]], ms, 7.0)
    rows.add(folded[0], refs[folded[0]], ms, 0.25)
    rows.add_fold(folded[1], refs[folded[1]], ms, [5.5, 2.5])
    yield ingest.IngestRequest(packed=rows.packed([ms]))

    rows = Rows()
    rows.add(len(refs), heartbeats, int(time.time() * 1000), 3.0)
    yield ingest.IngestRequest(
        series=[declaration(component, len(refs), heartbeats)], packed=rows.packed([])
    )


def send(stub, requests):
    """Streams requests in, closes the sending side, reads to the end; gives the last ack and all
    rejections."""
    rejections, last = [], ingest.IngestResponse()
    for ack in stub.Ingest(iter(requests), timeout=DEADLINE):
        check(ack.durable_through <= ack.accepted_through, f"durable before accepted: {ack}")
        check(ack.accepted_through >= last.accepted_through, f"accepted_through went back: {ack}")
        check(ack.durable_through >= last.durable_through, f"durable_through went back: {ack}")
        check(ack.durability in (types.DURABILITY_SYNCED, types.DURABILITY_NONE), f"durability: {ack}")
        check_equal(list(ack.warnings), [], "warnings")
        rejections.extend(ack.rejections)
        last = ack
    check_equal(last.accepted_through, len(requests), "accepted_through of the last ack")
    check_equal(last.durable_through, len(requests), "durable_through of the last ack")
    return last, rejections


def send_good(stub, requests, what):
    samples = sum(len(request.metrics) + len(request.packed.refs) for request in requests)
    last, rejections = send(stub, requests)
    check_equal((last.rejected_count, rejections), (0, []), f"what was rejected of the {what} form")
    check_equal(last.accepted_samples, samples, f"accepted_samples of the {what} form")
    return samples


def pages(call, request, items):
    """All items of a list, page by page."""
    while True:
        answer = call(request, timeout=DEADLINE)
        page = getattr(answer, items)
        check(len(page) <= request.page_size, f"a page of {len(page)} for page_size {request.page_size}")
        yield from page
        if not answer.next_page_token:
            return
        request.page_token = answer.next_page_token


def by_key(answers, what):
    found = {(one.name, tuple(sorted(one.labels.items()))): one for one in answers}
    check_equal(len(found), len(answers), f"{what}: distinct series")
    return found


def check_components(stub, component, series):
    components = list(pages(stub.ListComponents, query.ListComponentsRequest(page_size=2), "components"))
    names = [one.name for one in components]
    check_equal(names, sorted(set(names)), "the order of the components")
    check(component in names, f"{component} is not among the components {names}")
    own = components[names.index(component)]
    check_equal(own.metric_count, len({one.name for one in series}), "metric_count")
    check_equal(own.series_count, len(series), "series_count")


def check_metrics(stub, component, series):
    request = query.ListMetricsRequest(component=component, page_size=2)
    metrics = list(pages(stub.ListMetrics, request, "metrics"))
    names = sorted({one.name for one in series})
    check_equal([metric.name for metric in metrics], names, "the metrics in their order")
    for metric in metrics:
        own = [one for one in series if one.name == metric.name]
        labels = sorted({label for one in own for label in one.labels})
        check_equal(
            (metric.component, metric.kind, metric.unit, metric.series_count, list(metric.label_keys)),
            (component, own[0].kind, own[0].unit, len(own), labels),
            f"ListMetrics of {metric.name}",
        )


def check_current(stub, component, series):
    request = query.GetCurrentRequest(component=component, page_size=3)
    found = by_key(list(pages(stub.GetCurrent, request, "series")), "GetCurrent")
    check_equal(set(found), {one.key() for one in series}, "the series of GetCurrent")
    for one in series:
        now, what = found[one.key()], f"GetCurrent of {one.key()}"
        check_equal((now.component, now.kind, now.unit), (component, one.kind, one.unit), what)
        if one.kind == COUNTER:
            check_equal(now.WhichOneof("value"), "total", what)
            check(close(now.total, one.total(), one), f"{what}: total {now.total}, sent {one.total()}")
        else:
            check_equal(now.WhichOneof("value"), "last", what)
            check_equal(now.last, one.buckets[one.newest()].last, f"{what}: last")
        if one.name != "heartbeats_total":  # Its time was the server's.
            check_equal(now.last_time, Timestamp(seconds=one.newest()), f"{what}: last_time")


def extract(stub, request):
    """The series and the coverage of a range; the coverage stands in the last message only."""
    messages = list(stub.Extract(request, timeout=DEADLINE))
    check(messages, "Extract answered without a message")
    for message in messages[:-1]:
        check(not message.HasField("coverage"), "a message before the last one has coverage")
    check(messages[-1].HasField("coverage"), "the last message has no coverage")
    return [one for message in messages for one in message.series], messages[-1].coverage


def check_points(points, one):
    what = f"Extract of {one.key()}"
    check_equal((points.kind, points.unit), (one.kind, one.unit), what)
    seconds = sorted(one.buckets)
    check_equal(list(points.time_ms), [second * 1000 for second in seconds], f"{what}: times")
    check_equal(len(points.value), len(seconds), f"{what}: values")
    buckets = [one.buckets[second] for second in seconds]
    for second, bucket, value in zip(seconds, buckets, points.value):
        expected = bucket.sum if one.kind == COUNTER else bucket.sum / bucket.count
        check(close(value, expected, one), f"{what} at {second}: {value}, sent {expected}")
    for column in ("count", "min", "max", "last"):
        expected = [getattr(bucket, column) for bucket in buckets] if one.kind == ROLLING else []
        check_equal(list(getattr(points, column)), expected, f"{what}: {column}")


def check_extract(stub, component, series, base):
    request = query.ExtractRequest(
        component=component,
        metrics=sorted({one.name for one in series}),
        start=Timestamp(seconds=base),
        end=Timestamp(seconds=base + RANGE),
        step=Duration(seconds=1),
    )
    answers, coverage = extract(stub, request)
    found = by_key(answers, "Extract")
    check_equal(set(found), {one.key() for one in series}, "the series of Extract")
    for one in series:
        check_points(found[one.key()], one)
    present = len({second for one in series for second in one.buckets})
    check_equal(
        (coverage.start, coverage.end, coverage.step), (request.start, request.end, request.step),
        "the range and step of the coverage",
    )
    check_equal(coverage.tier, Duration(seconds=1), "the tier of the coverage")
    check_equal((coverage.buckets_expected, coverage.buckets_present), (RANGE, present), "buckets")
    check_equal((coverage.truncated, coverage.omitted, coverage.advice), (False, 0, ""), "what was left out")

    chosen = series[1]
    request.ClearField("metrics")
    request.labels.update(chosen.labels)
    answers, _ = extract(stub, request)
    check_equal(set(by_key(answers, "Extract")), {chosen.key()}, f"the series with {chosen.labels}")
    check_points(answers[0], chosen)
    return sum(len(one.buckets) for one in series)


def check_bad_input(ingest_stub, query_stub, component):
    """Three bad samples between good ones: each is refused by itself, and by its place."""
    values = [
        ("good_total", 1.0),
        ("good_total", math.nan),
        ("good_total", 2.0),
        ("good_total", -1.0),
        ("good_total", 4.0),
        ("a b", 8.0),
        ("good_total", 16.0),
    ]
    metrics = [ingest.Metric(component=component, name=name, increment=value) for name, value in values]
    reasons = [
        (1, 1, types.REASON_INVALID_VALUE),
        (1, 3, types.REASON_INVALID_VALUE),
        (1, 5, types.REASON_INVALID_NAME),
    ]

    def places(rejections):
        check(all(one.message for one in rejections), f"a rejection without words: {rejections}")
        return [(one.sequence, one.index, one.reason) for one in rejections]

    last, rejections = send(ingest_stub, [ingest.IngestRequest(metrics=metrics)])
    check_equal(places(rejections), reasons, "rejections of Ingest")
    check_equal((last.rejected_count, last.accepted_samples), (3, 4), "rejected and accepted of Ingest")

    recorded = ingest_stub.Record(ingest.RecordRequest(metrics=metrics, wait_durable=True), timeout=DEADLINE)
    check_equal(places(recorded.rejections), reasons, "rejections of Record")
    check_equal(recorded.accepted, 4, "accepted of Record")
    check_equal(recorded.durable, last.durability == types.DURABILITY_SYNCED, "durable of Record")

    request = query.GetCurrentRequest(component=component, metrics=["good_total", "a b"], page_size=10)
    totals = [(one.name, one.total) for one in pages(query_stub.GetCurrent, request, "series")]
    check_equal(totals, [("good_total", 46.0)], "what the good samples came to")


def run(address, component):
    channel = grpc.insecure_channel(address, compression=grpc.Compression.Gzip)
    grpc.channel_ready_future(channel).result(timeout=DEADLINE)
    ingest_stub, query_stub = IngestServiceStub(channel), QueryServiceStub(channel)

    rng = random.Random(20_000)
    base = int(time.time()) - RANGE - 5
    series, heartbeats = all_series(), Series("heartbeats_total", COUNTER, "")
    seconds = rng.sample(range(base, base + RANGE), USED)
    plain = send_good(ingest_stub, list(plain_requests(component, series, seconds, rng)), "plain")
    # The same seconds again, in another order: what is stored by now and what comes must merge.
    rng.shuffle(seconds)
    requests = list(packed_requests(component, series, heartbeats, seconds, rng))
    packed = send_good(ingest_stub, requests, "packed")

    everything = [*series, heartbeats]
    check_components(query_stub, component, everything)
    check_metrics(query_stub, component, everything)
    check_current(query_stub, component, everything)
    points = check_extract(query_stub, component, series, base)
    check_bad_input(ingest_stub, query_stub, component)
    channel.close()
    return (
        f"{plain} plain and {packed} packed samples acknowledged as durable, totals and lasts of "
        f"{len(everything)} series and {points} points read back as sent, 3 of 7 refused by their place"
    )


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: round_trip.py ADDRESS COMPONENT")
    try:
        print("python:", run(sys.argv[1], sys.argv[2]))
    except Failed as failure:
        sys.exit(f"python: {failure}")
    except grpc.FutureTimeoutError:
        sys.exit(f"python: no connection to {sys.argv[1]}")
    except grpc.RpcError as error:
        sys.exit(f"python: the call failed with {error.code()}: {error.details()}")


if __name__ == "__main__":
    main()
