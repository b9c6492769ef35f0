"""The `tiercel` command. Nobody imports it."""
