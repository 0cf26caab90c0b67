"""What can be watched from outside: counters and gauges in Prometheus' text format.

Every label value comes from a fixed set (route templates, methods, statuses, outcomes), so nothing
that a client makes up becomes a series. Gauges are read when they are asked for; nothing here
waits for the model or touches a disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import psutil
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper ends of the latency histogram, seconds."""
OTHER = "other"
"""The label of a request that reached no route, or whose method is none of HTTP's."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

Gauges = Callable[[], Mapping[str, float]]
"""Named numbers that are read when they are asked for."""


class Metrics:
    """One app's figures."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "lexiscope_requests",
            "Requests answered.",
            ("route", "method", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "lexiscope_request_seconds",
            "Seconds from a request's head to the end of its answer.",
            ("route",),
            buckets=BUCKETS_S,
            registry=self._registry,
        )

    def request(self, route: str | None, method: str, status: int, seconds: float) -> None:
        """Count one answered request.

        Args:
            route: the route's template, ``/api/v1/bases``; None where no route matched.
            method: of HTTP; an unknown one counts as ``other``.
            status: of the answer; 0 where the client left before there was one.
            seconds: from the head of the request to the end of the answer.
        """
        name = route or OTHER
        known = method if method in METHODS else OTHER
        self._requests.labels(name, known, str(status)).inc()
        self._seconds.labels(name).observe(seconds)

    def watch(
        self,
        name: str,
        help: str,
        read: Gauges,
        *,
        label: str,
        counter: bool = False,
    ) -> None:
        """Add figures that are read when they are asked for.

        Args:
            name: ``lexiscope_…``.
            help: one sentence.
            read: label value to number; the values come from a fixed set.
            label: what the values are of.
            counter: whether the figures only ever grow.
        """
        self._registry.register(_Watched(name, help, read, label, counter))

    def watch_process(self) -> None:
        """Add the process's memory, threads and open files."""
        process = psutil.Process()

        def read() -> Mapping[str, float]:
            with process.oneshot():
                found = {
                    "resident_bytes": float(process.memory_info().rss),
                    "threads": float(process.num_threads()),
                }
            if hasattr(process, "num_fds"):
                found["open_files"] = float(process.num_fds())
            return found

        self.watch("lexiscope_process", "The server's process.", read, label="what")

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self._registry)


class _Watched(Collector):
    def __init__(self, name: str, help: str, read: Gauges, label: str, counter: bool) -> None:
        self._name, self._help, self._read = name, help, read
        self._label, self._counter = label, counter

    def describe(self) -> Iterator[Metric]:
        """What is going to be told, without reading it."""
        yield self._family()

    def collect(self) -> Iterator[Metric]:
        """Read and tell."""
        family = self._family()
        for value, number in sorted(self._read().items()):
            family.add_metric([value], number)
        yield family

    def _family(self) -> CounterMetricFamily | GaugeMetricFamily:
        kind = CounterMetricFamily if self._counter else GaugeMetricFamily
        family: CounterMetricFamily | GaugeMetricFamily = kind(
            self._name, self._help, labels=[self._label]
        )
        return family
