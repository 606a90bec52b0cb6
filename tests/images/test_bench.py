"""The bench of images, small: every image gets its truth or a reason, in few requests and questions."""

from __future__ import annotations

from pathlib import Path

from bench.images import measure


def test_a_library_gets_its_truth_in_few_requests(tmp_path: Path) -> None:
    figures, wrong = measure(1000, 32, 0.0, tmp_path, odd_every=60)
    assert wrong == []
    assert figures["broken"] == 8
    assert figures["in_zips"] > 90
    assert figures["asked_twice"] == 0
    assert figures["writes_per_image"] <= 0.1
    assert figures["reads_per_image"] <= 0.1
