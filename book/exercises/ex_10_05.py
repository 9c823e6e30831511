"""Split a set of images so that no writer is on both sides."""

import torch


def split_by_group(
    group: torch.Tensor, share: float, generator: torch.Generator
) -> torch.Tensor:
    """Return a mask [N], true where an image is held out.

    group: [N] int64, who wrote each image. All images of a group go to
    the same side. Groups are taken in random order until the images held
    out are at least `share` of all.
    """
    # solution
    groups, sizes = group.unique(return_counts=True)
    order = torch.randperm(len(groups), generator=generator)
    total = sizes[order].cumsum(0)
    before = total - sizes[order]
    taken = order[before < share * len(group)]
    return torch.isin(group, groups[taken])
    # end solution


def check(split_by_group):
    g = torch.Generator().manual_seed(0)
    # squares, because names need not be 0, 1, 2 …
    group = torch.randint(0, 60, (1000,), generator=g) ** 2
    sizes = group.unique(return_counts=True)[1]
    seen = torch.zeros(1000, dtype=torch.long)
    in_one_block = 0
    for share in (0.1, 0.3):
        for seed in range(40):
            mask = split_by_group(group, share, torch.Generator().manual_seed(seed))
            assert mask.shape == (1000,), "one answer for each image"
            assert mask.dtype == torch.bool, "the answer is true or false"
            both = set(group[mask].tolist()) & set(group[~mask].tolist())
            assert not both, f"{len(both)} groups are on both sides"
            held = int(mask.sum())
            told = f"{held} of 1000 images held out for a share of {share}"
            assert share * 1000 <= held < share * 1000 + int(sizes.max()), told
            seen += mask
            taken = torch.isin(group.unique(), group[mask])
            in_one_block += int((taken != taken.roll(1)).sum()) == 2
    assert (seen > 0).all(), "every group should be held out for some seed"
    assert not (seen == 80).any(), "no group should always be held out"
    assert in_one_block < 40, "neighbouring names should not go together"
    again = [
        split_by_group(group, 0.1, torch.Generator().manual_seed(1))
        for _ in range(2)
    ]
    assert torch.equal(*again), "the generator decides"
