//! Chunks out of Kafka: batches of messages, copied once into the arenas of [`Records`].

use std::collections::VecDeque;
use std::os::raw::c_void;
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rdkafka_sys as sys;
use streams_kernel::envelope::HEADERS_UNREAD;
use streams_kernel::records::Records;
use sys::rd_kafka_resp_err_t as ErrorCode;

use crate::handle::{c_string, check, text, Handle, KafkaError, Partitions};

/// Messages taken per call into librdkafka: the pointer array stays in the cache.
const BATCH: usize = 512;

/// What a group has committed: (topic, partition, next offset, metadata).
pub type Committed = (String, i32, i64, String);

/// What one partition gave in one fetch.
pub struct Fetched {
    pub topic: String,
    pub partition: i32,
    pub records: Records,
    /// The offset at which the end of the partition was reported; -1 while it was not.
    pub end_offset: i64,
}

/// A consumer without automatic commits. Partitions are assigned by hand or by group membership.
pub struct Consumer {
    handle: Handle,
    queue: *mut sys::rd_kafka_queue_t,
    room: Room,
    /// What ended a fetch that had records, or had more errors than one: each is said by a fetch of its own.
    failed: Mutex<VecDeque<KafkaError>>,
}

/// What the largest run of the last fetch held: the next one's memory is asked for at once instead of doubled up to it.
#[derive(Default)]
struct Room {
    records: AtomicUsize,
    bytes: AtomicUsize,
}

impl Room {
    fn learn(&self, fetched: &[Fetched]) {
        let largest = |size: fn(&Records) -> usize| fetched.iter().map(|run| size(&run.records)).max().unwrap_or(0);
        self.records.store(largest(Records::len), Ordering::Relaxed);
        self.bytes.store(largest(Records::nbytes), Ordering::Relaxed);
    }

