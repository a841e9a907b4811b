//! One librdkafka client: configuration, errors, its event queue, its log lines.
//!
//! The `rdkafka` crate wraps consuming and producing one message at a time and hides the client handle from every call
//! it does not wrap. A chunk needs five of those: consuming in batches, producing with topic handles (compression per
//! topic), delivery reports in batches, group metadata of another client's member, and OAuth tokens set from outside.
//! So both clients are built here on the C interface; the crate serves administration.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::fmt;
use std::os::raw::{c_char, c_int, c_void};
use std::ptr;
use std::sync::Mutex;

use rdkafka_sys as sys;
use sys::rd_kafka_resp_err_t as ErrorCode;

/// Log lines kept until somebody reads them; older ones go first. A broker that is away logs a few lines a second.
const LOG_LINES_MAX: usize = 200;

/// What librdkafka said, with the three questions a caller has to ask before it goes on.
#[derive(Debug, Clone)]
pub struct KafkaError {
    /// librdkafka's own name, for example `_TRANSPORT` or `TOPIC_ALREADY_EXISTS`.
    pub code: String,
    pub message: String,
    /// The same call may succeed when repeated.
    pub retriable: bool,
    /// The client is of no use any more.
    pub fatal: bool,
    /// The current transaction must be aborted before anything else.
    pub abortable: bool,
    /// Topic, partition and offset that it is about, where it is about one.
    pub place: Option<(String, i32, i64)>,
}

impl fmt::Display for KafkaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for KafkaError {}

pub(crate) fn text(data: *const c_char) -> String {
    if data.is_null() {
        return String::new();
    }
    // SAFETY: librdkafka hands out NUL-terminated strings that live at least as long as the object they came from.
    unsafe { CStr::from_ptr(data) }.to_string_lossy().into_owned()
}

pub(crate) fn c_string(value: &str) -> Result<CString, KafkaError> {
    CString::new(value).map_err(|_| KafkaError::local("_INVALID_ARG", format!("{value:?} holds a NUL byte")))
}

impl KafkaError {
    pub fn local(code: &str, message: String) -> KafkaError {
        KafkaError { code: code.into(), message, retriable: false, fatal: false, abortable: false, place: None }
    }

    pub(crate) fn of(code: ErrorCode, what: &str) -> KafkaError {
        // SAFETY: both calls read static tables.
        let (name, words) = unsafe { (text(sys::rd_kafka_err2name(code)), text(sys::rd_kafka_err2str(code))) };
        let retriable = matches!(
            code,
            ErrorCode::RD_KAFKA_RESP_ERR__TRANSPORT
                | ErrorCode::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN
                | ErrorCode::RD_KAFKA_RESP_ERR__TIMED_OUT
                | ErrorCode::RD_KAFKA_RESP_ERR__WAIT_COORD
                | ErrorCode::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS
                | ErrorCode::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE
                | ErrorCode::RD_KAFKA_RESP_ERR_NOT_COORDINATOR
                | ErrorCode::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE
                | ErrorCode::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION
                | ErrorCode::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT
                | ErrorCode::RD_KAFKA_RESP_ERR_UNSTABLE_OFFSET_COMMIT
        );
        let fatal = code == ErrorCode::RD_KAFKA_RESP_ERR__FATAL;
        KafkaError { code: name, message: format!("{what}: {words}"), retriable, fatal, abortable: false, place: None }
    }

    /// The same, of a record for this partition of a topic; -1: a partition that its key chooses.
    pub(crate) fn at(self, topic: &str, partition: i32) -> KafkaError {
        KafkaError { place: Some((topic.to_owned(), partition, -1)), ..self }
    }

    /// Takes over an error object; `None` when there is none.
    pub(crate) fn take(error: *mut sys::rd_kafka_error_t, what: &str) -> Result<(), KafkaError> {
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: `error` is a live object that this call owns and destroys exactly once.
        let taken = unsafe {
            let taken = KafkaError {
                code: text(sys::rd_kafka_error_name(error)),
                message: format!("{what}: {}", text(sys::rd_kafka_error_string(error))),
                retriable: sys::rd_kafka_error_is_retriable(error) != 0,
                fatal: sys::rd_kafka_error_is_fatal(error) != 0,
                abortable: sys::rd_kafka_error_txn_requires_abort(error) != 0,
                place: None,
            };
            sys::rd_kafka_error_destroy(error);
            taken
        };
        Err(taken)
    }
}

pub(crate) fn check(code: ErrorCode, what: &str) -> Result<(), KafkaError> {
    if code == ErrorCode::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Ok(());
    }
    Err(KafkaError::of(code, what))
}

