"""The flights run behind `make demo` and `streams demo`: the main job over one month of real flights."""
