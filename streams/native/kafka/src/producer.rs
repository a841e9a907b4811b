//! Batches into Kafka, plainly or in one transaction with the offsets they came from.

use std::collections::HashMap;
use std::os::raw::{c_char, c_int, c_void};
use std::ptr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka_sys as sys;
use streams_kernel::records::{Record, Records};
use sys::rd_kafka_resp_err_t as ErrorCode;

use crate::handle::{c_string, check, Handle, KafkaError, Partitions};

/// Offset and topic partition to commit: (topic, partition, next offset).
pub type Position = (String, i32, i64);

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
    handle: Handle,
}

impl Producer {
    /// `topics`: configuration of single topics, for example `compression.type`, beside the client's.
    pub fn new(
        config: &[(String, String)],
        topics: HashMap<String, Vec<(String, String)>>,
    ) -> Result<Producer, KafkaError> {
        let handle = Handle::new(sys::rd_kafka_type_t::RD_KAFKA_PRODUCER, config, sys::RD_KAFKA_EVENT_DR)?;
        Ok(Producer { topics: Mutex::new(HashMap::new()), settings: topics, failed: Mutex::new(None), handle })
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

    fn report(&self, message: &sys::rd_kafka_message_t) {
        if message.err != ErrorCode::RD_KAFKA_RESP_ERR_NO_ERROR {
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.get_or_insert_with(|| KafkaError::of(message.err, "delivery"));
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
        self.enqueue(topic, partition, records, timeout_ms, false, |message| self.report(message))
    }

    fn enqueue(
        &self,
        topic: &str,
        partition: i32,
        records: &Records,
        timeout_ms: i32,
        numbered: bool,
        mut report: impl FnMut(&sys::rd_kafka_message_t),
    ) -> Result<(), KafkaError> {
        let rkt = self.topic(topic)?;
        let deadline = Instant::now() + Duration::from_millis(timeout_ms.max(0) as u64);
        for (index, record) in records.iter().enumerate() {
            let number = if numbered { index + 1 } else { 0 };
            while let Err(code) = self.hand_over(rkt, partition, record, number)? {
                if code != ErrorCode::RD_KAFKA_RESP_ERR__QUEUE_FULL || Instant::now() > deadline {
                    return Err(KafkaError::of(code, &format!("produce to {topic}")));
                }
                self.handle.serve(5, &mut report)?;
            }
        }
        self.handle.serve(0, report)
    }

    fn hand_over(
        &self,
        rkt: *mut sys::rd_kafka_topic_t,
        partition: i32,
        record: Record<'_>,
        number: usize,
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
            vu(V::RD_KAFKA_VTYPE_OPAQUE, sys::rd_kafka_vu_s__bindgen_ty_1 { ptr: number as *mut c_void }),
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

    /// Produces and waits for every acknowledgement: (partition, offset) in the order of the records.
    pub fn produce_wait(
        &self,
        topic: &str,
        partition: i32,
        records: &Records,
        timeout_ms: i32,
    ) -> Result<Vec<(i32, i64)>, KafkaError> {
        let acks = Mutex::new(vec![(-1, -1); records.len()]);
        let note = |message: &sys::rd_kafka_message_t| {
            self.report(message);
            let number = message._private as usize;
            if number > 0 {
                let mut acks = acks.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(ack) = acks.get_mut(number - 1) {
                    *ack = (message.partition, message.offset);
                }
            }
        };
        self.enqueue(topic, partition, records, timeout_ms, true, note)?;
        self.drain(timeout_ms, note)?;
        Ok(acks.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until nothing is in flight; the first delivery that failed since the last flush is the error.
    pub fn flush(&self, timeout_ms: i32) -> Result<(), KafkaError> {
        self.drain(timeout_ms, |message| self.report(message))
    }

    fn drain(&self, timeout_ms: i32, mut report: impl FnMut(&sys::rd_kafka_message_t)) -> Result<(), KafkaError> {
        let deadline = Instant::now() + Duration::from_millis(timeout_ms.max(0) as u64);
        loop {
            // SAFETY: the handle is live. The short flush skips the linger time and sleeps on a condition, not a poll.
            let left = unsafe {
                sys::rd_kafka_flush(self.handle.rk, 2);
                self.handle.serve(0, &mut report)?;
                sys::rd_kafka_outq_len(self.handle.rk)
            };
            if left == 0 {
                return self.take_failed();
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
    pub fn send_offsets(
        &self,
        offsets: &[Position],
        member: &Member<'_>,
        timeout_ms: i32,
    ) -> Result<(), KafkaError> {
        let list = Partitions::new(offsets.iter().map(|(topic, partition, offset)| (topic.as_str(), *partition, *offset)))?;
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

    pub fn commit(&self, timeout_ms: i32) -> Result<(), KafkaError> {
        // SAFETY: the handle is live.
        let result = KafkaError::take(
            unsafe { sys::rd_kafka_commit_transaction(self.handle.rk, timeout_ms) },
            "commit transaction",
        );
        self.poll(0)?;
        result
    }

    pub fn abort(&self, timeout_ms: i32) -> Result<(), KafkaError> {
        // Outputs of an aborted transaction fail by being purged: their reports are no news.
        // SAFETY: the handle is live.
        let result = KafkaError::take(
            unsafe { sys::rd_kafka_abort_transaction(self.handle.rk, timeout_ms) },
            "abort transaction",
        );
        self.handle.serve(0, |_| {})?;
        let _purged = self.take_failed();
        result
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
