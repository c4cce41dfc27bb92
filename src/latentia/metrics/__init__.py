"""Measures generated and reconstructed pictures. It does not know how they were made."""

from latentia.metrics.cas import ClassificationScore, classification_accuracy_score
from latentia.metrics.classifier import (
    PictureClassifier,
    accuracy,
    classifier_features,
    predict,
    train_classifier,
    trained_classifier,
)
from latentia.metrics.distances import (
    Coverage,
    KernelDistance,
    coverage,
    frechet_distance,
    frechet_from_moments,
    kernel_distance,
)
from latentia.metrics.features import FeatureNet, classifier_net, inception_features, inception_net
from latentia.metrics.neighbours import Memorisation, Neighbours, memorisation, nearest_neighbours, neighbour_sheet
from latentia.metrics.reconstruction import psnr, reconstruction_frechet, ssim
from latentia.metrics.report import Figure, Report, evaluate_pictures, evaluate_reconstruction

__all__ = [
    "ClassificationScore",
    "Coverage",
    "FeatureNet",
    "Figure",
    "KernelDistance",
    "Memorisation",
    "Neighbours",
    "PictureClassifier",
    "Report",
    "accuracy",
    "classification_accuracy_score",
    "classifier_features",
    "classifier_net",
    "coverage",
    "evaluate_pictures",
    "evaluate_reconstruction",
    "frechet_distance",
    "frechet_from_moments",
    "inception_features",
    "inception_net",
    "kernel_distance",
    "memorisation",
    "nearest_neighbours",
    "neighbour_sheet",
    "predict",
    "psnr",
    "reconstruction_frechet",
    "ssim",
    "train_classifier",
    "trained_classifier",
]
