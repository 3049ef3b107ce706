"""The directory of services, keys, templates and senders: one topic, its writer and its readers."""
