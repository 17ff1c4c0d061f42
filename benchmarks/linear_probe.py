"""The cached linear probe's sweep beside scikit-learn's, on the same features, to the same objective.

    python benchmarks/linear_probe.py                        # 50,000 × 512 made-up features, ten penalties
    python benchmarks/linear_probe.py --features FILE.pt     # features of a RUNS/.features file

scikit-learn runs its default solver (L-BFGS) at its default tolerance, warm-started as ours is; it is given more
iterations than its default of 100, at which it stops early with a warning. Printed for every penalty: seconds and
objective of both, and ours may not be worse.
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings

import numpy as np
import sklearn
import torch
from sklearn.linear_model import LogisticRegression as Peer
from torch.nn import functional as F

from simmim_pl.evaluation.regression import LogisticRegression

PENALTIES = [10 ** (-exponent / 2) for exponent in range(2, 12)]


def made_up(number: int, width: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated, rectified features like a network's, and labels that they tell in part."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    hidden = normal(number, 64) @ normal(64, width) * 0.3 + normal(number, 128) @ normal(128, width) * 0.05
    hidden = hidden + 0.3 * normal(number, width)
    labels = (hidden @ normal(width, classes) / 8 + 2 * normal(number, classes)).argmax(1)
    return hidden.relu(), labels


def objective(
    features: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, l2: float
) -> float:
    """Mean cross entropy and penalty, in float64."""
    logits = features.double() @ weight.double() + bias.double()
    return (F.cross_entropy(logits, labels) + l2 / 2 * weight.double().square().sum()).item()


def main() -> None:
    """Print both sweeps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", help="file with tensors features [N, D] and label [N]")
    parser.add_argument("--peer", type=int, default=len(PENALTIES), help="penalties that scikit-learn fits")
    options = parser.parse_args()
    if options.features:
        saved = torch.load(options.features, weights_only=True)
        features, labels = saved["features"], saved["label"]
    else:
        features, labels = made_up(50_000, 512, 10)
    features = (features - features.mean(0)) / features.std(0).clamp(min=1e-6)
    classes = int(labels.max()) + 1
    print(
        f"{tuple(features.shape)} features, {classes} classes; {platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, scikit-learn {sklearn.__version__}"
    )
    since = time.perf_counter()
    ours = LogisticRegression(features, labels, classes)
    total, weights, rows = time.perf_counter() - since, None, []
    for l2 in PENALTIES:
        since = time.perf_counter()
        weights = ours.fit(l2, weights)
        seconds = time.perf_counter() - since
        total += seconds
        rows.append((l2, seconds, objective(features, labels, *weights, l2)))
    print(f"ours, all {len(PENALTIES)} penalties: {total:.1f} s")
    warnings.simplefilter("ignore")
    given, named = features.numpy(), labels.numpy()
    peer, both = Peer(warm_start=True, max_iter=1000), 0.0
    for l2, seconds, reached in rows[: options.peer]:
        peer.C = 1 / (l2 * len(named))
        since = time.perf_counter()
        peer.fit(given, named)
        theirs = time.perf_counter() - since
        both += theirs
        weight, bias = torch.from_numpy(np.ascontiguousarray(peer.coef_.T)), torch.from_numpy(peer.intercept_)
        value = objective(features, labels, weight, bias, l2)
        print(
            f"l2 {l2:.1e}: ours {seconds:6.2f} s, objective {reached:.6f}; scikit-learn {theirs:6.2f} s, {value:.6f}",
            flush=True,
        )
    print(f"scikit-learn, {len(rows[: options.peer])} penalties: {both:.1f} s, {both / total:.1f} times ours")


if __name__ == "__main__":
    main()
