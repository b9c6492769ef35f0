"""Measuring: latency, throughput and prefix reuse of an engine, beside other programs on the same machine."""
