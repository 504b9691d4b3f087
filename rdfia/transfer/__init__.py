"""Transfer learning: features and exact linear SVMs, fine-tuning."""
