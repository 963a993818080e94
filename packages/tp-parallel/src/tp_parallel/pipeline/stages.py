"""Which layers a stage holds, and the models of this rank's stages."""

from __future__ import annotations

from ..grid.context import ParallelContext
from ..layers.config import GPTConfig
from ..models.gpt import GPTModel


def layers_of_stage(layers: int, stages: int, stage: int) -> range:
    """The transformer layers of one stage; the first stages get one more where it does not divide.

    Raises ValueError if there are fewer layers than stages.
    """
    if layers < stages:
        raise ValueError(
            f"layers_of_stage: {stages} stages need at least as many layers, got {layers}"
        )
    base, extra = divmod(layers, stages)
    begin = stage * base + min(stage, extra)
    return range(begin, begin + base + (stage < extra))


def build_stages(
    config: GPTConfig,
    context: ParallelContext,
    *,
    chunks: int = 1,
    model: type[GPTModel] = GPTModel,
    **options,
) -> list[GPTModel]:
    """The stages this rank holds, `chunks` of them, each a `model` with its share of the layers."""
    stages = context.pp.size * chunks
    built = []
    for chunk in range(chunks):
        stage = chunk * context.pp.size + context.pp.rank
        built.append(
            model(
                config, context=context, pre_process=stage == 0, post_process=stage == stages - 1,
                layers=layers_of_stage(config.layers, stages, stage), **options,
            )
        )  # fmt: skip
    return built
