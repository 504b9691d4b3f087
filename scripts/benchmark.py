"""Measure our code beside the usual one, both in this run, on this machine.

On a CPU without instructions for bfloat16 all is measured in float32.

Examples:
    python scripts/benchmark.py data --data-dir /path/to/data
    python scripts/benchmark.py decoding --data-dir /path/to/data
    python scripts/benchmark.py svm --data-dir /path/to/data
    python scripts/benchmark.py dann --data-dir /path/to/data
    python scripts/benchmark.py photographs
    python scripts/benchmark.py gan --data-dir /path/to/data
    python scripts/benchmark.py gan-sizes
    python scripts/benchmark.py seeing --data-dir /path/to/data
    python scripts/benchmark.py ddp --data-dir sample

data: MNIST batches of 128, float in [0, 1], through our loader and through torchvision's MNIST with ToTensor
and a DataLoader with 2 workers; and the time to generate MNIST-M.

decoding: epochs of 15 Scene's 1,500 training photographs and of 250 ImageNet samples at 224 pixels, float
in [0, 1], through the folder module (the first with listing, audit and decoding) and through torchvision's
ImageFolder, Resize, ToTensor and a DataLoader; 2 threads or workers each.

svm: features of VGG16's pool5, and of relu5_3 and pool5, on 15 Scene, from the files on, by us (bf16) and
by the usual loop (ImageFolder, DataLoader with 2 workers, float32, one pass a layer); then a sweep of 8
values of C, fit and test, by us and by scikit-learn's SVC on the features, whose predictions are compared.

dann: training steps of train_dann.py (bf16, through Lightning, with logging), beside the same steps written
without Lightning, and beside the usual loop (torchvision datasets, PIL, ToTensor, a DataLoader with 2 workers
for each domain, float32) on the same network and batches of 128 + 128.

photographs: training steps of DANN on ResNet-18, all of it trained, on batches of 32 + 32 random images of
224 pixels, through Lightning with logging, beside the same steps in plain PyTorch; in float32 and in bf16.

gan: training steps of train_gan.py --preset practical (bf16, through Lightning, with logging), beside the
same steps written without Lightning, and beside the loop of PyTorch's DCGAN tutorial (float32); then our
steps in float32, and those of each recipe on the ladder to the default, per 128 images.

gan-sizes: training steps of the same recipe on random images in colour of 32, 64 and 128 pixels, through
Lightning with logging, beside the same steps without; and the memory that scores need for 1,000, 10,000 and
50,000 images, each in a process of its own.

seeing: SqueezeNet drawing 25 classes at once beside one class at a time, seconds a class; SmoothGrad with 50
samples of 4 images beside captum's; the one-pixel attack beside torchattacks', seconds a query. Ours in
float32 and in bf16; the attack also compiled.

ddp: epochs of train_dann.py and of train_gan.py in one process and in two, per global batch; they can be
those of the sample.

The usual code runs with the default settings of malloc; ours keeps freed memory in the process, as the
trainer scripts do.
"""

import shlex
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import Args
from benchmarks.dann import measure_dann
from benchmarks.data import measure_data
from benchmarks.ddp import measure_ddp
from benchmarks.decoding import measure_decoding
from benchmarks.gan import measure_gan
from benchmarks.gan_sizes import measure_gan_sizes
from benchmarks.photographs import measure_photographs
from benchmarks.seeing import measure_seeing
from benchmarks.svm import measure_svm

from rdfia.engine.cli import run_script


def main(args: Args) -> dict[str, Any]:
    """Measure, print and write the figures."""
    import torch

    from rdfia.common.environment import git_commit, processor
    from rdfia.engine.runs import write_json

    commit = git_commit()  # before anything changes
    measures = {"data": measure_data, "svm": measure_svm, "dann": measure_dann, "gan": measure_gan}
    measures |= {"seeing": measure_seeing, "ddp": measure_ddp, "decoding": measure_decoding}
    measures |= {"photographs": measure_photographs, "gan-sizes": measure_gan_sizes}
    measured = measures[args.what](args)
    results = {
        "command": shlex.join(["python", *sys.argv]),
        "commit": commit,
        "device": f"{processor()}, {torch.get_num_threads()} threads",
        **measured,
    }
    write_json(args.output or Path("runs") / f"benchmark_{args.what}.json", results)
    for name, value in results.items():
        if not isinstance(value, list):
            print(f"{name:42}{value}")
    return results


if __name__ == "__main__":
    run_script(main, Args)
