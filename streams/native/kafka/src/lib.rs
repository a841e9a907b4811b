//! The Kafka data plane: chunks between Kafka and the kernel through librdkafka.

mod admin;
mod consumer;
mod handle;
mod producer;

pub use admin::{Admin, TopicId, TopicSpec};
pub use consumer::{Committed, Consumer, Fetched};
pub use handle::KafkaError;
pub use producer::{Delivered, Member, Position, Producer};
