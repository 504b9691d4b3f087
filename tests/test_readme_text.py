"""README's text: the numbers in its sentences, its commands, its tree."""

import importlib
import re
import shlex
import sys

import pytest
from test_readme import README, ROOT, results

from rdfia.engine.cli import parse
from rdfia.engine.runs import spread, wilson

RESULTS = README[README.index("## Results") : README.index("## The questions of the practical")]


def of(file: str, metric: str, digits: int, part: str = "mean") -> str:
    return f"{results(file)['metrics'][metric][part]:.{digits}f}"


def ablation(row: str, metric: str = "judge_fid", digits: int = 1) -> str:
    return of("gan_ablation", f"{row}/{metric}", digits)


def wins(row: str) -> str:
    """Return in how many batches of a hundred the discriminator tells all images right."""
    return f"{100 * results('gan_ablation')['metrics'][f'{row}/discriminator_wins']['mean']:.0f}"


def by(criterion: str) -> str:
    return spread(results("dann_paper")["metrics"][f"dann/target_accuracy_by_{criterion}"], 3)


def pseudo(row: str, name: str = "pseudo_labels") -> str:
    return spread(results(name)["metrics"][f"{row}/target_accuracy"], 3)


def longer(row: str) -> str:
    """Return how many times as long a row took as the practicals' recipe."""
    metrics = results("gan_ablation")["metrics"]
    return f"{metrics[f'{row}/seconds']['mean'] / metrics['practical/seconds']['mean']:.1f}"


def halfway(way: str) -> str:
    return spread(results("gan")["metrics"][f"halfway_confident_share_{way}"], 3)


def beyond(row: str) -> str:
    """Return by how much a change of the paper's recipe moves the accuracy on the target."""
    accuracies = [
        results("dann_ablation")["metrics"][f"{one}/target_accuracy"]["mean"] for one in (row, "dann")
    ]
    return f"{abs(accuracies[0] - accuracies[1]):.3f}"


def agreement(method: str) -> str:
    found = [
        metric["mean"]
        for name, metric in results("saliency")["metrics"].items()
        if name.startswith(f"{method}/agreement/")
    ]
    assert len(found) == 3
    return f"{min(found):.2f} to {max(found):.2f}"


