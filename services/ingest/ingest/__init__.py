"""ingest accepts notifications and receipts over HTTP, and answers once Kafka has them."""
