import numpy as np
import pytest
from river import linear_model, naive_bayes

from headrace.consumers.fastjson.scan import Scanner
from headrace.consumers.record_batch import RecordBatch
from headrace.consumers.refusal import Refusal
from headrace.pipeline.engine.label_column import LabelColumn, score
from headrace.state.models.columns import Answers
from headrace.state.models.learner import RiverLearner
from headrace.state.shard_model import MODEL, ShardModel


def _batch(*labels: str) -> RecordBatch:
    parts = [label and f', "label": {label}' for label in labels]
    values = [f'{{"features": {{}}{part}}}'.encode() for part in parts]
    count = len(values)
    return RecordBatch(0, offsets=range(count), timestamps=[1] * count, keys=[None] * count, values=values)


def test_labels_are_numbers_and_those_that_can_not_be_learned_are_refused() -> None:
    refusals: dict[int, Refusal] = {}
    labels = LabelColumn(RiverLearner(linear_model.LogisticRegression()), 5, refusals, field="label")
    assert labels.read(Scanner().scan(_batch("true", "", "0", '"yes"', "2")), {})
    assert labels.values.tolist() == pytest.approx([1.0, np.nan, 0.0, np.nan, np.nan], nan_ok=True)
    assert labels.labelled.tolist() == [True, False, True, True, True]
    assert sorted(refusals) == [3, 4]
    labels.withhold([0])
    assert np.isnan(labels.values[0])


def test_classes_of_two_kinds_are_not_taken_at_once() -> None:
    labels = LabelColumn(RiverLearner(naive_bayes.GaussianNB()), 2, {}, field="label")
    assert not labels.read(Scanner().scan(_batch("1", '"one"')), {})


def test_answers_are_scored_where_there_is_a_label() -> None:
    one = ShardModel(MODEL, RiverLearner(linear_model.LogisticRegression()))
    answers = Answers(np.zeros(3), np.array([1, 0, 1], np.int8), None, None, np.zeros(3, np.int8))
    score(one, answers, np.array([1.0, np.nan, 0.0]), 4)
    assert (one.quality.scored, one.quality.total, [*one.quality.versions]) == (2, 1.0, [4])
