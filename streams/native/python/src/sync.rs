//! Differential sync: `Job`, `Table`, `Step`, `decode_row`. Every call leaves the GIL before it takes a table's lock.
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict};
use streams_kernel::confluent::SchemaIndexes;
use streams_kernel::envelope::Types;
use streams_kernel::job::{Canonicaliser, Job, JobSpec};
use streams_kernel::owner::Assignment;
use streams_kernel::partition::{LogId, PartitionRecord, Stopped, LOG_UNKNOWN, PARTITION_KEY};
use streams_kernel::repairs::REPAIRS_KEY;
use streams_kernel::row::{self, Row, IDS_DEFAULT, RESERVED_PREFIX, ROW_FORMAT, SCHEMA_KEY, TIME_UNKNOWN};
use streams_kernel::sync::{Failure, Step, SyncTable, EXPIRE_MAX};

use crate::kernel::PySchema;
use crate::records::PyRecords;

/// This process's secret: it seeds the index over the keys, and names keys in logs.
static SECRET: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// What the callback raised, to be raised again where the call ends.
type Raised = Arc<Mutex<Option<PyErr>>>;

/// Calls Python, and so takes the GIL, only for messages that the kernel cannot make canonical itself.
struct Callback {
    callable: Py<PyAny>,
    raised: Raised,
}

impl Canonicaliser for Callback {
    fn canonicalise(&self, message: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let answer = Python::attach(|py| {
            let answer = self.callable.call1(py, (PyBytes::new(py, message),))?;
            answer.extract::<Option<PyBackedBytes>>(py).map_err(PyErr::from)
        });
        answer.map(|bytes| bytes.map(|bytes| bytes.to_vec())).map_err(|error| {
            let text = "canonicalise raised".to_owned();
            if let Ok(mut raised) = self.raised.lock() {
                *raised = Some(error);
            }
            text
        })
    }
}

#[pyclass(name = "Job", module = "streams._native", frozen)]
pub struct PyJob {
    inner: Arc<Job>,
    raised: Raised,
}

#[pymethods]
impl PyJob {
    #[new]
    #[pyo3(signature = (schema, *, r#type, fingerprint, field_table, source, key, sequence, format, partitions,
                        record_bytes_max, output_bytes_max, tombstone_retention_ms, schema_ids, message_index, sealed,
                        canonicalise,
                        names=vec![], event_types=vec![], other_types="dead_letter", schema_indexes="standard",
                        also_indexes=vec![], other_indexes=vec![], ids_per_key=IDS_DEFAULT, rekeyed=false,
                        tombstones_max=1_000_000))]
    #[allow(clippy::too_many_arguments)] // a job's settings, by name only
    fn new(
        schema: &PySchema,
        r#type: String,
        fingerprint: u64,
        field_table: &[u8],
        source: String,
        key: String,
        sequence: String,
        format: String,
        partitions: u32,
        record_bytes_max: usize,
        output_bytes_max: usize,
        tombstone_retention_ms: u64,
        schema_ids: Vec<u32>,
        message_index: Vec<i32>,
        sealed: bool,
        canonicalise: Py<PyAny>,
        names: Vec<String>,
        event_types: Vec<String>,
        other_types: &str,
        schema_indexes: &str,
        also_indexes: Vec<Vec<i32>>,
        other_indexes: Vec<Vec<i32>>,
        ids_per_key: usize,
        rekeyed: bool,
        tombstones_max: usize,
    ) -> PyResult<PyJob> {
        let indexes = SchemaIndexes::parse(schema_indexes).ok_or_else(|| {
            invalid(format!("schema_indexes: came {schema_indexes:?}, wanted standard, plain, reversed or none"))
        })?;
        let skips_others = match other_types {
            "dead_letter" => false,
            "skip" => true,
            other => return Err(invalid(format!("other_types: came {other:?}, wanted dead_letter or skip"))),
        };
        let types = Types { names, event_types, skips_others, indexes, also: also_indexes, others: other_indexes };
        let raised = Raised::default();
        let spec = JobSpec {
            schema: schema.inner.clone(),
            type_name: r#type,
            fingerprint,
            field_table: field_table.to_vec(),
            source,
            key,
            sequence,
            format,
            partitions,
            record_bytes_max,
            output_bytes_max,
            tombstone_retention_ms,
            tombstones_max,
            ids_per_key,
            rekeyed,
            schema_ids,
            message_index,
            types,
            sealed,
            seed: SECRET.hash_one("index"),
            canonicaliser: Box::new(Callback { callable: canonicalise, raised: raised.clone() }),
        };
        let job = Job::new(spec).map_err(PyValueError::new_err)?;
        Ok(PyJob { inner: Arc::new(job), raised })
    }

    #[getter]
    fn tombstone_retention_ms(&self) -> u64 {
        self.inner.tombstone_retention_ms()
    }
}

