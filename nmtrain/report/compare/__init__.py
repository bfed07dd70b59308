"""From data frames to results, tables and advice."""
