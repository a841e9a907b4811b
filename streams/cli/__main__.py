"""`python -m streams.cli`: the same as `streams`, for where scripts are not on the path."""

from streams.cli import main

main()