/// What one chunk produced.
#[pyclass(name = "Step", module = "streams._native", frozen)]
pub struct PyStep {
    #[pyo3(get)]
    patches: Py<PyRecords>,
    #[pyo3(get)]
    dead_letters: Py<PyRecords>,
    #[pyo3(get)]
    mark: u64,
    #[pyo3(get)]
    taken: usize,
    #[pyo3(get)]
    counts: Py<PyDict>,
    #[pyo3(get)]
    stuck: Vec<(u64, i64)>,
    #[pyo3(get)]
    fatal: Option<String>,
}

impl PyStep {
    fn new(py: Python<'_>, step: Step) -> PyResult<PyStep> {
        let counts = PyDict::new(py);
        for (name, count) in step.counts.entries() {
            counts.set_item(name, count)?;
        }
        Ok(PyStep {
            patches: Py::new(py, PyRecords::from(step.patches))?,
            dead_letters: Py::new(py, PyRecords::from(step.dead_letters))?,
            mark: step.mark,
            taken: step.taken,
            counts: counts.unbind(),
            stuck: step.stuck.iter().map(|(key, offset)| (SECRET.hash_one(key), *offset)).collect(),
            fatal: step.fatal,
        })
    }
}

fn invalid(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

#[pyclass(name = "Table", module = "streams._native", frozen)]
pub struct PyTable {
    inner: Mutex<SyncTable>,
    raised: Raised,
}

impl PyTable {
    /// Runs `work` on the table without the GIL: a thread that waits for the lock must not keep the one that holds it from
    /// calling Python.
    fn detached<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&mut SyncTable) -> T + Send) -> PyResult<T> {
        py.detach(|| self.lock().map(|mut table| work(&mut table)))
    }

    fn lock(&self) -> PyResult<MutexGuard<'_, SyncTable>> {
        self.inner.lock().map_err(|_| PyRuntimeError::new_err("the table was left locked by a call that crashed"))
    }

    fn step(&self, py: Python<'_>, done: Result<Step, Failure>) -> PyResult<PyStep> {
        match done {
            Ok(step) => PyStep::new(py, step),
            Err(failure) => {
                let raised = self.raised.lock().ok().and_then(|mut raised| raised.take());
                Err(raised.unwrap_or_else(|| PyRuntimeError::new_err(failure.0)))
            }
        }
    }
}

#[pymethods]
impl PyTable {
    #[new]
    #[pyo3(signature = (job, partition, *, resident=true))]
    fn new(job: &PyJob, partition: u32, resident: bool) -> PyTable {
        let table = SyncTable::new(job.inner.clone(), partition, resident);
        PyTable { inner: Mutex::new(table), raised: job.raised.clone() }
    }

    fn process(&self, py: Python<'_>, records: PyRef<'_, PyRecords>, now_ms: u64) -> PyResult<PyStep> {
        let records = &records.inner;
        let done = self.detached(py, |table| table.process(records, now_ms))?;
        self.step(py, done)
    }

