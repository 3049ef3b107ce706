"""The directory: services, keys, templates and senders, published in one topic and followed."""
