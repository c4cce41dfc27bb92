"""How items are drawn: the settings that a recipe, a model folder and a request share."""

from typing import Annotated, Any, Literal

from pydantic import Field

from latentia.config import config
from latentia.diffusion.guidance import Guidance

Spacing = Literal["karras", "uniform", "trailing"]
Interval = tuple[float, float] | None
Solver = Literal["ddpm", "ddim", "euler", "heun", "dpm_solver_2m", "unipc_2"]


@config
class Sampling:
    """Settings of a sampler and its guidance; see `Guidance` for the latter."""

    sampler: Annotated[Solver, Field(description="solver")] = "dpm_solver_2m"
    steps: Annotated[int, Field(ge=1, le=100_000, description="steps of the solver")] = 20
    spacing: Annotated[Spacing, Field(description="spread of the timesteps")] = "uniform"
    guidance_scale: Annotated[float, Field(ge=0, le=1000, description="guidance; 1: none")] = 1.0
    guidance_interval: Annotated[
        tuple[float, float] | None, Field(description="σ/α where guidance acts; null: everywhere")
    ] = None
    guidance_kind: Annotated[
        Literal["classifier_free", "autoguidance"],
        Field(description="away from no condition, or from the denoiser's own early snapshot, where a run keeps one"),
    ] = "classifier_free"
    guidance_rescale: Annotated[float, Field(ge=0, le=1, description="rescaling against over-exposure")] = 0.0
    stop_sigma: Annotated[float, Field(ge=0, description="texts: σ/α where the decoder takes over; 0: the end")] = 0.0
    temperature: Annotated[float, Field(ge=0, description="texts: of the decoder's draws; 0: the likeliest")] = 0.0

    def guidance(self, weaker: Any = None) -> Guidance:
        return Guidance(self.guidance_scale, self.guidance_interval, self.guidance_rescale, weaker)
