"""Weights and operations of a residual block, before it is built."""


def block_price(c_in: int, c: int, c_e: int, N: int) -> tuple[int, int]:
    """Return the weights of Block(c_in, c, c_e), and its multiplications at N positions."""
    # solution
    convolutions = 9 * c_in * c + 9 * c * c
    shortcut = 0 if c_in == c else c_in * c
    told = 2 * c * c_e
    biases = (
        2 * c + 2 * c + (0 if c_in == c else c)
    )  # of the convolutions, of what is told, of the shortcut
    norms = 2 * c_in + 2 * c
    weights = convolutions + shortcut + told + biases + norms
    return weights, N * (convolutions + shortcut) + told
    # end solution


def check(block_price):
    import torch
    from diffusion_book.nn.blocks import ResBlock
    from torch.utils.flop_counter import FlopCounterMode

    for c_in, c, c_e, side in ((16, 16, 64, 4), (16, 32, 64, 8), (48, 16, 64, 5)):
        block = ResBlock(
            c_in, c, c_e, 8, 0.0
        )  # the library's block, of the same layers
        weights = sum(weight.numel() for weight in block.parameters())
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            block(torch.zeros(1, c_in, side, side), torch.zeros(1, c_e))
        operations = counter.get_total_flops() // 2
        got = tuple(block_price(c_in, c, c_e, side**2))
        called = f"Block({c_in}, {c}, {c_e})"
        assert got[0] == weights, f"{called} has {weights} weights, not {got[0]}"
        assert got[1] == operations, (
            f"{called} takes {operations} operations at {side**2} positions, not {got[1]}"
        )
