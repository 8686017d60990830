"""Small multi-label runs."""

from dataclasses import replace

from hangtag.training.recipes import MULTI_LABEL_RECIPE
from hangtag.training.runs.config import RunConfig
from tests.training.configs import make_config


def config_of(model: str, *, epochs: int = 2, limit: int | None = None, learning_rate: float = 2e-3) -> RunConfig:
    recipe = replace(MULTI_LABEL_RECIPE, name="tiny", epochs=epochs, batch_size=16, learning_rate=learning_rate)
    return replace(make_config(model), recipe=recipe, limit=limit, dataset="outfits")
