"""Images: a file for each source, and how they become batches."""
