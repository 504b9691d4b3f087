"""The data: one file, one data set, each a ``LightningDataModule`` usable alone from a notebook.

Importing this package imports nothing else, so ``import datamodules`` needs no data, network or GPU.
"""
