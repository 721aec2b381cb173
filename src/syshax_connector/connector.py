# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The class that vLLM loads: one object in the scheduler's process, one in each worker's. It only forwards calls."""

import re
from contextlib import suppress
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)
from vllm.distributed.parallel_state import get_tensor_model_parallel_rank
from vllm.platforms import current_platform
from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import KVCacheConfig
from vllm.v1.outputs import KVConnectorOutput
from vllm.v1.request import Request

from . import settings as settings_
from .consumer import Consumer
from .folder import Folder
from .identity import UnsupportedError, check_supported, model_of, shape_of
from .messages import Jobs, Report
from .producer import Producer
from .scheduler import Scheduler
from .stats import HandoverMetrics, HandoverStats
from .worker import Worker

__all__ = ["SyshaxConnector"]


class SyshaxConnector(KVConnectorBase_V1, SupportsHMA):
    """Hands KV caches over to other engines of this host and loads theirs."""

    def __init__(self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig) -> None:
        """Checks that the engine's KV cache can be handed over.

        Raises:
            UnsupportedError: It can't.
            SettingsError: `kv_connector_extra_config` is wrong.
        """
        super().__init__(vllm_config, role, kv_cache_config)
        config = vllm_config.kv_transfer_config
        if config.kv_load_failure_policy != "recompute":
            # vLLM's default would answer a request with an error when its hand-over is lost.
            raise UnsupportedError(
                'SyshaxConnector wants "kv_load_failure_policy": "recompute" in --kv-transfer-config'
            )
        settings = settings_.parse(config.kv_connector_extra_config)
        spec = check_supported(vllm_config, kv_cache_config)
        shape = shape_of(vllm_config, kv_cache_config, spec)
        folder = Folder(settings.arena_dir)
        owner = re.sub(r"[^A-Za-z0-9_-]", "_", str(config.engine_id))
        self._names = list(kv_cache_config.kv_cache_groups[0].layer_names)
        self._block_size = spec.block_size
        self._ranks = vllm_config.parallel_config.tensor_parallel_size
        self._scheduler: Scheduler | None = None
        self._worker: Worker | None = None
        if role == KVConnectorRole.WORKER:
            self._worker = Worker(
                folder, settings, owner=owner, shape=shape, dtype=spec.dtype, saves=config.is_kv_producer
            )
            return
        model = model_of(vllm_config, shape, spec.dtype, settings.identity)
        unit = spec.block_size if current_platform.is_cpu() else 1
        producer = Producer(folder, settings, owner=owner, model=model, shape=shape, ranks=self._ranks, unit=unit)
        self._scheduler = Scheduler(
            folder,
            settings,
            producer if config.is_kv_producer else None,
            Consumer(folder, settings, model=model, shape=shape) if config.is_kv_consumer else None,
            ranks=self._ranks,
            block_size=spec.block_size,
        )

    @property
    def requires_kv_delivery(self) -> bool:
        """A lost hand-over only costs recomputation."""
        return False

    # In the workers.

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """Takes the KV cache."""
        layers = self._vllm_config.compilation_config.static_forward_context
        names = sorted(self._names, key=_natural)
        self._working.register(
            [layers[name] for name in names],
            [kv_caches[name] for name in names],
            block_size=self._block_size,
            rank=get_tensor_model_parallel_rank(),
            ranks=self._ranks,
        )

    def start_load_kv(self, forward_context: object, **kwargs: object) -> None:
        """Does, or begins, all of the step's copies: vLLM calls this in every step, also in one without tokens."""
        jobs = self._get_connector_metadata()
        assert isinstance(jobs, Jobs)
        self._working.run(jobs)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing: loads are done, or before the pass on its stream."""

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: object, **kwargs: object) -> None:
        """Nothing: whole requests are saved when they end."""

    def wait_for_save(self) -> None:
        """Nothing: a save's blocks stay until it has ended."""

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        """Requests whose blocks may be freed."""
        return self._working.sent() or None, None

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Blocks that must be computed."""
        return self._working.failed_blocks()

    def build_connector_worker_meta(self) -> Report | None:
        """The step's report to the scheduler."""
        return self._working.report()

    # In the scheduler.

    def get_num_new_matched_tokens(self, request: Request, num_computed_tokens: int) -> tuple[int | None, bool]:
        """How many tokens a hand-over adds."""
        return self._scheduling.match(request, num_computed_tokens)

    def update_state_after_alloc(self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int) -> None:
        """The request's blocks are known."""
        self._scheduling.allocated(request, blocks.get_block_ids()[0], num_external_tokens)

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        """The step's jobs for the workers."""
        return self._scheduling.jobs(scheduler_output.total_num_scheduled_tokens)

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        """Takes the workers' reports."""
        if isinstance(report := connector_output.kv_connector_worker_meta, Report):
            self._scheduling.reported(report)

    def request_finished(self, request: Request, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """Saves the request if it asks for that."""
        return self._scheduling.finished(request, block_ids)

    def request_finished_all_groups(
        self, request: Request, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """The same; there is one group."""
        return self._scheduling.finished(request, block_ids[0])

    # In both.

    def get_kv_connector_stats(self) -> HandoverStats | None:
        """What happened; the scheduler's half reports it for all."""
        return None if self._scheduler is None else self._scheduler.stats()

    def shutdown(self) -> None:
        """Removes this engine's files."""
        for half in (self._scheduler, self._worker):
            if half is not None:
                half.close()

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> HandoverStats:
        """Parses what was transmitted."""
        return HandoverStats(data or {})

    @classmethod
    def build_prom_metrics(cls, *arguments: Any) -> HandoverMetrics:
        """The instance's metrics."""
        return HandoverMetrics(*arguments)

    @property
    def _working(self) -> Worker:
        assert self._worker is not None, "a worker's call in the scheduler"
        return self._worker

    @property
    def _scheduling(self) -> Scheduler:
        assert self._scheduler is not None, "a scheduler's call in a worker"
        return self._scheduler


# vLLM's MultiConnector knows those that it combines by name alone when it reads what their workers counted.
with suppress(ValueError):  # it is there already
    KVConnectorFactory.register_connector(SyshaxConnector.__name__, __name__, SyshaxConnector.__name__)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts layer 10 behind layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
