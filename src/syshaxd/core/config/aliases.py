# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The short keys of upstream sysHAX 0.2, such as `gpu.port` and `model`. The command line takes them, files do not."""

_SERVICES = ("gpu.", "cpu.", "conductor.")
SHORT_KEYS = {
    "host": ("services.gpu.host", "services.cpu.host", "services.conductor.host"),
    "model": ("models.default",),
    "maxtokens": ("models.params.test_tokens",),
    "temperature": ("models.params.temperature",),
}


def full_keys(key: str) -> tuple[str, ...]:
    """The keys that a short key stands for; any other text is returned unchanged."""
    if key.startswith(_SERVICES):
        return (f"services.{key}",)
    return SHORT_KEYS.get(key, (key,))
