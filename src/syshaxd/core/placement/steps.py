# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The time of a decode step, as a function of batch and context."""

from dataclasses import dataclass, replace

from syshaxd.core.placement.measured import Line

_WEIGHT = 0.1
"""Weight of the newest measurement, from the tenth on."""
_MIN_VARIANCE = 1e-4
"""Variance of the context at one batch size from which the slope counts: a spread of 1 % of the KV cache."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """Time between two tokens of a stream, as measured on one instance.

    Batch and context grow together. So the context counts only by how far it lies from what is usual for the batch: its
    slope is the partial one of a regression on both.
    """

    by_batch: Line
    """Seconds over the requests that run, at the context that such a batch usually has."""
    context: Line
    """The usual context, as a share of the KV cache, over the requests that run."""
    variance: float = 0.0
    """Variance of the context around the usual one."""
    covariance: float = 0.0
    """Covariance of the context and the seconds."""
    spread: float = 0.0
    """Mean distance of a measurement from the prediction."""

    @classmethod
    def first(cls, batch: float, step_s: float, context_ratio: float = 0.0) -> "StepTime":
        """Starts from one measurement, which may be off by half."""
        return cls(Line.first(batch, step_s), Line.first(batch, context_ratio), spread=step_s / 2)

    def observe(self, batch: float, step_s: float, context_ratio: float = 0.0) -> "StepTime":
        """Adds one measurement.

        Args:
            batch: Requests that ran.
            step_s: Seconds between two tokens of one of them.
            context_ratio: Share of the KV cache that they had.
        """
        count = self.by_batch.count + 1
        weight = max(_WEIGHT, 1 / count)
        off = abs(step_s - self.at(batch, context_ratio))
        more_context = context_ratio - self.context.at(batch)
        more_s = step_s - self.by_batch.at(batch)
        return replace(
            self,
            by_batch=self.by_batch.observe(batch, step_s),
            context=self.context.observe(batch, context_ratio),
            variance=(1 - weight) * (self.variance + weight * more_context * more_context),
            covariance=(1 - weight) * (self.covariance + weight * more_context * more_s),
            spread=self.spread + max(2 * _WEIGHT, 1 / count) * (off - self.spread),
        )

    def at(self, batch: float, context_ratio: float | None = None) -> float:
        """Seconds of a step with this many requests, at the usual context unless one is given."""
        usual_s = self.by_batch.at(batch)
        if context_ratio is None:
            return usual_s
        more_s = self.context_slope * (context_ratio - self.context.at(batch))
        return max(usual_s / 2, usual_s + more_s)

    @property
    def mean_s(self) -> float:
        """Mean of the measurements."""
        return self.by_batch.y

    @property
    def slope(self) -> float:
        """Seconds that each further request adds, with its usual context."""
        return self.by_batch.slope

    @property
    def context_slope(self) -> float:
        """Seconds that a full KV cache adds at the same batch; never negative, and 0 if it is not known."""
        return max(0.0, self.covariance / self.variance) if self.knows_context else 0.0

    @property
    def knows_context(self) -> bool:
        """Whether batches of one size were seen with contexts of different lengths."""
        return self.variance >= _MIN_VARIANCE

    @property
    def error_ratio(self) -> float:
        """Error bound of the mean of several steps, as a share of it."""
        return replace(self.by_batch, spread=self.spread).error_ratio
