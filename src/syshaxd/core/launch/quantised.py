# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Who quantises an instance's weights, and what is passed to the instance."""

from collections.abc import Iterator

from syshaxd.core.config import ServiceConfig, device_of
from syshaxd.core.errors import ConfigFault
from syshaxd.core.handover.connector import PlannedWeights
from syshaxd.core.numa import Dialect, dialect_of
from syshaxd.core.numa.binding import QUANTIZE
from syshaxd.core.types import Device, HandoverProtocol, QuantisedWeights, RuntimeKind
from syshaxd.core.weights import Quantize

_OWN_FLAG = "quantization"
"""With it the engine quantises by itself, or expects another kind."""


def quantised_by_us(service: ServiceConfig) -> bool:
    """Whether syshaxd makes the weights: the sysHAX images make them by themselves, while they start."""
    return service.quantize is not Quantize.NONE and not _is_image(service)


def _is_image(service: ServiceConfig) -> bool:
    env = {key: str(value) for key, value in service.env.items()}
    return service.protocol is HandoverProtocol.SYSHAX or dialect_of(env, on_cpu=_on_cpu(service)) is Dialect.PATCHED


def _on_cpu(service: ServiceConfig) -> bool:
    return device_of(service) is Device.CPU


def quantise_faults(
    section: str, service: ServiceConfig, planned: PlannedWeights | str | None
) -> Iterator[ConfigFault]:
    """What is wrong with `services.NAME.quantize`.

    Args:
        section: The key of the service: `services.NAME`.
        service: Its configuration.
        planned: The weights, or why there are none; None: the host was not examined.
    """
    if service.quantize is Quantize.NONE:
        return
    key = f"{section}.quantize"
    if not _on_cpu(service):
        yield ConfigFault(key, f"it is for CPUs only: set {section}.device to cpu, or this to none")
    elif service.runtime is RuntimeKind.EXTERNAL:
        yield ConfigFault(key, "syshaxd does not start this instance (runtime external), nor choose its weights")
    elif _is_image(service):
        if service.quantize is Quantize.AUTO:
            yield ConfigFault(key, "auto is for stock vLLM: choose q8_0 or q4_0 for a sysHAX image")
        elif service.env.get(QUANTIZE, service.quantize) != service.quantize:
            text = f"differs from {key} ({service.quantize}): leave it out"
            yield ConfigFault(f"{section}.env.{QUANTIZE}", text)
    elif service.python is None and service.quantize is Quantize.AUTO:
        text = f"needed with {key} (auto): an interpreter of this host with the same vLLM, which measures its layers"
        yield ConfigFault(f"{section}.python", text)
    elif any(flag.replace("_", "-") == _OWN_FLAG and value for flag, value in service.args.items()):
        yield ConfigFault(f"{section}.args.{_OWN_FLAG}", f"cannot be combined with {key}: leave out one of the two")
    elif isinstance(planned, str):
        yield ConfigFault(key, planned)


def image_env(service: ServiceConfig) -> dict[str, str]:
    """The variable that makes a sysHAX image quantise; empty: it is no such image, or need not quantise."""
    if service.quantize is Quantize.NONE or not _is_image(service):
        return {}
    return {QUANTIZE: str(service.quantize)}


def weights_of(service: ServiceConfig, planned: PlannedWeights | str | None) -> QuantisedWeights | None:
    """What an instance computes with; None: the model's own weights.

    Args:
        service: Its configuration.
        planned: The weights that syshaxd makes, or made; None: they are the model's own.
    """
    if isinstance(planned, PlannedWeights):
        if planned.quantize == Quantize.NONE:
            return None
        return QuantisedWeights(
            quantize=planned.quantize,
            source=planned.source,
            python=(service.python or "") if planned.source else "",
            loaded_bytes=planned.loaded_bytes,
        )
    asked = str(service.env.get(QUANTIZE, "")) or str(service.quantize)
    if asked not in {Quantize.Q8_0, Quantize.Q4_0} or not _is_image(service):
        return None
    return QuantisedWeights(quantize=asked)
