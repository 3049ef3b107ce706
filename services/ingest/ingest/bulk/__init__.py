"""Files of many rows: forms, CSV, columns, chunks, the seal."""
