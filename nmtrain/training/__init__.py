"""One run: plan, loop, checkpoints, signals, and the folder that it leaves."""
