//! Administration through the `rdkafka` crate: topics, their partition counts and settings.

use std::collections::HashMap;
use std::time::Duration;

use futures_executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError as CrateError, RDKafkaErrorCode};

use crate::handle::{self, KafkaError};

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

fn options(timeout_ms: u64) -> AdminOptions {
    let timeout = Duration::from_millis(timeout_ms);
    AdminOptions::new().request_timeout(Some(timeout)).operation_timeout(Some(timeout))
}
