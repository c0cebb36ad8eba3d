"""Collect the packages that `gpu.py` needs and a bare GPU machine lacks, in less than 60 MB.

    python benchmarks/gpu_wheels.py WHEELS

Run it with the network, under the Python version and system of the GPU machine. What is not needed there (tests,
headers, clients of cloud storage) is left out of the wheels, and the rest is compressed harder.
"""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

PACKAGES = (
    *("datasets", "evaluate", "pyarrow", "pandas", "python-dateutil", "tzdata", "dill<0.4.2", "multiprocess<0.70.20"),
    *("xxhash", "requests", "urllib3", "charset-normalizer", "certifi", "idna", "lazy_loader", "threadpoolctl"),
    *("matplotlib", "contourpy", "cycler", "kiwisolver", "pyparsing", "rich", "markdown-it-py", "mdurl", "pygments"),
    *("pytest", "iniconfig", "pluggy"),
)
"""Without what comes with PyTorch, torchvision, transformers, timm, peft, accelerate and scikit-learn."""
PURE = ("fonttools",)
"""Packages of which the wheel without compiled code is a fifth as large."""
UNNEEDED = re.compile(
    r"/(tests?|include|src|sample_data)/|libarrow_(flight|s3)\.|/_(flight|s3fs)\.|\.(c|pxd|pyx|hpp|h)$"
)
LIMIT = 60e6
"""Bytes of all wheels together."""


def main() -> None:
    """Download and shrink."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(folder)]
    subprocess.run([*download, *PACKAGES], check=True)
    subprocess.run([*download, "--platform", "any", *PURE], check=True)
    for wheel in folder.glob("*.whl"):
        shrink(wheel)
    size = sum(wheel.stat().st_size for wheel in folder.glob("*.whl"))
    print(f"{folder}: {size / 1e6:.1f} MB")
    if size > LIMIT:
        sys.exit(f"That is more than {LIMIT / 1e6:.0f} MB.")


def shrink(wheel: Path) -> None:
    """Write a wheel again without what is not needed, and with the compression of 7-Zip, which pip reads as well."""
    begun = wheel.with_suffix(".part")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(begun, "w", zipfile.ZIP_LZMA) as new:
        for item in old.infolist():
            content = old.read(item)
            if item.filename.endswith(".dist-info/RECORD"):
                kept = [line for line in content.decode().splitlines() if not UNNEEDED.search(line.split(",")[0])]
                content = "\n".join([*kept, ""]).encode()
            if not UNNEEDED.search(item.filename):
                item.compress_type = zipfile.ZIP_LZMA
                new.writestr(item, content)
    begun.replace(wheel)


if __name__ == "__main__":
    main()
