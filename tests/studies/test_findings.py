"""The rules by which a finding of the paper is reproduced."""

import numpy as np
import pytest
import scipy.stats

from studies import findings
from tests.studies.made_up import make_results, paper_accuracy, paper_loss


def test_means_differ_by_more_than_two_standard_errors():
    generator = np.random.default_rng(0)
    outcomes = set()
    for shift in np.linspace(-3, 3, 61):
        first, second = generator.normal(size=3) + shift, generator.normal(size=4)
        welch = scipy.stats.ttest_ind(first, second, equal_var=False).statistic
        expected = findings.SAME if abs(welch) <= 2 else findings.HIGHER
        expected = findings.LOWER if welch < -2 else expected
        assert findings.compare(first, second) == expected
        outcomes.add(expected)
    assert len(outcomes) == 3
    assert findings.compare([1.0, 2.0], [5.0]) == findings.TOO_FEW_SEEDS
    assert findings.compare([1.0, 1.0], [1.0, 1.0]) == findings.SAME


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([[0.5, 0.6]], findings.REPRODUCED),
        ([[0.5, 0.6], [0.1, 0.2]], findings.REPRODUCED),
        ([[0.5, 0.6], [0.9, 0.9]], findings.PARTLY_REPRODUCED),
        ([[0.8, 0.9], [1.8, 1.9]], findings.NOT_REPRODUCED),
        ([[0.5, 0.6], [0.5]], findings.TOO_FEW_SEEDS),
        ([], findings.TOO_FEW_SEEDS),
    ],
)
def test_finding_is_reproduced_if_all_comparisons_agree(samples, expected):
    comparisons = [
        findings.Comparison("", "", "", [0.85, 0.86], second, (findings.HIGHER,))
        for second in samples
    ]
    assert findings.judge(comparisons) == expected


def test_every_finding_is_reproduced_by_the_papers_numbers():
    results = make_results(paper_accuracy, paper_loss)
    verdicts = {finding.verdict for finding in findings.findings(results)}
    assert verdicts == {findings.REPRODUCED}


def test_equal_accuracies_reproduce_only_findings_of_equality():
    results = make_results(lambda config: 0.5, lambda config: [7.0, 6.0, 5.0, 4.9])
    reproduced = [
        finding.claim
        for finding in findings.findings(results)
        # Its records differ in contrastive and kNN accuracy.
        if finding.verdict == findings.REPRODUCED and finding.experiment != "shuffling"
    ]
    assert reproduced == [
        "While K is small, end-to-end performs similarly to MoCo.",
        "Any m from 0.99 to 0.9999 performs reasonably well.",
    ]
