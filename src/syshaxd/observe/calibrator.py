# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Calibrator: measures the instances by short runs of requests, and keeps the results for the next start."""

import asyncio
import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Set
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import Enum, auto
from pathlib import Path
from statistics import fmean
from typing import Any

import aiohttp

from syshaxd.core import jsontext
from syshaxd.core.errors import ConflictError, InstanceFailedError, InstanceTimeoutError
from syshaxd.core.launch.instance_key import own_headers
from syshaxd.core.loads import Snapshot
from syshaxd.core.placement.calibration import Calibration, Run, RunResult, beside_batch, plan
from syshaxd.core.report.engine_status import CalibrationStatus
from syshaxd.core.types import Device, InstanceSpec
from syshaxd.instances.registry import InstanceRegistry
from syshaxd.system import replacing, smallfile
from syshaxd.system.connecting import NO_ANSWER, client_session, read_whole, why_no_answer

_log = logging.getLogger(__name__)
_PATH = "/v1/completions"
_RUN_TIMEOUT_S = 300.0
_LOOK_AGAIN_S = 10.0
_SHOWN_CHARACTERS = 300
_TEXT = "the quick brown fox jumps over a lazy dog and sails far beyond every quiet northern isle"


class _Fit(Enum):
    """Whether a calibration fits an instance as it is now."""

    FITS = auto()
    STALE = auto()
    """It fits the instance as it was, not as it is."""
    MISSING = auto()


@dataclass(frozen=True, slots=True)
class _Answer:
    prompt_tokens: int
    first_s: float
    token_s: float


