"""A report in words."""

import pytest

from _support.reports import ORIGIN
from diffusion_book.data import Images
from diffusion_book.evaluation import (
    evaluate,
)


def test_markdown_says_it_all(report, extractor, tmp_path):
    text = report.to_markdown(tmp_path / "report.md")
    assert (tmp_path / "report.md").read_text("utf-8") == text
    first = report.measures[0]
    for said in (
        "# FCD-MNIST-5K of noisy-digits",
        "400 samples by none, 7 evaluations each, guidance 1.5, seed 11. On paper.",
        f"| FCD-MNIST-5K ↓ | {first.value:.4g} | {first.real.mean:.4g} ± {first.real.sd:.2g} | 400 | 4,500 |",
        "precision (k = 3) ↑",
        f"SHA-256 {extractor.sha256}",
        "90.00% right",
        "with noise of 0.05, cut to [−1, 1]",
        "as they are",
        "4.00% of 50 samples are copies",
        "Classification accuracy score",
        "mnist-5k/train, 4,500 images",
        "Seeds 0, 1, 2; python",
    ):
        assert said in text
    assert "nan" not in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)


def test_where_the_floor_has_fewer_images_it_says_so(train, test, extractor, tmp_path):
    few = Images(train.x[::15], {}, "few/train")
    x = (train.x[1::9] * 0.9).clamp(-1, 1)[:300]
    found = evaluate(x, few, Images(test.x[::5], {}, "few/test"), extractor, ORIGIN, kept=20, folder=tmp_path)
    assert (found.measures[0].n_reference, found.measures[0].n_real_reference) == (300, 100)
    assert "against 100 images only" in found.to_markdown()
    with pytest.raises(ValueError, match="300 samples leave none of the 300 real images"):
        evaluate(x, Images(few.x[:200], {}, "a"), Images(few.x[200:], {}, "b"), extractor, ORIGIN, folder=tmp_path)
