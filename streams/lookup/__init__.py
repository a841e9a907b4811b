"""Guarded, cached look-ups: other systems' static configuration, asked for as rarely as possible."""
