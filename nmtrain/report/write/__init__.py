"""Pages, tables as files, and what the terminal shows of them."""
