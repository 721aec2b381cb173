#!/bin/bash
# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
#
# Sets up what the tests in this folder run on, under build/machine. Needs root: it installs what it lacks.
#
#   setup.sh [x86_64|aarch64]      the architecture of the emulated machine
set -euo pipefail
here=$(dirname "$(realpath "$0")")
build=$here/../../build/machine
"$here/numa/setup.sh" "$build/numa" "${1:-x86_64}"
"$here/shells/setup.sh"
"$here/browser/setup.sh"
"$here/docker/setup.sh"
"$here/package/setup.sh" "$build/package"
