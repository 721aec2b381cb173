# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Puts all that packages hold in its place: `python packaging/stage.py --destdir D --wheels W`. Needs Python only.

What sysHAX needs is unpacked from wheels, of any architecture, into a folder where only its three programs look.
"""

import argparse
import compileall
import py_compile
import shutil
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIB = "usr/lib/syshax"
SITE = f"{LIB}/site-packages"
DOC = "usr/share/doc/sysHAX"
LICENCES = "usr/share/licenses/sysHAX"
LAUNCHER = """\
#!/usr/bin/python3 -IB
# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
import sys

sys.path[:0] = ["/usr/lib/syshax/site-packages", "/usr/lib/syshax/connector"]
from {module} import main

main()
"""
PROGRAMS = {
    "syshax": "syshaxd.cli.syshax",
    "syshaxctl": "syshaxd.cli.syshaxctl",
    "syshaxd": "syshaxd.daemon",
}
FILES = {
    "systemd/syshaxd.service": "usr/lib/systemd/system/syshaxd.service",
    "systemd/syshaxd.socket": "usr/lib/systemd/system/syshaxd.socket",
    "systemd/preset.conf": "usr/lib/systemd/system-preset/80-syshax.preset",
    "systemd/sysusers.conf": "usr/lib/sysusers.d/syshax.conf",
    "systemd/tmpfiles.conf": "usr/lib/tmpfiles.d/syshax.conf",
    "systemd/environment": "etc/syshax/environment",
    "packaging/monitoring/syshax.rules.yaml": "usr/share/syshax/monitoring/syshax.rules.yaml",
    "packaging/monitoring/syshax.dashboard.json": "usr/share/syshax/monitoring/syshax.dashboard.json",
    "LICENSE": f"{LICENCES}/LICENSE",
}
# In the folders that they have here, so that links between them lead somewhere.
DOCUMENTS = ("*.md", "docs/*.md", "docs/pictures/*.svg", "benchmarks/*/*.md", "src/syshax_connector/*.md")
COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions",
    "zsh": "usr/share/zsh/site-functions",
    "fish": "usr/share/fish/vendor_completions.d",
}


def main() -> None:
    """Runs the program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--destdir", type=Path, required=True)
    parser.add_argument("--wheels", type=Path, required=True, help="folder of the wheels, one for each dependency")
    parser.add_argument("--without", action="append", default=[], help="a dependency that the distribution has")
    args = parser.parse_args()
    stage_code(args.destdir, args.wheels, frozenset(map(_normal, args.without)))
    stage_files(args.destdir)


def stage_code(destdir: Path, wheels: Path, without: frozenset[str]) -> None:
    """Unpacks the wheels and copies the daemon and the connector, with compiled modules that never go stale."""
    site = destdir / SITE
    site.mkdir(parents=True)
    found = sorted(wheels.glob("*.whl"))
    if not found:
        sys.exit(f"stage.py: there is no wheel in {wheels}; `make wheels` fetches them")
    for wheel in found:
        if _normal(wheel.name.partition("-")[0]) not in without:
            _unpack(wheel, site, destdir / LICENCES / "vendored")
    no_caches = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src/syshaxd", site / "syshaxd", ignore=no_caches)
    connector = destdir / LIB / "connector"
    for package in ("syshax_connector", "syshax_quantize"):
        shutil.copytree(ROOT / "src" / package, connector / package, ignore=no_caches)
    # They are compiled by whichever Python the engines have; the daemon by this one.
    compileall.compile_dir(
        site, quiet=2, stripdir=destdir, prependdir="/", invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )


def _unpack(wheel: Path, site: Path, licences: Path) -> None:
    """Unpacks a wheel's packages, and copies its licences."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        if strange := [name for name in names if ".data/" in name]:
            sys.exit(f"stage.py: {wheel.name} has files for other places, such as {strange[0]}: teach stage.py where")
        archive.extractall(site)
        info = next(name.partition("/")[0] for name in names if name.endswith(".dist-info/METADATA"))
        texts = [name for name in names if name.startswith(f"{info}/") and _is_licence(name)]
        metadata = HeaderParser().parsestr(archive.read(f"{info}/METADATA").decode())
    folder = licences / info.partition("-")[0]
    for name in texts:
        _copy(site / name, folder / name.removeprefix(f"{info}/").removeprefix("licenses/"))
    if not texts:  # some give no more than its name
        name = metadata["License-Expression"] or metadata["License"]
        if not name:
            sys.exit(f"stage.py: {wheel.name} tells no licence")
        folder.mkdir(parents=True)
        (folder / "LICENSE").write_text(f"{metadata['Name']} {metadata['Version']}: {name}\n")


def _is_licence(name: str) -> bool:
    return name.rpartition("/")[2].upper().startswith(("LICENSE", "LICENCE", "COPYING", "NOTICE", "AUTHORS"))


def stage_files(destdir: Path) -> None:
    """Copies units, documents, manual pages and completions; writes the programs."""
    for source, target in FILES.items():
        _copy(ROOT / source, destdir / target)
    for pattern in DOCUMENTS:
        for path in ROOT.glob(pattern):
            _copy(path, destdir / DOC / path.relative_to(ROOT))
    for path in (ROOT / "build/man").iterdir():
        _copy(path, destdir / f"usr/share/man/man{path.suffix[1:]}/{path.name}")
    for shell, folder in COMPLETIONS.items():
        for path in (ROOT / "build/completion" / shell).iterdir():
            _copy(path, destdir / folder / path.name)
    for name, module in PROGRAMS.items():
        program = destdir / "usr/bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(LAUNCHER.format(module=module))
        program.chmod(0o755)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o644)


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


if __name__ == "__main__":
    main()
