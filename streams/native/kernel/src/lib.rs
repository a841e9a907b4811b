//! The pure core: bytes in, bytes out. No I/O, no clock (time is an argument), no `unsafe`.
#![forbid(unsafe_code)]

pub mod apply;
mod attributes;
pub mod bounds;
pub mod canonical;
mod cloudevents;
pub mod compose;
pub mod confluent;
pub mod diff;
pub mod envelope;
pub mod job;
mod json;
pub mod owner;
pub mod partition;
pub mod patch;
pub mod records;
mod refused;
pub mod repairs;
pub mod row;
pub mod schema;
pub mod sync;
pub mod table;
pub mod unknown;
pub mod wal;
pub mod wire;

/// Sample messages of the unit tests, shared with the randomised test.
#[cfg(test)]
#[path = "../tests/zoo/mod.rs"]
mod zoo;

/// XXH3-64, seed 0: digests of canonical messages, hashes of ids and sources.
pub fn digest(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

/// Where a key stands in an index: with a seed that nobody outside knows, nobody can make keys that fall together.
pub(crate) fn index_hash(seed: u64, key: &[u8]) -> u32 {
    xxhash_rust::xxh3::xxh3_64_with_seed(key, seed) as u32
}
