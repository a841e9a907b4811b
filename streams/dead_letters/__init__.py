"""Dead letters: records that could not be processed, kept whole, with where they came from and why."""
