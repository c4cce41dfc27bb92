"""Models of the library diffusers, read from their folders, and folders of ours that it reads."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentia.conditions import Label, Request
from latentia.denoiser import Denoiser, DiffusersUNet, DiT
from latentia.diffusion import EDM, VP, RectifiedFlow
from latentia.errors import LatentiaError
from latentia.files import CONFIG_NAME, new_folder, read_json, save_part
from latentia.latents.normalise import set_latent_statistics
from latentia.modalities.registry import first_stages, modality_of_stage
from latentia.model import INDEX_NAME, LatentModel

KL_CLASS, DIT_CLASS = "AutoencoderKL", "DiTTransformer2DModel"
KL = "DiffusersKL"  # the first stage that runs their autoencoder
CLASSIC = dict.fromkeys(("rope", "swiglu", "qk_norm", "rms_norm", "shared_modulation"), False)  # Peebles & Xie 2023
SCHEDULES: dict[str, Any] = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS: dict[str, Any] = {"epsilon": "epsilon", "sample": "sample", "v_prediction": "v_prediction"}

DDPM_FAMILY = (
    "DDPMScheduler",
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "DDPMParallelScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)
FLOW_FAMILY = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
EDM_FAMILY = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")


def import_diffusers(folder: Path, out: Path) -> str:
    """Reads a folder that diffusers has written and writes ours; returns in a few words what it has become.

    An AutoencoderKL becomes a first stage, for `latentia train --first-stage`; a DiTTransformer2DModel or a UNet2DModel
    a denoiser; a DiTPipeline, which holds autoencoder, DiT and scheduler, a whole model. Weights are read from
    safetensors alone. Raises LatentiaError where the folder holds something else or is damaged, `out` exists, or
    diffusers is not installed.
    """
    with new_folder(out) as made:
        return _import(folder, made)


def _import(folder: Path, out: Path) -> str:
    index = folder / INDEX_NAME
    if index.is_file():
        kind = read_json(index).get("_class_name")
        if kind != "DiTPipeline":
            raise LatentiaError(f"{index} describes a {kind}, of the pipelines only DiTPipeline is known")
        model = dit_pipeline(folder)
        model.save(out)
        return f"a model of {len(model.class_names)} classes, {model.codec.describe()}"
    kind = str(read_json(folder / CONFIG_NAME).get("_class_name"))
    converters: dict[Any, Callable[[Any], Any]] = {
        KL_CLASS: kl_from_diffusers,
        DIT_CLASS: dit_from_diffusers,
        "UNet2DModel": unet_from_diffusers,
    }
    if kind not in converters:
        raise LatentiaError(f"{folder} holds a {kind}, expected one of {', '.join(converters)}, DiTPipeline")
    part = converters[kind](_load(kind, folder))
    save_part(out, part, part.config)
    return "a denoiser" if kind != KL_CLASS else f"a first stage of {part.config['latent_channels']} latent channels"


def export_diffusers(model: LatentModel, out: Path) -> None:
    """Writes a folder for `DiffusionPipeline.from_pretrained(out, trust_remote_code=True)`.

    That library has no classes for our networks, so the folder brings the pipeline's code, which is one import:
    latentia must be installed where it is loaded. Its part `model` is an ordinary model folder.
    Raises LatentiaError for a model whose codec does not name "diffusers" among its exports, or that must be given
    something, such as what it repairs, and where `out` exists or diffusers is not installed.
    """
    if "diffusers" not in model.codec.exports:
        raise LatentiaError(f"only models that draw pictures become a pipeline of diffusers: {model.codec.describe()}")
    try:
        model.denoiser.request(Request(1), torch.empty(1, *model.latent_shape))
    except LatentiaError as error:
        raise LatentiaError(f"only models that draw pictures become a pipeline of diffusers: {error}") from None
    try:
        from latentia.interchange.pipeline import LatentiaModel, LatentiaPipeline
    except ImportError as error:
        raise _missing("exporting", error) from None
    with new_folder(out) as folder:
        LatentiaPipeline(LatentiaModel(model)).save_pretrained(folder)


def _missing(what: str, error: ImportError) -> LatentiaError:
    return LatentiaError(f"{what} needs diffusers ({error}): pip install 'latentia[diffusers]'")


def dit_pipeline(folder: Path) -> LatentModel:
    """A class-conditional DiTPipeline (Peebles & Xie 2023) as a model of ours; its learned variances are left out."""
    stage = kl_from_diffusers(_load(KL_CLASS, folder / "vae"))
    theirs = _load(DIT_CLASS, folder / "transformer")
    names = {int(number): str(name) for number, name in read_json(folder / INDEX_NAME).get("id2label", {}).items()}
    classes = [names.get(number, str(number)) for number in range(theirs.config.num_embeds_ada_norm)]
    denoiser = dit_from_diffusers(theirs, theirs.config.in_channels, classes)
    process = process_from_scheduler(read_json(folder / "scheduler" / "scheduler_config.json"))
    size = theirs.config.sample_size * stage.factor
    modality = modality_of_stage(KL)
    for part in (stage, denoiser):
        part.eval().requires_grad_(False)
    sampling = {"sampler": "ddim", "steps": 50, "guidance_scale": 4.0}  # "ddim" is Euler's method for a flow and EDM
    return LatentModel(stage, process, denoiser, modality.codec({"size": size}, folder), modality.name, sampling)


def process_from_scheduler(config: Mapping[str, Any]) -> VP | RectifiedFlow | EDM:
    """The process of a scheduler's config. Raises LatentiaError, which names the scheduler, for one without any."""
    kind, prediction = config.get("_class_name"), config.get("prediction_type", "epsilon")
    refusal = f"the scheduler is a {kind}"
    if kind in DDPM_FAMILY and not config.get("use_flow_sigmas"):
        return vp_from_config(config)
    if kind in FLOW_FAMILY:
        if config.get("use_dynamic_shifting") or config.get("invert_sigmas"):
            raise LatentiaError(f"{refusal} with use_dynamic_shifting or invert_sigmas, which have no counterpart")
        if config.get("num_train_timesteps", 1000) != 1000:
            raise LatentiaError(f"{refusal} of {config['num_train_timesteps']} timesteps, expected 1000")
        return RectifiedFlow(shift=float(config.get("shift", 1.0)))
    if kind in EDM_FAMILY and prediction == "epsilon":  # which they call what EDM's network answers
        sizes = {name: float(config[name]) for name in ("sigma_min", "sigma_max", "sigma_data") if name in config}
        return EDM(**sizes, time_scale=1.0)
    known = ", ".join((*DDPM_FAMILY[:2], *FLOW_FAMILY, *EDM_FAMILY))
    raise LatentiaError(f"{refusal} that predicts {prediction}, which has no counterpart; known are {known} and others")


