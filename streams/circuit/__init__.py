"""Circuits: windows of outcomes, the transition table, the owner's side of a circuit and the worker's."""