    fn snapshots(&self, py: Python<'_>, requests: PyRef<'_, PyRecords>, now_ms: u64) -> PyResult<PyStep> {
        let requests = &requests.inner;
        let done = self.detached(py, |table| table.snapshots(requests, now_ms))?;
        self.step(py, done)
    }

    fn take_back(
        &self,
        py: Python<'_>,
        records: PyRef<'_, PyRecords>,
        now_ms: u64,
        row_bytes_max: usize,
    ) -> PyResult<PyStep> {
        let records = &records.inner;
        let done = self.detached(py, |table| table.take_back(records, now_ms, row_bytes_max))?;
        self.step(py, done)
    }

    fn rekey(&self, py: Python<'_>, records: PyRef<'_, PyRecords>) -> PyResult<PyStep> {
        let records = &records.inner;
        let done = self.detached(py, |table| table.rekey(records))?;
        self.step(py, done)
    }

    fn changelog(&self, py: Python<'_>, after_mark: u64, upto_mark: u64) -> PyResult<PyRecords> {
        let rows = self.detached(py, |table| table.table().changelog(after_mark, upto_mark))?;
        Ok(rows.map_err(invalid)?.into())
    }

    fn commit(&self, py: Python<'_>, upto_mark: u64) -> PyResult<PyRecords> {
        let rows = self.detached(py, |table| table.commit(upto_mark))?;
        Ok(rows.map_err(invalid)?.into())
    }

    fn take_moved(&self, py: Python<'_>) -> PyResult<PyRecords> {
        let moved = self.detached(py, |table| table.table_mut().take_moved())?;
        Ok(moved.map_err(invalid)?.into())
    }

    #[getter]
    fn tombstones(&self, py: Python<'_>) -> PyResult<usize> {
        self.detached(py, |table| table.table().tombstones())
    }

    fn set_tombstones(&self, py: Python<'_>, count: usize) -> PyResult<()> {
        self.detached(py, |table| table.table_mut().set_tombstones(count))
    }

    fn drop_pending(&self, py: Python<'_>) -> PyResult<()> {
        self.detached(py, |table| table.drop_pending())
    }

