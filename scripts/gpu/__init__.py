"""What scripts/gpu_check.py tries, part by part."""
