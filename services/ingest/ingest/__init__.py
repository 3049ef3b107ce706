"""ingest: takes notifications and receipts over HTTP, and answers once the log has them."""
