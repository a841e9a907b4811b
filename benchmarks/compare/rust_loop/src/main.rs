//! The job of `benchmarks/compare` in pure Rust over librdkafka: what is left when everything else is gone.
//!
//!     rust-loop BOOTSTRAP SOURCE OUTPUT GROUP EVENTS DIRECTORY    between two topics, exactly once
//!     rust-loop job FILE                                          without Kafka: µs per event of the job alone
//!
//! FILE holds events, each behind its length (4 bytes, big-endian). One thread of user code; state in memory, and in a
//! changelog of whole events.

mod job;
mod worker;

use std::process::ExitCode;
use std::time::Instant;

use crate::job::{Job, Malformed};
use crate::worker::{Task, Worker};

/// Why the program ends: nothing here is mended, it is started again.
pub struct Failure(String);

impl From<Malformed> for Failure {
    fn from(_: Malformed) -> Failure {
        Failure("an event that is none of the workload's".to_owned())
    }
}

impl From<rdkafka::error::KafkaError> for Failure {
    fn from(error: rdkafka::error::KafkaError) -> Failure {
        Failure(error.to_string())
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["job", path] => alone(path),
        [bootstrap, source, output, group, events, _directory] => match events.parse() {
            Ok(events) => {
                let task = Task { bootstrap, source, output, group, events };
                Worker::new(&task).and_then(|mut worker| worker.run())
            }
            Err(_) => Err(Failure(format!("events: came {events:?}, wanted a number"))),
        },
        _ => Err(Failure("arguments: BOOTSTRAP SOURCE OUTPUT GROUP EVENTS DIRECTORY, or job FILE".to_owned())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}", failure.0);
            ExitCode::FAILURE
        }
    }
}

/// The job over a file of events, read before time begins.
fn alone(path: &str) -> Result<(), Failure> {
    let bytes = std::fs::read(path).map_err(|error| Failure(format!("{path}: {error}")))?;
    let mut events = Vec::new();
    let mut rest = bytes.as_slice();
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let (event, behind) = behind.split_at_checked(length).ok_or(Malformed)?;
        events.push(event);
        rest = behind;
    }
    let (mut job, mut patch) = (Job::default(), Vec::new());
    let (mut patches, mut patch_bytes) = (0u64, 0u64);
    let (began, cpu) = (Instant::now(), cpu_ns()?);
    for event in &events {
        if job.apply(event, &mut patch)? {
            patches += 1;
            patch_bytes += patch.len() as u64;
        }
    }
    let count = events.len();
    let per_event = |ns: f64| ns / 1e3 / count.max(1) as f64;
    let (wall_us, cpu_us) = (per_event(began.elapsed().as_nanos() as f64), per_event((cpu_ns()? - cpu) as f64));
    println!(
        r#"{{"events": {count}, "patches": {patches}, "patch_bytes": {patch_bytes}, "us_per_event": {wall_us:.3}, "cpu_us_per_event": {cpu_us:.3}}}"#
    );
    Ok(())
}

/// What the kernel has counted for the one thread of this process.
fn cpu_ns() -> Result<u64, Failure> {
    let path = "/proc/self/schedstat";
    let text = std::fs::read_to_string(path).map_err(|error| Failure(format!("{path}: {error}")))?;
    let first = text.split(' ').next().and_then(|number| number.parse().ok());
    first.ok_or_else(|| Failure(format!("{path} says {text:?}")))
}
