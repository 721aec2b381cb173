#!/bin/sh
# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
#
# Renders NAME.mmd to NAME.svg: sh render.sh [NAME ...]. Look at the result.
# Needs Chromium, and mermaid-cli (npm install @mermaid-js/mermaid-cli): MMDC=node_modules/.bin/mmdc sh render.sh
set -eu
cd "$(dirname "$0")"
[ $# -gt 0 ] || set -- $(ls ./*.mmd | sed 's|.*/||; s|\.mmd$||')
browser=$(mktemp)
trap 'rm -f "$browser"' EXIT
printf '{"executablePath": "%s", "args": ["--no-sandbox"]}' "${CHROMIUM:-$(command -v chromium)}" >"$browser"
for name; do
    "${MMDC:-mmdc}" --quiet --puppeteerConfigFile "$browser" --configFile style.json --backgroundColor white --svgId "$name" \
        --input "$name.mmd" --output "$name.svg"
    # What only an editor of the picture would use, and is most of the file.
    sed -i 's/ data-points="[^"]*"//g' "$name.svg"
    # A test compares this with the source.
    printf '<!-- %s -->\n' "$(sha256sum <"$name.mmd" | cut -d' ' -f1)" >>"$name.svg"
done
