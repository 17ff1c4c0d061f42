"""Results on averaged features, and their names."""

from dataclasses import replace
from pathlib import Path

import pytest

from simmim_pl.contracts import InputError
from simmim_pl.encoders.mean_over_views import MeanOverViews
from simmim_pl.evaluation import KNN, BagOfViews, DenseProbe, LinearProbe
from tests.evaluation.test_context import calls, context, frozen, shapes, small


def test_results_are_those_of_the_averaged_encoder(tmp_path: Path) -> None:
    encoder, data, protocols = small(), shapes(), [KNN((5,)), LinearProbe([0.1, 0.001])]
    seen = calls(encoder)
    results = BagOfViews(protocols, crops=2).evaluate(context(encoder, data, tmp_path))
    assert sum(seen) == 10 * (40 + 10 + 20 + (16 + 10 + 16))  # and the first batch of each split again
    one = context(frozen(MeanOverViews(encoder, crops=2)), data)
    expected = [result for protocol in protocols for result in protocol.evaluate(one)]
    names = ["KNN, 10 views", "LinearProbe, 10 views"]
    assert results == [replace(result, variant=name) for result, name in zip(expected, names, strict=True)]
    before = len(seen)
    assert BagOfViews(protocols, crops=2).evaluate(context(encoder, data, tmp_path)) == results
    assert len(seen) == before  # from the cache
    BagOfViews(protocols, crops=2, share=0.5).evaluate(context(encoder, data, tmp_path))
    assert len(seen) > before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"protocols": []}, "at least one protocol"),
        ({"protocols": [DenseProbe()]}, "cannot average for DenseProbe: choose from KNN, LinearProbe, FewLabels"),
        ({"protocols": [KNN(data=shapes())]}, "runs KNN on its own data: set data there, once"),
        ({"protocols": [KNN()], "crops": 0, "flip": False}, "only one view"),
        ({"protocols": [KNN()], "share": 1.5}, r"share has to be within \(0, 1\]"),
    ],
)
def test_what_makes_no_bag_is_refused(options: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        BagOfViews(**options)
