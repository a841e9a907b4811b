//! `Records` and the two hashes that Python needs as well.
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use streams_kernel::bounds::cuts;
use streams_kernel::records::{murmur2_partition, Records, RecordsError};

fn refused(error: RecordsError) -> PyErr {
    PyValueError::new_err(error.to_string())
}

type Header<'p> = (String, Option<Bound<'p, PyBytes>>);

#[pyclass(name = "Records", module = "streams._native")]
#[derive(Default)]
pub struct PyRecords {
    pub inner: Records,
}

impl From<Records> for PyRecords {
    fn from(inner: Records) -> Self {
        PyRecords { inner }
    }
}

impl PyRecords {
    fn at(&self, index: usize) -> PyResult<streams_kernel::records::Record<'_>> {
        if index >= self.inner.len() {
            return Err(PyIndexError::new_err(format!("record {index} of {}", self.inner.len())));
        }
        Ok(self.inner.get(index))
    }
}

#[pymethods]
impl PyRecords {
    #[new]
    fn new() -> PyRecords {
        PyRecords::default()
    }
    fn __len__(&self) -> usize {
        self.inner.len()
    }
    fn __repr__(&self) -> String {
        format!(
            "<Records {} from {} to {}, {} bytes>",
            self.inner.len(),
            self.inner.first_offset(),
            self.inner.last_offset(),
            self.inner.nbytes()
        )
    }
    #[pyo3(signature = (key, value, headers=Vec::new(), timestamp_ms=-1, offset=-1))]
    fn append(
        &mut self,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: Vec<(String, Option<Vec<u8>>)>,
        timestamp_ms: i64,
        offset: i64,
    ) -> PyResult<()> {
        self.inner.push(key, value, timestamp_ms, offset).map_err(refused)?;
        for (name, value) in &headers {
            self.inner.push_header(name.as_bytes(), value.as_deref()).map_err(refused)?;
        }
        Ok(())
    }
    fn key<'p>(&self, py: Python<'p>, index: usize) -> PyResult<Option<Bound<'p, PyBytes>>> {
        Ok(self.at(index)?.key().map(|key| PyBytes::new(py, key)))
    }
    fn value<'p>(&self, py: Python<'p>, index: usize) -> PyResult<Option<Bound<'p, PyBytes>>> {
        Ok(self.at(index)?.value().map(|value| PyBytes::new(py, value)))
    }
    fn headers<'p>(&self, py: Python<'p>, index: usize) -> PyResult<Vec<Header<'p>>> {
        let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        Ok(self.at(index)?.headers().map(|(name, value)| (text(name), value.map(|v| PyBytes::new(py, v)))).collect())
    }
    fn offset(&self, index: usize) -> PyResult<i64> {
        Ok(self.at(index)?.offset())
    }
    fn timestamp_ms(&self, index: usize) -> PyResult<i64> {
        Ok(self.at(index)?.timestamp_ms())
    }
    #[getter]
    fn first_offset(&self) -> i64 {
        self.inner.first_offset()
    }
    #[getter]
    fn last_offset(&self) -> i64 {
        self.inner.last_offset()
    }
    #[getter]
    fn nbytes(&self) -> usize {
        self.inner.nbytes()
    }
    fn assign(&mut self, first: i64, timestamp_ms: i64) {
        self.inner.assign(first, timestamp_ms);
    }
    fn extend(&mut self, other: PyRef<'_, PyRecords>) -> PyResult<()> {
        self.inner.extend(&other.inner).map_err(refused)
    }
    fn slice(&self, start: usize, stop: usize) -> PyResult<PyRecords> {
        Ok(self.inner.slice(start, stop).map_err(refused)?.into())
    }
    #[pyo3(signature = (bytes_max, each_max, *, requests=false))]
    fn cuts(&self, bytes_max: usize, each_max: usize, requests: bool) -> Vec<usize> {
        cuts(&self.inner, bytes_max, each_max, requests)
    }
    #[pyo3(signature = (*, checksum = true))]
    fn encode<'p>(&self, py: Python<'p>, checksum: bool) -> Bound<'p, PyBytes> {
        let block = py.detach(|| if checksum { self.inner.encode() } else { self.inner.encode_plain() });
        PyBytes::new(py, &block)
    }
    #[staticmethod]
    fn decode(py: Python<'_>, block: &[u8]) -> PyResult<PyRecords> {
        let block = block.to_vec();
        Ok(py.detach(move || Records::decode(&block)).map_err(refused)?.into())
    }
}

#[pyfunction]
pub fn wal_damage(py: Python<'_>, wal: &[u8], in_order: bool) -> Option<usize> {
    py.detach(|| streams_kernel::wal::damage(wal, in_order))
}

#[pyfunction]
#[pyo3(name = "murmur2_partition")]
fn partition(key: &[u8], partitions: u32) -> PyResult<u32> {
    if partitions == 0 {
        return Err(PyValueError::new_err("partitions: came 0, wanted at least 1"));
    }
    Ok(murmur2_partition(key, partitions))
}

#[pyfunction]
fn xxh3_64(data: &[u8]) -> u64 {
    streams_kernel::digest(data)
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyRecords>()?;
    m.add_function(wrap_pyfunction!(partition, m)?)?;
    m.add_function(wrap_pyfunction!(wal_damage, m)?)?;
    m.add_function(wrap_pyfunction!(xxh3_64, m)?)
}
