"""What healthd exports, read by the tools that people read it with.

    PYTHONPATH=STUBS python tests/clients/exports.py ADDRESS COMPONENT

It sends samples, keeps its own account of them in folds of a second, and holds every format to it: JSON
and NDJSON by json, CSV by csv, OpenMetrics by prometheus_client's parser, Parquet by pyarrow and DuckDB.
"""

import csv
import io
import json
import random
import sys
import tempfile
import time
from collections import defaultdict
from datetime import datetime

import duckdb
import grpc
import pyarrow.parquet
from google.protobuf.timestamp_pb2 import Timestamp
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from healthd.v1 import ingest_service_pb2 as ingest
from healthd.v1 import query_service_pb2 as query
from healthd.v1 import types_pb2 as types
from healthd.v1.ingest_service_pb2_grpc import IngestServiceStub
from healthd.v1.query_service_pb2_grpc import QueryServiceStub

DEADLINE = 60
SECONDS = 300
LABELS = [{}, {"path": '=cmd|"/c"!A1', "ключ".encode().hex(): "naïve \\ \"quoted\", a\u2028b"}]
UNITS = {"orders": "", "latency.ms": "=ms", "-odd/name": "+1"}
KINDS = {"orders": "counter", "latency.ms": "rolling", "-odd/name": "counter"}


def check(condition, message):
    if not condition:
        raise SystemExit(f"FAILED: {message}")


