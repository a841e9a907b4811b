//! Batches into Kafka, plainly or in one transaction with the offsets they came from.

use std::collections::HashMap;
use std::os::raw::{c_char, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka_sys as sys;
use streams_kernel::records::{Record, Records};
use sys::rd_kafka_resp_err_t as ErrorCode;

use crate::handle::{c_string, check, Handle, KafkaError, Partitions};

/// Ending a transaction is tried in steps this long, between which delivery reports are served.
const END_STEP_MS: c_int = 100;

/// Offset and topic partition to commit: (topic, partition, next offset, what is kept beside it).
pub type Position = (String, i32, i64, String);

/// What became of one record: its partition and offset, or librdkafka's error code.
pub type Delivered = (i32, i64, Option<String>);

/// One `produce_wait` under way. Several threads serve one event queue, so any of them may get another's reports.
struct Call {
    delivered: Vec<Option<Delivered>>,
    left: usize,
}

/// A message's opaque names its call in the upper half and its record, counted from 1, in the lower; 0: no call waits.
const RECORD_BITS: u32 = 32;
const _: () = assert!(usize::BITS == 64, "the opaque of a message holds two 32-bit numbers");

/// The group member in whose name offsets are committed; the broker fences an older generation (KIP-447).
pub struct Member<'a> {
    pub group: &'a str,
    pub generation: i32,
    pub member: &'a str,
    pub instance: Option<&'a str>,
}

struct Topic(*mut sys::rd_kafka_topic_t);
// SAFETY: topic objects are reference-counted and thread-safe in librdkafka.
unsafe impl Send for Topic {}

pub struct Producer {
    // Declared before the handle: topic objects are released first.
    topics: Mutex<HashMap<String, Topic>>,
    settings: HashMap<String, Vec<(String, String)>>,
    failed: Mutex<Option<KafkaError>>,
    calls: Mutex<HashMap<u32, Call>>,
    next_call: AtomicU32,
    handle: Handle,
}

impl Producer {
    /// `topics`: configuration of single topics, for example `compression.type`, beside the client's.
    pub fn new(
        config: &[(String, String)],
        topics: HashMap<String, Vec<(String, String)>>,
    ) -> Result<Producer, KafkaError> {
        let handle = Handle::new(sys::rd_kafka_type_t::RD_KAFKA_PRODUCER, config, sys::RD_KAFKA_EVENT_DR)?;
        Ok(Producer {
            topics: Mutex::new(HashMap::new()),
            settings: topics,
            failed: Mutex::new(None),
            calls: Mutex::new(HashMap::new()),
            next_call: AtomicU32::new(0),
            handle,
        })
    }

