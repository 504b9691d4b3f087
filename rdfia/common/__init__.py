"""What techniques share: pretrained networks, figures, checks, keyed random numbers."""
