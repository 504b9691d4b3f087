"""Domain adaptation: DANN and self-training."""
