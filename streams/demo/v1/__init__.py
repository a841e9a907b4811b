"""The sample messages of package streams.demo.v1, generated from `proto/streams/demo/v1` by `make proto`; never edited."""
