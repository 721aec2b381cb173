#!/bin/bash
# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
#
# Builds what the NUMA tests boot: a Debian kernel and a small initramfs with Python, lscpu, numactl, sysHAX's own code
# and the libraries that it needs. Needs root, for installing qemu; runs on Debian 12 and later, on any processor.
#
#   setup.sh FOLDER x86_64|aarch64      leaves FOLDER/x86_64/{kernel,initramfs.gz}
set -euo pipefail

folder=$(realpath -m "$1")/$2
arch=$2
here=$(dirname "$(realpath "$0")")
repo=$(realpath "$here/../../..")
case $arch in
    x86_64) debian=amd64 qemu=qemu-system-x86 ;;
    aarch64) debian=arm64 qemu=qemu-system-arm ;;
    *) echo "setup.sh: no such architecture: $arch" >&2; exit 2 ;;
esac

# Package lists of the guest's architecture in a place of their own: the host's apt stays as it is.
apt="$folder/apt"
mkdir -p "$apt"/{state/lists/partial,cache/archives/partial} "$folder/packages"
touch "$apt/state/status"
guest_apt=(-o "APT::Architecture=$debian" -o "APT::Architectures=$debian" -o "Dir::State=$apt/state" -o "Dir::Cache=$apt/cache"
           -o "Dir::State::status=$apt/state/status" -o "APT::Sandbox::User=root" -q=2)
dependency() { apt-cache "${guest_apt[@]}" depends --important "$1" | sed -n "s/^ *\(Pre\)\?Depends: \($2\)$/\2/p" | head -1; }

if [[ ! $folder/packages/complete -nt $0 ]]; then  # what is fetched stands in this script
    echo "==> fetching a kernel and the guest's programs ($arch)"
    rm -f "$folder"/packages/*.deb
    apt-get -o DPkg::Lock::Timeout=600 -q=2 install -y --no-install-recommends "$qemu" cpio >/dev/null
    apt-get "${guest_apt[@]}" update
    python=$(dependency python3-minimal 'python3\.[0-9]*-minimal')
    kernel=$(dependency "linux-image-cloud-$debian" 'linux-image-.*')
    (cd "$folder/packages" && apt-get "${guest_apt[@]}" download "$kernel" busybox-static "$python" "lib$python" \
        "lib${python%-minimal}-stdlib" libc6 zlib1g libexpat1 numactl libnuma1 util-linux libsmartcols1 libtinfo6 \
        libstdc++6 libgcc-s1 libffi8 libssl3 libsqlite3-0)
    touch "$folder/packages/complete"
fi

python=$(basename "$folder"/packages/python3.*-minimal_*.deb)
python=${python%%-minimal*}
requirements=$("$repo/.venv/bin/python" -c '
import sys, tomllib
print(*tomllib.load(open(sys.argv[1], "rb"))["project"]["dependencies"], sep="\n")' "$repo/pyproject.toml")
if [[ ! -e $folder/packages/requirements.txt || $requirements != "$(cat "$folder/packages/requirements.txt")" ]]; then
    echo "==> fetching the daemon's libraries ($arch)"
    rm -rf "$folder/packages/site"
    "$repo/.venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile --only-binary=:all: \
        --python-version "${python#python}" --platform "manylinux_2_28_$arch" --platform "manylinux_2_17_$arch" \
        --platform "manylinux2014_$arch" --target "$folder/packages/site" --requirement <(echo "$requirements")
    echo "$requirements" >"$folder/packages/requirements.txt"
fi

echo "==> building the guest ($arch)"
root="$folder/root"
rm -rf "$root"
mkdir -p "$root"/{proc,sys,dev,run,tmp,opt/syshax}
for package in "$folder"/packages/*.deb; do dpkg-deb -x "$package" "$root"; done
mv "$root"/boot/vmlinuz-* "$folder/kernel"
rm -rf "$root"/{boot,lib/modules,usr/share,usr/lib/modules} "$root"/usr/lib/python3*/{test,idlelib,lib2to3,ensurepip,pydoc_data,config-*}
ln -sf busybox "$root/bin/sh"
ln -sf "$(basename "$root"/usr/bin/python3.*)" "$root/usr/bin/python3"

# The code under test, as it stands in the working tree.
cp -r "$folder/packages/site" "$root/opt/site"
cp -r "$repo"/src/{syshaxd,syshax_connector} "$here"/{guest,worker,daemon}.py "$root/opt/syshax/"
install -D "$here/engine.py" "$root/opt/site/vllm/entrypoints/openai/api_server.py"
install -m 755 "$here/init" "$root/init"
find "$root/opt" -name __pycache__ -prune -exec rm -r {} +
# To compile in the emulated machine would take longer than all else.
if [[ $arch == "$(uname -m)" ]]; then
    chroot "$root" /usr/bin/python3 -m compileall -q /opt "/usr/lib/$python" >/dev/null
fi
(cd "$root" && find . -print0 | cpio --quiet --null -o -H newc | gzip -1) >"$folder/initramfs.gz"
rm -rf "$root"
