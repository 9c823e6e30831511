"""What a reader of a card would have to ask for."""


def missing(card: dict) -> list[str]:
    """Names of what nobody has said, and of numbers without their N and floor."""
    # solution
    found = [name for name in ("licence", "source", "use") if not card.get(name)]
    metrics = card.get("metrics", {})
    for name, value in metrics.items():
        if isinstance(value, int | float):
            bare = name != "training_loss"
        else:
            bare = "mean" in value and not {"N", "real against real"} <= set(value)
        if bare:
            found.append(name)
    return found if "memorisation" in metrics else [*found, "copies"]
    # end solution


def check(missing):
    whole = {"mean": 0.1, "N": 300, "real against real": {"mean": 0.0}}
    good = {"training_loss": 0.1, "KID": whole, "memorisation": {"pixels": {}}}
    said = {"licence": "CC BY 4.0", "source": "my own", "use": "to practise"}
    assert missing({**said, "metrics": good}) == [], "this card says everything"
    found = missing({**said, "use": "", "metrics": good})
    assert found == ["use"], "an empty text says nothing"
    alone = {name: value for name, value in whole.items() if name != "N"}
    no_floor = {"mean": 0.1, "N": 300}
    bad = {"FID": 3.2, "KID": alone, "recall": no_floor}
    found = missing({"licence": "MIT", "metrics": bad})
    expected = ["source", "use", "FID", "KID", "recall", "copies"]
    assert found == expected, f"expected {expected}, got {found}"
    assert missing({}) == ["licence", "source", "use", "copies"]
