//! The diff kernel: field tables, canonical form, diff, apply, patches.
use std::fmt::Display;
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use streams_kernel::apply::mask_paths;
use streams_kernel::diff::{Change, Delta};
use streams_kernel::patch::{self, Kind as PatchKind, PatchHead};
use streams_kernel::schema::{FieldSpec, Kind, MessageSpec, Schema, SchemaError};
use streams_kernel::wire;

const MICROS_PER_SECOND: i64 = 1_000_000;
const NANOS_PER_MICRO: i64 = 1_000;

fn refused(error: impl Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// Number, kind, flags, child message, oneof or -1, name, values of a closed enum.
type FieldRow = (u32, u8, u8, u32, i32, String, Option<Vec<i32>>);

fn field_spec(message: &str, row: FieldRow) -> Result<FieldSpec, SchemaError> {
    let (number, kind, flags, child, oneof, name, values) = row;
    let kind = Kind::from_number(kind).ok_or_else(|| {
        SchemaError(format!("{message}: field {number} ({name:?}) has kind {kind}, expected 0 to 11"))
    })?;
    Ok(FieldSpec { number, kind, flags, child, oneof, name, values })
}

/// A checked field table.
#[pyclass(name = "Schema", module = "streams._native", frozen)]
pub struct PySchema {
    pub inner: Arc<Schema>,
}

#[pymethods]
impl PySchema {
    #[new]
    #[pyo3(signature = (messages, ignore=Vec::new(), extensions=false, fingerprint=0))]
    fn new(
        messages: Vec<(String, Vec<FieldRow>)>,
        ignore: Vec<String>,
        extensions: bool,
        fingerprint: u64,
    ) -> PyResult<PySchema> {
        let specs: Result<Vec<MessageSpec>, SchemaError> = messages
            .into_iter()
            .map(|(full_name, rows)| {
                let fields = rows.into_iter().map(|row| field_spec(&full_name, row)).collect::<Result<_, _>>()?;
                Ok(MessageSpec { full_name, fields })
            })
            .collect();
        let schema =
            specs.and_then(|specs| Schema::new(specs, &ignore)).map_err(refused)?.with_fingerprint(fingerprint);
        Ok(PySchema { inner: Arc::new(if extensions { schema.with_extensions() } else { schema }) })
    }

    fn is_canonical(&self, message: &[u8]) -> bool {
        self.inner.is_canonical(message)
    }

    fn canonicalise<'p>(&self, py: Python<'p>, message: &[u8]) -> Option<Bound<'p, PyBytes>> {
        self.inner.canonicalise(message).map(|bytes| PyBytes::new(py, &bytes))
    }

    #[allow(clippy::type_complexity)] // the three parts that the stub names
    fn diff<'p>(
        &self,
        py: Python<'p>,
        old: &[u8],
        new: &[u8],
    ) -> PyResult<Option<(&'static str, Vec<String>, Bound<'p, PyBytes>)>> {
        let mut delta = Delta::new();
        let Ok(change) = self.inner.diff(old, new, &mut delta) else { return Ok(None) };
        let name = match change {
            Change::None => "none",
            Change::Ignored => "ignored",
            Change::Delta => "delta",
            Change::Snapshot => return Ok(Some(("snapshot", Vec::new(), PyBytes::new(py, &[])))),
        };
        Ok(Some((name, path_list(&delta.mask)?, PyBytes::new(py, &delta.data))))
    }

    #[pyo3(signature = (state, paths, data, numbers=Vec::new()))]
    fn apply<'p>(
        &self,
        py: Python<'p>,
        state: &[u8],
        paths: Vec<String>,
        data: &[u8],
        numbers: Vec<Vec<u32>>,
    ) -> PyResult<Bound<'p, PyBytes>> {
        let mut out = Vec::with_capacity(state.len() + data.len());
        self.inner.apply(state, &mask_body(&paths), &numbers_body(&numbers), data, &mut out).map_err(refused)?;
        Ok(PyBytes::new(py, &out))
    }

    fn splice<'p>(
        &self,
        py: Python<'p>,
        state: &[u8],
        paths: Vec<String>,
        data: &[u8],
        numbers: Vec<Vec<u32>>,
    ) -> PyResult<Bound<'p, PyBytes>> {
        let mut out = Vec::with_capacity(state.len() + data.len());
        self.inner.splice(state, &mask_body(&paths), &numbers_body(&numbers), data, &mut out).map_err(refused)?;
        Ok(PyBytes::new(py, &out))
    }

    #[pyo3(signature = (paths, numbers=Vec::new()))]
    fn knows(&self, paths: Vec<String>, numbers: Vec<Vec<u32>>) -> bool {
        self.inner.knows(&mask_body(&paths), &numbers_body(&numbers))
    }
}