def vp_from_config(config: Mapping[str, Any]) -> VP:
    """The process of a scheduler of DDPM's family. Raises LatentiaError for one that is not."""
    schedule, prediction = config.get("beta_schedule", "linear"), config.get("prediction_type", "epsilon")
    if schedule not in SCHEDULES or prediction not in PREDICTIONS or config.get("trained_betas") is not None:
        raise LatentiaError(f"the scheduler has {schedule} betas and predicts {prediction}, which have no counterpart")
    return VP(
        schedule=SCHEDULES[schedule],
        timesteps=int(config.get("num_train_timesteps", 1000)),
        prediction_type=PREDICTIONS[prediction],
        beta_start=float(config.get("beta_start", 1e-4)),
        beta_end=float(config.get("beta_end", 0.02)),
        zero_terminal_snr=bool(config.get("rescale_betas_zero_snr", False)),
    )


def kl_from_diffusers(theirs: Any) -> Any:
    """Their autoencoder as a first stage; its own statistics of the latents, or its scaling and shift, become ours."""
    config = theirs.config
    stage: Any = first_stages()[KL](config.in_channels, config.latent_channels, dict(config))
    stage.vae.load_state_dict(theirs.state_dict())
    ones = torch.ones(config.latent_channels)
    mean, std = (config.get(name) for name in ("latents_mean", "latents_std"))
    mean = ones * (config.shift_factor or 0.0) if mean is None else torch.tensor(mean)
    std = (ones if std is None else torch.tensor(std)) / (config.scaling_factor or 1.0)
    set_latent_statistics(stage, mean, std)
    return stage


