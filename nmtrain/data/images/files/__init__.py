"""Images in files: from class folders and shards to rows, and from rows to batches."""
