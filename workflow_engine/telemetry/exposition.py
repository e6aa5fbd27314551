"""Metrics in the form that Prometheus reads, and the port on which a worker serves its own.

The only module that uses prometheus-client, which the extra `metrics` installs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

from workflow_engine.errors import ExtraMissing
from workflow_engine.telemetry.counting import METRICS, CountsOfWorker, Metric

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric as Family

DISTRIBUTION = "celery-workflow-engine"
"""As in `workflow_engine`, which this room may not import from."""


class Collector(Protocol):
    """Reads metrics when they are asked for."""

    def collect(self) -> Iterator[Family]: ...


@dataclass(frozen=True)
class Gauge:
    """A metric that is read rather than counted."""

    name: str
    meaning: str
    labels: tuple[str, ...]
    values: Mapping[tuple[str, ...], float]
    """The value of each set of labels."""


class GaugeCollector:
    """Collects gauges from a function that reads them."""

    def __init__(self, read: Callable[[], Iterable[Gauge]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Family]:
        from prometheus_client.core import GaugeMetricFamily

        for gauge in self._read():
            family = GaugeMetricFamily(gauge.name, gauge.meaning, labels=gauge.labels)
            for labels, value in gauge.values.items():
                family.add_metric(labels, value)
            yield family


def require_prometheus_client() -> None:
    """Raise `ExtraMissing` if prometheus-client is not installed."""
    if find_spec("prometheus_client") is None:
        raise ExtraMissing("prometheus-client", f"{DISTRIBUTION}[metrics]")


class WorkerCollector:
    """Collects the counts of a worker and its release."""

    def __init__(self, counts: CountsOfWorker, release: str) -> None:
        self._counts = counts
        self._release = release

    def collect(self) -> Iterator[Family]:
        from prometheus_client.core import GaugeMetricFamily

        totals = self._counts.totals()
        for metric in METRICS.values():
            of_metric = {labels: numbers for (name, labels), numbers in totals.items() if name == metric.name}
            yield _family(metric, of_metric)
        about = GaugeMetricFamily(
            "workflow_engine_worker", "The release of the engine that a worker runs.", labels=("release",)
        )
        about.add_metric((self._release,), 1)
        yield about


def _family(metric: Metric, counts: dict[tuple[str, ...], list[float]]) -> Family:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    if not metric.buckets:
        counter = CounterMetricFamily(metric.name, metric.meaning, labels=metric.labels)
        for labels, (count,) in counts.items():
            counter.add_metric(labels, count)
        return counter
    histogram = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    bounds = [*(str(float(seconds)) for seconds in metric.buckets), "+Inf"]
    for labels, (*buckets, total) in counts.items():
        if any(buckets):
            histogram.add_metric(labels, list(zip(bounds, accumulate(buckets), strict=True)), total)
    return histogram


def exposition(collector: Collector) -> bytes:
    """Return what a collector collects, as text. Raises `ExtraMissing`."""
    require_prometheus_client()
    from prometheus_client import generate_latest

    return generate_latest(_registry(collector))


def serve(port: int, address: str, collector: Collector) -> Callable[[], None]:
    """Serve what a collector collects, in threads of this process; return how to stop.

    Raises OSError, and `ExtraMissing`.
    """
    require_prometheus_client()
    from prometheus_client import start_http_server

    server, thread = start_http_server(port, address, _registry(collector))

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(5)

    return stop


def _registry(collector: Collector) -> CollectorRegistry:
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    registry.register(collector)
    return registry
