"""The metrics of `/metrics`, in Prometheus' text format."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The metrics of one server."""

    def __init__(self, batch_size: int):
        disable_created_metrics()
        self._all = CollectorRegistry()
        self._requests = Counter(
            "segformer_requests", "Requests by HTTP status.", ["status"], registry=self._all
        )
        self._seconds = Histogram(
            "segformer_request_seconds",
            "From a picture's headers to its answer.",
            buckets=SECONDS,
            registry=self._all,
        )
        self._batches = Histogram(
            "segformer_batch_size",
            "Pictures that went through the network together.",
            buckets=range(1, batch_size + 1),
            registry=self._all,
        )
        self._inside = Gauge(
            "segformer_requests_inside",
            "Requests that are read, waiting or computed now.",
            registry=self._all,
        )

    def count(self, status: int) -> None:
        """Counts a finished request by its HTTP status."""
        self._requests.labels(str(status)).inc()

    def answered(self, seconds: float) -> None:
        """Records the time from a picture's headers to its answer."""
        self._seconds.observe(seconds)

    def batch(self, size: int) -> None:
        """Records the number of pictures in one run of the network."""
        self._batches.observe(size)

    def inside(self, number: int) -> None:
        """Sets the number of requests that are read, waiting or computed now."""
        self._inside.set(number)

    def text(self) -> bytes:
        """Returns all metrics in Prometheus' text format."""
        return generate_latest(self._all)
