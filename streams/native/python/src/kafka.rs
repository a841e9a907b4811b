//! `KafkaConsumer`, `KafkaProducer`, `KafkaAdmin`: every call releases the interpreter while it waits.
use std::collections::HashMap;

use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use streams_kafka::{
    Admin, Committed, Consumer, Delivered, KafkaError as Failure, Member, Position, Producer, TopicSpec,
};

use crate::records::PyRecords;

create_exception!(streams._native, KafkaError, PyException, "What librdkafka said: code, retriable, fatal, abortable.");

fn raise(py: Python<'_>, error: Failure) -> PyErr {
    let raised = KafkaError::new_err(error.to_string());
    let value = raised.value(py);
    let set = || -> PyResult<()> {
        value.setattr("code", &error.code)?;
        value.setattr("retriable", error.retriable)?;
        value.setattr("fatal", error.fatal)?;
        value.setattr("abortable", error.abortable)?;
        value.setattr("place", error.place.clone())
    };
    match set() {
        Ok(()) => raised,
        Err(other) => other,
    }
}

/// Runs `work` without the interpreter and turns its error into the Python exception.
fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> Result<T, Failure> + Send) -> PyResult<T> {
    py.detach(work).map_err(|error| raise(py, error))
}

fn pairs(config: HashMap<String, String>) -> Vec<(String, String)> {
    config.into_iter().collect()
}

fn closed(what: &str) -> PyErr {
    PyRuntimeError::new_err(format!("this {what} is closed"))
}

#[pyclass(name = "KafkaConsumer", module = "streams._native", frozen)]
struct PyConsumer {
    inner: std::sync::RwLock<Option<Consumer>>,
}

type Run = (String, i32, PyRecords, i64);

/// A position as Python gives it, with or without what is to be kept beside the offset.
#[derive(FromPyObject)]
enum Given {
    Kept(String, i32, i64, String),
    Plain(String, i32, i64),
}

impl Given {
    fn parts(&self) -> (&str, i32, i64, &str) {
        match self {
            Given::Kept(topic, partition, offset, kept) => (topic, *partition, *offset, kept),
            Given::Plain(topic, partition, offset) => (topic, *partition, *offset, ""),
        }
    }
    fn position(self) -> Position {
        match self {
            Given::Kept(topic, partition, offset, kept) => (topic, partition, offset, kept),
            Given::Plain(topic, partition, offset) => (topic, partition, offset, String::new()),
        }
    }
}

impl PyConsumer {
    fn with<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&Consumer) -> Result<T, Failure> + Send) -> PyResult<T> {
        let done = py.detach(|| {
            let guard = self.inner.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            guard.as_ref().map(work)
        });
        done.ok_or_else(|| closed("consumer"))?.map_err(|error| raise(py, error))
    }
}

