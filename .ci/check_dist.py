"""Checks what was built: one sdist with the Rust sources, one abi3 wheel without them. Says what is wrong, exit 1."""

import sys
import tarfile
import zipfile
from pathlib import Path

WANTED_IN_WHEEL = (
    "streams/_native.abi3.so",
    "streams/_native.pyi",
    "streams/py.typed",
    "streams/contracts/streams/v1/patch.proto",
    "streams/contracts/streams/v1/resync.proto",
    "streams/contracts/golden/patches.json",
)


def main(folder: Path) -> int:
    """Prints the two files and their sizes, or everything that is wrong with them."""
    wheels, sdists = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        print(f"{folder}: got {[path.name for path in wheels + sdists]}, expected one wheel and one sdist")
        return 1
    with zipfile.ZipFile(wheels[0]) as wheel, tarfile.open(sdists[0]) as sdist:
        in_wheel, in_sdist = wheel.namelist(), sdist.getnames()
    rust = [name for name in in_wheel if name.endswith((".rs", "Cargo.toml", "Cargo.lock"))]
    wanted_in_sdist = ["streams/native/kernel/src/lib.rs", "streams/native/python/src/lib.rs", "LICENSE", "README.md"]
    wrong = [f"wheel is not abi3: {wheels[0].name}"] if "-abi3-" not in wheels[0].name else []
    wrong += [f"wheel has Rust sources: {rust[:3]}"] if rust else []
    wrong += [f"wheel lacks {wanted}" for wanted in WANTED_IN_WHEEL if wanted not in in_wheel]
    wrong += [
        f"sdist lacks {wanted}" for wanted in wanted_in_sdist if not any(name.endswith(wanted) for name in in_sdist)
    ]
    wrong += [f"sdist has build output: {name}" for name in in_sdist if "/target/" in name][:3]
    for path in wheels + sdists:
        print(f"{path.name}: {path.stat().st_size:,} bytes")
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
