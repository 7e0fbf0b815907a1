"""Costs of networks: parameters, multiply-adds, latency, memory, throughput."""
