"""Plug-ins, one job, sweeps, and what the terminal shows of a plan and a summary."""
