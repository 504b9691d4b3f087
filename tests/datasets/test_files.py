import hashlib
import http.client
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import ROOT

from datamodules.files import SAMPLES, atomic_file, atomic_folder, data_root, download, not_found


@pytest.fixture
def server(tmp_path):
    """Serve tmp_path/served on this machine."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "data.bin").write_bytes(b"some bytes")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    serving = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "served"))
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_port}"
    serving.shutdown()
    thread.join()
    serving.server_close()


def test_sample_is_a_name_not_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert data_root("sample") == SAMPLES
    with pytest.raises(FileNotFoundError, match=r"data folder data does not exist.*--data-dir sample"):
        data_root()  # the sample is never taken silently


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file"
    with pytest.raises(RuntimeError), atomic_file(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert list(path.parent.iterdir()) == []
    with atomic_file(path) as part:
        part.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    with pytest.raises(RuntimeError), atomic_file(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o077  # readable as other files are


def test_a_folder_appears_whole_or_not_at_all_and_the_first_writer_wins(tmp_path):
    path = tmp_path / "folder"
    with pytest.raises(RuntimeError), atomic_folder(path) as part:
        (part / "file").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(path) as late:
        (late / "file").write_text("late")
        with atomic_folder(path) as early:
            (early / "file").write_text("early")
    assert (path / "file").read_text() == "early"
    assert list(tmp_path.iterdir()) == [path]


def test_download_checks_the_bytes(tmp_path, server):
    md5 = hashlib.md5(b"some bytes").hexdigest()
    download(f"{server}/data.bin", tmp_path / "got", md5)
    assert (tmp_path / "got").read_bytes() == b"some bytes"
    with pytest.raises(ValueError, match="expected 0123"):
        download(f"{server}/data.bin", tmp_path / "bad", "0123")
    assert not (tmp_path / "bad").exists()


def test_a_download_that_breaks_off_is_not_kept(tmp_path, server, monkeypatch):
    send_head = SimpleHTTPRequestHandler.send_header

    def promise_more(self, name, value):
        send_head(self, name, "999" if name == "Content-Length" else value)

    monkeypatch.setattr(SimpleHTTPRequestHandler, "send_header", promise_more)
    with pytest.raises(ConnectionError, match=r"broke off after 10 of 999 bytes"):
        download(f"{server}/data.bin", tmp_path / "got")
    assert not (tmp_path / "got").exists()


def test_a_chunked_download_that_breaks_off_is_not_kept(tmp_path, server, monkeypatch):
    def read(*given):
        raise http.client.IncompleteRead(b"some")

    monkeypatch.setattr(http.client.HTTPResponse, "read", read)
    with pytest.raises(ConnectionError, match=r"could not download .*IncompleteRead"):
        download(f"{server}/data.bin", tmp_path / "got")
    assert not (tmp_path / "got").exists()


def test_what_is_not_there_is_said_with_a_command_that_can_be_copied(tmp_path):
    error = not_found("USPS", "USPS/usps.bz2", tmp_path / "my data", "usps")
    assert str(error).endswith(f"prepare_data.py usps --data-dir '{tmp_path}/my data'")
    error = not_found("USPS", "USPS/usps.bz2", SAMPLES, "usps")
    assert str(error) == "USPS is not part of the embedded sample; name a folder as --data-dir"


def test_a_download_that_fails_says_what_to_do(tmp_path, server):
    with pytest.raises(ConnectionError, match=r"could not download .*absent.* on a machine with a network"):
        download(f"{server}/absent", tmp_path / "got")
    with pytest.raises(ConnectionError, match="could not download"):
        download("http://example.org/data", tmp_path / "got")
    assert not (tmp_path / "got").exists()


def test_processes_of_a_machine_make_a_file_one_after_the_other(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from datamodules.files import one_at_a_time\n"
        "path = Path(sys.argv[1])\n"
        "with one_at_a_time(path):\n"
        "    if not path.exists():\n"
        "        time.sleep(0.5); path.write_text('made'); print('made')\n"
    )
    line = [sys.executable, "-c", code, str(tmp_path / "set")]
    started = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(3)]
    assert sorted(process.communicate()[0] for process in started) == ["", "", "made\n"]
