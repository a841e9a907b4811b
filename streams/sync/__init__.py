"""The differential-sync agent: events in, patches out."""
