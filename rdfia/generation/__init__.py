"""Generation: DCGAN and conditional DCGAN, and how digits are scored."""
