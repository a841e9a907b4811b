"""The contracts of package streams.v1, generated from `proto/streams/v1` by `make proto`; never edited."""
