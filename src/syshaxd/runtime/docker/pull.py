# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Fetching an image."""

from collections.abc import Callable, Iterator

import docker
from docker.utils import parse_repository_tag


class PullError(Exception):
    """An error in the midst of fetching."""


def pull(client: docker.DockerClient, image: str, is_wanted: Callable[[], bool]) -> Iterator[str]:
    """Yields a text whenever more of it is here; ends early once it is no longer wanted.

    Raises:
        PullError: The engine could not fetch it.
    """
    repository, tag = parse_repository_tag(image)
    layers: dict[str, tuple[int, int]] = {}
    shown = ""
    for line in client.api.pull(repository, tag=tag or "latest", stream=True, decode=True):
        if not is_wanted():
            return  # the engine stops when nobody listens
        if "error" in line:
            raise PullError(str(line["error"]))
        detail = line.get("progressDetail") or {}
        if line.get("status") == "Downloading" and detail.get("total"):
            layers[line["id"]] = (int(detail["current"]), int(detail["total"]))
        done, total = (sum(part) for part in zip(*layers.values(), strict=True)) if layers else (0, 0)
        text = f"{done >> 20} of {total >> 20} MB of the layers seen so far" if total else str(line.get("status", ""))
        if text != shown:
            shown = text
            yield text