    fn topic(&self, name: &str) -> Result<*mut sys::rd_kafka_topic_t, KafkaError> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(topic) = topics.get(name) {
            return Ok(topic.0);
        }
        let c_name = c_string(name)?;
        let mut reason = vec![0 as c_char; 512];
        // SAFETY: the topic configuration is owned here until rd_kafka_topic_new takes it over; strings and buffer
        // outlive each call.
        let topic = unsafe {
            let conf = sys::rd_kafka_default_topic_conf_dup(self.handle.rk);
            for (key, value) in self.settings.get(name).into_iter().flatten() {
                let (c_key, c_value) = (c_string(key)?, c_string(value)?);
                let set = sys::rd_kafka_topic_conf_set(
                    conf,
                    c_key.as_ptr(),
                    c_value.as_ptr(),
                    reason.as_mut_ptr(),
                    reason.len(),
                );
                if set != sys::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK {
                    sys::rd_kafka_topic_conf_destroy(conf);
                    let words = std::ffi::CStr::from_ptr(reason.as_ptr()).to_string_lossy().into_owned();
                    return Err(KafkaError::local("_INVALID_ARG", format!("topic {name}, {key}: {words}")));
                }
            }
            sys::rd_kafka_topic_new(self.handle.rk, c_name.as_ptr(), conf)
        };
        if topic.is_null() {
            return Err(KafkaError::local("_INVALID_ARG", format!("topic {name} cannot be used")));
        }
        topics.insert(name.to_owned(), Topic(topic));
        Ok(topic)
    }

    fn calls(&self) -> MutexGuard<'_, HashMap<u32, Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, opaque: usize, delivered: Delivered) {
        let (call, record) = ((opaque >> RECORD_BITS) as u32, opaque as u32 as usize);
        let mut calls = self.calls();
        let Some(call) = calls.get_mut(&call) else { return }; // Its caller gave up waiting.
        if let Some(slot @ None) = call.delivered.get_mut(record - 1) {
            *slot = Some(delivered);
            call.left -= 1;
        }
    }

    fn report(&self, message: &sys::rd_kafka_message_t) {
        let opaque = message._private as usize;
        if opaque != 0 {
            let failed = message.err != ErrorCode::RD_KAFKA_RESP_ERR_NO_ERROR;
            let code = failed.then(|| KafkaError::of(message.err, "delivery").code);
            self.settle(opaque, (message.partition, message.offset, code));
            return;
        }
        if message.err != ErrorCode::RD_KAFKA_RESP_ERR_NO_ERROR {
            // SAFETY: a delivery report has a topic; its name lives as long as the topic object.
            let name = unsafe { std::ffi::CStr::from_ptr(sys::rd_kafka_topic_name(message.rkt)) }.to_string_lossy();
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.get_or_insert_with(|| {
                KafkaError::of(message.err, &format!("delivery to {name}")).at(&name, message.partition)
            });
        }
    }

    fn take_failed(&self) -> Result<(), KafkaError> {
        match self.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Hands all records over; waits while the queue is full, at most `timeout_ms`. Partition -1: by murmur2 of the key.
    pub fn produce(&self, topic: &str, partition: i32, records: &Records, timeout_ms: i32) -> Result<(), KafkaError> {
        let rkt = self.topic(topic)?;
        let deadline = deadline(timeout_ms);
        for record in records.iter() {
            if let Err(code) = self.hand_over_in_time(rkt, partition, record, 0, deadline)? {
                self.take_failed()?; // A record that failed before is why this one is refused.
                return Err(KafkaError::of(code, &format!("produce to {topic}")).at(topic, partition));
            }
        }
        self.poll(0)
    }

    /// Hands one record over, as soon as the queue has room.
    fn hand_over_in_time(
        &self,
        rkt: *mut sys::rd_kafka_topic_t,
        partition: i32,
        record: Record<'_>,
        opaque: usize,
        deadline: Instant,
    ) -> Result<Result<(), ErrorCode>, KafkaError> {
        loop {
            match self.hand_over(rkt, partition, record, opaque)? {
                Err(ErrorCode::RD_KAFKA_RESP_ERR__QUEUE_FULL) if Instant::now() < deadline => self.poll(5)?,
                other => return Ok(other),
            }
        }
    }

    fn hand_over(
        &self,
        rkt: *mut sys::rd_kafka_topic_t,
        partition: i32,
        record: Record<'_>,
        opaque: usize,
    ) -> Result<Result<(), ErrorCode>, KafkaError> {
        let mem = |data: Option<&[u8]>| sys::rd_kafka_vu_s__bindgen_ty_1 {
            mem: sys::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 {
                ptr: data.map_or(ptr::null_mut(), |data| data.as_ptr() as *mut c_void),
                size: data.map_or(0, <[u8]>::len),
            },
        };
        use sys::rd_kafka_vtype_t as V;
        let vu = |vtype, u| sys::rd_kafka_vu_s { vtype, u };
        let headers = Headers::of(record)?;
        let timestamp = record.timestamp_ms().max(0);
        let parts = [
            vu(V::RD_KAFKA_VTYPE_RKT, sys::rd_kafka_vu_s__bindgen_ty_1 { rkt }),
            vu(V::RD_KAFKA_VTYPE_PARTITION, sys::rd_kafka_vu_s__bindgen_ty_1 { i32_: partition }),
            vu(V::RD_KAFKA_VTYPE_MSGFLAGS, sys::rd_kafka_vu_s__bindgen_ty_1 { i: sys::RD_KAFKA_MSG_F_COPY as c_int }),
            vu(V::RD_KAFKA_VTYPE_KEY, mem(record.key())),
            vu(V::RD_KAFKA_VTYPE_VALUE, mem(record.value())),
            vu(V::RD_KAFKA_VTYPE_TIMESTAMP, sys::rd_kafka_vu_s__bindgen_ty_1 { i64_: timestamp }),
            vu(V::RD_KAFKA_VTYPE_OPAQUE, sys::rd_kafka_vu_s__bindgen_ty_1 { ptr: opaque as *mut c_void }),
            vu(V::RD_KAFKA_VTYPE_HEADERS, sys::rd_kafka_vu_s__bindgen_ty_1 { headers: headers.0 }),
        ];
        let count = if headers.0.is_null() { parts.len() - 1 } else { parts.len() };
        // SAFETY: key and value are copied by the call (MSG_F_COPY); headers pass to librdkafka only on success.
        unsafe {
            let error = sys::rd_kafka_produceva(self.handle.rk, parts.as_ptr(), count);
            if error.is_null() {
                std::mem::forget(headers);
                return Ok(Ok(()));
            }
            let code = sys::rd_kafka_error_code(error);
            sys::rd_kafka_error_destroy(error);
            Ok(Err(code))
        }
    }

    /// Produces and waits until every record was acknowledged or failed: what became of each, in the records' order.
    ///
    /// One record's failure is no other's. What is still in flight after `timeout_ms` has the code `_TIMED_OUT` and may
    /// yet arrive. May be called from several threads at once.
    pub fn produce_wait(
        &self,
        topic: &str,
        partition: i32,
        records: &Records,
        timeout_ms: i32,
    ) -> Result<Vec<Delivered>, KafkaError> {
        let rkt = self.topic(topic)?;
        let deadline = deadline(timeout_ms);
        let id = self.next_call.fetch_add(1, Ordering::Relaxed);
        self.calls().insert(id, Call { delivered: vec![None; records.len()], left: records.len() });
        let settled = self.hand_over_and_wait(rkt, partition, records, id, deadline);
        let call = self.calls().remove(&id);
        settled?;
        let unsettled = || (partition, -1, Some("_TIMED_OUT".to_owned()));
        let delivered = call.map_or(Vec::new(), |call| call.delivered);
        Ok(delivered.into_iter().map(|delivered| delivered.unwrap_or_else(unsettled)).collect())
    }

    fn hand_over_and_wait(
        &self,
        rkt: *mut sys::rd_kafka_topic_t,
        partition: i32,
        records: &Records,
        id: u32,
        deadline: Instant,
    ) -> Result<(), KafkaError> {
        for (index, record) in records.iter().enumerate() {
            let opaque = (id as usize) << RECORD_BITS | (index + 1);
            if let Err(code) = self.hand_over_in_time(rkt, partition, record, opaque, deadline)? {
                self.settle(opaque, (partition, -1, Some(KafkaError::of(code, "produce").code)));
            }
        }
        loop {
            self.flush_step()?;
            let left = self.calls().get(&id).map_or(0, |call| call.left);
            if left == 0 || Instant::now() > deadline {
                return Ok(());
            }
        }
    }

    /// Some milliseconds of flushing: skips the linger time and sleeps on a condition, not a poll. Returns what is left.
    fn flush_step(&self) -> Result<i32, KafkaError> {
        // SAFETY: the handle is live.
        unsafe { sys::rd_kafka_flush(self.handle.rk, 2) };
        self.poll(0)?;
        Ok(self.in_flight())
    }

    /// Waits until nothing is in flight; the first delivery that failed since the last flush is the error, at once: a
    /// transaction that has failed holds back what is still in flight until it is aborted.
    pub fn flush(&self, timeout_ms: i32) -> Result<(), KafkaError> {
        let deadline = deadline(timeout_ms);
        loop {
            let left = self.flush_step()?;
            self.take_failed()?;
            if left == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                let mut error = KafkaError::local("_TIMED_OUT", format!("{left} records not acknowledged in time"));
                error.retriable = true;
                return Err(error);
            }
        }
    }

    /// Serves delivery reports and log lines; an ordinary producer is served now and then.
    pub fn poll(&self, timeout_ms: i32) -> Result<(), KafkaError> {
        self.handle.serve(timeout_ms, |message| self.report(message))
    }

    pub fn in_flight(&self) -> i32 {
        // SAFETY: the handle is live.
        unsafe { sys::rd_kafka_outq_len(self.handle.rk) }
    }

    pub fn init_transactions(&self, timeout_ms: i32) -> Result<(), KafkaError> {
        // SAFETY: the handle is live.
        KafkaError::take(unsafe { sys::rd_kafka_init_transactions(self.handle.rk, timeout_ms) }, "init transactions")
    }

    pub fn begin(&self) -> Result<(), KafkaError> {
        // SAFETY: the handle is live.
        KafkaError::take(unsafe { sys::rd_kafka_begin_transaction(self.handle.rk) }, "begin transaction")
    }

    /// Adds input offsets to the open transaction in the name of a member that another client runs.
    pub fn send_offsets(&self, offsets: &[Position], member: &Member<'_>, timeout_ms: i32) -> Result<(), KafkaError> {
        let list = Partitions::with_metadata(
            offsets.iter().map(|(topic, partition, offset, kept)| (topic.as_str(), *partition, *offset, kept.as_str())),
        )?;
        let (group, id) = (c_string(member.group)?, c_string(member.member)?);
        let instance = member.instance.map(c_string).transpose()?;
        // SAFETY: strings and list outlive the calls; the metadata object is freed once.
        let error = unsafe {
            let metadata = sys::rd_kafka_consumer_group_metadata_new_with_genid(
                group.as_ptr(),
                member.generation,
                id.as_ptr(),
                instance.as_ref().map_or(ptr::null(), |instance| instance.as_ptr()),
            );
            let error = sys::rd_kafka_send_offsets_to_transaction(self.handle.rk, list.0, metadata, timeout_ms);
            sys::rd_kafka_consumer_group_metadata_destroy(metadata);
            error
        };
        KafkaError::take(error, "offsets of the transaction")
    }

    /// Ends the transaction. A retriable error after `timeout_ms` leaves the outcome unknown: call again.
    pub fn commit(&self, timeout_ms: i32) -> Result<(), KafkaError> {
        // SAFETY: the handle is live.
        let result =
            self.patiently(timeout_ms, |wait_ms| unsafe { sys::rd_kafka_commit_transaction(self.handle.rk, wait_ms) });
        result.and_then(|()| self.take_failed())
    }

    pub fn abort(&self, timeout_ms: i32) -> Result<(), KafkaError> {
        // SAFETY: the handle is live.
        let result =
            self.patiently(timeout_ms, |wait_ms| unsafe { sys::rd_kafka_abort_transaction(self.handle.rk, wait_ms) });
        // Outputs of an aborted transaction fail by being purged: their reports are no news.
        let _purged = self.take_failed();
        result
    }

    /// Repeats a call that can be resumed, serving delivery reports in between: ending a transaction waits for them.
    fn patiently(&self, timeout_ms: i32, call: impl Fn(c_int) -> *mut sys::rd_kafka_error_t) -> Result<(), KafkaError> {
        let deadline = deadline(timeout_ms);
        loop {
            let result = KafkaError::take(call(END_STEP_MS), "end of the transaction");
            self.handle.serve(0, |message| self.report(message))?;
            match result {
                Err(error) if error.retriable && !error.abortable && Instant::now() < deadline => {}
                other => return other,
            }
        }
    }

    pub fn set_token(&self, token: &str, expires_ms: i64, principal: &str) -> Result<(), KafkaError> {
        self.handle.set_token(token, expires_ms, principal)
    }

    pub fn take_logs(&self) -> Vec<String> {
        self.handle.take_logs()
    }

    /// Partition count of a topic, or `None` where the topic does not exist.
    pub fn partitions(&self, topic: &str, timeout_ms: i32) -> Result<Option<usize>, KafkaError> {
        let rkt = self.topic(topic)?;
        let mut metadata = ptr::null();
        // SAFETY: on success `metadata` is owned here until destroyed; the topic array holds `topic_cnt` elements.
        unsafe {
            check(sys::rd_kafka_metadata(self.handle.rk, 0, rkt, &mut metadata, timeout_ms), "metadata")?;
            let found = std::slice::from_raw_parts((*metadata).topics, (*metadata).topic_cnt as usize)
                .first()
                .filter(|topic| topic.err == ErrorCode::RD_KAFKA_RESP_ERR_NO_ERROR)
                .map(|topic| topic.partition_cnt as usize);
            sys::rd_kafka_metadata_destroy(metadata);
            Ok(found.filter(|count| *count > 0))
        }
    }
}