class Calibrator:
    """Runs one calibration at a time. Lives in one event loop."""

    def __init__(
        self,
        registry: InstanceRegistry,
        *,
        path: Path,
        running: Callable[[], int],
        snapshot: Callable[[], Snapshot],
        seed: Callable[[Calibration, str], None],
        drift: Callable[[Calibration, str], float | None],
    ) -> None:
        """Reads nothing yet.

        Args:
            registry: The instances.
            path: The file that keeps the results.
            running: Returns how many requests of clients run or wait.
            snapshot: The latest readings, which name the GPUs.
            seed: Makes the estimates of an instance begin with a calibration.
            drift: Returns how many times as long as calibrated an instance's steps take, if readings contradict it.
        """
        self._registry = registry
        self._path = path
        self._running = running
        self._snapshot = snapshot
        self._seed = seed
        self._drift = drift
        self._kept: Calibration | None = None
        self._looked_at: dict[str, tuple[object, _Fit]] = {}
        self._progress = 0, 0
        self._busy = False
        self.note = ""
        """Where a calibration at first start stands."""

    async def run(self) -> None:
        """Has each instance begin with what the last calibration found, once it is known. Never returns."""
        await self._load()
        while True:
            await self._look()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AGAIN_S):
                    await self._registry.changed()

    @property
    def status(self) -> CalibrationStatus:
        """What operators should know."""
        done, runs = self._progress
        stale = (name for name, (_, fit) in self._looked_at.items() if fit is _Fit.STALE)
        return CalibrationStatus(done=done, runs=runs, stale=tuple(stale), text=self.note)

    @property
    def looked_at(self) -> Set[str]:
        """The instances that were compared with the calibration that is kept."""
        return self._looked_at.keys()

    @property
    def unmeasured(self) -> frozenset[str]:
        """Those of them that were not calibrated as they are now."""
        return frozenset(name for name, (_, fit) in self._looked_at.items() if fit is not _Fit.FITS)

    async def _load(self) -> None:
        try:
            values = await asyncio.to_thread(smallfile.read_json, self._path)
            results = [RunResult(**result) for result in values.pop("results")]
            self._kept = Calibration(**values, results=results)
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            _log.warning("%s can't be read: %s; `syshaxctl calibrate` writes a new one", self._path, error)

    async def calibrate(self, *, force: bool) -> AsyncGenerator[tuple[RunResult, int], None]:
        """Measures all READY instances, each alone and GPUs and CPUs together, and keeps the results.

        Yields:
            The result of each run, and how many runs there are.

        Raises:
            ConflictError: Requests of clients run and `force` is not set; another calibration runs; none is READY.
            InstanceFailedError: An instance refused or broke off. Nothing is kept.
            InstanceTimeoutError: A run took too long. Nothing is kept.
        """
        if self._busy:
            raise ConflictError("a calibration is running already")
        if (count := self._running()) and not force:
            raise ConflictError(
                f"{count} requests are running: the measurement would slow them down, and they would distort it"
            )
        specs = {spec.name: spec for spec in self._measurable()}
        if not specs:
            raise ConflictError(f"no instance that has {_PATH} is ready to be measured")
        facts = self._facts()
        lengths = [known.max_model_len for name in specs if (known := facts.get(name)) and known.max_model_len]
        runs = list(plan(list(specs.values()), min(lengths, default=None)))
        self._busy = True
        results: list[RunResult] = []
        self._progress = 0, len(runs)
        try:
            async with client_session(connector=aiohttp.TCPConnector(limit=0)) as session:
                await self._run(session, runs[0], specs)  # what an engine does only once
                for run in runs:
                    results.append(await self._run(session, run, specs))
                    self._progress = len(results), len(runs)
                    yield results[-1], len(runs)
            fingerprints = {name: await self._fingerprint(spec) for name, spec in specs.items()}
            made = Calibration(made_at_s=time.time(), fingerprints=fingerprints, results=results)
            if self._kept is not None:
                made = made.beside(self._kept)
            text = json.dumps(asdict(made), indent=1)
            await asyncio.to_thread(self._path.parent.mkdir, parents=True, exist_ok=True)
            await asyncio.to_thread(replacing.write, self._path, text)
            self._kept = made
            for name, spec in specs.items():
                self._looked_at[name] = (spec, facts.get(name)), _Fit.FITS
                self._seed(made, name)
        finally:
            self._busy = False
            self._progress = 0, 0

    async def _run(self, session: aiohttp.ClientSession, run: Run, specs: Mapping[str, InstanceSpec]) -> RunResult:
        spec = specs[run.instance]
        other = specs.get(run.beside)
        try:
            async with asyncio.timeout(_RUN_TIMEOUT_S), asyncio.TaskGroup() as group:
                neighbours = []
                if other is not None:
                    begun = asyncio.Barrier(beside_batch(other) + 1)
                    neighbours = [
                        group.create_task(_keep_busy(session, other, begun)) for _ in range(begun.parties - 1)
                    ]
                    await begun.wait()
                asked = (
                    _ask(session, spec, number, run.prompt_tokens, run.answer_tokens) for number in range(run.batch)
                )
                answers = await asyncio.gather(*asked)
                for task in neighbours:
                    task.cancel()
        except TimeoutError:
            text = f"{spec.name}: {run.batch} short requests were not answered within {_RUN_TIMEOUT_S:g} s"
            raise InstanceTimeoutError(text) from None
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return RunResult(
            instance=spec.name,
            batch=run.batch,
            prompt_tokens=round(fmean(answer.prompt_tokens for answer in answers)),
            beside=run.beside,
            first_s=fmean(answer.first_s for answer in answers),
            token_s=fmean(answer.token_s for answer in answers),
        )

    # Seeds.

    def _facts(self) -> dict[str, Any]:
        return {name: instance.facts for name, instance in self._registry.instances.items() if instance.facts}

    def _measurable(self) -> list[InstanceSpec]:
        """The READY instances that generate text."""
        instances = self._registry.instances
        return [spec for spec in self._registry.ready if instances[spec.name].catalog.serves_route("POST", _PATH)]

    async def _look(self) -> None:
        """Compares READY instances that are new, or have changed, with the calibration that is kept."""
        for name in self._looked_at.keys() - self._registry.specs.keys():
            del self._looked_at[name]
        kept, facts, snapshot = self._kept, self._facts(), self._snapshot()
        for spec in self._measurable():
            name, seen = spec.name, (spec, facts.get(spec.name))
            if name in self._looked_at and self._looked_at[name][0] == seen:
                self._check_drift(name)
                continue
            if spec.device is Device.CUDA and not (snapshot.gpus_read_at_s or snapshot.gpu_error):
                continue  # its GPU was not read yet
            fit = _Fit.MISSING
            if kept is not None and name in kept.fingerprints:
                fit = _Fit.STALE if kept.is_stale({name: await self._fingerprint(spec)}, name) else _Fit.FITS
            if fit is _Fit.STALE:
                _log.info("%s: its calibration is stale; `syshaxctl calibrate` measures it again", name)
            elif kept is not None and fit is _Fit.FITS:
                self._seed(kept, name)
            self._looked_at[name] = seen, fit

    def _check_drift(self, name: str) -> None:
        """Gives up a calibration that fits an instance by its fingerprint, but not by its readings."""
        seen, fit = self._looked_at[name]
        if fit is not _Fit.FITS or self._kept is None or (times := self._drift(self._kept, name)) is None:
            return
        self._looked_at[name] = seen, _Fit.STALE
        text = f"{name}: its calibration is stale: a step takes {times:.2g} times as long now"
        _log.info("%s; `syshaxctl calibrate` measures it again", text)

    async def _fingerprint(self, spec: InstanceSpec) -> str:
        """Of hardware, model, engine and weights."""
        facts = self._facts().get(spec.name)
        gpus = sorted(gpu.uuid for gpu in self._snapshot().gpus) if spec.device is Device.CUDA else []
        identity = (
            *(spec.role, spec.device, spec.runtime, spec.model, spec.served_model, spec.weights_text),
            *(spec.cores, spec.max_num_seqs, facts.version if facts else "", facts.max_model_len if facts else 0),
            gpus,
            *await asyncio.to_thread(lambda: (_processor(), _files_of(Path(spec.model)))),
        )
        return hashlib.sha256(json.dumps(identity, default=str).encode()).hexdigest()[:16]


