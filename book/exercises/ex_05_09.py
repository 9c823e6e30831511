"""Weights and operations of a residual block, before it is built."""


def block_weights(c_in: int, c: int, c_e: int) -> int:
    """The number of weights of Block(c_in, c, c_e), biases and normalisations included."""
    # solution
    norms = 2 * c_in + 2 * c
    convolutions = 9 * c_in * c + c + 9 * c * c + c
    told = 2 * c * c_e + 2 * c
    shortcut = 0 if c_in == c else c_in * c + c
    return norms + convolutions + told + shortcut
    # end solution


def block_operations(c_in: int, c: int, c_e: int, N: int) -> int:
    """Its multiplications at N positions, those of the normalisations left out."""
    # solution
    per_position = 9 * c_in * c + 9 * c * c + (0 if c_in == c else c_in * c)
    return N * per_position + 2 * c * c_e
    # end solution


def check(block_weights, block_operations):
    import torch
    from diffusion_book.nn.blocks import ResBlock
    from torch.utils.flop_counter import FlopCounterMode

    for c_in, c, c_e, side in ((16, 16, 64, 4), (16, 32, 64, 8), (48, 16, 64, 5)):
        block = ResBlock(
            c_in, c, c_e, 8, 0.0
        )  # the library's block, of the same layers
        counted = sum(weight.numel() for weight in block.parameters())
        got = block_weights(c_in, c, c_e)
        assert got == counted, (
            f"Block({c_in}, {c}, {c_e}) has {counted} weights, not {got}"
        )
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            block(torch.zeros(1, c_in, side, side), torch.zeros(1, c_e))
        counted = counter.get_total_flops() // 2
        got = block_operations(c_in, c, c_e, side**2)
        assert got == counted, (
            f"Block({c_in}, {c}, {c_e}) takes {counted} operations at {side**2} positions, not {got}"
        )
