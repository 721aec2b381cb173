# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Profiles from what a calibration measured, and what a calibration of a profile would measure."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean, linear_regression

from syshaxd.core.placement.calibration import RunResult, interference, plan
from syshaxd.core.placement.replay.profiles import DeviceProfile, Profile
from syshaxd.core.types import InstanceSpec


def calibration(specs: Sequence[InstanceSpec], profile: Profile) -> Iterator[RunResult]:
    """What `syshaxctl calibrate` would measure."""
    devices = {"gpu": profile.gpu, "cpu": profile.cpu}
    slowed = {"gpu": profile.gpu_interference, "cpu": profile.cpu_interference}
    for run in plan(specs, min(device.max_model_len for device in devices.values())):
        device = devices[run.instance]
        times = 1 + slowed[run.instance] if run.beside else 1.0
        yield RunResult(
            instance=run.instance,
            batch=run.batch,
            prompt_tokens=run.prompt_tokens,
            beside=run.beside,
            first_s=times * device.step_s(run.batch, run.batch * run.prompt_tokens),
            token_s=times * device.step_s(run.batch),
        )


def calibrated(profile: Profile, results: Sequence[RunResult]) -> Profile:
    """A profile whose devices are as quick as a calibration measured the instances `gpu` and `cpu`, alone and together.

    Slots, KV caches and hand-overs stay those of the given profile.
    """
    gpu, cpu = (
        _calibrated(device, [one for one in results if one.instance == name and not one.beside])
        for name, device in (("gpu", profile.gpu), ("cpu", profile.cpu))
    )
    times = interference(results)
    return replace(
        profile,
        gpu=gpu,
        cpu=cpu,
        gpu_interference=max(0.0, times["gpu", "cpu"] - 1) if ("gpu", "cpu") in times else profile.gpu_interference,
        cpu_interference=max(0.0, times["cpu", "gpu"] - 1) if ("cpu", "gpu") in times else profile.cpu_interference,
        derivation="calibrated",
    )


def _calibrated(device: DeviceProfile, results: Sequence[RunResult]) -> DeviceProfile:
    base_s, per_request_s = _line([(one.batch, one.token_s) for one in results if one.token_s > 0])
    _, per_token_s = _line([(one.prompt_tokens, one.first_s) for one in results if one.batch == 1 and one.first_s > 0])
    return replace(
        device,
        step_base_s=base_s or device.step_base_s,
        step_per_request_s=per_request_s if base_s else device.step_per_request_s,
        prefill_tokens_per_s=1 / per_token_s if per_token_s else device.prefill_tokens_per_s,
    )


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Intercept and slope of a line that does not fall; zeros: nothing was measured."""
    if not points:
        return 0.0, 0.0
    xs, ys = zip(*points, strict=True)
    slope = max(0.0, linear_regression(xs, ys).slope) if len(set(xs)) > 1 else 0.0
    return max(min(ys) / 2, fmean(ys) - slope * fmean(xs)), slope
