"""What the tests of the explorer drop and draw, and a server of their own."""

import contextlib
import io
import socket
import threading
import time

from conftest import ROOT
from PIL import Image, ImageDraw

PHOTOGRAPHS = ROOT / "datamodules" / "samples" / "photographs"


def drawn_seven() -> bytes:
    """Return a PNG of a 7, drawn with a broad pen."""
    picture = Image.new("L", (280, 280))
    pen = ImageDraw.Draw(picture)
    pen.line([(80, 70), (200, 70), (130, 220)], fill=255, width=22, joint="curve")
    content = io.BytesIO()
    picture.save(content, "png")
    return content.getvalue()


@contextlib.contextmanager
def serving(networks):
    """Serve an explorer in a thread; yield its port."""
    import uvicorn

    from rdfia.explore.app import make_app

    place = socket.socket()
    place.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(make_app(networks), log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, args=([place],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield place.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)
        place.close()
