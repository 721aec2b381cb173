# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Stands in for vLLM in the guest: threads pinned as the sysHAX images pin theirs, and a server that is well."""

import argparse
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from worker import compute

from syshaxd.core.numa.cpulist import parse_cpulist


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    port = parser.parse_known_args()[0].port
    cpus = parse_cpulist(os.environ["CUSTOM_CPU_AFFINITY"])
    assert len(cpus) == int(os.environ["OMP_NUM_THREADS"])
    started, end = threading.Barrier(len(cpus) + 1), threading.Event()
    for cpu in cpus:
        threading.Thread(target=compute, args=(cpu, started, end), daemon=True, name=f"omp {cpu}").start()
    started.wait()
    ThreadingHTTPServer(("127.0.0.1", port), Health).serve_forever()


if __name__ == "__main__":
    main()