async def _keep_busy(session: aiohttp.ClientSession, spec: InstanceSpec, begun: asyncio.Barrier) -> None:
    """Sends one request after another; waits at `begun` after the first. Raises InstanceFailedError."""
    await _ask(session, spec, time.monotonic_ns() % 1_000_000, 32, 16)
    await begun.wait()
    while True:
        await _ask(session, spec, time.monotonic_ns() % 1_000_000, 32, 16)


async def _ask(
    session: aiohttp.ClientSession, spec: InstanceSpec, number: int, prompt_tokens: int, answer_tokens: int
) -> _Answer:
    """Gets one answer as a stream; its prompt is in no prefix cache."""
    words = _TEXT.split()
    prompt = " ".join(words[(number * 7 + at * (1 + number % 5)) % len(words)] for at in range(prompt_tokens))
    body = {
        "model": spec.served_model,
        "prompt": f"{time.monotonic_ns()} {prompt}",
        "max_tokens": answer_tokens,
        "min_tokens": answer_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    what = f"{spec.name}: POST {_PATH}"
    began_s = time.monotonic()
    times_s: list[float] = []
    usage: dict[str, Any] = {}
    timeout = aiohttp.ClientTimeout(total=None)
    try:
        url = spec.address.url(_PATH)
        async with session.post(url, json=body, headers=own_headers(spec), timeout=timeout) as response:
            if response.status != 200:
                text = (await read_whole(response)).decode("utf-8", "replace")[:_SHOWN_CHARACTERS]
                raise InstanceFailedError(f"{what}: status {response.status} {text}")
            async for line in response.content:
                if line.startswith(b"data: {"):
                    chunk = jsontext.loads(line[6:])
                    usage = chunk.get("usage") or usage
                    if chunk.get("choices"):
                        times_s.append(time.monotonic())
    except NO_ANSWER as error:
        raise InstanceFailedError(f"{what}: {why_no_answer(error, spec.host)}") from error
    except ValueError as error:
        raise InstanceFailedError(f"{what}: its stream is not JSON: {error}") from error
    if not times_s:
        raise InstanceFailedError(f"{what}: the stream has no token")
    made = max(1, int(usage.get("completion_tokens") or answer_tokens) - 1)
    token_s = (times_s[-1] - times_s[0]) / made
    return _Answer(int(usage.get("prompt_tokens") or prompt_tokens), times_s[0] - began_s, token_s)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    names = [line for line in lines if line.startswith(("model name", "CPU part"))]
    return f"{platform.machine()} {os.cpu_count()} {names[0] if names else ''}"


def _files_of(model: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of the files of a model; none: it is no folder here."""
    try:
        return sorted((file.name, file.stat().st_size, int(file.stat().st_mtime)) for file in model.iterdir())
    except OSError:
        return []
