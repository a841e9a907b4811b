//! The job between two topics, exactly once: outputs, a changelog of whole events and the offsets in one transaction.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use crate::job::Job;
use crate::Failure;

const PARTITIONS: i32 = 4;
/// A transaction ends after so many events or so long, whichever comes first.
const TRANSACTION_EVENTS: u64 = 20_000;
const TRANSACTION_TIME: Duration = Duration::from_millis(100);
const TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
/// While acknowledgements are awaited; the crate's own `flush` waits in steps of up to 100 ms.
const DELIVERY_POLL: Duration = Duration::from_millis(1);

pub struct Task<'a> {
    pub bootstrap: &'a str,
    pub source: &'a str,
    pub output: &'a str,
    pub group: &'a str,
    pub events: u64,
}

pub struct Worker<'a> {
    task: &'a Task<'a>,
    changelog: String,
    consumer: BaseConsumer,
    producer: BaseProducer,
    job: Job,
    /// Next offset of each partition, as of the last event applied.
    positions: [Option<i64>; PARTITIONS as usize],
}

impl<'a> Worker<'a> {
    pub fn new(task: &'a Task<'a>) -> Result<Worker<'a>, Failure> {
        let consumer = ClientConfig::new()
            .set("bootstrap.servers", task.bootstrap)
            .set("group.id", task.group)
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "earliest")
            .set("fetch.queue.backoff.ms", "2")
            .set("queued.min.messages", "100000")
            .create()?;
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", task.bootstrap)
            .set("transactional.id", task.group)
            .set("compression.type", "lz4")
            .set("linger.ms", "5")
            .set("batch.size", "1000000")
            .set("queue.buffering.max.messages", "1000000")
            .set("queue.buffering.max.kbytes", "1000000")
            .create()?;
        let changelog = format!("{}-changelog", task.group);
        Ok(Worker { task, changelog, consumer, producer, job: Job::default(), positions: Default::default() })
    }

    /// From the first event to the last commit.
    pub fn run(&mut self) -> Result<(), Failure> {
        self.make_changelog()?;
        self.producer.init_transactions(TIMEOUT)?;
        self.restore()?;
        self.assign()?;
        let mut patch = Vec::new();
        let (mut events, mut committed) = (0, 0);
        let mut began = Instant::now();
        while events < self.task.events {
            let Some(message) = self.consumer.poll(POLL) else {
                if events > committed {
                    self.commit()?;
                    committed = events;
                }
                continue;
            };
            if events == committed {
                if events == 0 {
                    println!("first");
                }
                self.producer.begin_transaction()?;
                began = Instant::now();
            }
            let message = message?;
            let event = message.payload().unwrap_or_default();
            if self.job.apply(event, &mut patch)? {
                self.send(self.task.output, &message, &patch)?;
                self.send(&self.changelog, &message, event)?;
            }
            self.positions[message.partition() as usize] = Some(message.offset() + 1);
            drop(message);
            events += 1;
            let is_due = events % 256 == 0 && began.elapsed() > TRANSACTION_TIME;
            if events - committed == TRANSACTION_EVENTS || is_due || events == self.task.events {
                self.commit()?;
                committed = events;
            }
        }
        println!("done");
        Ok(())
    }

    fn make_changelog(&self) -> Result<(), Failure> {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", self.task.bootstrap).create()?;
        let topic =
            NewTopic::new(&self.changelog, PARTITIONS, TopicReplication::Fixed(1)).set("cleanup.policy", "compact");
        let made = futures_executor::block_on(admin.create_topics([&topic], &AdminOptions::new()))?;
        match made.into_iter().next() {
            Some(Err((_, code))) if code != RDKafkaErrorCode::TopicAlreadyExists => {
                Err(Failure(format!("{} was not created: {code}", self.changelog)))
            }
            _ => Ok(()),
        }
    }

    /// Reads the changelog to its end.
    fn restore(&mut self) -> Result<(), Failure> {
        let reader: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.task.bootstrap)
            .set("group.id", format!("{}-restore", self.task.group))
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .create()?;
        let mut partitions = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            partitions.add_partition_offset(&self.changelog, partition, Offset::Beginning)?;
        }
        reader.assign(&partitions)?;
        let mut left = PARTITIONS;
        while left > 0 {
            match reader.poll(POLL) {
                Some(Ok(message)) => self.job.restore(message.payload().unwrap_or_default())?,
                Some(Err(KafkaError::PartitionEOF(_))) => left -= 1,
                Some(Err(error)) => return Err(error.into()),
                None => {}
            }
        }
        Ok(())
    }

    /// Goes on where the last transaction ended. One worker has all partitions.
    fn assign(&self) -> Result<(), Failure> {
        let mut partitions = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            partitions.add_partition(self.task.source, partition);
        }
        let committed = self.consumer.committed_offsets(partitions, TIMEOUT)?;
        for partition in 0..PARTITIONS {
            let Some(mut found) = committed.find_partition(self.task.source, partition) else { continue };
            if found.offset() == Offset::Invalid {
                found.set_offset(Offset::Beginning)?;
            }
        }
        Ok(self.consumer.assign(&committed)?)
    }

    fn send(&self, topic: &str, message: &BorrowedMessage<'_>, value: &[u8]) -> Result<(), Failure> {
        let key = message.key().unwrap_or_default();
        let mut record = BaseRecord::to(topic).key(key).payload(value).partition(message.partition());
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), refused)) => {
                    self.producer.poll(DELIVERY_POLL);
                    record = refused;
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }

    /// Waits until every record is acknowledged, then ends the transaction with the offsets in it.
    fn commit(&self) -> Result<(), Failure> {
        while self.producer.in_flight_count() > 0 {
            self.producer.poll(DELIVERY_POLL);
        }
        let mut offsets = TopicPartitionList::new();
        for (partition, position) in (0..).zip(self.positions) {
            if let Some(position) = position {
                offsets.add_partition_offset(self.task.source, partition, Offset::Offset(position))?;
            }
        }
        let group = self.consumer.group_metadata().ok_or_else(|| Failure("the group is unknown".to_owned()))?;
        self.producer.send_offsets_to_transaction(&offsets, &group, TIMEOUT)?;
        self.producer.commit_transaction(TIMEOUT)?;
        Ok(())
    }
}
