"""Keyed state: tables in memory or on disk, behind their changelogs."""
