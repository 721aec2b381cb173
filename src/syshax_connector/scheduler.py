# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The half in the scheduler: decides what to load and save, keeps the records, publishes, and counts."""

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from vllm.v1.request import Request, RequestStatus

from . import protocol
from .consumer import Consumer, MissError
from .folder import Claim, Folder
from .messages import Jobs, Loaded, LoadJob, Report, Saved, SaveJob
from .producer import Producer, RefusedError
from .protocol import BadParamsError, Handover
from .settings import Settings
from .stats import HandoverStats
from .sweeper import Sweeper

_logger = logging.getLogger(f"vllm.{__name__}")
_PAUSE_S = 0.001
"""Of the engine, when all it has to do is to wait for a hand-over."""


@dataclass(slots=True)
class _Load:
    """One request's load."""

    handover: str
    since: float
    request: Request
    claim: Claim | None = None
    start: int = 0
    stop: int = 0
    wait_s: float = 0.0
    over: bool = False
    """Decided: loaded, given up, or under way. vLLM asks again after a preemption."""
    gone: bool = False
    """The request has ended while the workers were loading."""
    loaded: list[Loaded] = field(default_factory=list)


@dataclass(slots=True)
class _Save:
    """One request's save that the workers have not ended yet."""

    key: str
    token_ids: list[int]
    size_bytes: int
    """In all ranks' arenas."""
    began: float
    saved: list[Saved] = field(default_factory=list)


