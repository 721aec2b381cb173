#!/usr/bin/env bash
# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
#
# run.sh WORKDIR SYSHAXD [bench.py options]: sysHAX's gateway beside nginx and vllm-router, against a mock engine.
# Needs Go, nginx and taskset (on Debian: apt-get install golang-go nginx), Python 3.11 with pip. Ports 9101, 9102, 9211, 9214,
# 9215 to 9219 and 29214 on loopback. About two minutes a round; prints Markdown tables, keeps results.jsonl in WORKDIR.
# With --streams as the first option: thousands of streams at once, see streams.py; with --bursts, see bursts.py.
# BASELINE=SYSHAXD adds the syshaxd of another version, with hand-over off.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mkdir -p "$1" && cd "$1" && pwd)
syshaxd=$(realpath "$2")
shift 2
for tool in go nginx taskset; do
  command -v "$tool" >/dev/null || { echo "run.sh: $tool is missing; install it first (apt-get install golang-go nginx util-linux)" >&2; exit 1; }
done
mkdir -p "$work"/{bin,run,logs}
echo "==> building the mock engine and the load generator"
(cd "$here" && go build -o "$work/bin/engine" ./engine && go build -o "$work/bin/load" ./load)
if [ "${1:-}" != --streams ] && [ ! -x "$work/vllm-router/bin/vllm-router" ]; then
  echo "==> installing vllm-router"
  python3 -m venv "$work/vllm-router" && "$work/vllm-router/bin/pip" install -q 'vllm-router==0.1.17'
fi

cat > "$work/nginx.conf" <<N
worker_processes 1; daemon off; pid $work/run/nginx.pid; error_log $work/logs/nginx.log; worker_rlimit_nofile 20000;
events { worker_connections 8192; }
http {
  access_log off; client_body_temp_path $work/run/b; proxy_temp_path $work/run/p; fastcgi_temp_path $work/run/f;
  uwsgi_temp_path $work/run/u; scgi_temp_path $work/run/s;
  client_body_buffer_size 256k; client_max_body_size 64m; keepalive_requests 10000000; tcp_nodelay on;
  upstream engines { server 127.0.0.1:9101; server 127.0.0.1:9102; keepalive 512; keepalive_requests 10000000; }
  server { listen 127.0.0.1:9211 backlog=4096;
    location / { proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection "";
                 proxy_buffering off; proxy_request_buffering off; } }
}
N
# As users run it: streams can move between the two instances, and each client has an API key with limits. Then without
# a key, and with hand-over off as well.
# The mock engine counts for both ports together, so neither may look full.
config() {
  cat <<Y
services:
  gpu: {port: 9101, max_num_seqs: $3, protocol: connector}
  cpu: {port: 9102, max_num_seqs: $3, protocol: connector}
  conductor: {port: $2}
models: {default: mock-model}
offload: {enabled: $1}
control: {socket: $work/run/admin-$2.sock}
Y
}
config true 9215 1000 > "$work/syshax-9215.yaml"
config false 9217 1000 > "$work/syshax-9217.yaml"
config false 9218 1000 > "$work/syshax-9218.yaml"
config true 9219 1000 > "$work/syshax-9219.yaml"
config true 9215 6000 > "$work/syshax-streams.yaml"
config false 9215 6000 > "$work/syshax-streams-off.yaml"
mkdir -p "$work"/state-{9215,9217,9218,9219,streams}
# The client's key; its limits are counted, and never reached.
keys=$work/state-9215/syshax/api_keys
rm -f "$keys"
key=$("$(dirname "$syshaxd")/syshaxctl" keys create bench --file "$keys" --requests-per-minute 1000000000 \
  --tokens-per-minute 1000000000000 --max-requests 100000 2>/dev/null)
mkdir -p -m 700 "$work/state-streams/syshax" && cp "$keys" "$work/state-streams/syshax/api_keys"
python3 - "$work" "$syshaxd" "$here/pump.py" "$key" "${BASELINE:+$(realpath "$BASELINE")}" <<'P'
import json
import sys
from pathlib import Path

work, syshaxd, pump, key, baseline = sys.argv[1:]
engines = ["http://127.0.0.1:9101", "http://127.0.0.1:9102"]
router = [f"{work}/vllm-router/bin/vllm-router", "--host", "127.0.0.1", "--port", "9214", "--prometheus-port", "29214"]


def syshax(port, program=syshaxd):
    return {
        "cmd": [program, "--config", f"{work}/syshax-{port}.yaml"],
        "port": port,
        "env": {"XDG_STATE_HOME": f"{work}/state-{port}"},
    }


gateways = {
    "nginx": {"cmd": ["nginx", "-c", f"{work}/nginx.conf"], "port": 9211},
    "vllm-router": {
        "cmd": [*router, "--worker-urls", *engines, "--policy", "power_of_two", "--log-level", "error"],
        "port": 9214,
    },
    "pump (Python)": {"cmd": [f"{Path(syshaxd).parent}/python", pump, "9216", "9101", "9102"], "port": 9216},
    "sysHAX": {**syshax(9215), "movable": True, "key": key},
    "sysHAX (no key)": {**syshax(9219), "movable": True},
    "sysHAX (no key, hand-over off)": syshax(9217),
}
if baseline:
    gateways["baseline (no key, hand-over off)"] = syshax(9218, baseline)
with open(f"{work}/gateways.json", "w") as file:
    json.dump(gateways, file, indent=1)
P
if [ "${1:-}" = --streams ]; then
  shift
  exec python3 "$here/streams.py" "$work" "$syshaxd" "$key" "$@"
fi
program=bench.py
[ "${1:-}" = --bursts ] && program=bursts.py
python3 "$here/$program" --gateways "$work/gateways.json" "$@"
