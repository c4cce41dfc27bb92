"""Training: the recipe, the loops on Accelerate, the moving average, checkpoints and logs."""

from latentia.errors import Stopped
from latentia.files import RECIPE_NAME
from latentia.training.recipe import Recipe, bundled_recipes, describe_fields, dump_recipe, load_recipe
from latentia.training.run import train

__all__ = [
    "RECIPE_NAME",
    "Recipe",
    "Stopped",
    "bundled_recipes",
    "describe_fields",
    "dump_recipe",
    "load_recipe",
    "train",
]