    fn records(&self) -> Records {
        Records::with_capacity(self.records.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

// SAFETY: librdkafka's queue calls are thread-safe; the pointer is freed once, in Drop.
unsafe impl Send for Consumer {}
// SAFETY: as above.
unsafe impl Sync for Consumer {}

impl Consumer {
    pub fn new(config: &[(String, String)]) -> Result<Consumer, KafkaError> {
        let handle = Handle::new(sys::rd_kafka_type_t::RD_KAFKA_CONSUMER, config, 0)?;
        // Messages stay on the consumer's own queue: with rd_kafka_poll_set_consumer the main queue would be forwarded
        // there, and serving its events would take messages away.
        // SAFETY: the handle is live; the consumer queue holds a reference of its own.
        let queue = unsafe { sys::rd_kafka_queue_get_consumer(handle.rk) };
        Ok(Consumer { handle, queue, room: Room::default(), failed: Mutex::default() })
    }

    pub fn assign<'a>(&self, items: impl IntoIterator<Item = (&'a str, i32, i64)>) -> Result<(), KafkaError> {
        let list = Partitions::new(items)?;
        self.forgive(&list);
        // SAFETY: handle and list are live for the call.
        KafkaError::take(unsafe { sys::rd_kafka_incremental_assign(self.handle.rk, list.0) }, "assign")
    }

    pub fn unassign<'a>(&self, items: impl IntoIterator<Item = (&'a str, i32)>) -> Result<(), KafkaError> {
        let list = Partitions::new(items.into_iter().map(|(topic, partition)| (topic, partition, 0)))?;
        self.forgive(&list);
        // SAFETY: handle and list are live for the call.
        KafkaError::take(unsafe { sys::rd_kafka_incremental_unassign(self.handle.rk, list.0) }, "unassign")
    }

    /// An error of a partition that is placed anew, or goes, is nobody's any more.
    fn forgive(&self, list: &Partitions) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.is_empty() {
            return;
        }
        let placed = list.items();
        failed.retain(|error| {
            let place = error.place.as_ref();
            !place.is_some_and(|place| placed.iter().any(|item| (&item.0, item.1) == (&place.0, place.1)))
        });
    }

    pub fn subscribe<'a>(&self, topics: impl IntoIterator<Item = &'a str>) -> Result<(), KafkaError> {
        let list = Partitions::new(topics.into_iter().map(|topic| (topic, -1, 0)))?;
        // SAFETY: handle and list are live for the call.
        check(unsafe { sys::rd_kafka_subscribe(self.handle.rk, list.0) }, "subscribe")
    }

    /// The partitions that group membership or `assign` gave this consumer.
    pub fn assignment(&self) -> Result<Vec<(String, i32)>, KafkaError> {
        let mut list = ptr::null_mut();
        // SAFETY: on success `list` is a new list that the returned wrapper owns.
        check(unsafe { sys::rd_kafka_assignment(self.handle.rk, &mut list) }, "assignment")?;
        Ok(Partitions(list).items().into_iter().map(|(topic, partition, _, _)| (topic, partition)).collect())
    }

    /// Member id and generation in the group; another pair after every rebalance. Empty and -1 without a group.
    pub fn membership(&self) -> (String, i32) {
        // SAFETY: the handle is live; the metadata object is freed once, after the id was copied out of it.
        unsafe {
            let metadata = sys::rd_kafka_consumer_group_metadata(self.handle.rk);
            if metadata.is_null() {
                return (String::new(), -1);
            }
            let member = text(sys::rd_kafka_consumer_group_metadata_member_id(metadata));
            let generation = sys::rd_kafka_consumer_group_metadata_generation_id(metadata);
            sys::rd_kafka_consumer_group_metadata_destroy(metadata);
            (member, generation)
        }
    }

    /// Commits offsets and waits for the broker's answer; `_TIMED_OUT`, retriable, when none came in `timeout_ms`: the
    /// commit may still be made then.
    pub fn commit<'a>(
        &self,
        items: impl IntoIterator<Item = (&'a str, i32, i64, &'a str)>,
        timeout_ms: i32,
    ) -> Result<(), KafkaError> {
        let list = Partitions::with_metadata(items)?;
        // SAFETY: handle and list are live for the calls. The answer's queue is this call's own; librdkafka holds its
        // reference until it answered. The event is owned here and destroyed once, before the queue's last use.
        unsafe {
            let answers = sys::rd_kafka_queue_new(self.handle.rk);
            let sent = sys::rd_kafka_commit_queue(self.handle.rk, list.0, answers, None, ptr::null_mut());
            let mut answer = ErrorCode::RD_KAFKA_RESP_ERR__TIMED_OUT;
            if sent == ErrorCode::RD_KAFKA_RESP_ERR_NO_ERROR {
                let event = sys::rd_kafka_queue_poll(answers, timeout_ms);
                if !event.is_null() {
                    answer = sys::rd_kafka_event_error(event);
                    sys::rd_kafka_event_destroy(event);
                }
            } else {
                answer = sent;
            }
            sys::rd_kafka_queue_destroy(answers);
            check(answer, "commit")
        }
    }

    /// Committed offsets and what is kept beside them, stable ones where the consumer reads committed records; -1 where
    /// there is none.
    pub fn committed<'a>(
        &self,
        items: impl IntoIterator<Item = (&'a str, i32)>,
        timeout_ms: i32,
    ) -> Result<Vec<Committed>, KafkaError> {
        let list = Partitions::new(items.into_iter().map(|(topic, partition)| (topic, partition, 0)))?;
        // SAFETY: handle and list are live for the call.
        check(unsafe { sys::rd_kafka_committed(self.handle.rk, list.0, timeout_ms) }, "committed offsets")?;
        list.items()
            .into_iter()
            .zip(list.metadata())
            .map(|((topic, partition, offset, error), metadata)| {
                check(error, "committed offset").map(|()| (topic, partition, offset.max(-1), metadata))
            })
            .collect()
    }

    /// First and next offset of a partition, asked from the broker.
    pub fn watermarks(&self, topic: &str, partition: i32, timeout_ms: i32) -> Result<(i64, i64), KafkaError> {
        let name = c_string(topic)?;
        let (mut low, mut high) = (0, 0);
        // SAFETY: name and both integers outlive the call.
        let code = unsafe {
            sys::rd_kafka_query_watermark_offsets(
                self.handle.rk,
                name.as_ptr(),
                partition,
                &mut low,
                &mut high,
                timeout_ms,
            )
        };
        check(code, &format!("offsets of {topic}/{partition}"))?;
        Ok((low, high))
    }

    /// Fetches assigned partitions from other offsets on; what was fetched ahead of them is dropped.
    pub fn seek<'a>(
        &self,
        items: impl IntoIterator<Item = (&'a str, i32, i64)>,
        timeout_ms: i32,
    ) -> Result<(), KafkaError> {
        let list = Partitions::new(items)?;
        // SAFETY: handle and list are live for the call.
        KafkaError::take(unsafe { sys::rd_kafka_seek_partitions(self.handle.rk, list.0, timeout_ms) }, "seek")?;
        list.items()
            .into_iter()
            .try_for_each(|(topic, partition, _, error)| check(error, &format!("seek of {topic}/{partition}")))
    }

    pub fn set_token(&self, token: &str, expires_ms: i64, principal: &str) -> Result<(), KafkaError> {
        self.handle.set_token(token, expires_ms, principal)
    }

    pub fn take_logs(&self) -> Vec<String> {
        self.handle.take_logs()
    }

    /// Waits up to `timeout_ms` for the first message, then takes what is there, up to the two limits; bytes are those of
    /// keys, values and headers.
    ///
    /// Records of one partition stay in order; a fetch may hold several partitions, and several runs of one where one run
    /// would pass `bytes_max`. Errors that mend themselves are logged; one that does not ends the fetch: with what was
    /// fetched before it, where there is any, and the error is the next call's, unless its partition is assigned anew or
    /// gone by then.
    pub fn fetch(&self, records_max: usize, bytes_max: usize, timeout_ms: i32) -> Result<Vec<Fetched>, KafkaError> {
        self.handle.serve(0, |_| {})?;
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = failed.pop_front() {
            return Err(error);
        }
        drop(failed); // the wait below is ended by a placing, which looks at it
        let mut out: Vec<Fetched> = Vec::new();
        let mut messages: [*mut sys::rd_kafka_message_t; BATCH] = [ptr::null_mut(); BATCH];
        let (mut count, mut bytes) = (0usize, 0usize);
        // SAFETY: the queue is live; a returned message is owned here and destroyed in `take`.
        let first = unsafe { sys::rd_kafka_consume_queue(self.queue, timeout_ms) };
        if first.is_null() {
            return Ok(out);
        }
        let mut failed: VecDeque<KafkaError> =
            self.take(first, &mut out, &mut bytes, bytes_max).err().into_iter().collect();
        count += 1;
        while count < records_max && bytes < bytes_max && failed.is_empty() {
            // Large messages are taken a few at a time: a whole batch of them would be a chunk many times over.
            let fitting = (bytes_max - bytes) / (bytes / count).max(1) + 1;
            let room = BATCH.min(records_max - count).min(fitting);
            // SAFETY: the array has room for `room` pointers; each returned message is destroyed in `take`.
            let got = unsafe { sys::rd_kafka_consume_batch_queue(self.queue, 0, messages.as_mut_ptr(), room) };
            if got <= 0 {
                break;
            }
            for message in &messages[..got as usize] {
                failed.extend(self.take(*message, &mut out, &mut bytes, bytes_max).err());
            }
            count += got as usize;
        }
        let error = if out.is_empty() { failed.pop_front() } else { None };
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = failed;
        match error {
            Some(error) => Err(error),
            None => {
                self.room.learn(&out);
                Ok(out)
            }
        }
    }

    /// Ends the wait of a `fetch` in another thread, or of the next one: it returns what it has.
    pub fn wake(&self) {
        // SAFETY: the queue is live; librdkafka sets a flag under the queue's own lock.
        unsafe { sys::rd_kafka_queue_yield(self.queue) };
    }

    fn take(
        &self,
        message: *mut sys::rd_kafka_message_t,
        out: &mut Vec<Fetched>,
        bytes: &mut usize,
        bytes_max: usize,
    ) -> Result<(), KafkaError> {
        // SAFETY: `message` is owned by this call and destroyed at its end, after everything was copied.
        unsafe {
            let result = self.copy(&*message, out, bytes, bytes_max);
            sys::rd_kafka_message_destroy(message);
            result
        }
    }

    fn copy(
        &self,
        message: &sys::rd_kafka_message_t,
        out: &mut Vec<Fetched>,
        bytes: &mut usize,
        bytes_max: usize,
    ) -> Result<(), KafkaError> {
        match message.err {
            ErrorCode::RD_KAFKA_RESP_ERR_NO_ERROR => {
                let run = run_of(message, out, &self.room, bytes_max);
                let before = run.records.nbytes();
                append(message, &mut run.records).map_err(|error| KafkaError {
                    place: place_of(message),
                    ..KafkaError::local("_INVALID_ARG", error.to_string())
                })?;
                *bytes += run.records.nbytes() - before;
                Ok(())
            }
            ErrorCode::RD_KAFKA_RESP_ERR__PARTITION_EOF => {
                run_of(message, out, &self.room, usize::MAX).end_offset = message.offset;
                Ok(())
            }
            code => {
                let place = place_of(message);
                let what =
                    place.as_ref().map(|(topic, partition, _)| format!("fetch of {topic} partition {partition}"));
                let error = KafkaError::of(code, what.as_deref().unwrap_or("fetch"));
                let passing = error.retriable
                    || matches!(
                        code,
                        ErrorCode::RD_KAFKA_RESP_ERR__RESOLVE
                            | ErrorCode::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
                            | ErrorCode::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC
                            | ErrorCode::RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION
                    );
                if passing {
                    self.handle.log(error.to_string());
                    return Ok(());
                }
                Err(KafkaError { place, ..error })
            }
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // SAFETY: the queue's own reference goes first, then the group is left; Handle frees the client afterwards.
        unsafe {
            sys::rd_kafka_queue_destroy(self.queue);
            sys::rd_kafka_consumer_close(self.handle.rk);
        }
    }
}

