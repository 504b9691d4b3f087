"""The questions of the practical, and where their answers lie: runs of `lab.EXPERIMENTS`, and metrics."""

from lab_questions_gan import GENERATION

from rdfia.adaptation.config import ABLATION as DANN_ABLATION
from rdfia.engine.questions import Chapter, Question
from rdfia.interpret.config import TABLES

SVM = {
    "accuracy": "accuracy",
    "by cross-validation": "cross_validation_accuracy",
    "features": "features",
    "C": "c",
}
DANN = {
    "target accuracy": "target_accuracy",
    "source accuracy": "source_accuracy",
    "source loss": "source_loss",
    "target loss": "target_loss",
    "A-distance": "a_distance",
}
FIRE9 = "svm_squeezenet:squeezenet1_1/fire9"
NETWORKS = ("squeezenet1_1", "resnet18", "mobilenet_v2", "mobilenet_v2_tfsame")
METHODS = ("gradient", "smooth_grad", "integrated_gradients", "grad_cam")
RECOGNISED = {
    "recognised by others among five": "top_5",
    "recognised by others first": "top_1",
    "how sure the makers are": "confidence",
}


IN_TURNS = "Each network made images, and the other two judged them; the pictures are SqueezeNet's."
ALONE = "SqueezeNet made the images, the others judge."
OF_C = {"vgg16/pool5": "svm_pool5", "squeezenet1_1/fire5": "svm_layers", "squeezenet1_1/fire9": "svm_layers"}
OF_MAKERS = {
    f"{name}, {network}{' itself' if network == NETWORKS[0] else ''}": f"{run}:{network}"
    for run, name in {"class_practical": "the practicals' settings", "class": "ours"}.items()
    for network in NETWORKS
}


def of_classes(table: str) -> dict[str, str]:
    """Return the rows of a table of settings of class visualisation."""
    return {row: f"class_{table}:{row}" for row in TABLES[table]}


