"""`streams proto`: writes the contracts, for receivers and producers in other languages."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

CONTRACTS = Path(__file__).resolve().parent.parent / "contracts"
"""A copy of the repository's `proto/`, which the wheel carries; `make proto` makes it."""


@click.command(
    epilog="""\b
Examples:
  streams proto --out contracts
  protoc -Icontracts --java_out=src contracts/streams/v1/patch.proto
"""
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Directory to write to; made where missing."
)
def command(out: Path) -> None:
    """Write the .proto files of patches and requests, and golden vectors to test a receiver with.

    What a receiver must do stands in streams/v1/patch.proto. Files of the same names are replaced, others stay.
    """
    try:
        shutil.copytree(CONTRACTS, out, dirs_exist_ok=True, copy_function=shutil.copyfile)
    except (OSError, shutil.Error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not every file could be written"
        raise click.ClickException(f"--out {out}: {reason}; give a directory that can be written") from None
    written = sorted(path.relative_to(CONTRACTS) for path in CONTRACTS.rglob("*") if path.is_file())
    click.echo(f"{len(written)} files in {out}:")
    for path in written:
        click.echo(f"  {path}")
