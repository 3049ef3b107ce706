"""One provider a file: a batch in, one outcome for each of its messages out."""
