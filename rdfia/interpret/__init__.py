"""Seeing inside networks: activations, saliency, adversarial examples, class visualisation."""
