# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""OpenAI's Batch API: files of requests that run when others leave room."""

from collections.abc import Callable
from dataclasses import dataclass

from syshaxd.gateway.batches.api import BatchApi, send_file
from syshaxd.gateway.batches.line import Lines
from syshaxd.gateway.batches.worker import BatchWorker
from syshaxd.system.batch_store import BatchStore

__all__ = ["BatchApi", "BatchOptions", "BatchWorker", "Lines", "send_file"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """How batches are kept and run."""

    store: Callable[[], BatchStore]
    """Opens the store; called in its thread."""
    max_concurrency: int
    """Lines that run or wait for a slot at a time."""
