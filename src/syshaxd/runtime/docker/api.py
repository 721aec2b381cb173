# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The container engine's API, through its SDK. Everything here blocks: call it in a thread."""

import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.models.containers import Container
from docker.types import CancellableStream
from docker.utils.socket import frames_iter

from syshaxd.core.errors import LaunchFailedError, SyshaxError
from syshaxd.core.launch.container import DONOR, DONOR_NAME, JOIN, joined_container
from syshaxd.core.launch.container_faults import NOT_RUN, NVML_LOST, architecture_fault, launch_fault, pull_fault
from syshaxd.core.types import ContainerSpec, InstanceSpec
from syshaxd.runtime.docker.options import Program, create_options, own_identity, program_options
from syshaxd.runtime.docker.pull import PullError, pull
from syshaxd.runtime.docker.state import DIGEST, GENERATION, INSTANCE, NAME, OWNER, ContainerState, read_state

DEFAULT_HOST = "unix:///run/docker.sock"
_DONOR_INSTANCE = "ipc-donor"
_ATTACHED = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
_EXEC_TIMEOUT_S = 0.5
_EMULATORS = "/proc/sys/fs/binfmt_misc"


class EngineAwayError(SyshaxError):
    """The container engine does not answer, or not what was asked."""


class ContainerApi:
    """What the runtime asks of the engine. Any method may raise EngineAwayError."""

    def __init__(self, host: str | None, *, owner: str, timeout_s: float) -> None:
        """Does no I/O yet.

        Args:
            host: URL of the API; None: as DOCKER_HOST says, or the usual socket.
            owner: Written on every container, so that another daemon's are left alone.
            timeout_s: For one answer.
        """
        self.host = host or os.environ.get("DOCKER_HOST") or DEFAULT_HOST
        self._owner = owner
        self._timeout_s = timeout_s
        self._client: docker.DockerClient | None = None
        self._lock = threading.Lock()
        self._donor_lock = threading.Lock()

    @property
    def is_local(self) -> bool:
        """Whether the engine runs on this host."""
        return self.host.startswith("unix:")

    def close(self) -> None:
        """Closes idle connections."""
        if self._client is not None:
            self._client.close()

    # Looking.

    def find(self, instance: str | None = None) -> list[ContainerState]:
        """The containers of this daemon, of one instance or of all, the latest generation first."""
        labels = [f"{OWNER}={self._owner}", *([f"{INSTANCE}={instance}"] if instance else [])]
        with self._connected() as client:
            listed = client.containers.list(all=True, filters={"label": labels}, ignore_removed=True)
            states = [read_state(container) for container in listed]
        mine = [state for state in states if state.is_of(self._owner) and state.labels.get(GENERATION, "").isdecimal()]
        return sorted(mine, key=lambda state: int(state.labels[GENERATION]), reverse=True)

    def state(self, ident: str) -> ContainerState | None:
        """What is known of a container, by id or name; None: there is none."""
        with self._connected() as client, suppress(NotFound):
            return read_state(client.containers.get(ident))
        return None

    def is_coupled(self, state: ContainerState, spec: InstanceSpec) -> bool:
        """Whether a running container still is in the IPC namespace in which it should be.

        A container that joined another's stays in the old namespace when that one is started again, without any error.
        """
        wanted = spec.container
        assert wanted is not None
        name = joined_container(wanted)
        if not name:
            return True
        other = self.state(name)
        return (
            other is not None
            and other.running
            and other.ident == state.joins
            and other.started_at_s <= state.started_at_s
        )

    def events(self) -> "CancellableStream[Any]":
        """A stream of what happens to this daemon's containers; ends when the engine goes away."""
        with self._connected() as client:
            stream: CancellableStream[Any] = client.events(
                decode=True, filters={"type": "container", "event": "die", "label": f"{OWNER}={self._owner}"}
            )
            return stream

    def output(self, ident: str, *, since_s: float | None) -> "CancellableStream[Any]":
        """The container's output as it comes, from the beginning or from a moment on."""
        with self._connected() as client:
            options: dict[str, Any] = {} if since_s is None else {"since": since_s}
            stream: CancellableStream[Any] = client.containers.get(ident).logs(stream=True, follow=True, **options)
            return stream

    def has_lost_gpus(self, ident: str) -> bool | None:
        """Whether the container can't see its GPUs any more; None: it has no nvidia-smi to ask."""
        with self._connected() as client:
            try:
                done = client.containers.get(ident).exec_run(["nvidia-smi", "-L"])
            except (NotFound, APIError):
                return False  # it has just ended
        if done.exit_code in NOT_RUN:
            return None
        return NVML_LOST.encode() in done.output

    # Acting.

    def clear(self, spec: InstanceSpec) -> None:
        """Removes what is left of earlier generations, so that the name is free.

        Raises:
            LaunchFailedError: A container that syshaxd did not create has it.
        """
        assert spec.container is not None
        with self._connected() as client:
            for state in self.find(spec.name):
                self._remove(client, state.ident)
        if self.state(spec.container.name) is not None:
            raise LaunchFailedError(launch_fault(spec, "already in use")[0], permanent=True)

    def check_image(self, spec: InstanceSpec) -> None:
        """Whether the image is there and for this host's CPUs, or may be fetched.

        Raises:
            LaunchFailedError: It is not.
        """
        assert spec.container is not None
        with self._connected() as client:
            try:
                self._check_architecture(client, spec)
            except ImageNotFound:
                if not spec.container.pull:
                    raise _no_image(spec) from None

    def fetch(self, spec: InstanceSpec, note: Callable[[str], None], is_wanted: Callable[[], bool]) -> None:
        """Fetches the image if it is missing.

        Args:
            spec: The instance.
            note: Called with the progress.
            is_wanted: Called now and then; once it is false, the fetching ends.

        Raises:
            LaunchFailedError: It can't be fetched, or may not be.
        """
        assert spec.container is not None
        image = spec.container.image
        with self._connected() as client:
            try:
                self._check_architecture(client, spec)
                return
            except ImageNotFound:
                if not spec.container.pull:
                    raise _no_image(spec) from None
            note(f"fetching the image {image}")
            try:
                for text in pull(client, image, is_wanted):
                    note(f"fetching the image {image}: {text}")
                if is_wanted():
                    self._check_architecture(client, spec)
            except (APIError, ImageNotFound, PullError) as error:
                message, permanent = pull_fault(spec, _text(error))
                raise LaunchFailedError(message, permanent=permanent) from error

    def launch(self, spec: InstanceSpec, generation: int, digest: str) -> ContainerState:
        """Makes and starts the instance's container; its name is free and its image here.

        Raises:
            LaunchFailedError: Nothing was started.
        """
        wanted = spec.container
        assert wanted is not None
        with self._connected() as client:
            labels = {
                OWNER: self._owner,
                INSTANCE: spec.name,
                NAME: wanted.name,
                GENERATION: str(generation),
                DIGEST: digest,
            }
            try:
                joins = self._namespace(client, wanted)
                container = client.containers.create(**create_options(spec, wanted, joins), labels=labels)
            except (APIError, NotFound, ImageNotFound) as error:
                raise _launch_failed(spec, error) from error
            try:
                container.start()
                _check_program(container)
                container.reload()
                return read_state(container)
            except (APIError, NotFound, _NoProgramError) as error:
                self._remove(client, str(container.id))
                raise _launch_failed(spec, error) from error

    def run(
        self,
        spec: InstanceSpec,
        program: Program,
        order: bytes,
        *,
        on_start: Callable[[str], None],
        on_output: Callable[[int, bytes], None],
    ) -> int:
        """Runs a program in a container of the instance's image, and removes the container. Returns the exit code.

        Args:
            spec: The instance; its image is here.
            program: The program.
            order: What it gets on its standard input, which is closed when this process ends.
            on_start: Is called with the container's id before the order is sent.
            on_output: Is called with a stream (1 or 2) and what the program has written to it.

        Raises:
            LaunchFailedError: It can't be started.
            OSError: The engine went away meanwhile.
        """
        wanted = spec.container
        assert wanted is not None
        name = f"{wanted.name}_weights"
        with self._connected() as client:
            left = self.state(name)
            if left is not None and left.is_of(self._owner):
                self._remove(client, left.ident)
            try:
                identity = own_identity(client.info(), os.getuid(), os.getgid())
                options = program_options(spec, wanted, program) | identity
                container = client.containers.create(**options, name=name, labels={OWNER: self._owner, NAME: name})
            except (APIError, NotFound, ImageNotFound) as error:
                raise _launch_failed(spec, error) from error
            try:
                attached: Any = container.attach_socket(params=_ATTACHED)
                with attached, attached._sock as connection:
                    connection.settimeout(None)
                    container.start()
                    on_start(str(container.id))
                    connection.sendall(order)
                    for stream, data in frames_iter(attached, tty=False):  # type: ignore[no-untyped-call]
                        on_output(stream, data)
                return int(container.wait()["StatusCode"])
            except (APIError, NotFound) as error:
                raise _launch_failed(spec, error) from error
            finally:
                self._remove(client, str(container.id))

    def send(self, ident: str, signal: str) -> None:
        """Sends a signal to the container's main process; one that has ended is no error."""
        with self._connected() as client:
            try:
                client.containers.get(ident).kill(signal)
            except NotFound:
                return
            except APIError as error:
                ended = error.status_code == 409 or "not running" in str(error) or "state improper" in str(error)
                if not ended:  # podman answers 500
                    raise SyshaxError(f"container {ident[:12]} can't be sent {signal}: {_text(error)}") from error

    def remove(self, ident: str) -> None:
        """Removes a container that has ended; one that is gone is no error."""
        with self._connected() as client:
            self._remove(client, ident)

    def release_donor(self) -> None:
        """Once nobody is in the kept IPC namespace, removes its keeper, and with it what is left in /dev/shm."""
        with self._connected() as client, self._donor_lock:
            donor = self.state(DONOR_NAME)
            if donor is None or not donor.is_of(self._owner):
                return
            if not any(state.running and state.joins == donor.ident for state in self.find()):
                self._remove(client, donor.ident)

    def _check_architecture(self, client: docker.DockerClient, spec: InstanceSpec) -> None:
        """Raises ImageNotFound, or LaunchFailedError if the image is for other CPUs and nothing here emulates them."""
        assert spec.container is not None
        image = str(client.images.get(spec.container.image).attrs.get("Architecture") or "")
        fault = architecture_fault(spec, image, str(client.version().get("Arch") or ""))
        if fault and self.is_local and not any(Path(_EMULATORS).glob("qemu-*")):
            raise LaunchFailedError(fault, permanent=True)

    def _namespace(self, client: docker.DockerClient, wanted: ContainerSpec) -> str:
        """The IPC mode to ask for. By id: a name could mean another container by the time it is started."""
        if wanted.ipc == DONOR:
            with self._donor_lock:  # two instances may want it at the same time
                return f"{JOIN}{self._donor(client, wanted)}"
        if other := joined_container(wanted):
            return f"{JOIN}{client.containers.get(other).id}"
        return wanted.ipc

    def _donor(self, client: docker.DockerClient, wanted: ContainerSpec) -> str:
        """Id of the running container that keeps the namespace; made if it isn't there."""
        state = self.state(DONOR_NAME)
        if state is not None and state.is_of(self._owner):
            if state.running:
                return state.ident
            self._remove(client, state.ident)
        donor = client.containers.create(
            wanted.image,
            name=DONOR_NAME,
            entrypoint=["sleep", "infinity"],
            command=[],
            ipc_mode="shareable",
            shm_size=wanted.shm_size_bytes,
            network_mode="none",
            init=True,
            labels={OWNER: self._owner, INSTANCE: _DONOR_INSTANCE, NAME: DONOR_NAME},
        )
        donor.start()
        return str(donor.id)

    def _remove(self, client: docker.DockerClient, ident: str) -> None:
        try:
            client.api.remove_container(ident, force=True, v=True)
        except NotFound:
            return
        except APIError as error:
            if error.status_code != 409:  # it is being removed already
                raise SyshaxError(f"container {ident[:12]} can't be removed: {_text(error)}") from error

    @contextmanager
    def _connected(self) -> Iterator[docker.DockerClient]:
        try:
            with self._lock:
                if self._client is None:
                    self._client = docker.DockerClient(self.host, version="auto", timeout=math.ceil(self._timeout_s))
            yield self._client
        except APIError as error:
            raise EngineAwayError(f"the container engine at {self.host} answers: {_text(error)}") from error
        except (requests.RequestException, DockerException) as error:
            raise EngineAwayError(self._away_text(error)) from error

    def _away_text(self, error: Exception) -> str:
        if "Permission denied" in str(error):
            return (
                f"may not use {self.host}: add the user who runs syshaxd to the socket's group (usually `docker`; "
                "its members can become root)"
            )
        return f"the container engine does not answer at {self.host}: is it running (`systemctl start docker`)?"


class _NoProgramError(Exception):
    """The container's first process runs, but could not run the program."""


def _check_program(container: Container) -> None:
    """With `init` the engine doesn't see that a program is missing: the tiny first process ends for it at once.

    Raises:
        _NoProgramError: So it was here.
    """
    with suppress(requests.RequestException):  # still running when the time is over: good
        code = container.wait(timeout=_EXEC_TIMEOUT_S)["StatusCode"]
        if code in NOT_RUN:
            output = container.logs(tail=5).decode(errors="replace").strip()
            raise _NoProgramError(f"executable file not found: {output}")


def _launch_failed(spec: InstanceSpec, error: Exception) -> LaunchFailedError:
    message, permanent = launch_fault(spec, _text(error))
    return LaunchFailedError(message, permanent=permanent)


def _no_image(spec: InstanceSpec) -> LaunchFailedError:
    assert spec.container is not None
    return LaunchFailedError(
        f"{spec.name}: there is no image {spec.container.image} here: load it (`docker load`), or set "
        f"{spec.key}.container.pull to true",
        permanent=True,
    )


def _text(error: Exception) -> str:
    return str(getattr(error, "explanation", None) or error).strip()
