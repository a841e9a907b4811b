//! Administration through the `rdkafka` crate: topics, their partition counts and settings.

use std::collections::HashMap;
use std::os::raw::{c_char, c_int};
use std::ptr;
use std::time::Duration;

use futures_executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError as CrateError, RDKafkaErrorCode};
use rdkafka_sys as sys;
use sys::rd_kafka_resp_err_t as ErrorCode;

use crate::handle::{self, c_string, check, KafkaError};

/// A topic's id: one that is deleted and made anew has another.
pub type TopicId = [u8; 16];

/// How much longer than the request an answer is waited for: librdkafka says itself that none came.
const ANSWER_ROOM_MS: c_int = 1_000;

/// A topic to be created.
pub struct TopicSpec {
    pub name: String,
    pub partitions: i32,
    /// -1: the broker's default.
    pub replication: i32,
    pub config: HashMap<String, String>,
}

pub struct Admin {
    client: AdminClient<DefaultClientContext>,
}

fn wrap(error: CrateError) -> KafkaError {
    let code = error.rdkafka_error_code();
    KafkaError {
        code: code.map_or_else(|| "_FAIL".into(), |code| code.to_string()),
        message: error.to_string(),
        retriable: matches!(
            code,
            Some(
                RDKafkaErrorCode::BrokerTransportFailure
                    | RDKafkaErrorCode::AllBrokersDown
                    | RDKafkaErrorCode::OperationTimedOut
                    | RDKafkaErrorCode::LeaderNotAvailable
            )
        ),
        fatal: false,
        abortable: false,
        place: None,
    }
}

impl Admin {
    pub fn new(config: &[(String, String)]) -> Result<Admin, KafkaError> {
        let mut client = ClientConfig::new();
        for (name, value) in config {
            client.set(name, value);
        }
        Ok(Admin { client: client.create().map_err(wrap)? })
    }

    /// Hands an OAUTHBEARER token to the client; call again before it expires.
    pub fn set_token(&self, token: &str, expires_ms: i64, principal: &str) -> Result<(), KafkaError> {
        handle::set_token(self.client.inner().native_ptr(), token, expires_ms, principal)
    }

    /// Creates each topic; a topic that exists already is no error. (name, error or `None`) in the order given.
    pub fn create_topics(
        &self,
        topics: &[TopicSpec],
        timeout_ms: u64,
    ) -> Result<Vec<(String, Option<String>)>, KafkaError> {
        let wanted: Vec<NewTopic<'_>> = topics
            .iter()
            .map(|topic| {
                let new = NewTopic::new(&topic.name, topic.partitions, TopicReplication::Fixed(topic.replication));
                topic.config.iter().fold(new, |new, (key, value)| new.set(key, value))
            })
            .collect();
        let results = block_on(self.client.create_topics(&wanted, &options(timeout_ms))).map_err(wrap)?;
        Ok(results
            .into_iter()
            .map(|result| match result {
                Ok(name) | Err((name, RDKafkaErrorCode::TopicAlreadyExists)) => (name, None),
                Err((name, code)) => (name, Some(code.to_string())),
            })
            .collect())
    }

    pub fn delete_topics(&self, names: &[&str], timeout_ms: u64) -> Result<Vec<(String, Option<String>)>, KafkaError> {
        let results = block_on(self.client.delete_topics(names, &options(timeout_ms))).map_err(wrap)?;
        Ok(results
            .into_iter()
            .map(|result| match result {
                Ok(name) => (name, None),
                Err((name, code)) => (name, Some(code.to_string())),
            })
            .collect())
    }

    /// Every topic of the cluster with its partition count.
    pub fn topics(&self, timeout_ms: u64) -> Result<HashMap<String, usize>, KafkaError> {
        let timeout = Duration::from_millis(timeout_ms);
        let metadata = self.client.inner().fetch_metadata(None, timeout).map_err(wrap)?;
        Ok(metadata
            .topics()
            .iter()
            .filter(|topic| topic.error().is_none())
            .map(|topic| (topic.name().to_owned(), topic.partitions().len()))
            .collect())
    }

    /// The id of each topic that exists; a topic that does not, and one of a broker without ids, is left out.
    pub fn topic_ids(&self, names: &[&str], timeout_ms: u64) -> Result<HashMap<String, TopicId>, KafkaError> {
        let found = self.describe(names, timeout_ms)?;
        Ok(found.into_iter().filter_map(|(name, (id, _))| id.map(|id| (name, id))).collect())
    }

