"""A page on this computer that lets one try what networks see, and what generators draw."""
