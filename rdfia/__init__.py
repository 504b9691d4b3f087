"""The techniques: one folder, one technique.

Importing this package imports nothing else, so ``import rdfia`` needs no data, network or GPU.
"""