    /// The partition count of each topic that exists.
    pub fn partitions(&self, names: &[&str], timeout_ms: u64) -> Result<HashMap<String, usize>, KafkaError> {
        let found = self.describe(names, timeout_ms)?;
        Ok(found.into_iter().map(|(name, (_, partitions))| (name, partitions)).collect())
    }

    fn describe(&self, names: &[&str], timeout_ms: u64) -> Result<HashMap<String, Described>, KafkaError> {
        if names.is_empty() {
            return Ok(HashMap::new());
        }
        let names = names.iter().map(|name| c_string(name)).collect::<Result<Vec<_>, _>>()?;
        let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
        let timeout_ms = c_int::try_from(timeout_ms).unwrap_or(c_int::MAX);
        let rk = self.client.inner().native_ptr();
        // SAFETY: the client is live; names outlive the call that copies them. Options, collection, queue and event are
        // owned here and destroyed once; what is read of the event is copied before that. librdkafka holds a reference of
        // its own to the queue until it has answered, so that an answer that comes too late goes nowhere.
        unsafe {
            let options =
                sys::rd_kafka_AdminOptions_new(rk, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
            sys::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, ptr::null_mut(), 0);
            let topics = sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
            let answers = sys::rd_kafka_queue_new(rk);
            sys::rd_kafka_DescribeTopics(rk, topics, options, answers);
            sys::rd_kafka_TopicCollection_destroy(topics);
            sys::rd_kafka_AdminOptions_destroy(options);
            let event = sys::rd_kafka_queue_poll(answers, timeout_ms.saturating_add(ANSWER_ROOM_MS));
            sys::rd_kafka_queue_destroy(answers);
            if event.is_null() {
                return Err(KafkaError::of(ErrorCode::RD_KAFKA_RESP_ERR__TIMED_OUT, "description of topics"));
            }
            let found = described(event);
            sys::rd_kafka_event_destroy(event);
            found
        }
    }

    /// The settings of one topic as the broker has them, defaults included.
    pub fn topic_config(&self, name: &str, timeout_ms: u64) -> Result<HashMap<String, String>, KafkaError> {
        let resource = ResourceSpecifier::Topic(name);
        let found = block_on(self.client.describe_configs([&resource], &options(timeout_ms))).map_err(wrap)?;
        let mut config = HashMap::new();
        for resource in found {
            let resource = resource.map_err(|code| KafkaError::local(&code.to_string(), format!("topic {name}")))?;
            for entry in resource.entries {
                config.insert(entry.name, entry.value.unwrap_or_default());
            }
        }
        Ok(config)
    }
}

/// A topic's id, where the broker has one, and its partition count.
type Described = (Option<TopicId>, usize);

/// What an answer to DescribeTopics says.
///
/// # Safety
///
/// `event` is a live event that the caller owns.
unsafe fn described(event: *mut sys::rd_kafka_event_t) -> Result<HashMap<String, Described>, KafkaError> {
    check(sys::rd_kafka_event_error(event), "description of topics")?;
    let mut count = 0;
    let topics =
        sys::rd_kafka_DescribeTopics_result_topics(sys::rd_kafka_event_DescribeTopics_result(event), &mut count);
    let mut found = HashMap::new();
    for index in 0..count {
        let topic = *topics.add(index);
        let name = handle::text(sys::rd_kafka_TopicDescription_name(topic));
        match sys::rd_kafka_error_code(sys::rd_kafka_TopicDescription_error(topic)) {
            ErrorCode::RD_KAFKA_RESP_ERR_NO_ERROR => {}
            ErrorCode::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART => continue,
            code => return Err(KafkaError::of(code, &format!("topic {name}"))),
        }
        let mut partitions = 0;
        sys::rd_kafka_TopicDescription_partitions(topic, &mut partitions);
        let uuid = sys::rd_kafka_TopicDescription_topic_id(topic);
        let mut id = TopicId::default();
        if !uuid.is_null() {
            id[..8].copy_from_slice(&sys::rd_kafka_Uuid_most_significant_bits(uuid).to_be_bytes());
            id[8..].copy_from_slice(&sys::rd_kafka_Uuid_least_significant_bits(uuid).to_be_bytes());
        }
        found.insert(name, ((id != TopicId::default()).then_some(id), partitions));
    }
    Ok(found)
}

fn options(timeout_ms: u64) -> AdminOptions {
    let timeout = Duration::from_millis(timeout_ms);
    AdminOptions::new().request_timeout(Some(timeout)).operation_timeout(Some(timeout))
}
