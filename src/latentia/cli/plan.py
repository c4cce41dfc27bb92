"""What `latentia train` trains: a recipe, or a data set for which one is made."""

import shlex
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import typer

from latentia.cli.shared import inform
from latentia.errors import LatentiaError
from latentia.files import RECIPE_NAME
from latentia.training.plan import PROPOSED, is_recipe, plan, plans
from latentia.training.recipe import Recipe, dump_recipe, load_recipe, read_recipe

RUNS = Path("runs")


def default_out(what: str | None) -> Path:
    """runs/ and the name of the data or of the recipe. Raises LatentiaError where there is none."""
    name = "" if what is None else Path(what).expanduser().resolve().name.split(".")[0].removeprefix("hf:")
    if not name:
        raise LatentiaError("DATA or RECIPE is missing: name a folder of pictures or a recipe, or a run by --out")
    return RUNS / name


def chosen_recipe(
    what: str | None, minutes: float | None, out: Path, resume: bool, overrides: Sequence[str], init: str | None = None
) -> Recipe | None:
    """The recipe to train; None where plans are proposed instead, since the time is open.

    Raises LatentiaError where neither `what` nor the folder of a run to resume gives one.
    """
    given = [*overrides, *([] if minutes is None else [f"minutes={minutes}"]), *([f"init={init}"] if init else [])]
    named = what is not None and is_recipe(what, minutes)
    if what is None or (resume and not named):
        path = out / RECIPE_NAME
        if not (resume and path.is_file()):
            raise LatentiaError(f"RECIPE is missing, and --resume finds none in {out}: see latentia recipe list")
        return load_recipe(str(path), given)
    if named:
        return load_recipe(what, given)
    if minutes is None:
        propose(what, init)
        return None
    made = plan(what, minutes, init=init)
    for line in made.found:
        inform(f"data: {line}")
    inform(f"plan: {made.choice}")
    return read_recipe(StringIO(dump_recipe(made.recipe)), f"the plan for {what}", overrides)


def propose(what: str, init: str | None) -> None:
    """Prints plans for several times, and how to begin one."""
    proposed = plans(what, PROPOSED, init=init)
    more = "" if init is None else f" --init {shlex.quote(init)}"
    for line in proposed[0].found:
        typer.echo(line)
    typer.echo("\nHow long may it take? Begin with one of")
    for minutes, made in zip(PROPOSED, proposed, strict=True):
        typer.echo(f"  latentia train {shlex.quote(what)}{more} --minutes {minutes:g}\n      {made.choice}")