/// Topic, partition and offset of a message; None for an error of the client itself.
fn place_of(message: &sys::rd_kafka_message_t) -> Option<(String, i32, i64)> {
    if message.rkt.is_null() {
        return None;
    }
    // SAFETY: the topic object lives as long as the message; its name as long as the object.
    let name = unsafe { std::ffi::CStr::from_ptr(sys::rd_kafka_topic_name(message.rkt)) };
    Some((name.to_string_lossy().into_owned(), message.partition, message.offset))
}

/// The run of the message's partition: nearly always the last one, since fetches come partition by partition. One that
/// holds `bytes_max` is full, and the next begins: a run is a chunk.
fn run_of<'a>(
    message: &sys::rd_kafka_message_t,
    out: &'a mut Vec<Fetched>,
    room: &Room,
    bytes_max: usize,
) -> &'a mut Fetched {
    // SAFETY: a message without a client-level error has a topic; its name lives as long as the topic object.
    let name = unsafe { std::ffi::CStr::from_ptr(sys::rd_kafka_topic_name(message.rkt)) };
    let same = |run: &Fetched| run.partition == message.partition && run.topic.as_bytes() == name.to_bytes();
    let index = match out.iter().rposition(same) {
        Some(index) if out[index].records.nbytes() < bytes_max => index,
        _ => {
            let topic = name.to_string_lossy().into_owned();
            out.push(Fetched { topic, partition: message.partition, records: room.records(), end_offset: -1 });
            out.len() - 1
        }
    };
    &mut out[index]
}

