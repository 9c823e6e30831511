"""Name a set of images by a number that says when it has changed."""

import hashlib

import torch


def fingerprint(pixels: torch.Tensor) -> str:
    """Return a hexadecimal name of a set of images, uint8 [N, C, H, W].

    The same images in another order have the same name. Any other
    change, one more copy of an image included, gives another name.
    """
    # solution
    names = sorted(hashlib.sha256(x.numpy().tobytes()).digest() for x in pixels)
    shape = repr(tuple(pixels.shape[1:])).encode()
    return hashlib.sha256(shape + b"".join(names)).hexdigest()
    # end solution


def check(fingerprint):
    g = torch.Generator().manual_seed(0)
    x = torch.randint(256, (20, 3, 4, 4), generator=g, dtype=torch.uint8)
    name = fingerprint(x)
    assert isinstance(name, str), "the name is a string"
    assert fingerprint(x.clone()) == name, "the same set has the same name"
    other_order = x[torch.randperm(20, generator=g)]
    assert fingerprint(other_order) == name, "the order must not matter"
    one_bit = x.clone()
    one_bit[7, 1, 2, 3] ^= 1
    assert fingerprint(one_bit) != name, "one bit has changed"
    assert fingerprint(x[1:]) != name, "an image is missing"
    once_more = torch.cat([x, x[:1]])
    assert fingerprint(once_more) != name, "an image is there twice"
    twice_more = torch.cat([x, x[:1], x[:1]])
    assert fingerprint(twice_more) not in (name, fingerprint(once_more)), (
        "two more copies are a change too"
    )
    twice = [torch.cat([x, x[i : i + 1], x[i : i + 1]]) for i in (0, 1)]
    assert fingerprint(twice[0]) != fingerprint(twice[1]), (
        "it matters which image there are more copies of"
    )
    swapped = x.clone()
    swapped[0, 0, 0, 0], swapped[1, 0, 0, 0] = x[1, 0, 0, 0], x[0, 0, 0, 0]
    assert fingerprint(swapped) != name, "two images have exchanged a pixel"
    turned = x.transpose(2, 3).contiguous()
    assert fingerprint(turned) != name, "the images are turned"
    assert fingerprint(x.reshape(20, 3, 2, 8)) != name, (
        "the shape is a part of an image"
    )
