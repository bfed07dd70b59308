"""Text: a file for each source, and how it becomes batches of tokens."""