    #[pyo3(signature = (records, *, requests=false))]
    fn missing<'p>(
        &self,
        py: Python<'p>,
        records: PyRef<'_, PyRecords>,
        requests: bool,
    ) -> PyResult<Vec<Bound<'p, PyBytes>>> {
        let records = &records.inner;
        let keys = self.detached(py, |table| table.missing(records, requests))?;
        Ok(keys.iter().map(|key| PyBytes::new(py, key)).collect())
    }

    fn load(&self, py: Python<'_>, keys: Vec<PyBackedBytes>, rows: Vec<Option<PyBackedBytes>>) -> PyResult<()> {
        if keys.len() != rows.len() {
            return Err(invalid(format!("load: came {} keys and {} rows, wanted as many", keys.len(), rows.len())));
        }
        let rows = keys.iter().map(|key| &**key).zip(rows.iter().map(Option::as_deref));
        self.detached(py, |table| table.load(rows))?.map_err(invalid)
    }

    fn restore(&self, py: Python<'_>, changelog: PyRef<'_, PyRecords>) -> PyResult<()> {
        let changelog = &changelog.inner;
        self.detached(py, |table| table.restore(changelog))?.map_err(invalid)
    }

    #[pyo3(signature = (*, log, output, generation, is_group_new=false, is_replaced=false))]
    fn assigned<'p>(
        &self,
        py: Python<'p>,
        log: &[u8],
        output: &[u8],
        generation: Option<u32>,
        is_group_new: bool,
        is_replaced: bool,
    ) -> PyResult<Bound<'p, PyDict>> {
        let assignment = Assignment {
            log: log_id("log", log)?,
            output: log_id("output", output)?,
            generation,
            is_group_new,
            is_replaced,
        };
        let came = self.detached(py, |table| table.assigned(&assignment))?.map_err(failed)?;
        let answer = PyDict::new(py);
        answer.set_item("replaced", came.is_replaced)?;
        answer.set_item("ordinal", came.ordinal)?;
        answer.set_item("known", came.is_known)?;
        answer.set_item("late", came.is_late)?;
        Ok(answer)
    }

    #[pyo3(signature = (reason, offset, count, now_ms, *, before=false))]
    fn stop(&self, py: Python<'_>, reason: &str, offset: i64, count: u64, now_ms: u64, before: bool) -> PyResult<u64> {
        self.detached(py, |table| table.stop(reason, offset, count, now_ms, before))?.map_err(failed)
    }

    fn resume(&self, py: Python<'_>, now_ms: u64) -> PyResult<u64> {
        self.detached(py, |table| table.resume(now_ms))?.map_err(failed)
    }

    fn upgrade(&self, py: Python<'_>) -> PyResult<u64> {
        self.detached(py, |table| table.upgrade())?.map_err(failed)
    }

    fn set_partial(&self, py: Python<'_>) -> PyResult<()> {
        self.detached(py, SyncTable::set_partial)
    }

    fn raise_epoch(&self, py: Python<'_>, epoch: u64) -> PyResult<()> {
        self.detached(py, |table| table.raise_epoch(epoch))
    }

    #[getter]
    fn partition_record<'p>(&self, py: Python<'p>) -> PyResult<Bound<'p, PyDict>> {
        let record = self.detached(py, |table| table.partition_record().clone())?;
        partition_fields(py, &record)
    }

    fn get<'p>(&self, py: Python<'p>, key: &[u8]) -> PyResult<Option<Bound<'p, PyBytes>>> {
        let row = self.detached(py, |table| table.table().get(key).map(<[u8]>::to_vec))?;
        Ok(row.map(|row| PyBytes::new(py, &row)))
    }

    fn keys<'p>(&self, py: Python<'p>) -> PyResult<Vec<Bound<'p, PyBytes>>> {
        let keys: Vec<Vec<u8>> = self.detached(py, |table| table.table().keys().map(<[u8]>::to_vec).collect())?;
        Ok(keys.iter().map(|key| PyBytes::new(py, key)).collect())
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.detached(py, |table| table.table().len())
    }

    #[getter]
    fn nbytes(&self, py: Python<'_>) -> PyResult<usize> {
        self.detached(py, |table| table.table().nbytes())
    }
}

fn failed(failure: Failure) -> PyErr {
    PyRuntimeError::new_err(failure.0)
}

/// An id of 16 bytes, or none.
fn log_id(name: &str, id: &[u8]) -> PyResult<LogId> {
    match id {
        [] => Ok(LOG_UNKNOWN),
        id => id.try_into().map_err(|_| invalid(format!("{name}: came {} bytes, wanted 16, or none", id.len()))),
    }
}

fn id_bytes<'p>(py: Python<'p>, id: &LogId) -> Bound<'p, PyBytes> {
    PyBytes::new(py, if *id == LOG_UNKNOWN { &[] } else { id })
}

fn partition_fields<'p>(py: Python<'p>, record: &PartitionRecord) -> PyResult<Bound<'p, PyDict>> {
    let (fields, logs, origins) = (PyDict::new(py), PyDict::new(py), PyDict::new(py));
    for (ordinal, log) in record.logs() {
        logs.set_item(ordinal, id_bytes(py, &log))?;
    }
    for (log, offsets) in record.origins() {
        let found = PyDict::new(py);
        for (partition, offset) in offsets {
            found.set_item(partition, offset)?;
        }
        origins.set_item(id_bytes(py, log), found)?;
    }
    fields.set_item("row_format", record.row_format)?;
    fields.set_item("logs", logs)?;
    fields.set_item("ordinal", record.ordinal())?;
    fields.set_item("last_epoch", record.last_epoch)?;
    fields.set_item("fence", record.fence)?;
    fields.set_item("partial", record.is_partial)?;
    fields.set_item("stop", stop_fields(py, &record.stopped)?)?;
    fields.set_item("stop_before", stop_fields(py, &record.stopped_before)?)?;
    fields.set_item("origins", origins)?;
    Ok(fields)
}

