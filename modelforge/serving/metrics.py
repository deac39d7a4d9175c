"""What a server measures of itself, for Prometheus and for its page."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

from modelforge.constraints import Violation

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_SPEEDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_SCORES = (-10, -5, -2, -1, -0.5, 0, 0.5, 1, 2, 5, 10)  # of a reward model, which has no unit
_QUANTILES = (0.50, 0.95, 0.99)
_KEPT = 1000  # answers of which the page's figures are


class Metrics:
    """Of one app: two apps in one process do not share figures.

    Args:
        size: How many requests an engine works on at once; more wait.
    """

    def __init__(self, size: int) -> None:
        self.registry = CollectorRegistry()
        self.size, self.active = size, 0
        of: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("modelforge_requests", "Requests", ["model", "code"], **of)
        self.latency = Histogram(
            "modelforge_request_seconds", "Whole answers", ["model"], buckets=_SECONDS, **of
        )
        self.first = Histogram(
            "modelforge_first_token_seconds",
            "Until the first text of a stream",
            ["model"],
            buckets=_SECONDS,
            **of,
        )
        self.speed = Histogram(
            "modelforge_answer_tokens_per_second",
            "Of one answer",
            ["model"],
            buckets=_SPEEDS,
            **of,
        )
        self.tokens = Counter("modelforge_tokens", "Tokens", ["model", "kind"], **of)
        self.feedback = Counter("modelforge_feedback", "Ratings", ["model", "rating"], **of)
        self.violations = Counter(
            "modelforge_safety_violations",
            "Constraints that prompts and answers break",
            ["model", "constraint", "side", "action"],
            **of,
        )
        self.reward = Histogram(
            "modelforge_reward",
            "A reward model's scores of a share of the answers",
            ["model"],
            buckets=_SCORES,
            **of,
        )
        self.unscored = Counter(
            "modelforge_reward_left_out", "Drawn answers without a score", ["model", "why"], **of
        )
        self.restarts = Gauge("modelforge_engine_restarts", "Since the start", ["engine"], **of)
        self.ready = Gauge("modelforge_engine_ready", "1 if it answers", ["engine"], **of)
        self.registry.register(_Queue(self))
        self._seconds: deque[float] = deque(maxlen=_KEPT)
        self._firsts: deque[float] = deque(maxlen=_KEPT)
        self._speeds: deque[float] = deque(maxlen=_KEPT)
        self._scores: deque[float] = deque(maxlen=_KEPT)

    def answered(self, model: str, seconds: float, first: float | None, used: Any) -> None:
        """Note a whole answer.

        Args:
            model: As clients call it.
            seconds: That it took.
            first: Until its first text, of a stream.
            used: Its ``usage``, where the engine said it.
        """
        self.latency.labels(model).observe(seconds)
        self._seconds.append(seconds)
        if first is not None:
            self.first.labels(model).observe(first)
            self._firsts.append(first)
        if isinstance(used, dict):
            for kind in ("prompt", "completion"):
                self.tokens.labels(model, kind).inc(int(used.get(f"{kind}_tokens") or 0))
            speed = int(used.get("completion_tokens") or 0) / max(seconds, 1e-9)
            self.speed.labels(model).observe(speed)
            self._speeds.append(speed)

    def scored(self, model: str, score: float) -> None:
        """Note a reward model's score of an answer."""
        self.reward.labels(model).observe(score)
        self._scores.append(score)

    def broken(self, model: str, violations: Iterable[Violation]) -> None:
        """Note what a prompt and its answers break."""
        for each in violations:
            self.violations.labels(model, each.constraint, each.side, each.action).inc()

    def text(self) -> bytes:
        """For Prometheus."""
        return generate_latest(self.registry)

    def figures(self) -> dict[str, Any]:
        """For the page: seconds and tokens a second of the last answers."""
        return {
            "active": self.active,
            "waiting": max(0, self.active - self.size),
            "seconds": _quantiles(self._seconds),
            "first_token": _quantiles(self._firsts),
            "tokens_per_second": _quantiles(self._speeds),
            "reward": _quantiles(self._scores),
        }


class _Queue:
    """Read when Prometheus asks."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Any:
        found = self._metrics.figures()
        yield GaugeMetricFamily("modelforge_active", "Requests in work", value=found["active"])
        yield GaugeMetricFamily(
            "modelforge_waiting", "Of those, beyond one batch", value=found["waiting"]
        )


def _quantiles(values: Sequence[float]) -> dict[str, float | int]:
    if not values:
        return {"count": 0}
    ordered = sorted(values)
    p50, p95, p99 = (ordered[min(len(ordered) - 1, int(q * len(ordered)))] for q in _QUANTILES)
    return {"count": len(ordered), "p50": p50, "p95": p95, "p99": p99}