TRANSFER = [
    Question(
        "How many parameters has VGG16?",
        rows={
            "all": "vgg16:parameters",
            "fully connected": "vgg16:parameters_fully_connected",
            "convolutions": "vgg16:parameters_convolutions",
        },
        columns={"parameters": ""},
        figures={"parameters and multiply-adds of each layer": "vgg16/layers"},
        published={"all": "138,357,544; reports also say 110.8 M and 123,633,664"},
        each=True,
    ),
    Question(
        "What does a network make of images?",
        rows={"squeezenet1_1, images of ImageNet": "classify"},
        columns={"right first": "top_1", "right among five": "top_5"},
        figures={"an image, what the network is given, what it says": "classify/classes_*"},
    ),
    Question(
        "What does its first layer see?",
        rows={"squeezenet1_1 relu1": "activations:relu1"},
        columns={"share of values that are not zero": "share_not_zero"},
        figures={"maps of an image": "activations/relu1_*"},
    ),
    Question(
        "What does the layer do to the accuracy?",
        rows={
            f"{network} {layer}": f"svm_layers:{network}/{layer}"
            for network, layers in {
                "vgg16": ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3", "pool5"),
                "squeezenet1_1": ("fire5", "fire9"),
            }.items()
            for layer in layers
        },
        columns=SVM,
        figures={"accuracy, features and time of each layer": "svm_layers/comparison"},
        published={"vgg16 conv5_3": "0.898", "vgg16 pool5": "0.900"},
        note="Published numbers chose C on the test images.",
    ),
    Question(
        "What does C do?",
        rows={
            f"{item.replace('/', ' ')}, C {c}": f"{run}:{item}/cross_validation_accuracy_at_c_{c}"
            for item, run in OF_C.items()
            for c in ("0.0316", "0.1", "0.316", "1", "3.16", "10", "31.6", "100")
        },
        columns={"accuracy by cross-validation": ""},
        figures={"of every layer": "svm_layers/accuracy_by_c", "each, with time": "svm_layers/c_*"},
        note="Features of length 1. Cross-validation is on the training images, and chooses C.",
    ),
    Question(
        "Do fewer dimensions (PCA) help?",
        rows={
            f"{item}, {what}": f"svm_layers:{item}/accuracy{key}"
            for item in ("vgg16/pool5", "squeezenet1_1/fire5", "squeezenet1_1/fire9")
            for what, key in {
                "all features": "",
                **{f"{count} components": f"_from_{count}_components" for count in (16, 64, 256, 1024)},
            }.items()
        },
        columns={"accuracy": ""},
        figures={"accuracy and time against the number of components": "svm_layers/components"},
        published={"vgg16/pool5, 256 components": "faster, not better"},
    ),
    Question(
        "How few images will do?",
        rows={
            f"{item}, {count} a class": f"svm_layers:{item}/accuracy_from_{count}_per_class"
            for item in ("vgg16/pool5", "squeezenet1_1/fire5")
            for count in (5, 10, 20, 40, 70)
        }
        | {"vgg16/pool5, all": "svm_layers:vgg16/pool5/accuracy"}
        | {"squeezenet1_1/fire5, all": "svm_layers:squeezenet1_1/fire5/accuracy"},
        columns={"accuracy": ""},
        figures={"accuracy against images a class": "svm_layers/training_images"},
        note="Those of the layer that cross-validation chooses.",
    ),
    Question(
        "Are other networks better?",
        rows={
            name: f"svm_networks:{name}"
            for name in (
                "mobilenet_v2/block17",
                "mobilenet_v2_tfsame/block16",
                "mobilenet_v2_tfsame/block17",
                "timm:tf_efficientnet_lite0/blocks.5",
                "timm:tf_efficientnet_lite0/blocks.6",
                "resnet18/layer4",
                "squeezenet1_1/fire9",
                "together",
            )
        }
        | {"vgg16/pool5, whole maps": "svm_pool5:vgg16/pool5"},
        columns=SVM,
        figures={"accuracy, features and time": "svm_networks/comparison"},
        published={"resnet18/layer4": "0.9127"},
        note="The published number chose C on the test images. Maps are averaged over 1, 4 and 9 cells, of "
        "image and mirror image; VGG16's stay whole, of the image alone. Together: all of that run.",
    ),
    Question(
        "How does pretraining help?",
        rows={"pretrained": FIRE9, "random weights": "svm_random:squeezenet1_1/fire9"},
        columns=SVM,
        figures={"which class is predicted as which, random weights": "svm_random/confusion_*"},
    ),
    Question(
        "Grey images: three channels alike, or the first layer's filters added up?",
        rows={"three channels": FIRE9, "filters added up": "svm_grey:squeezenet1_1/fire9"},
        columns=SVM,
        figures={"which class is predicted as which, filters added up": "svm_grey/confusion_*"},
    ),
    Question(
        "Does the network do better than an SVM when it is trained on, frozen or not?",
        rows={
            "frozen, a linear head": "fine_tune_frozen",
            "unfrozen in stages": "fine_tune_staged",
            "frozen, on all training images": "fine_tune_frozen_all",
            "in stages, on all training images": "fine_tune_all",
            "from random weights, on all training images": "fine_tune_scratch",
            "SVM on fire9, all training images": FIRE9,
        },
        columns={"accuracy": "accuracy", "held out": "val_accuracy", "epochs": "epochs"},
        figures={"frozen": "fine_tune_frozen/curves", "unfrozen in stages": "fine_tune_staged/curves"},
        note="Where not all training images are used, a fifth of them is held out.",
    ),
    Question(
        "Is there a leak? The same with shuffled labels",
        rows={"vgg16/pool5": "svm_shuffled:vgg16/pool5"},
        columns={"accuracy": "accuracy"},
        figures={"which class is predicted as which": "svm_shuffled/confusion_*"},
        note="To say one class always would be right for 0.04 to 0.10 of the test images.",
    ),
]
SEEING = [
    Question(
        "Which map is faithful, and is SqueezeNet or a larger network better?",
        rows={
            f"{network}, {method.replace('_', ' ')}": f"saliency:{network}/{method}"
            for network in NETWORKS
            for method in METHODS
        },
        columns={
            "deletion (less is better)": "deletion",
            "insertion (more is better)": "insertion",
            "correlation when randomized (0 is right)": "randomized",
        },
        figures={
            "deletion, insertion, randomization": "saliency/faithfulness",
            "maps": "saliency/saliency_*",
        },
        answered_by="insertion (more is better)",
    ),
    Question(
        "What does it cost to fool a network?",
        rows={
            name: f"adversarial:{name}"
            for name in ("fool", "fgsm", "pgd", "pgd_l2", "plain", "eot", "pixels", "shapes")
        },
        columns={
            "success": "success",
            "as PNG": "success_as_files",
            "median L2": "median_l2",
            "median L-inf": "median_linf",
            "PSNR, dB": "median_psnr",
            "queries": "median_queries",
            "gradients": "median_gradients",
            "overlap with saliency": "overlap_with_saliency",
            "under transformations": "under_transformations",
        },
        figures={
            "image, changed image, difference x 10": "adversarial/attacked_fool",
            "success against size": "adversarial/success",
        },
        published={"fool": "few iterations, invisible"},
        answered_by="median L2",
        less=True,
        apart_from=["fgsm", "pgd", "pgd_l2", "plain", "eot"],
        note="Medians are of images that an attack fools. The size of fgsm, pgd, pgd_l2, plain and eot is "
        "that of their flags; those of the others are what they need.",
    ),
    Question(
        "Do images that fool one network fool others?",
        rows={f"made with {network}": f"adversarial:matrix/fool/{network}" for network in NETWORKS},
        columns={f"fools {network}": network for network in NETWORKS},
        figures={"what fools which": "adversarial/transfer_matrix"},
        answered_by="fools resnet18",
        apart_from=["made with resnet18"],
        note="Of the images that fool the one, the share that fools the other, where it was right before.",
    ),
    Question(
        "Does an unlikely target cost more?",
        rows={
            f"the {which} eighth of targets": f"adversarial:influence/median_l2_of_{key}_eighth"
            for which, key in {"likeliest": "nearest", "unlikeliest": "farthest"}.items()
        },
        columns={"median L2": ""},
        figures={"size of the change against the target's rank": "adversarial/influence_of_the_target"},
    ),
    Question(
        "Do other networks recognise what a network takes for a class?",
        rows=OF_MAKERS,
        columns={
            "recognised among five": "top_5",
            "recognised first": "top_1",
            "confidence": "confidence",
        },
        apart_from=[row for row in OF_MAKERS if row.endswith(" itself")],
        figures={
            "the practicals' settings": "class_practical/classes",
            "ours": "class/classes",
            "ours, as they come to be": "class/film",
        },
        note=ALONE,
    ),
    *(
        Question(
            question,
            rows=before | of_classes(table),
            columns=RECOGNISED,
            figures={"images of each row": f"class_{table}/settings"},
            published=published,
            note=note,
        )
        for table, question, before, published, note in (
            ("ladder", "What has each step to our settings given to class visualisation?", {}, {}, IN_TURNS),
            (
                "regularizers",
                "What does each regulariser do to class visualisation?",
                {"all, as the practicals have them": "class_ladder:practical"},
                {"no regularizer": "oversaturated"},
                IN_TURNS,
            ),
            (
                "rate",
                "What does the learning rate do to class visualisation?",
                {},
                {"rate 1": "slow", "rate 100": "unstable"},
                ALONE,
            ),
            (
                "penalty",
                "What does the weight of the penalty do to class visualisation?",
                {},
                {"penalty 1": "too strong", "penalty 1e-07": "no change seen"},
                ALONE,
            ),
            ("steps", "What does the number of steps do to class visualisation?", {}, {}, ALONE),
        )
    ),
]
ADAPTATION = [
    Question(
        "What does the reversal do, and what does it cost the source?",
        rows={
            name.replace("-", " "): f"dann_paper:{name}"
            for name in ("source-only", "no-reversal", "dann", "target-trained")
        },
        columns=DANN,
        figures={
            "features before and after, by t-SNE": "dann_paper/tsne",
            "curves": "dann_paper/curves",
            "the domains": "dann_paper/domains",
        },
        published={
            "source only": "0.5225 (paper)",
            "no reversal": "0.4637",
            "dann": "0.7666 (paper), 0.73 to 0.78",
        },
    ),
    Question(
        "What does DANN give with our network; do pseudo-labels help?",
        rows={
            name.replace("-", " "): f"dann:{name}"
            for name in ("source-only", "no-reversal", "dann", "pseudo-labels")
        },
        columns=DANN,
        figures={"features before and after, by t-SNE": "dann/tsne", "curves": "dann/curves"},
    ),
    Question(
        "Is it the pseudo-labels, DANN, or training for longer?",
        rows={
            "source only": "pseudo_labels:source-only",
            "source only for as many epochs as with pseudo-labels": "source_longer:source-only",
            "source only, then pseudo-labels": "pseudo_labels:pseudo-labels",
            "dann": "dann:dann",
            "dann for as many epochs as with pseudo-labels": "dann_longer:dann",
            "dann, then pseudo-labels": "dann:pseudo-labels",
        },
        columns=DANN,
        figures={
            "source only and pseudo-labels": "pseudo_labels/tsne",
            "dann for longer": "dann_longer/curves",
        },
        note="With pseudo-labels come turned, scaled and shifted images, and BatchNorm's statistics of the "
        "target also where there was no DANN: what rises is not due to the labels alone.",
    ),
    Question(
        "What do lambda and the rest of the recipe do?",
        rows={"the paper's recipe": "dann_ablation:dann"}
        | {row: f"dann_ablation:{row}" for row in DANN_ABLATION},
        columns=DANN,
        figures={"target accuracy": "dann_ablation/target_accuracy"},
    ),
]
CHAPTERS = [
    Chapter(
        "Transfer learning",
        TRANSFER,
        "A network trained on ImageNet stays as it is, and a linear SVM learns the classes from what one of "
        "its layers makes of each image; or it is trained on (fine-tuning). Accuracy is that on test images, "
        "which choose nothing: C is from cross-validation on the training images, the epoch of fine-tuning "
        "from images held out, or it is the last where all are trained on.",
    ),
    Chapter(
        "Seeing inside networks",
        SEEING,
        "Deletion and insertion are areas under the probability of the true class while the pixels that a "
        "map calls most salient go, or come; randomized is how far a map stays the same when all weights are "
        "random. An attack counts where the image, rounded to 8 bits, still fools; sizes are norms of the "
        "difference of images in [0, 1]. Of images that show what a network takes for a class, others judge "
        "whether it is the one asked for.",
    ),
    Chapter(
        "Domain adaptation",
        ADAPTATION,
        "Labelled MNIST is the source, MNIST-M without labels the target. The A-distance says how well a "
        "linear classifier, trained on the features afterwards, tells the two apart: 2 always, 0 not at all.",
    ),
    Chapter(
        "Generation",
        GENERATION,
        "The digit judge is a classifier that ships with the project. Judge-FID is the Fréchet distance of "
        "generated from real test digits in its features (less is better); precision is the share of "
        "generated digits that lie among real ones there, recall the share of real ones that lie among "
        "generated ones; confident are those to which it gives more than 0.9. The swing is the standard "
        "deviation of the generator's loss over the last epoch. ngf and ndf are the widths of generator and "
        "discriminator, nz the length of the latent vector z.",
    ),
]
