//! The randomised test of scan, diff, apply, compose and patch bytes: sound messages, damaged ones and noise.
//!
//! `FUZZ_SECONDS` is its budget (2 without it), `FUZZ_SEED` repeats a run.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use streams_kernel::diff::{Change, Delta};
use streams_kernel::patch::{self, Kind, Patch, PatchHead};
use streams_kernel::schema::Schema;
use streams_kernel::{schema, wire};
use zoo::Rng;

mod zoo;

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn every_message_and_every_damage_is_handled() {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_nanos() as u64);
    let seed = number_from("FUZZ_SEED").unwrap_or(clock);
    let budget = Duration::from_secs(number_from("FUZZ_SECONDS").unwrap_or(2));
    println!("FUZZ_SEED={seed} FUZZ_SECONDS={}", budget.as_secs());
    let (schema, mut rng) = (zoo::schema(), Rng::new(seed));
    let (start, mut rounds) = (Instant::now(), 0u64);
    while start.elapsed() < budget {
        one_round(&schema, &mut rng);
        rounds += 1;
    }
    println!("{rounds} rounds");
}

fn one_round(schema: &Schema, rng: &mut Rng) {
    let mut states = vec![zoo::random(schema, rng)];
    for _ in 0..3 {
        let next = zoo::evolve(schema, schema.root(), &states[states.len() - 1], rng, 0);
        states.push(next);
    }
    for state in &states {
        assert!(schema.is_canonical(state), "generated: {state:02x?}");
        assert_eq!(schema.canonicalise(state).as_ref(), Some(state));
    }
    let patches: Vec<Vec<u8>> =
        (1..states.len()).map(|at| patch_between(schema, &states[at - 1], &states[at], at as u64)).collect();
    check_composition(schema, &states, &patches);
    for state in &states {
        check_damaged(schema, state, &zoo::damage(&states[0], rng), &patches, rng);
    }
    let noise: Vec<u8> = (0..rng.below(200)).map(|_| rng.next() as u8).collect();
    check_damaged(schema, &states[0], &noise, &patches, rng);
    check_damaged(schema, &noise, &states[0], &patches, rng);
}

/// The encoded patch from revision `base` to the next one; it must lead from `old` to `new`.
fn patch_between(schema: &Schema, old: &[u8], new: &[u8], base: u64) -> Vec<u8> {
    let mut delta = Delta::new();
    let change = schema.diff(old, new, &mut delta).expect("both are canonical");
    assert_eq!(change == Change::None, old == new, "from {old:02x?} to {new:02x?}");
    let mut head = PatchHead { key: b"k", revision: base + 1, base_revision: base, ..PatchHead::default() };
    let mut out = Vec::new();
    if change == Change::Snapshot {
        (head.kind, head.base_revision) = (Kind::Snapshot, 0);
        patch::encode(&head, &[], &[], new, &mut out);
    } else {
        head.kind = Kind::Delta;
        let mut applied = Vec::new();
        schema.apply(old, &delta.mask, &delta.numbers, &delta.data, &mut applied).expect("its own delta");
        assert_eq!(applied, new, "from {old:02x?} with {:02x?} and {:02x?}", delta.mask, delta.data);
        patch::encode(&head, &delta.mask, &delta.numbers, &delta.data, &mut out);
    }
    out
}

fn apply(schema: &Schema, state: &[u8], patch: &[u8]) -> Vec<u8> {
    let patch = patch::decode(patch).expect("encoded here");
    if patch.head.kind == Kind::Snapshot {
        return patch.data.to_vec();
    }
    let mut out = Vec::new();
    schema.apply(state, patch.mask, patch.numbers, patch.data, &mut out).expect("composed of its own deltas");
    out
}

fn compose(schema: &Schema, first: &[u8], second: &[u8]) -> Vec<u8> {
    let (first, second) = (patch::decode(first).expect("encoded here"), patch::decode(second).expect("encoded here"));
    let mut out = Vec::new();
    schema.compose(&first, &second, &mut out).expect("they follow each other");
    out
}

/// A composed patch leads from every state of its span to the last one, however it was composed.
fn check_composition(schema: &Schema, states: &[Vec<u8>], patches: &[Vec<u8>]) {
    let left = compose(schema, &compose(schema, &patches[0], &patches[1]), &patches[2]);
    let right = compose(schema, &patches[0], &compose(schema, &patches[1], &patches[2]));
    for held in &states[..3] {
        assert_eq!(apply(schema, held, &left), states[3], "from {held:02x?}");
        assert_eq!(apply(schema, held, &right), states[3], "from {held:02x?}");
    }
}

/// Nothing panics; what is accepted is right.
fn check_damaged(schema: &Schema, state: &[u8], damaged: &[u8], patches: &[Vec<u8>], rng: &mut Rng) {
    let mut delta = Delta::new();
    let outcome = schema.diff(state, damaged, &mut delta);
    let mut out = Vec::new();
    if schema.is_canonical(state) {
        assert_eq!(outcome.is_ok(), schema.is_canonical(damaged), "from {state:02x?} to {damaged:02x?}");
        if matches!(outcome, Ok(change) if change != Change::Snapshot) {
            schema.apply(state, &delta.mask, &delta.numbers, &delta.data, &mut out).expect("its own delta");
            assert_eq!(out, damaged, "from {state:02x?}");
        }
    }
    if let Some(repaired) = schema.canonicalise(damaged) {
        assert!(schema.is_canonical(&repaired), "from {damaged:02x?}");
        assert_eq!(schema.canonicalise(&repaired), Some(repaired));
    }
    out.clear();
    if schema.apply(state, &delta.mask, &delta.numbers, damaged, &mut out).is_ok() && schema.is_canonical(state) {
        assert!(schema.is_canonical(&out), "{state:02x?} with {:02x?} and {damaged:02x?}", delta.mask);
    }
    let broken = zoo::damage(&patches[rng.below(patches.len())], rng);
    if let (Ok(first), Ok(second)) = (patch::decode(&broken), patch::decode(&patches[0])) {
        check_any_patches(schema, state, &first, &second);
        check_any_patches(schema, state, &second, &first);
    }
}

fn check_any_patches(schema: &Schema, state: &[u8], first: &Patch<'_>, second: &Patch<'_>) {
    let mut out = Vec::new();
    if schema.apply(state, first.mask, first.numbers, first.data, &mut out).is_ok() && schema.is_canonical(state) {
        assert!(schema.is_canonical(&out));
    }
    out.clear();
    if schema.compose(first, second, &mut out).is_ok() {
        patch::decode(&out).expect("a composed patch is one");
    }
}