/// A client and the queue its events arrive on.
pub(crate) struct Handle {
    pub rk: *mut sys::rd_kafka_t,
    pub events: *mut sys::rd_kafka_queue_t,
    logs: Mutex<VecDeque<String>>,
}

// SAFETY: every librdkafka call is thread-safe on one handle; the pointers are freed once, in Drop.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    pub fn new(kind: sys::rd_kafka_type_t, config: &[(String, String)], events: c_int) -> Result<Handle, KafkaError> {
        let mut reason = vec![0 as c_char; 512];
        // SAFETY: the configuration object is owned here until rd_kafka_new takes it over; `reason` outlives each call
        // that writes into it and its length is passed along.
        unsafe {
            let conf = sys::rd_kafka_conf_new();
            let mut own = vec![("log.queue".to_string(), "true".to_string())];
            if kind == sys::rd_kafka_type_t::RD_KAFKA_PRODUCER {
                // The Java client's, so that all producers of a topic agree on where a key lives.
                own.push(("partitioner".to_string(), "murmur2_random".to_string()));
            }
            for (name, value) in own.iter().chain(config) {
                let (c_name, c_value) = (c_string(name)?, c_string(value)?);
                let set =
                    sys::rd_kafka_conf_set(conf, c_name.as_ptr(), c_value.as_ptr(), reason.as_mut_ptr(), reason.len());
                if set != sys::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK {
                    sys::rd_kafka_conf_destroy(conf);
                    return Err(KafkaError::local("_INVALID_ARG", format!("{name}: {}", text(reason.as_ptr()))));
                }
            }
            sys::rd_kafka_conf_set_events(conf, events | sys::RD_KAFKA_EVENT_LOG | sys::RD_KAFKA_EVENT_ERROR);
            let rk = sys::rd_kafka_new(kind, conf, reason.as_mut_ptr(), reason.len());
            if rk.is_null() {
                sys::rd_kafka_conf_destroy(conf);
                return Err(KafkaError::local("_INVALID_ARG", text(reason.as_ptr())));
            }
            check(sys::rd_kafka_set_log_queue(rk, ptr::null_mut()), "log queue")?;
            let events = sys::rd_kafka_queue_get_main(rk);
            Ok(Handle { rk, events, logs: Mutex::new(VecDeque::new()) })
        }
    }

    pub fn log(&self, line: String) {
        let mut logs = self.logs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if logs.len() == LOG_LINES_MAX {
            logs.pop_front();
        }
        logs.push_back(line);
    }

    /// The lines librdkafka logged since the last call.
    pub fn take_logs(&self) -> Vec<String> {
        self.logs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).drain(..).collect()
    }

    /// Serves events until the queue is empty, waiting at most `timeout_ms` for the first; delivery reports go to `report`.
    pub fn serve(&self, timeout_ms: c_int, mut report: impl FnMut(&sys::rd_kafka_message_t)) -> Result<(), KafkaError> {
        let mut wait = timeout_ms;
        let mut failed = Ok(());
        loop {
            // SAFETY: the event is owned here and destroyed once; messages of a delivery report live as long as it does.
            unsafe {
                let event = sys::rd_kafka_queue_poll(self.events, wait);
                if event.is_null() {
                    return failed;
                }
                wait = 0;
                match sys::rd_kafka_event_type(event) {
                    sys::RD_KAFKA_EVENT_DR => loop {
                        let message = sys::rd_kafka_event_message_next(event);
                        if message.is_null() {
                            break;
                        }
                        report(&*message);
                    },
                    sys::RD_KAFKA_EVENT_LOG => {
                        let (mut facility, mut words, mut level) = (ptr::null(), ptr::null(), 0);
                        sys::rd_kafka_event_log(event, &mut facility, &mut words, &mut level);
                        self.log(format!("{}: {}", text(facility), text(words)));
                    }
                    sys::RD_KAFKA_EVENT_ERROR => {
                        let code = sys::rd_kafka_event_error(event);
                        let words = text(sys::rd_kafka_event_error_string(event));
                        if sys::rd_kafka_event_error_is_fatal(event) != 0 {
                            let mut error = KafkaError::of(code, "client");
                            error.fatal = true;
                            error.message = words;
                            failed = Err(error);
                        } else {
                            self.log(words);
                        }
                    }
                    _ => {}
                }
                sys::rd_kafka_event_destroy(event);
            }
        }
    }

    /// Hands an OAUTHBEARER token to the client; call again before it expires.
    pub fn set_token(&self, token: &str, expires_ms: i64, principal: &str) -> Result<(), KafkaError> {
        set_token(self.rk, token, expires_ms, principal)
    }
}

