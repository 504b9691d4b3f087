"""Errors in the words of the command line."""

from dataclasses import dataclass

import pytest

from rdfia.engine.cli import in_flags
from rdfia.generation.config import GANArgs


@dataclass
class Other:
    """Flags of another command."""

    groups_of: int = 1


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("take gp_weight=10 and normalization='none'", "take --gp-weight 10 and --normalization none"),
        ("top_k is a share, got 2", "--top-k is a share, got 2"),
        ("the loss of runs/top_k/gan is nan", "the loss of runs/top_k/gan is nan"),
        ("top_k/args.json is damaged", "top_k/args.json is damaged"),
        ("shape=3 is of no flag, nor is some_name", "shape=3 is of no flag, nor is some_name"),
        ("--gp-weight 10; groups=0.", "--gp-weight 10; --groups 0."),
    ],
)
def test_keywords_become_flags(said, shown):
    assert in_flags(said, GANArgs) == shown
    assert in_flags(said, GANArgs | Other) == shown
    assert in_flags(said, Other) == said
