"""One worker's training: plain PyTorch, no cluster."""
