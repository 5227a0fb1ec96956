"""Photographs to shards to batches, and the benchmark images."""
