"""Files within a page: an address that holds all of it."""

import base64


def inlined(kind: str, content: bytes) -> str:
    """Return the address that holds a file of a kind such as ``image/webp``."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
