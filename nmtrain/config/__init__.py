"""From a command line or YAML files to a checked config. Nothing heavy is imported."""
