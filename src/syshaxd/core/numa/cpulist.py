# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Lists of CPUs as the kernel, taskset and CUSTOM_CPU_AFFINITY write them: `0-3,8,16-30:2`."""

import re
from collections.abc import Collection, Iterable

_PART = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6})(?::([0-9]{1,6}))?)?")

_MOST = 1_000_000
"""Most distinct numbers in a list."""


def parse_cpulist(text: str) -> tuple[int, ...]:
    """Returns the CPUs of a list such as `0-3,8,16-30:2`, ascending.

    Raises:
        ValueError: The text is empty, not a list, runs backwards, or names a CPU twice.
    """
    cpus: list[int] = []
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{part.strip()!r} in {text!r} is not a CPU or range: write `0-3,8` or `0-30:2`")
        first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        if last < first or step < 1:
            raise ValueError(f"{part.strip()!r} in {text!r} is empty: a range runs upwards with a step of at least 1")
        cpus.extend(range(first, last + 1, step))
        if len(cpus) > _MOST:
            raise ValueError("the list names CPUs twice")
    if len(set(cpus)) != len(cpus):
        raise ValueError(f"{text!r} names a CPU twice")
    return tuple(sorted(cpus))


def format_cpulist(cpus: Iterable[int]) -> str:
    """Returns the shortest list of plain ranges, such as `0-3,8`; empty for no CPUs."""
    parts: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if parts and parts[-1][1] == cpu - 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def format_stepped(cpus: Iterable[int]) -> str:
    """Returns a list that uses `start-end:step` where that is shorter, such as `0-38:2` for interleaved CPU numbers."""
    parts: list[str] = []
    rest = all_cpus = sorted(set(cpus))
    while rest:
        step = rest[1] - rest[0] if len(rest) > 1 else 1
        length = 1
        while length < len(rest) and rest[length] - rest[length - 1] == step:
            length += 1
        if step > 1 and length < 3:
            length = 1  # two CPUs are no pattern
        run, rest = rest[:length], rest[length:]
        parts.append(format_cpulist(run) if step == 1 or length == 1 else f"{run[0]}-{run[-1]}:{step}")
    # A step that takes the beginning of a run of neighbours may cost more than it saves: 68,76,84-86.
    return min(",".join(parts), format_cpulist(all_cpus), key=len)


def describe_cpus(cpus: Collection[int]) -> str:
    """`CPU 5` or `CPUs 5-7`."""
    return f"CPU{'' if len(cpus) == 1 else 's'} {format_cpulist(cpus)}"