#[pymethods]
impl PyConsumer {
    #[new]
    fn new(py: Python<'_>, config: HashMap<String, String>) -> PyResult<PyConsumer> {
        let consumer = detached(py, || Consumer::new(&pairs(config)))?;
        Ok(PyConsumer { inner: std::sync::RwLock::new(Some(consumer)) })
    }
    fn assign(&self, py: Python<'_>, partitions: Vec<(String, i32, i64)>) -> PyResult<()> {
        self.with(py, |c| c.assign(partitions.iter().map(|(t, p, o)| (t.as_str(), *p, *o))))
    }
    fn unassign(&self, py: Python<'_>, partitions: Vec<(String, i32)>) -> PyResult<()> {
        self.with(py, |c| c.unassign(partitions.iter().map(|(t, p)| (t.as_str(), *p))))
    }
    fn subscribe(&self, py: Python<'_>, topics: Vec<String>) -> PyResult<()> {
        self.with(py, |c| c.subscribe(topics.iter().map(String::as_str)))
    }
    fn assignment(&self, py: Python<'_>) -> PyResult<Vec<(String, i32)>> {
        self.with(py, Consumer::assignment)
    }
    fn membership(&self, py: Python<'_>) -> PyResult<(String, i32)> {
        self.with(py, |c| Ok(c.membership()))
    }
    #[pyo3(signature = (positions, timeout_ms=60_000))]
    fn commit(&self, py: Python<'_>, positions: Vec<Given>, timeout_ms: i32) -> PyResult<()> {
        self.with(py, |c| c.commit(positions.iter().map(Given::parts), timeout_ms))
    }
    fn kept(&self, py: Python<'_>, partitions: Vec<(String, i32)>, timeout_ms: i32) -> PyResult<Vec<Committed>> {
        self.with(py, |c| c.committed(partitions.iter().map(|(t, p)| (t.as_str(), *p)), timeout_ms))
    }
    fn committed(
        &self,
        py: Python<'_>,
        partitions: Vec<(String, i32)>,
        timeout_ms: i32,
    ) -> PyResult<Vec<(String, i32, i64)>> {
        let found = self.kept(py, partitions, timeout_ms)?;
        Ok(found.into_iter().map(|(topic, partition, offset, _)| (topic, partition, offset)).collect())
    }
    fn watermarks(&self, py: Python<'_>, topic: &str, partition: i32, timeout_ms: i32) -> PyResult<(i64, i64)> {
        self.with(py, |c| c.watermarks(topic, partition, timeout_ms))
    }
    fn seek(&self, py: Python<'_>, positions: Vec<(String, i32, i64)>, timeout_ms: i32) -> PyResult<()> {
        self.with(py, |c| c.seek(positions.iter().map(|(t, p, o)| (t.as_str(), *p, *o)), timeout_ms))
    }
    fn fetch(&self, py: Python<'_>, records_max: usize, bytes_max: usize, timeout_ms: i32) -> PyResult<Vec<Run>> {
        let runs = self.with(py, |c| c.fetch(records_max, bytes_max, timeout_ms))?;
        Ok(runs.into_iter().map(|run| (run.topic, run.partition, run.records.into(), run.end_offset)).collect())
    }
    fn wake(&self) {
        // One that is being closed is not waited for: what is to wake there has ended.
        if let Ok(inner) = self.inner.try_read() {
            if let Some(consumer) = inner.as_ref() {
                consumer.wake();
            }
        }
    }
    fn set_token(&self, py: Python<'_>, token: &str, expires_ms: i64, principal: &str) -> PyResult<()> {
        self.with(py, |c| c.set_token(token, expires_ms, principal))
    }
    fn logs(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.with(py, |c| Ok(c.take_logs()))
    }
    fn close(&self, py: Python<'_>) {
        py.detach(|| drop(self.inner.write().unwrap_or_else(std::sync::PoisonError::into_inner).take()));
    }
}

#[pyclass(name = "KafkaProducer", module = "streams._native", frozen)]
struct PyProducer {
    inner: std::sync::RwLock<Option<Producer>>,
}

impl PyProducer {
    fn with<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&Producer) -> Result<T, Failure> + Send) -> PyResult<T> {
        let done = py.detach(|| {
            let guard = self.inner.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            guard.as_ref().map(work)
        });
        done.ok_or_else(|| closed("producer"))?.map_err(|error| raise(py, error))
    }
}

#[pymethods]
impl PyProducer {
    #[new]
    #[pyo3(signature = (config, topics=HashMap::new()))]
    fn new(
        py: Python<'_>,
        config: HashMap<String, String>,
        topics: HashMap<String, HashMap<String, String>>,
    ) -> PyResult<PyProducer> {
        let topics = topics.into_iter().map(|(name, config)| (name, pairs(config))).collect();
        let producer = detached(py, || Producer::new(&pairs(config), topics))?;
        Ok(PyProducer { inner: std::sync::RwLock::new(Some(producer)) })
    }
    #[pyo3(signature = (topic, partition, records, timeout_ms=60_000))]
    fn produce(
        &self,
        py: Python<'_>,
        topic: &str,
        partition: i32,
        records: PyRef<'_, PyRecords>,
        timeout_ms: i32,
    ) -> PyResult<usize> {
        let records = &records.inner;
        self.with(py, |p| p.produce(topic, partition, records, timeout_ms))?;
        Ok(records.len())
    }
    #[pyo3(signature = (topic, partition, records, timeout_ms=60_000))]
    fn produce_wait(
        &self,
        py: Python<'_>,
        topic: &str,
        partition: i32,
        records: PyRef<'_, PyRecords>,
        timeout_ms: i32,
    ) -> PyResult<Vec<Delivered>> {
        let records = &records.inner;
        self.with(py, |p| p.produce_wait(topic, partition, records, timeout_ms))
    }
    fn flush(&self, py: Python<'_>, timeout_ms: i32) -> PyResult<()> {
        self.with(py, |p| p.flush(timeout_ms))
    }
    fn poll(&self, py: Python<'_>, timeout_ms: i32) -> PyResult<()> {
        self.with(py, |p| p.poll(timeout_ms))
    }
    fn in_flight(&self, py: Python<'_>) -> PyResult<i32> {
        self.with(py, |p| Ok(p.in_flight()))
    }
    fn partitions(&self, py: Python<'_>, topic: &str, timeout_ms: i32) -> PyResult<Option<usize>> {
        self.with(py, |p| p.partitions(topic, timeout_ms))
    }
    fn init_transactions(&self, py: Python<'_>, timeout_ms: i32) -> PyResult<()> {
        self.with(py, |p| p.init_transactions(timeout_ms))
    }
    fn begin(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, Producer::begin)
    }
    #[pyo3(signature = (offsets, group, generation, member, instance, timeout_ms))]
    #[allow(clippy::too_many_arguments)] // One call of the protocol, named arguments in Python.
    fn send_offsets(
        &self,
        py: Python<'_>,
        offsets: Vec<Given>,
        group: &str,
        generation: i32,
        member: &str,
        instance: Option<&str>,
        timeout_ms: i32,
    ) -> PyResult<()> {
        let member = Member { group, generation, member, instance };
        let offsets: Vec<Position> = offsets.into_iter().map(Given::position).collect();
        self.with(py, |p| p.send_offsets(&offsets, &member, timeout_ms))
    }
    fn commit(&self, py: Python<'_>, timeout_ms: i32) -> PyResult<()> {
        self.with(py, |p| p.commit(timeout_ms))
    }
    fn abort(&self, py: Python<'_>, timeout_ms: i32) -> PyResult<()> {
        self.with(py, |p| p.abort(timeout_ms))
    }
    fn set_token(&self, py: Python<'_>, token: &str, expires_ms: i64, principal: &str) -> PyResult<()> {
        self.with(py, |p| p.set_token(token, expires_ms, principal))
    }
    fn logs(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.with(py, |p| Ok(p.take_logs()))
    }
    fn close(&self, py: Python<'_>) {
        py.detach(|| drop(self.inner.write().unwrap_or_else(std::sync::PoisonError::into_inner).take()));
    }
}