def send(channel, component):
    """Sends samples; gives the folds that they make: by name, labels and second."""
    chance, folds, metrics = random.Random(7), defaultdict(list), []
    start = int(time.time()) - SECONDS - 5
    for second in range(SECONDS):
        for name, kind in KINDS.items():
            for labels in LABELS:
                for _ in range(chance.choice([0, 1, 1, 3])):
                    ms = (start + second) * 1000 + chance.randrange(1000)
                    value = chance.randrange(4000) / 4
                    folds[name, json.dumps(labels), start + second].append((ms, value))
                    stamp = Timestamp(seconds=ms // 1000, nanos=ms % 1000 * 1_000_000)
                    sample = {"increment": value} if kind == "counter" else {"observation": value}
                    metrics.append(
                        ingest.Metric(
                            component=component,
                            name=name,
                            labels=labels,
                            unit=UNITS[name],
                            time=stamp,
                            **sample,
                        )
                    )
    stub = IngestServiceStub(channel)
    answer = stub.Record(ingest.RecordRequest(metrics=metrics), timeout=DEADLINE)
    check(answer.accepted == len(metrics), f"refused: {answer.rejections}")
    return folds


def expected(folds):
    """Each fold as a row should tell it."""
    rows = {}
    for (name, labels, second), samples in folds.items():
        values = [value for _, value in samples]
        row = {"type": KINDS[name], "unit": UNITS[name], "value": sum(values)}
        if KINDS[name] == "rolling":
            # Of observations of one millisecond the one that arrived last is the last.
            last_ms, last = max(enumerate(samples), key=lambda one: (one[1][0], one[0]))[1]
            row |= {"value": sum(values) / len(values), "count": len(values), "sum": sum(values)}
            row |= {"min": min(values), "max": max(values), "last": last, "last_ms": last_ms}
        rows[name, labels, second * 1000] = row
    return rows


def export(channel, component, form):
    request = query.ExportAllRequest(
        selector=types.Selector(component=component), format=form
    )
    parts = list(QueryServiceStub(channel).ExportAll(request, timeout=DEADLINE))
    check(parts[-1].HasField("summary"), "the last part has the summary")
    check(not any(part.HasField("summary") for part in parts[:-1]), "only the last part has it")
    check(parts[-1].progress == 1.0, "at the end all is done")
    return b"".join(part.data for part in parts), parts[-1].summary


def ms_of(text):
    time = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return round(time.timestamp() * 1000)


def of_json(row):
    """A row of JSON as `expected` has it."""
    told = {"type": row["type"], "unit": row.get("unit", ""), "value": row["value"]}
    if row["type"] == "rolling":
        told |= {key: row[key] for key in ("count", "sum", "min", "max", "last")}
        told["last_ms"] = ms_of(row["last_time"])
    check(row["width_seconds"] == 1, "a fold is of a second")
    labels = json.dumps(row.get("labels", {}))
    return (row["name"], labels, ms_of(row["timestamp"])), told


def same_labels(rows):
    """Keys with labels in one order."""
    sort = lambda labels: json.dumps(json.loads(labels), sort_keys=True)
    return {(name, sort(labels), ms): row for (name, labels, ms), row in rows.items()}


def compare(what, found, rows):
    found, rows = same_labels(found), same_labels(rows)
    check(found.keys() == rows.keys(), f"{what}: {len(found)} rows, not {len(rows)}")
    for key, row in rows.items():
        check(found[key] == row, f"{what} {key}: {found[key]}, not {row}")


def main():
    address, component = sys.argv[1:]
    channel = grpc.insecure_channel(address)
    rows = expected(send(channel, component))

    data, summary = export(channel, component, query.EXPORT_FORMAT_JSON)
    told = json.loads(data)
    check([one["component"] for one in told["components"]] == [component], "one component")
    compare("JSON", dict(map(of_json, told["components"][0]["metrics"])), rows)
    check(told["summary"]["total_metrics"] == len(rows), "JSON counts its rows")
    check(told["summary"]["total_components"] == 1, "JSON counts its components")
    check((summary.rows, summary.series, summary.components) == (len(rows), 6, 1), f"{summary}")

    data, _ = export(channel, component, query.EXPORT_FORMAT_NDJSON)
    lines = [json.loads(line) for line in data.splitlines()]
    check({line["component"] for line in lines} == {component}, "NDJSON names the component")
    compare("NDJSON", dict(map(of_json, lines)), rows)
    for line in lines:
        if line.get("count", 1) > 1:
            check(sum(count for _, count in line["bins"]) == line["count"], "bins count all")

    data, _ = export(channel, component, query.EXPORT_FORMAT_CSV)
    check(not any(b"\r\n" + sign in data or b"," + sign in data for sign in (b"=", b"+", b"@")), "no formula")
    found, plain = {}, lambda text: text[1:] if text[:1] == "'" else text
    for row in csv.DictReader(io.StringIO(data.decode(), newline="")):
        check(row["component"] == component, "CSV names the component")
        told = {"type": row["type"], "unit": plain(row["unit"]), "value": float(row["value"])}
        if row["type"] == "rolling":
            told |= {key: float(row[key]) for key in ("sum", "min", "max", "last")}
            told |= {"count": int(row["count"]), "last_ms": ms_of(row["last_time"])}
        found[plain(row["name"]), row["labels"], ms_of(row["timestamp"])] = told
    compare("CSV", found, rows)

    data, _ = export(channel, component, query.EXPORT_FORMAT_OPENMETRICS)
    check(data.endswith(b"# EOF\n"), "OpenMetrics ends with # EOF")
    families = {family.name: family for family in text_string_to_metric_families(data.decode())}
    check({name: one.type for name, one in families.items()}
          == {"orders": "counter", "latency_ms": "gauge", "_odd_name": "counter"}, f"{families.keys()}")
    for name, family in {"orders": "orders", "latency.ms": "latency_ms", "-odd/name": "_odd_name"}.items():
        samples = [one for one in families[family].samples if not one.name.endswith("_created")]
        created = [one for one in families[family].samples if one.name.endswith("_created")]
        counters = {json.dumps(one.labels) for one in samples} if KINDS[name] == "counter" else set()
        check({json.dumps(one.labels) for one in created} == counters, f"{name}: totals begin somewhere")
        check(len(samples) == sum(1 for key in rows if key[0] == name), f"{name}: a sample a fold")
        check({sample.labels["component"] for sample in samples} == {component}, "the component is a label")
        if KINDS[name] == "counter":
            ends = {}
            for sample in samples:
                ends[json.dumps(sample.labels)] = sample.value
            total = sum(row["value"] for key, row in rows.items() if key[0] == name)
            check(sum(ends.values()) == total, f"{name}: {ends}, not {total}")
        else:
            means = sorted(sample.value for sample in samples)
            check(means == sorted(row["value"] for key, row in rows.items() if key[0] == name), name)

    data, _ = export(channel, component, query.EXPORT_FORMAT_PARQUET)
    table = pyarrow.parquet.read_table(io.BytesIO(data))
    found = {}
    for row in table.to_pylist():
        told = {key: row[key] for key in ("type", "unit", "value")}
        if row["type"] == "rolling":
            told |= {key: row[key] for key in ("count", "sum", "min", "max", "last")}
            told["last_ms"] = round(row["last_time"].timestamp() * 1000)
        else:
            check(row["count"] is None and row["last_time"] is None, "a counter has no more")
        check((row["component"], row["width_ms"]) == (component, 1000), "of the component, by the second")
        found[row["name"], row["labels"], round(row["timestamp"].timestamp() * 1000)] = told
    compare("Parquet", found, rows)
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        file.write(data)
        file.flush()
        totals = duckdb.sql(
            f"select name, sum(value), count(*) from '{file.name}' where type = 'counter' group by name"
        ).fetchall()
    for name, total, count in totals:
        of_name = [row["value"] for key, row in rows.items() if key[0] == name]
        check((total, count) == (sum(of_name), len(of_name)), f"DuckDB: {name} {total} {count}")
    check(len(totals) == 2, "DuckDB sees both counters")
    print("exports are read as sent")


main()
