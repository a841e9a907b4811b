//! The Python face: argument conversion and nothing else.
use pyo3::prelude::*;

mod kafka;
mod kernel;
mod memory;
mod records;
mod sync;

#[pymodule]
fn _native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    records::register(m)?;
    kernel::register(m)?;
    sync::register(m)?;
    kafka::register(m)?;
    memory::register(m)
}