fn stop_fields<'p>(py: Python<'p>, stopped: &Option<Stopped>) -> PyResult<Option<Bound<'p, PyDict>>> {
    let Some(stopped) = stopped else { return Ok(None) };
    let fields = PyDict::new(py);
    fields.set_item("reason", &stopped.reason)?;
    fields.set_item("offset", stopped.offset)?;
    fields.set_item("since_ms", stopped.since_ms)?;
    fields.set_item("count", stopped.count)?;
    Ok(Some(fields))
}

/// A partition record by the names of its parts; ValueError on damage or a newer format.
#[pyfunction]
fn decode_partition<'p>(py: Python<'p>, record: &[u8]) -> PyResult<Bound<'p, PyDict>> {
    partition_fields(py, &PartitionRecord::decode(record).map_err(invalid)?)
}

/// A row by the names of its parts; ValueError on damage or a newer format.
#[pyfunction]
fn decode_row<'p>(py: Python<'p>, row: &[u8]) -> PyResult<Bound<'p, PyDict>> {
    let Row { header, message, deleted_at_ms } = Row::read(row).map_err(invalid)?;
    let fields = PyDict::new(py);
    fields.set_item("format", header.format)?;
    fields.set_item("tombstone", header.is_tombstone())?;
    fields.set_item("canonical", header.is_canonical())?;
    fields.set_item("snapshot_next", header.is_snapshot_next())?;
    fields.set_item("epoch", header.epoch)?;
    fields.set_item("revision", header.revision)?;
    fields.set_item("offset", header.offset)?;
    fields.set_item("ordinal", header.ordinal)?;
    fields.set_item("fence", header.fence)?;
    fields.set_item("schema", header.schema)?;
    fields.set_item("event_time_us", (header.event_time_us != TIME_UNKNOWN).then_some(header.event_time_us))?;
    fields.set_item("deleted_at_ms", header.is_tombstone().then_some(deleted_at_ms))?;
    let sequences = PyDict::new(py);
    for (source, sequence) in header.sequences() {
        sequences.set_item(source, sequence)?;
    }
    fields.set_item("sequences", sequences)?;
    fields.set_item("ids", header.ids().collect::<Vec<_>>())?;
    fields.set_item("message", PyBytes::new(py, message))?;
    Ok(fields)
}

/// When a row's key was deleted; None: it is no tombstone.
#[pyfunction]
fn deleted_at(row: &[u8]) -> Option<u64> {
    row::deleted_at(row)
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyJob>()?;
    m.add_class::<PyStep>()?;
    m.add_class::<PyTable>()?;
    m.add("SCHEMA_KEY", PyBytes::new(m.py(), SCHEMA_KEY))?;
    m.add("EXPIRE_MAX", EXPIRE_MAX)?;
    m.add_function(wrap_pyfunction!(deleted_at, m)?)?;
    m.add("PARTITION_KEY", PyBytes::new(m.py(), PARTITION_KEY))?;
    m.add("REPAIRS_KEY", PyBytes::new(m.py(), REPAIRS_KEY))?;
    m.add("ROW_FORMAT", ROW_FORMAT)?;
    m.add("RESERVED_PREFIX", PyBytes::new(m.py(), RESERVED_PREFIX))?;
    m.add_function(wrap_pyfunction!(decode_partition, m)?)?;
    m.add_function(wrap_pyfunction!(decode_row, m)?)
}
