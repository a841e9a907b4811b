"""The Python face of the native kernel: schemas, envelopes, patches, compression, and the twin that checks it all."""
