"""The run folder and its files, and the plug-ins that it records."""
