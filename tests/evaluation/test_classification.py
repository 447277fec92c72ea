"""Classification metrics against scikit-learn and hand-made cases."""

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, log_loss, precision_score, recall_score, top_k_accuracy_score

from detres.evaluation.classification import evaluate_classification


def test_no_images_give_no_numbers_but_reasons() -> None:
    for num_classes in (0, 10):
        result = evaluate_classification(torch.zeros(0, num_classes), torch.zeros(0, dtype=torch.int64))
        assert result.metrics == {"top1": None, "top5": None, "loss": None}
        assert set(result.reasons.values()) == {"there are no images"}
        assert result.per_class == [] and "n/a" in result.table()


def test_equal_to_scikit_learn() -> None:
    logits, labels = torch.randn(200, 8, dtype=torch.float64), torch.randint(0, 8, (200,))
    result = evaluate_classification(logits, labels)
    truth, scores = labels.numpy(), logits.softmax(1).numpy()
    assert result.metrics["top1"] == pytest.approx(top_k_accuracy_score(truth, scores, k=1), abs=1e-12)
    assert result.metrics["top5"] == pytest.approx(top_k_accuracy_score(truth, scores, k=5), abs=1e-12)
    assert result.metrics["loss"] == pytest.approx(log_loss(truth, scores), abs=1e-9)
    predicted = scores.argmax(axis=1)
    recalls = recall_score(truth, predicted, average=None)
    precisions = precision_score(truth, predicted, average=None)
    assert [row["recall"] for row in result.per_class] == pytest.approx(recalls.tolist())
    assert [row["precision"] for row in result.per_class] == pytest.approx(precisions.tolist())


def test_few_classes_have_no_top5_and_absent_ones_no_recall() -> None:
    result = evaluate_classification(torch.eye(3)[:2], torch.tensor([0, 0]), ["a", "b", "c"])
    assert result.metrics["top1"] == 0.5 and result.metrics["top5"] is None and "3 classes" in result.reasons["top5"]
    assert result.per_class[0] == {"name": "a", "num_images": 2, "num_predicted": 1, "recall": 0.5, "precision": 1.0}
    assert result.per_class[1]["recall"] is None and result.per_class[1]["precision"] == 0.0
    assert result.per_class[2]["recall"] is None and result.per_class[2]["precision"] is None
    assert result.to_dict()["kind"] == "classification"


def test_equal_scores_rank_by_label() -> None:
    logits = torch.zeros(7, 7)
    result = evaluate_classification(logits, torch.arange(7))
    assert result.metrics["top1"] == pytest.approx(1 / 7) and result.metrics["top5"] == pytest.approx(5 / 7)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="expected logits"):
        evaluate_classification(torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="labels lie in 0 ... 2, but the model scores 2"):
        evaluate_classification(torch.zeros(2, 2), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="1 of 2 images are not finite"):
        evaluate_classification(torch.tensor([[0.0, float("nan")], [0.0, 1.0]]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="scores 2 classes, but the data set names 1"):
        evaluate_classification(torch.zeros(1, 2), torch.tensor([0]), ["a"])


def test_confusion_matrix_equal_to_scikit_learn_and_the_most_confused_first() -> None:
    logits, labels = torch.randn(300, 6), torch.randint(0, 6, (300,))
    names = [f"n{label}" for label in range(6)]
    result = evaluate_classification(logits, labels, names)
    expected = confusion_matrix(labels.numpy(), logits.argmax(dim=1).numpy())
    assert result.to_dict()["confusion_matrix"] == expected.tolist()
    rows = result.most_confused(30)
    assert len(rows) == (expected * (1 - np.eye(6)) > 0).sum()
    assert [row["num_images"] for row in rows] == sorted((row["num_images"] for row in rows), reverse=True)
    worst = rows[0]
    true, found = names.index(worst["name"]), names.index(worst["taken_for"])
    assert true != found and worst["num_images"] == expected[true, found]
    assert worst["share"] == pytest.approx(expected[true, found] / expected[true].sum())
    assert "the most frequent mistakes" in result.table() and len(result.most_confused()) == 10


def test_no_mistakes_and_too_many_classes_for_a_matrix() -> None:
    right = evaluate_classification(torch.eye(3), torch.arange(3))
    assert right.most_confused() == [] and "mistakes" not in right.table()
    assert right.confusion is not None and right.confusion.tolist() == torch.eye(3).int().tolist()
    many = evaluate_classification(torch.zeros(1, 1001), torch.tensor([1]))
    assert many.confusion is None and many.most_confused() == []
    assert many.to_dict()["confusion_matrix"] is None
    assert evaluate_classification(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)).confusion is None
