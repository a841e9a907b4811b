"""Transports: chunks of records between topics and the kernel, over Kafka or a durable local log."""
