"""Serve a page on this computer: drop a photograph, draw a digit, walk between what a GAN draws.

It needs pip install "rdfia[explore]". Nothing that is dropped leaves the computer, and nothing is kept.

Examples:
    python scripts/explore.py
    python scripts/explore.py --gan runs/gan --cgan runs/cgan
    python scripts/explore.py --classifier runs/fine-tune --pictures train/
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rdfia.engine.args import default
from rdfia.engine.cli import run_script


@dataclass(frozen=True)
class Args:
    """Serve the explorer until Ctrl-C."""

    classifier: Annotated[Path | None, default("SqueezeNet, trained on ImageNet")] = None
    """Run folder of train_svm.py, train_fine_tune.py or train_dann.py to ask about photographs."""
    pictures: Annotated[tuple[Path, ...], default("the photographs that ship with the project")] = ()
    """Photographs, or folders of them, among which the nearest to a new one are sought."""
    most_pictures: int = 2000
    """Photographs at most; of more, every so many are taken."""
    gan: Annotated[Path | None, default("runs/demo/gan where it is")] = None
    """Run folder of train_gan.py to walk in."""
    cgan: Annotated[Path | None, default("runs/demo/cgan where it is")] = None
    """Run folder of train_cgan.py on digits, which draws all digits in one style."""
    data_dir: Annotated[Path | None, default("as in training, or $RDFIA_DATA")] = None
    """Data folder with the weights of the network of --classifier."""
    port: int = 7860
    """Port of the page; 0 for any that is free."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ValueError(f"--port is from 0 to 65535, got {self.port}")
        if self.most_pictures < 1:
            raise ValueError(f"--most-pictures is at least 1, got {self.most_pictures}")


def main(args: Args) -> None:
    """Load, and serve."""
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ModuleNotFoundError as error:
        raise ValueError(f'{error.name} is not installed; pip install "rdfia[explore]"') from error
    import socket

    from rdfia.explore.app import make_app
    from rdfia.explore.load import load

    networks = load(args.classifier, args.pictures, args.most_pictures, args.gan, args.cgan, args.data_dir)
    with socket.socket() as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind(("127.0.0.1", args.port))
        except OSError as error:
            raise ValueError(
                f"port {args.port} cannot be used ({error.strerror}); name another by --port"
            ) from error
        print(f"open http://127.0.0.1:{place.getsockname()[1]} (Ctrl-C ends it)", flush=True)
        uvicorn.Server(uvicorn.Config(make_app(networks), log_level="warning", access_log=False)).run([place])


if __name__ == "__main__":
    run_script(main, Args)