#[pyclass(name = "KafkaAdmin", module = "streams._native", frozen)]
struct PyAdmin {
    inner: Admin,
}

type Outcome = (String, Option<String>);

#[pymethods]
impl PyAdmin {
    #[new]
    fn new(py: Python<'_>, config: HashMap<String, String>) -> PyResult<PyAdmin> {
        Ok(PyAdmin { inner: detached(py, || Admin::new(&pairs(config)))? })
    }
    fn set_token(&self, py: Python<'_>, token: &str, expires_ms: i64, principal: &str) -> PyResult<()> {
        detached(py, || self.inner.set_token(token, expires_ms, principal))
    }
    fn create_topics(
        &self,
        py: Python<'_>,
        topics: Vec<(String, i32, i32, HashMap<String, String>)>,
        timeout_ms: u64,
    ) -> PyResult<Vec<Outcome>> {
        let topics: Vec<TopicSpec> = topics
            .into_iter()
            .map(|(name, partitions, replication, config)| TopicSpec { name, partitions, replication, config })
            .collect();
        detached(py, || self.inner.create_topics(&topics, timeout_ms))
    }
    fn delete_topics(&self, py: Python<'_>, names: Vec<String>, timeout_ms: u64) -> PyResult<Vec<Outcome>> {
        detached(py, || self.inner.delete_topics(&names.iter().map(String::as_str).collect::<Vec<_>>(), timeout_ms))
    }
    fn topics(&self, py: Python<'_>, timeout_ms: u64) -> PyResult<HashMap<String, usize>> {
        detached(py, || self.inner.topics(timeout_ms))
    }
    fn partitions(&self, py: Python<'_>, names: Vec<String>, timeout_ms: u64) -> PyResult<HashMap<String, usize>> {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        detached(py, || self.inner.partitions(&names, timeout_ms))
    }
    fn topic_ids<'py>(
        &self,
        py: Python<'py>,
        names: Vec<String>,
        timeout_ms: u64,
    ) -> PyResult<HashMap<String, Bound<'py, PyBytes>>> {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let found = detached(py, || self.inner.topic_ids(&names, timeout_ms))?;
        Ok(found.into_iter().map(|(name, id)| (name, PyBytes::new(py, &id))).collect())
    }
    fn topic_config(&self, py: Python<'_>, name: &str, timeout_ms: u64) -> PyResult<HashMap<String, String>> {
        detached(py, || self.inner.topic_config(name, timeout_ms))
    }
}

pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyConsumer>()?;
    m.add_class::<PyProducer>()?;
    m.add_class::<PyAdmin>()?;
    m.add("KafkaError", m.py().get_type::<KafkaError>())
}
