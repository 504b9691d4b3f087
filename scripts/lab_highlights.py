"""What the page of the lab opens with: what it is, and what is seen first of each technique."""

from rdfia.engine.highlights import Highlight
from rdfia.engine.questions import Question

INTRO = (
    "Four techniques of computer vision, trained or applied by the commands that stand beside their answers: "
    "transfer learning, seeing inside networks, domain adaptation and generation. All numbers are read from "
    "what those commands wrote."
)
# What is seen first: of each technique the first of these that was run.
HIGHLIGHTS = (
    (
        Highlight(
            "Transfer learning",
            "svm_layers/worst_confusions",
            "a linear classifier on what VGG16 learned from photographs names {accuracy} of the test images "
            "of 15 scenes right; by chance 6.7 %. Here are its commonest mistakes.",
            {"accuracy": "svm_layers:vgg16/pool5/accuracy"},
        ),
        Highlight(
            "Transfer learning",
            "svm_layers/worst_confusions",
            "a linear classifier on what SqueezeNet learned from photographs names {accuracy} of handwritten "
            "digits right; by chance 10 %. Here are its commonest mistakes.",
            {"accuracy": "svm_layers:squeezenet1_1/fire5/accuracy"},
        ),
    ),
    (
        Highlight(
            "Seeing inside networks",
            "adversarial/attacked_fool",
            "changes of {psnr:.0f} dB, which are hardly seen, let SqueezeNet take {success} of the "
            "photographs that it knew for something else. Each change is magnified beside its image.",
            {"success": "adversarial:fool/success", "psnr": "adversarial:fool/median_psnr"},
        ),
    ),
    (
        Highlight(
            "Domain adaptation",
            "dann/predicted_dann",
            "a network that learned from black and white digits names {before} of digits in colour right, "
            "and {after} once it adapted to them without their labels.",
            {"before": "dann:source-only/target_accuracy", "after": "dann:dann/target_accuracy"},
        ),
    ),
    (
        Highlight(
            "Generation",
            "cgan/styles",
            "asked for a digit, a conditional GAN draws it {accuracy} of the time, as another network reads; "
            "by chance 10 %. What one latent gives to all digits is a style: their slants have a correlation "
            "of {slant:.2f}, those of different latents {shuffled:z.2f}.",
            {
                "accuracy": "cgan:conditional_accuracy",
                "slant": "cgan:slant_correlation",
                "shuffled": "cgan:slant_correlation_of_shuffled_pairs",
            },
        ),
    ),
)
SUMMARY = Question(
    "Main numbers",
    rows={
        "VGG16 pool5 + SVM, 15 Scene: accuracy": "svm_layers:vgg16/pool5/accuracy",
        "SqueezeNet fire5 + SVM, digits: accuracy": "svm_layers:squeezenet1_1/fire5/accuracy",
        "fine-tuning in stages: accuracy": "fine_tune_staged:accuracy",
        "Grad-CAM of SqueezeNet: insertion": "saliency:squeezenet1_1/grad_cam/insertion",
        "images that fool SqueezeNet": "adversarial:fool/success",
        "their median PSNR, dB": "adversarial:fool/median_psnr",
        "SqueezeNet's confidence in classes that it drew": "class:squeezenet1_1/confidence",
        "source only, MNIST to MNIST-M: target accuracy": "dann_paper:source-only/target_accuracy",
        "DANN, the paper's network: target accuracy": "dann_paper:dann/target_accuracy",
        "DANN, our network: target accuracy": "dann:dann/target_accuracy",
        "DCGAN, practicals' recipe: judge-FID": "gan_practical:judge_fid",
        "DCGAN, ours: judge-FID": "gan:judge_fid",
        "conditional DCGAN: digit read as asked": "cgan:conditional_accuracy",
    },
    columns={"value": ""},
)
