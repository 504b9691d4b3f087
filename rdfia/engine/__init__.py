"""What runs share: flags, trainer, run folders, tables, report."""