LITE, FLOAT32 = "timm:tf_efficientnet_lite0/blocks.5", "vgg16/pool5/accuracy"
FIRE9 = "squeezenet1_1/fire9/accuracy"
D_LOSS = "final_discriminator_loss"
ADABN = "source-only, AdaBN"
CHOSEN = "Adam, BatchNorm, separate passes"
LEFT_OUT, CLASSES, DANN = "class_regularizers", "class_ladder", "dann_ablation"
SENTENCES = [
    # Transfer learning
    f"Cross-validation puts lite0/blocks.5 and resnet18/layer4 level "
    f"({of('svm_networks', f'{LITE}/cross_validation_accuracy', 4)}) and all together first "
    f"({of('svm_networks', 'together/cross_validation_accuracy', 4)}).",
    f"pool5 in float32 has {of('svm_pool5_float32', FLOAT32, 4)}, over 10 splits "
    f"{of('svm_pool5_float32', f'{FLOAT32}_over_splits', 4)} ± "
    f"{of('svm_pool5_float32', f'{FLOAT32}_over_splits', 4, 'std')}",
    f"than the SVM on fire9's whole maps ({of('svm_squeezenet', FIRE9, 4)}) and less than the one on its "
    f"pooled maps and mirror images ({of('svm_squeezenet_grids', FIRE9, 4)}, above)",
    # Seeing
    f"sure whatever is left out ({of(LEFT_OUT, 'without penalty/confidence', 3)} and more)",
    f"hangs on jitter most ({of(CLASSES, 'practical/top_5', 3)} of the images among their five, "
    f"{of(LEFT_OUT, 'without jitter/top_5', 3)} without) and on blur "
    f"({of(LEFT_OUT, 'without blur/top_5', 3)} without it).",
    f"({of(LEFT_OUT, 'without penalty/top_5', 3)} in place of "
    f"{of(CLASSES, 'practical/top_5', 3)} without it). With SqueezeNet alone a hundred times that "
    f"weight leaves {of('class_penalty', 'penalty 0.1/top_5', 3)} of "
    f"{of('class_penalty', 'penalty 0.001/top_5', 3)},",
    f"{of('class_steps', '1000 steps/top_5', 3)} in place of {of('class_steps', '200 steps/top_5', 3)}.",
    f"a rank correlation of {agreement('gradient')} (gradients) up to {agreement('grad_cam')} (Grad-CAM)",
    "the 95 % interval of 13 of 13 is {:.2f} to {:.2f}, that of 4 of 13 is {:.2f} to {:.2f}.".format(
        *wilson(1.0, 13), *wilson(4 / 13, 13)
    ),
    # Domain adaptation
    f"highest target accuracy, too ({of(DANN, f'{CHOSEN}/target_accuracy', 3)} ± "
    f"{of(DANN, f'{CHOSEN}/target_accuracy', 3, 'std')};",
    f"({of('dann', 'dann/target_information', 2)} against "
    f"{of('dann', 'source-only/target_information', 2)} nats)",
    f"({of('dann', 'dann/target_density', 2)} against {of('dann', 'source-only/target_density', 2)})",
    f"right on {of('dann', 'dann/source_domain_accuracy', 3)} of the source and "
    f"{of('dann', 'dann/target_domain_accuracy', 3)} of the target images",
    f"is {of('dann', 'source-only/a_distance', 2)} of source-only, "
    f"{of('dann', f'{ADABN}/a_distance', 2)} of AdaBN and {of('dann', 'dann/a_distance', 2)} of DANN.",
    f"({spread(results('dann')['metrics'][f'{ADABN}/target_accuracy'])}, where source-only has "
    f"{spread(results('dann')['metrics']['source-only/target_accuracy'])})",
    f"DANN alone ends at {spread(results('dann_longer')['metrics']['dann/target_accuracy'], 4)}",
    f"the rounds lift source-only from {pseudo('source-only')} to "
    f"{pseudo('pseudo-labels')}; in the first it labels "
    f"{of('pseudo_labels', 'pseudo-labels/round_1_coverage', 2)} of the target's images, "
    f"{of('pseudo_labels', 'pseudo-labels/round_1_label_accuracy', 3)} of them right",
    f"16 epochs on the source alone end at {pseudo('source-only', 'source_longer')}",
    f"The two are worth {beyond('images in [-1, 1]')} and {beyond('no dropout')} alone, and "
    f"{beyond('both, as published')} together.",
    f"Adam and BatchNorm help most ({beyond('Adam')} and {beyond('BatchNorm')}, no further apart than the "
    f"seeds), and both together more ({beyond('Adam, BatchNorm')}, with a pass for each domain "
    f"{beyond('Adam, BatchNorm, separate passes')})",
    f"leaves the target at {of(DANN, 'lambda up to 0.1/target_accuracy', 3)}, where source-only is after "
    f"20 epochs ({of('dann_paper', 'source-only/target_accuracy', 3)})",
    f"in float32 the target is at {of(DANN, 'float32/target_accuracy', 3)} ± "
    f"{of(DANN, 'float32/target_accuracy', 3, 'std')} instead of "
    f"{of(DANN, 'dann/target_accuracy', 3)} ± {of(DANN, 'dann/target_accuracy', 3, 'std')}",
    f"by mutual information ({by('information')}) but not by density ({by('density')})",
    # Generation
    f"the digits are better ({ablation('rates 0.02 and 0.05')} instead of {ablation('practical')})",
    f"have {of('gan_ladder', 'practical/floor_judge_fid', 3)} here.",
    f"It alone was tested, and has {of('gan_ladder', '+ 50 groups/test_judge_fid', 3)} there.",
    f"for it alone gives {ablation('G rate 0.001')}, for both {ablation('rates 0.001 and 0.001')}, and",
    f"it is worse ({ablation('nz 1000')})",
    f"a better judge-FID ({ablation('nz 10')}), but it covers less of the real digits (recall "
    f"{ablation('nz 10', 'recall', 2)} instead of {ablation('practical', 'recall', 2)})",
    f"worse at these rates ({ablation('least-squares loss')}), hinge is alike ({ablation('hinge loss')})",
    f"right in {wins('ngf 4')} % of the batches",
    f"both are better ({ablation('ngf 128')} and {ablation('ngf 256')})",
    f"took {results('gan_lr2')['wall_seconds']:.0f} s for the same and found a judge-FID of "
    f"{spread(results('gan_lr2')['metrics']['judge_fid'], 3)}",
    f"there): of {halfway('linear')} of them along the straight line and of {halfway('slerp')} along",
    f"256 takes {longer('ngf 256')} times as long",
    f"D's loss falls from {ablation('practical', D_LOSS, 2)} to {ablation('ndf 128', D_LOSS, 2)} (128) and "
    f"{ablation('ndf 256', D_LOSS, 2)} (256), and D tells all images of a batch right in "
    f"{wins('practical')} %, {wins('ndf 128')} % and {wins('ndf 256')} % of the batches; "
    f"64, 128 and 256 give {ablation('ndf 64')}, {ablation('ndf 128')} and {ablation('ndf 256')}.",
    f"yes ({ablation('ndf 4')}, recall {ablation('ndf 4', 'recall', 2)})",
    f"After 30 epochs judge-FID is {ablation('30 epochs')} and recall {ablation('30 epochs', 'recall', 2)}",
    f"smallest class holds {ablation('30 epochs', 'smallest_class_share', 3)} instead of "
    f"{ablation('practical', 'smallest_class_share', 3)} of the digits",
    f"(D's from {ablation('practical', 'final_discriminator_loss', 2)} to "
    f"{ablation('30 epochs', 'final_discriminator_loss', 2)}, G's from "
    f"{ablation('practical', 'final_generator_loss')} to {ablation('30 epochs', 'final_generator_loss')})",
    f"appears with {of('cgan_no_label', 'no-label-in-discriminator/conditional_accuracy', 3)}",
    f"(slant {of('cgan_no_label', 'no-label-in-discriminator/slant_correlation', 3)})",
]
# What was chosen, what others published, and what tests hold.
SETTINGS = [
    "Published: 0.9169 (VGG16 relu6",
    "SqueezeNet 1.1",
    "at least 8 % of",
    "(13 images at most)",
    "at most ln 10 = 2.30",
    "52.25",
    "76.66",
    "lambda up to 0.1",
    "A rate of 0.03",
    "at least 99.4 % on the",
    "with p > 0.9",
    "would be 0.1 were",
    "learning rates of 0.002",
    "beta2 of 0.99",
    "differences of 10 ms, and of 0.2 in judge-FID",
    "rates of 0.02 and 0.05",
    "a rate of 0.001",
    "lie within 0.6",
    "(0.084 ± 0.003 at commit c9dcfd4b4bb2)",
]


