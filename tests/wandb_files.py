"""What Weights & Biases keeps of a run on disk."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def parts(content: bytes) -> Iterator[bytes]:
    """Yield what a file of W&B holds: a head of 7 bytes, then records as LevelDB writes its log.

    Blocks of 32 KiB hold parts of records, each behind a checksum (4), a length (2) and a kind (1): a whole
    record, its first part, a middle one, its last.
    """
    place, record = 7, b""
    while place + 7 <= len(content):
        if (room := 32768 - place % 32768) < 7:  # too little for the head of a part: filled up
            place += room
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def wandb_records(folder: Path) -> tuple[dict[str, Any], int]:
    """Return the settings that the one W&B run in a folder holds, and its number of rows."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("wandb/*run-*/run-*.wandb")
    settings, rows = {}, 0
    for part in parts(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(part)
        for update in (*record.config.update, *record.run.config.update):
            settings[update.key or "/".join(update.nested_key)] = json.loads(update.value_json)
        rows += record.HasField("history")
    return settings, rows