/// Hands an OAUTHBEARER token to a client, which `rk` must be, alive.
pub(crate) fn set_token(
    rk: *mut sys::rd_kafka_t,
    token: &str,
    expires_ms: i64,
    principal: &str,
) -> Result<(), KafkaError> {
    let (token, principal) = (c_string(token)?, c_string(principal)?);
    let mut reason = vec![0 as c_char; 512];
    // SAFETY: the client is live; strings and buffer outlive the call; no extensions are passed.
    let code = unsafe {
        sys::rd_kafka_oauthbearer_set_token(
            rk,
            token.as_ptr(),
            expires_ms,
            principal.as_ptr(),
            ptr::null_mut(),
            0,
            reason.as_mut_ptr(),
            reason.len(),
        )
    };
    check(code, "token").map_err(|mut error| {
        error.message = text(reason.as_ptr());
        error
    })
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: both pointers came from librdkafka and are freed here only. The queue goes before its client.
        unsafe {
            sys::rd_kafka_queue_destroy(self.events);
            sys::rd_kafka_destroy(self.rk);
        }
    }
}

unsafe extern "C" {
    /// The C library's, which librdkafka frees with.
    fn malloc(size: usize) -> *mut c_void;
}

/// A partition list for one call.
pub(crate) struct Partitions(pub *mut sys::rd_kafka_topic_partition_list_t);

impl Partitions {
    pub fn new<'a>(items: impl IntoIterator<Item = (&'a str, i32, i64)>) -> Result<Partitions, KafkaError> {
        // SAFETY: the list is owned by the returned value; topic names are copied by the call.
        unsafe {
            let list = Partitions(sys::rd_kafka_topic_partition_list_new(8));
            for (topic, partition, offset) in items {
                let topic = c_string(topic)?;
                let item = sys::rd_kafka_topic_partition_list_add(list.0, topic.as_ptr(), partition);
                (*item).offset = offset;
            }
            Ok(list)
        }
    }

    /// As `new`, each with what is to be kept beside its offset.
    pub fn with_metadata<'a>(
        items: impl IntoIterator<Item = (&'a str, i32, i64, &'a str)>,
    ) -> Result<Partitions, KafkaError> {
        let list = Partitions::new([])?;
        for (topic, partition, offset, metadata) in items {
            let topic = c_string(topic)?;
            // SAFETY: the list is live and copies the name. librdkafka frees the metadata with its element, by free(3),
            // so it is copied into memory of malloc(3); where there is none, nothing is kept.
            unsafe {
                let item = sys::rd_kafka_topic_partition_list_add(list.0, topic.as_ptr(), partition);
                (*item).offset = offset;
                let copy = if metadata.is_empty() { ptr::null_mut() } else { malloc(metadata.len()) };
                if !copy.is_null() {
                    ptr::copy_nonoverlapping(metadata.as_ptr(), copy.cast::<u8>(), metadata.len());
                    (*item).metadata = copy;
                    (*item).metadata_size = metadata.len();
                }
            }
        }
        Ok(list)
    }

    /// What is kept beside each offset, in the order of the list; empty where nothing is.
    pub fn metadata(&self) -> Vec<String> {
        // SAFETY: as in `items`; metadata points to `metadata_size` bytes that live as long as the list.
        unsafe {
            let elems = std::slice::from_raw_parts((*self.0).elems, (*self.0).cnt as usize);
            let bytes = |item: &sys::rd_kafka_topic_partition_t| match item.metadata.is_null() {
                true => String::new(),
                false => {
                    let kept = std::slice::from_raw_parts(item.metadata.cast::<u8>(), item.metadata_size);
                    String::from_utf8_lossy(kept).into_owned()
                }
            };
            elems.iter().map(bytes).collect()
        }
    }

    pub fn items(&self) -> Vec<(String, i32, i64, ErrorCode)> {
        // SAFETY: `elems` points to `cnt` initialised elements for as long as the list lives.
        let elems = unsafe { std::slice::from_raw_parts((*self.0).elems, (*self.0).cnt as usize) };
        elems.iter().map(|item| (text(item.topic), item.partition, item.offset, item.err)).collect()
    }
}

impl Drop for Partitions {
    fn drop(&mut self) {
        // SAFETY: owned here, freed once.
        unsafe { sys::rd_kafka_topic_partition_list_destroy(self.0) }
    }
}
