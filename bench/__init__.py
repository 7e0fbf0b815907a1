"""What networks cost: parameters, multiply-adds, latency, memory, throughput."""