fn append(
    message: &sys::rd_kafka_message_t,
    records: &mut Records,
) -> Result<(), streams_kernel::records::RecordsError> {
    // SAFETY: librdkafka gives pointer and length of key and payload; both live until the message is destroyed. Header
    // names and values belong to the message as well.
    unsafe {
        let view = |data: *const c_void, len: usize| {
            if data.is_null() {
                None
            } else {
                Some(slice::from_raw_parts(data.cast::<u8>(), len))
            }
        };
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        let timestamp_ms = sys::rd_kafka_message_timestamp(message, &mut kind);
        let key = view(message.key, message.key_len);
        records.push(key, view(message.payload, message.len), timestamp_ms, message.offset)?;
        let mut headers = ptr::null_mut();
        match sys::rd_kafka_message_headers(message, &mut headers) {
            ErrorCode::RD_KAFKA_RESP_ERR_NO_ERROR => {}
            ErrorCode::RD_KAFKA_RESP_ERR__NOENT => return Ok(()),
            // Above 100,000 librdkafka gives none: without a word the record would be read as one that says nothing.
            _ => return records.push_header(HEADERS_UNREAD, Some(b"")),
        }
        for index in 0.. {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            let code = sys::rd_kafka_header_get_all(headers, index, &mut name, &mut value, &mut size);
            if code != ErrorCode::RD_KAFKA_RESP_ERR_NO_ERROR {
                break;
            }
            records.push_header(std::ffi::CStr::from_ptr(name).to_bytes(), view(value, size))?;
        }
        Ok(())
    }
}