def sentences() -> str:
    """Return what of the results is neither table nor code, in one line."""
    text = re.sub(r"^\|.*\n", "", RESULTS, flags=re.MULTILINE)
    return " ".join(re.sub(r"`[^`]*`", "", text).split()).replace(" ,", ",")


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_sentence_says_what_was_measured(sentence):
    assert sentence in sentences()


def test_no_other_sentence_has_a_number():
    left = sentences()
    for known in (*SENTENCES, *SETTINGS):
        left = left.replace(known, "")
    # The facts of the runs, which other tests hold: memory.
    left = re.sub(r"\d+\.\d+ GB of memory at most", "", left)
    found = re.findall(r"(?<![\w.]).{0,40}\d+\.\d+.{0,20}|.{0,40}\d+ %.{0,20}", left)
    assert not found


def test_initialisations_lie_as_close_as_is_said():
    scores = [
        results("gan_ablation")["metrics"][f"{row}/judge_fid"]["mean"]
        for row in ("practical", "pytorch initialization", "orthogonal initialization")
    ]
    assert max(scores) - min(scores) < 0.6


def test_make_has_the_targets_that_are_named():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile, target


def commands() -> list[str]:
    """Return the command lines of README's scripts."""
    inline = [" ".join(code.split()) for code in re.findall(r"`(python scripts/[^`]+)`", README)]
    return [*inline, *re.findall(r"^python scripts/.*$", README, re.MULTILINE)]


@pytest.mark.parametrize("command", commands())
def test_a_command_has_flags_that_its_script_takes(command, monkeypatch):
    script, *flags = shlex.split(command, comments=True)[1:]
    monkeypatch.setattr(sys, "argv", [script, *flags])
    if "--help" not in flags:
        parse(importlib.import_module(script.removeprefix("scripts/").removesuffix(".py")).Args)


def test_the_recipe_that_needs_no_labels_to_be_chosen_is_the_one_that_is_named():
    """Mutual information of the target's predictions, over the variants of the ablation."""
    metrics = results("dann_ablation")["metrics"]
    for score in ("information", "accuracy"):
        found = {
            name.removesuffix(f"/target_{score}"): metric["mean"]
            for name, metric in metrics.items()
            if name.endswith(f"/target_{score}")
        }
        assert max(found, key=found.get) == CHOSEN


def test_the_last_row_of_the_ladder_is_the_best_on_held_out_digits():
    metrics = results("gan_ladder")["metrics"]
    found = {name: one["mean"] for name, one in metrics.items() if name.endswith("/judge_fid")}
    assert min(found, key=found.get) == "+ 50 groups/judge_fid"
    assert {name.split("/")[0] for name in metrics if "/test_" in name} == {"+ 50 groups"}


def test_source_only_ends_as_it_did_at_another_commit():
    runs = [results(name)["metrics"]["source-only/target_accuracy"] for name in ("dann", "pseudo_labels")]
    assert runs[0]["values"] == runs[1]["values"]
