"""The thin layer over the Kafka client: options, consumer, producers, offsets and topics."""