class Scheduler:
    """One engine's part."""

    def __init__(
        self,
        folder: Folder,
        settings: Settings,
        producer: Producer | None,
        consumer: Consumer | None,
        *,
        ranks: int,
        block_size: int,
    ) -> None:
        """Begins to look for abandoned files.

        Args:
            folder: The shared one.
            settings: The engine's.
            producer: None if the engine only loads.
            consumer: None if the engine only saves.
            ranks: Tensor-parallel size.
            block_size: Tokens of a block.
        """
        self._folder = folder
        self._settings = settings
        self._producer = producer
        self._consumer = consumer
        self._ranks = ranks
        self._block_size = block_size
        self._loads: dict[str, _Load] = {}
        self._saves: dict[str, _Save] = {}
        self._continued: set[str] = set()
        self._jobs = Jobs()
        self._events: list[dict[str, Any]] = []
        self._told: dict[str, float] = {}
        self._lock = threading.Lock()
        """Of what the engine's thread and the sweeper's share: the two below. The producer has a lock of its own."""
        self._reaped = 0
        self._state: dict[str, float] = {}
        self._sweeper = Sweeper("syshax sweeper", settings.sweep_s, self._sweep)

    def match(self, request: Request, computed: int) -> tuple[int | None, bool]:
        """How many tokens beyond the `computed` ones can be loaded; None to be asked again in the next step."""
        self._continue_grammar(request)
        if self._consumer is None or (key := self._params(request).load_key) is None:
            return 0, False
        load = self._loads.setdefault(request.request_id, _Load(key, time.monotonic(), request))
        if load.over:
            return 0, False
        if load.claim is None:
            try:
                if (reason := _unfit(request)) is not None:
                    raise MissError("request", reason)
                found = self._consumer.claim(key, list(request.all_token_ids), load.since)
            except MissError as miss:
                _logger.info("request %s is computed: %s", request.request_id, miss)
                self._end_load(load, "recomputed", miss.reason)
                return 0, False
            if found is None:
                return None, False
            load.claim, tokens = found
            # One token is left to compute: its logits are wanted.
            load.stop = min(tokens, request.num_tokens - 1)
            load.wait_s = time.monotonic() - load.since
        load.start = computed
        if load.stop <= computed:
            load.claim.free()
            self._end_load(load, "recomputed", "unneeded")
            return 0, False
        return load.stop - computed, False

    def allocated(self, request: Request, blocks: list[int], external: int) -> None:
        """The request has its blocks: the load becomes a job of this step."""
        load = self._loads.get(request.request_id)
        if load is None or load.over or load.claim is None:
            return
        if external == 0:  # vLLM would not have it
            load.claim.free()
            self._end_load(load, "recomputed", "unneeded")
            return
        load.over = True
        header = load.claim.header
        self._jobs.loads.append(
            LoadJob(request.request_id, header.without_ids(), header.tokens, load.start, load.stop, list(blocks))
        )

    def finished(self, request: Request, blocks: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """The request has ended: returns whether its blocks must stay for a save, and what its answer says."""
        self._continued.discard(request.request_id)
        self._give_up(request.request_id)
        handover = self._params(request, count=True)
        if self._producer is None or handover.save_key is None:
            return False, None
        aborted = request.status == RequestStatus.FINISHED_ABORTED
        if aborted != (handover.save_on == "abort"):
            return False, None
        tokens = request.num_computed_tokens - request.num_in_flight_tokens
        tokens = max(0, min(tokens, request.num_tokens, len(blocks) * self._block_size))
        try:
            if (reason := _unfit(request)) is not None:
                raise RefusedError("request", reason)
            if not tokens:
                raise RefusedError("empty", "nothing was computed")
            extent = self._producer.reserve(handover.save_key, tokens)
        except RefusedError as refusal:
            _logger.info("request %s is not saved: %s", request.request_id, refusal)
            self._tell("save", "refused", refusal.reason)
            return False, protocol.refused(handover.save_key, tokens, 0, str(refusal))
        size_bytes = extent.size * self._ranks
        self._saves[request.request_id] = _Save(
            handover.save_key, list(request.all_token_ids[:tokens]), size_bytes, time.monotonic()
        )
        self._jobs.saves.append(SaveJob(request.request_id, extent.offset, tokens, list(blocks)))
        return True, protocol.saving(handover.save_key, tokens, size_bytes)

    def jobs(self, scheduled_tokens: int) -> Jobs:
        """This step's jobs for the workers."""
        jobs, self._jobs = self._jobs, Jobs()
        if not scheduled_tokens and not jobs.saves and any(not load.over for load in self._loads.values()):
            time.sleep(_PAUSE_S)
        return jobs

    def reported(self, report: Report) -> None:
        """Takes what the workers say: a save that all ranks have ended is published, a load's bytes are given back."""
        for loaded in report.loaded:
            load = self._loads[loaded.request_id]
            load.loaded.append(loaded)
            if len(load.loaded) == self._ranks:
                self._loaded(loaded.request_id, load)
        for saved in report.saved:
            save = self._saves[saved.request_id]
            save.saved.append(saved)
            if len(save.saved) == self._ranks:
                self._saved(self._saves.pop(saved.request_id))

    def stats(self) -> HandoverStats | None:
        """What happened since the last call."""
        with self._lock:
            state, reaped, self._reaped = dict(self._state), self._reaped, 0
        if self._producer is not None:
            state["arena_used_bytes"] = self._producer.used_bytes
        stats = HandoverStats({"events": self._events, "reaped": reaped, "state": state if state != self._told else {}})
        self._events, self._told = [], state
        return None if stats.is_empty() else stats

    def close(self) -> None:
        """Takes back what was published; what is being loaded is left to the others' sweepers."""
        self._sweeper.stop()
        for load in self._loads.values():
            if load.claim is not None:
                load.claim.close()
        if self._producer is not None:
            self._producer.close()

    def _continue_grammar(self, request: Request) -> None:
        """Takes the request's grammar to where the answer's tokens so far lead: vLLM begins it behind the prompt."""
        structured, count = request.structured_output_request, self._params(request).continued
        if not count or structured is None or request.request_id in self._continued:
            return
        self._continued.add(request.request_id)  # should it be preempted, its grammar stays as it is
        known = list(request.prompt_token_ids or ())[-count:]
        if not structured.grammar.accept_tokens(request.request_id, known):
            _logger.warning("request %s: its answer so far is not of its grammar", request.request_id)

    def _params(self, request: Request, *, count: bool = False) -> Handover:
        try:
            return protocol.parse(request.kv_transfer_params)
        except BadParamsError as error:
            if count:
                _logger.warning(
                    "request %s: kv_transfer_params: %s; it runs without a hand-over", request.request_id, error
                )
                self._tell("save", "refused", "params")
            return protocol.NOTHING

    def _give_up(self, request_id: str) -> None:
        """Ends a load that no worker knows of."""
        load = self._loads.get(request_id)
        if load is None:
            return
        if load.over and load.claim is not None:
            load.gone = True
            return
        if not load.over:
            if load.claim is not None:
                load.claim.free()
            self._end_load(load, "recomputed", "aborted")
        del self._loads[request_id]

    def _loaded(self, request_id: str, load: _Load) -> None:
        assert load.claim is not None
        if load.gone:
            del self._loads[request_id]
        failed = any(loaded.error for loaded in load.loaded)
        load.claim.free()
        load.claim = None
        if failed:
            _uncount(load.request)
            self._end_load(load, "recomputed", "load")
        else:
            self._tell(
                "load",
                "loaded",
                "",
                tokens=load.stop - load.start,
                bytes=sum(loaded.size_bytes for loaded in load.loaded),
                wait_seconds=load.wait_s,
                copy_seconds=max(loaded.seconds for loaded in load.loaded),
            )

    def _saved(self, save: _Save) -> None:
        assert self._producer is not None
        if any(saved.part is None for saved in save.saved):
            self._producer.drop(save.key)
            self._tell("save", "failed", "copy")
            return
        ordered = sorted(save.saved, key=lambda saved: saved.rank)
        try:
            self._producer.publish(
                save.key, save.token_ids, [saved.part for saved in ordered if saved.part is not None]
            )
        except OSError as error:
            _logger.warning("hand-over %s could not be published: %s", save.key, error)
            self._tell("save", "failed", "publish")
            return
        self._tell(
            "save",
            "saved",
            "",
            tokens=len(save.token_ids),
            bytes=save.size_bytes,
            save_seconds=time.monotonic() - save.began,
            copy_seconds=max(saved.seconds for saved in save.saved),
        )

    def _end_load(self, load: _Load, result: str, reason: str) -> None:
        load.over = True
        load.claim = None
        self._tell("load", result, reason, wait_seconds=time.monotonic() - load.since)

    def _tell(self, op: str, result: str, reason: str, **values: float) -> None:
        self._events.append({"op": op, "result": result, "reason": reason, **values})

    def _sweep(self) -> None:
        self._folder.make()
        reaped = self._producer.sweep() if self._producer is not None else 0
        reaped += self._folder.reap(self._settings.ttl_s, self._settings.grace_s)
        waiting, oldest_s = self._folder.survey()
        state = {
            "arena_bytes": self._settings.arena_bytes,
            "waiting": waiting,
            "oldest_seconds": round(oldest_s, 1),
        }
        with self._lock:
            self._reaped += reaped
            self._state = state


def _uncount(request: Request) -> None:
    """Has vLLM count the tokens that could not be loaded as computed, in `usage` and its metrics, which it does not."""
    if (stats := request.prefill_stats) is not None:
        stats.set(
            num_prompt_tokens=stats.num_prompt_tokens,
            num_local_cached_tokens=stats.num_local_cached_tokens,
            num_external_cached_tokens=0,
        )


def _unfit(request: Request) -> str | None:
    """Why a request's KV cache is not a matter of its tokens alone."""
    if request.lora_request is not None:
        return "it uses a LoRA adapter"
    if getattr(request, "mm_features", None):
        return "it has images or sound in its prompt"
    if request.prompt_token_ids is None:
        return "its prompt is embeddings"
    return None