def unet_from_diffusers(theirs: Any) -> Denoiser:
    """Their UNet, in pixels or latents, as a denoiser by class; it has no class that says nothing.

    Raises LatentiaError where its classes are no table of embeddings.
    """
    config, state = theirs.config, theirs.state_dict()
    if config.class_embed_type is not None:
        raise LatentiaError(f"the UNet embeds classes by {config.class_embed_type!r}, only a table of them is known")
    core = DiffusersUNet(in_channels=config.in_channels, unet=dict(config))
    label = Label(core.signal_width, numbered(config.num_class_embeds or 0), nullable=False)
    table = state.pop("class_embedding.weight", torch.zeros(0, core.signal_width))
    core.unet.load_state_dict(state)
    label.load_state_dict({"table.weight": torch.cat([table, torch.zeros(1, core.signal_width)])})
    return Denoiser(core, {"label": label})


def numbered(classes: int) -> list[str]:
    """Names of classes that have none."""
    return [str(number) for number in range(classes)]


def _load(kind: str, folder: Path) -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise _missing("importing", error) from None
    load: Callable[..., Any] = getattr(diffusers, kind).from_pretrained
    try:
        return load(str(folder), local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False).float().eval()
    except Exception as error:  # the library documents no common class for what a damaged folder makes it raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise LatentiaError(f"{folder} cannot be read as a {kind}: {reason[:200]}") from None


def dit_from_diffusers(theirs: Any, outputs: int | None = None, class_names: Sequence[str] | None = None) -> Denoiser:
    """Our classic DiT with the weights of diffusers' class-conditional one, or only its first `outputs` channels."""
    config, their = theirs.config, theirs.state_dict()
    for block in theirs.transformer_blocks:  # one copy of the embedders in each; the final layer sees the first
        block.norm1.emb.load_state_dict(theirs.transformer_blocks[0].norm1.emb.state_dict())
    core = DiT(
        in_channels=config.in_channels,
        grid=(config.sample_size, config.sample_size),
        patch=config.patch_size,
        width=config.num_attention_heads * config.attention_head_dim,
        depth=config.num_layers,
        heads=config.num_attention_heads,
        out_channels=outputs or config.out_channels,
        **CLASSIC,
    )
    state = dit_weights(their, config.num_layers)
    if outputs is not None:  # the last layer's rows run over the patch, then over the channels
        for name in ("final.weight", "final.bias"):
            rows = state[name].reshape(-1, config.out_channels, *state[name].shape[1:])
            state[name] = rows[:, :outputs].flatten(0, 1)
    core.load_state_dict(state)
    label = Label(core.signal_width, numbered(config.num_embeds_ada_norm) if class_names is None else class_names)
    table = their["transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"]
    label.load_state_dict({"table.weight": table})
    return Denoiser(core, {"label": label})


def dit_weights(their: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """The weights of our classic DiT from those of diffusers' DiT of `depth` blocks."""
    state = {
        "patch_embed.weight": their["pos_embed.proj.weight"].flatten(1),
        "patch_embed.bias": their["pos_embed.proj.bias"],
    }
    renamed = {
        "time_embed.hidden": "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1",
        "time_embed.out": "transformer_blocks.0.norm1.emb.timestep_embedder.linear_2",
        "final_modulation": "proj_out_1",
        "final": "proj_out_2",
    }
    for i in range(depth):
        block, origin = f"blocks.{i}", f"transformer_blocks.{i}"
        renamed[f"{block}.modulation"] = f"{origin}.norm1.linear"
        renamed[f"{block}.attention.out"] = f"{origin}.attn1.to_out.0"
        renamed[f"{block}.mlp.0"] = f"{origin}.ff.net.0.proj"
        renamed[f"{block}.mlp.2"] = f"{origin}.ff.net.2"
        for kind in ("weight", "bias"):
            state[f"{block}.attention.qkv.{kind}"] = torch.cat(
                [their[f"{origin}.attn1.to_{part}.{kind}"] for part in "qkv"]
            )
    for name, origin in renamed.items():
        for kind in ("weight", "bias"):
            state[f"{name}.{kind}"] = their[f"{origin}.{kind}"]
    return state
