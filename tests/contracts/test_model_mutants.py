"""Bugs that are seeded into the tasks, into learning without labels and into the measures, each with the test it fails.

Each starts another run of the tests, on a copy of the source: `make test` plants the first of them, `make soak` all.
"""

import os
from pathlib import Path

import pytest
from mutant import Mutant, assert_caught

MUTANTS: list[Mutant] = [
    Mutant(
        name="a late label teaches a detector",
        file="pipeline/engine/join.py",
        old="            # It learned the features when they were read; their label only scores.\n            return\n",
        new="            pass\n",
        test="pipeline/engine/test_engine_unlabelled.py"
        "::test_with_a_labels_topic_a_record_is_learned_when_it_is_read_and_its_label_teaches_nothing"
        "[half-space trees]",
        says="assert",
    ),
    Mutant(
        name="a late label of a burst teaches a detector",
        file="pipeline/engine/interleaved.py",
        old="                return LearnedLabel(found)\n",
        new="                pass\n",
        test="pipeline/engine/test_interleaved.py"
        "::test_a_batch_of_both_topics_does_what_its_records_do_one_by_one[_detector-roomy]",
        says="AssertionError",
    ),
    Mutant(
        name="a replay teaches a detector again",
        file="pipeline/engine/prepared_record.py",
        old="return None if self.withheld else Unlabelled(self.at_ms)",
        new="return Unlabelled(self.at_ms)",
        test="pipeline/engine/test_engine_unlabelled.py"
        "::test_a_replay_of_what_only_a_sink_refused_is_not_learned_again",
        says="assert (1, 1) == (1, 0)",
    ),
    Mutant(
        name="a replay in a batch teaches a detector again",
        file="pipeline/engine/label_column.py",
        old="        taught[self.withheld] = np.nan\n",
        new="",
        test="pipeline/engine/test_columnar.py"
        "::test_a_batch_gives_the_same_results_as_its_records_one_by_one[0-filtered-_truth-bare]",
        says="AssertionError",
    ),
    Mutant(
        name="an anomaly teaches the steps of a filter",
        file="state/compiled/river/half_space.py",
        old='"gates": not where',
        new='"gates": False',
        test="state/compiled/river/test_half_space.py"
        "::test_answers_are_rivers_though_features_are_missing_or_no_numbers[a filter of steps-0]",
        says="assert",
    ),
    Mutant(
        name="splits of names in another order",
        file="state/compiled/forest_table.py",
        old="        slots.sort(key=lambda slot: order(arrays.names[slot]))\n",
        new="",
        test="state/compiled/river/test_half_space.py"
        "::test_answers_are_rivers_though_features_are_missing_or_no_numbers[alone-0]",
        says="assert",
    ),
    Mutant(
        name="masses that nobody adds up",
        file="state/compiled/river/half_space.py",
        old="sound = bool(is_sum and roots",
        new="sound = bool(roots",
        test="state/compiled/river/test_half_space.py::test_bytes_that_no_trees_can_have_learned_are_refused",
        says="DID NOT RAISE",
    ),
    Mutant(
        name="a window that is never counted again",
        file="state/quality.py",
        old="counted.number == self.tally.number",
        new="counted.number > 0",
        test="state/test_quality.py::test_the_window_is_counted_once_until_another_prediction_is_scored",
        says="assert",
    ),
    Mutant(
        name="a model without a bound",
        file="pipeline/worker/saver.py",
        old="        self._limit.check(shard.partition, size)\n",
        new="",
        test="pipeline/worker/test_saver.py"
        "::test_a_model_beyond_the_bound_is_saved_and_then_ends_the_pipeline[in the loop]",
        says="DID NOT RAISE",
    ),
]

PLANTED = MUTANTS if "HEADRACE_SOAK" in os.environ else MUTANTS[:1]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", PLANTED, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_seeded_bug_turns_its_test_red(mutant: Mutant, tmp_path: Path) -> None:
    assert_caught(mutant, tmp_path)
