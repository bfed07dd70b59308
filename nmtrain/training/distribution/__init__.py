"""Many processes that train one run together, each on a device of its own."""
