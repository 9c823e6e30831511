"""Networks, schedules and pipelines to and from `diffusers`, and what these take from `transformers`.

Each class of theirs is a file with a table of options and one of weights; `options` and `weights` are the engine, one
loop each way over such a table. What is public stands in `diffusion_book.interop`.
"""

__all__: list[str] = []
