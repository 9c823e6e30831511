"""A report as it is kept."""

import json

import pytest

from diffusion_book.data import images_sha256


def test_json_holds_it_all(report, train, test, extractor, tmp_path):
    text = report.to_json(tmp_path / "report.json")
    assert (tmp_path / "report.json").read_text("utf-8") == text
    found = json.loads(text)
    assert found["origin"] == {
        "model": "noisy-digits",
        "sampler": "none",
        "nfe": 7,
        "guidance": 1.5,
        "seed": 11,
        "notes": "On paper.",
    }
    assert found["extractor"]["sha256"] == extractor.sha256
    assert (found["extractor"]["accuracy"], found["extractor"]["dim"]) == (0.9, 32)
    assert found["reference"] == {"name": "mnist-5k/train", "n": 4500, "sha256": images_sha256(train.x)}
    assert found["held_out"] == {"name": "mnist-5k/test", "n": 500, "sha256": images_sha256(test.x)}
    assert found["seeds"] == [0, 1, 2]
    assert set(found["versions"]) == {"python", "torch", "diffusion_book"}
    assert found["measures"][0]["value"] == report.measures[0].value
    assert found["measures"][0]["real"]["sd"] == report.measures[0].real.sd
    assert found["memorisation"]["pixels"]["copies"] == pytest.approx(0.04)
    assert len(found["accuracy_score"]["samples"]["each"]) == 3
    assert "pictures" not in found
