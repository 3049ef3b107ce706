"""The thin edge to Kafka: clients, the consumer's and producers' options, offsets, topics."""
