"""The techniques: one file, one technique, each readable top to bottom.

Importing this package imports nothing else, so ``import rdfia`` needs no data, network or GPU.
"""
