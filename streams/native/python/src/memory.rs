//! The allocator of a worker's process.
use pyo3::prelude::*;

/// Allocations below this come out of memory the process has already: glibc's upper limit for the setting.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAP_BYTES: std::os::raw::c_int = 32 << 20;
/// Free memory above this goes back to the system.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: std::os::raw::c_int = 256 << 20;

/// A third of a worker's page faults, one for each three events, were for pages that it had given back a chunk before.
#[pyfunction]
fn keep_freed_memory() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt sets two numbers of the allocator under its own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAP_BYTES) == 1 && libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES) == 1
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    false
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(keep_freed_memory, m)?)
}