fn deadline(timeout_ms: i32) -> Instant {
    Instant::now() + Duration::from_millis(timeout_ms.max(0) as u64)
}

impl Drop for Producer {
    fn drop(&mut self) {
        let topics = self.topics.get_mut().unwrap_or_else(PoisonError::into_inner);
        for topic in topics.values() {
            // SAFETY: each topic object was created once by `topic` and is released once, before its client.
            unsafe { sys::rd_kafka_topic_destroy(topic.0) };
        }
    }
}

/// Headers of one record in librdkafka's form; freed unless librdkafka took them over.
struct Headers(*mut sys::rd_kafka_headers_t);

impl Headers {
    fn of(record: Record<'_>) -> Result<Headers, KafkaError> {
        if record.header_count() == 0 {
            return Ok(Headers(ptr::null_mut()));
        }
        // SAFETY: names and values are copied by the call, with their lengths.
        unsafe {
            let headers = Headers(sys::rd_kafka_headers_new(record.header_count()));
            for (name, value) in record.headers() {
                let code = sys::rd_kafka_header_add(
                    headers.0,
                    name.as_ptr().cast(),
                    name.len() as isize,
                    value.map_or(ptr::null(), |value| value.as_ptr().cast()),
                    value.map_or(0, |value| value.len() as isize),
                );
                check(code, "header")?;
            }
            Ok(headers)
        }
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: still owned here: librdkafka did not take the headers over.
            unsafe { sys::rd_kafka_headers_destroy(self.0) }
        }
    }
}