fn mask_body(paths: &[String]) -> Vec<u8> {
    let mut mask = Vec::new();
    for path in paths {
        wire::put_len(&mut mask, 1, path.as_bytes());
    }
    mask
}

/// Records of `Patch.numbers`.
fn numbers_body(paths: &[Vec<u32>]) -> Vec<u8> {
    let mut records = Vec::new();
    for path in paths {
        patch::put_path(&mut records, path);
    }
    records
}

fn path_list(mask: &[u8]) -> PyResult<Vec<String>> {
    let paths: Option<Vec<String>> = mask_paths(mask).map(|path| path.map(str::to_owned)).collect();
    paths.ok_or_else(|| PyValueError::new_err("the mask is no FieldMask"))
}

#[pyfunction]
#[pyo3(signature = (*, key, revision, base_revision, kind, r#type, paths, data, digest, event_id, event_source,
                    event_time_us, traceparent, sequence, epoch, schema, tracestate="", numbers=Vec::new()))]
#[allow(clippy::too_many_arguments)] // the fields of the contract, by name only
fn encode_patch<'p>(
    py: Python<'p>,
    key: &[u8],
    revision: u64,
    base_revision: u64,
    kind: u64,
    r#type: &str,
    paths: Vec<String>,
    data: &[u8],
    digest: u64,
    event_id: &str,
    event_source: &str,
    event_time_us: Option<i64>,
    traceparent: &str,
    sequence: u64,
    epoch: u64,
    schema: u64,
    tracestate: &str,
    numbers: Vec<Vec<u32>>,
) -> PyResult<Bound<'p, PyBytes>> {
    let known = PatchKind::from_number(kind);
    let kind = known.ok_or_else(|| PyValueError::new_err(format!("patch kind {kind}, expected 1 to 3")))?;
    let head = PatchHead {
        key,
        revision,
        base_revision,
        kind,
        type_name: r#type,
        digest,
        event_id,
        event_source,
        event_time: event_time_us
            .map(|us| (us.div_euclid(MICROS_PER_SECOND), (us.rem_euclid(MICROS_PER_SECOND) * NANOS_PER_MICRO) as i32)),
        traceparent,
        sequence,
        epoch,
        schema,
        tracestate,
    };
    let mut out = Vec::new();
    patch::encode(&head, &mask_body(&paths), &numbers_body(&numbers), data, &mut out);
    Ok(PyBytes::new(py, &out))
}

#[pyfunction]
fn decode_patch<'p>(py: Python<'p>, patch: &[u8]) -> PyResult<Bound<'p, PyDict>> {
    let decoded = patch::decode(patch).map_err(refused)?;
    let head = decoded.head;
    let micros = |(seconds, nanos): (i64, i32)| {
        seconds.saturating_mul(MICROS_PER_SECOND).saturating_add(nanos as i64 / NANOS_PER_MICRO)
    };
    let fields = PyDict::new(py);
    fields.set_item("key", PyBytes::new(py, head.key))?;
    fields.set_item("revision", head.revision)?;
    fields.set_item("base_revision", head.base_revision)?;
    fields.set_item("kind", head.kind as u8)?;
    fields.set_item("type", head.type_name)?;
    fields.set_item("paths", path_list(decoded.mask)?)?;
    fields.set_item("data", PyBytes::new(py, decoded.data))?;
    fields.set_item("digest", head.digest)?;
    fields.set_item("event_id", head.event_id)?;
    fields.set_item("event_source", head.event_source)?;
    fields.set_item("event_time_us", head.event_time.map(micros))?;
    fields.set_item("traceparent", head.traceparent)?;
    fields.set_item("sequence", head.sequence)?;
    fields.set_item("epoch", head.epoch)?;
    fields.set_item("schema", head.schema)?;
    fields.set_item("tracestate", head.tracestate)?;
    let numbers: Option<Vec<Vec<u32>>> = patch::field_paths(decoded.numbers).collect();
    fields.set_item("numbers", numbers.ok_or_else(|| PyValueError::new_err("the patch's numbers name no fields"))?)?;
    Ok(fields)
}

#[pyfunction]
fn compose_patches<'p>(py: Python<'p>, schema: &PySchema, first: &[u8], second: &[u8]) -> PyResult<Bound<'p, PyBytes>> {
    let first = patch::decode(first).map_err(refused)?;
    let second = patch::decode(second).map_err(refused)?;
    let mut out = Vec::new();
    schema.inner.compose(&first, &second, &mut out).map_err(refused)?;
    Ok(PyBytes::new(py, &out))
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PySchema>()?;
    m.add_function(wrap_pyfunction!(encode_patch, m)?)?;
    m.add_function(wrap_pyfunction!(decode_patch, m)?)?;
    m.add_function(wrap_pyfunction!(compose_patches, m)?)
}
