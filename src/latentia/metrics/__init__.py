"""Measures generated and reconstructed pictures and texts. It does not know how they were made."""

from latentia.metrics.cas import ClassificationScore, classification_accuracy_score
from latentia.metrics.classifier import (
    PictureClassifier,
    accuracy,
    classifier_features,
    even_weights,
    predict,
    probabilities,
    train_classifier,
    trained_classifier,
    vote,
    weighted,
)
from latentia.metrics.distances import (
    Coverage,
    KernelDistance,
    coverage,
    frechet_distance,
    frechet_from_moments,
    kernel_distance,
)
from latentia.metrics.features import FeatureNet, classifier_net, imagenet_net, inception_features, inception_net
from latentia.metrics.judge import JudgeLM, perplexity, train_judge, trained_judge
from latentia.metrics.neighbours import (
    Memorisation,
    Neighbours,
    memorisation,
    nearest_neighbours,
    neighbour_sheet,
    retrieval,
)
from latentia.metrics.reconstruction import psnr, reconstruction_frechet, ssim
from latentia.metrics.report import Figure, Report, evaluate_pictures, evaluate_reconstruction
from latentia.metrics.sentences import SMALLEST_MAUVE_SET, SentenceNet, mauve_score, sentence_embeddings, sentence_net
from latentia.metrics.text_classifier import TextClassifier, class_accuracy, train_text_classifier
from latentia.metrics.text_counts import TextMemorisation, bleu, distinct_n, self_bleu, text_memorisation
from latentia.metrics.text_report import TokenAgreement, evaluate_text_reconstruction, evaluate_texts, token_agreement

__all__ = [
    "SMALLEST_MAUVE_SET",
    "ClassificationScore",
    "Coverage",
    "FeatureNet",
    "Figure",
    "JudgeLM",
    "KernelDistance",
    "Memorisation",
    "Neighbours",
    "PictureClassifier",
    "Report",
    "SentenceNet",
    "TextClassifier",
    "TextMemorisation",
    "TokenAgreement",
    "accuracy",
    "bleu",
    "class_accuracy",
    "classification_accuracy_score",
    "classifier_features",
    "classifier_net",
    "coverage",
    "distinct_n",
    "evaluate_pictures",
    "evaluate_reconstruction",
    "evaluate_text_reconstruction",
    "evaluate_texts",
    "even_weights",
    "frechet_distance",
    "frechet_from_moments",
    "imagenet_net",
    "inception_features",
    "inception_net",
    "kernel_distance",
    "mauve_score",
    "memorisation",
    "nearest_neighbours",
    "neighbour_sheet",
    "perplexity",
    "predict",
    "probabilities",
    "psnr",
    "reconstruction_frechet",
    "retrieval",
    "self_bleu",
    "sentence_embeddings",
    "sentence_net",
    "ssim",
    "text_memorisation",
    "token_agreement",
    "train_classifier",
    "train_judge",
    "train_text_classifier",
    "trained_classifier",
    "trained_judge",
    "vote",
    "weighted",
]
