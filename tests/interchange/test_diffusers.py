"""Models of diffusers come over with the same answers, and what is no such model is one clear error."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import latentia
from latentia.cli import app
from latentia.denoiser import DiffusersUNet, load_denoiser
from latentia.diffusion import Process, RectifiedFlow
from latentia.errors import LatentiaError
from latentia.files import load_part
from latentia.interchange import export_diffusers, import_diffusers
from latentia.interchange.diffusers import process_from_scheduler
from latentia.language.tokenizer import train_tokenizer
from latentia.modalities.image.first_stage.kl import DiffusersKL
from latentia.modalities.registry import first_stages
from latentia.modalities.text.codec import TextCodec
from latentia.training import load_recipe, train

TRAINED = Path(__file__).parents[1] / "trained"

LABELS = {  # of 1000 classes, which the pipeline takes for granted
    0: "cat",
    1: "dog",
    2: "fish",
}


def make_vae() -> diffusers.AutoencoderKL:
    torch.manual_seed(0)
    sizes = {"block_out_channels": (8, 16), "norm_num_groups": 4, "latent_channels": 4, "scaling_factor": 0.3}
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return diffusers.AutoencoderKL(**sizes, **kinds).eval()


def make_dit() -> diffusers.DiTTransformer2DModel:
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": 8, "patch_size": 2}
    return diffusers.DiTTransformer2DModel(
        in_channels=4,
        out_channels=8,
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
        **sizes,
    ).eval()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> tuple[diffusers.DiTPipeline, Path]:
    dit = make_dit()
    with torch.no_grad():
        for parameter in dit.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    embedder = dit.transformer_blocks[0].norm1.emb.state_dict()
    for block in dit.transformer_blocks:  # trained ones share it
        block.norm1.emb.load_state_dict(embedder)
    scheduler = diffusers.DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
    made = diffusers.DiTPipeline(dit, make_vae(), scheduler, id2label={**LABELS})
    folder = tmp_path_factory.mktemp("diffusers") / "dit"
    made.save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())  # the names are in the published one, not in this
    (folder / "model_index.json").write_text(json.dumps(index | {"id2label": LABELS}))
    return made, folder


def test_an_autoencoder_becomes_a_first_stage(tmp_path: Path) -> None:
    theirs = make_vae()
    theirs.save_pretrained(tmp_path / "vae")
    assert import_diffusers(tmp_path / "vae", tmp_path / "stage") == "a first stage of 4 latent channels"
    ours = load_part(tmp_path / "stage", first_stages())
    assert isinstance(ours, DiffusersKL)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        z = theirs.encode(x).latent_dist.mode() * 0.3
        torch.testing.assert_close(ours.encode(x), z, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ours.render(z), theirs.decode(z / 0.3).sample, atol=1e-5, rtol=1e-4)
    assert ours.latent_shape(16) == (4, 8, 8)


def test_a_denoiser_is_trained_on_its_latents(tmp_path: Path, tiny_model: Path) -> None:
    make_vae().save_pretrained(tmp_path / "vae")
    import_diffusers(tmp_path / "vae", tmp_path / "stage")
    for split in ("train", "test"):
        (tmp_path / "pictures" / split).mkdir(parents=True)
        for i in range(8):
            pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / split / f"{i}.png")
    overrides = [f"data.name={tmp_path / 'pictures'}", "training.steps=3", "training.batch_size=4"]
    recipe = load_recipe(str(tiny_model.parent / "recipe.yaml"), overrides)
    model = latentia.load(train(recipe, tmp_path / "out", first_stage=tmp_path / "stage"))
    assert model.generate(2).shape == (2, 16, 16, 3)


def test_a_pipeline_draws_the_same_pictures(pipeline: tuple[diffusers.DiTPipeline, Path], tmp_path: Path) -> None:
    theirs, folder = pipeline
    result = CliRunner().invoke(app, ["import", str(folder), "--out", str(tmp_path / "model")])
    assert result.exit_code == 0, result.output
    assert "a model of 1000 classes" in result.output
    ours = latentia.load(tmp_path / "model")
    assert ours.class_names[:4] == ("cat", "dog", "fish", "3")
    theirs.set_progress_bar_config(disable=True)
    for guidance in (1.0, 3.0):
        given = {"num_inference_steps": 10, "guidance_scale": guidance, "output_type": "np"}
        wanted = theirs(class_labels=[0, 2], generator=torch.Generator().manual_seed(0), **given).images
        noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        found = ours.generate(
            [0, 2], latents=noise, sampler="ddim", steps=10, spacing="trailing", guidance_scale=guidance
        )
        assert np.abs(found - 255 * wanted).max() <= 2
        assert found.std() > 5


@pytest.mark.parametrize("classes", [0, 5])
def test_a_unet_becomes_a_denoiser(tmp_path: Path, classes: int) -> None:
    torch.manual_seed(0)
    theirs = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=2,
        out_channels=2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=classes or None,
    ).eval()
    theirs.save_pretrained(tmp_path / "unet")
    result = CliRunner().invoke(app, ["import", str(tmp_path / "unet"), "--out", str(tmp_path / "denoiser")])
    assert result.exit_code == 0, result.output
    ours = load_denoiser(tmp_path / "denoiser")
    assert isinstance(ours.core, DiffusersUNet)
    assert ours.known["label"].null_label == classes
    x, time, label = torch.randn(2, 2, 8, 8), torch.tensor([3.0, 700.0]), torch.tensor([1, 4])
    with torch.no_grad():
        wanted = theirs(x, time, label if classes else None).sample
        torch.testing.assert_close(ours(x, time, label=label if classes else torch.tensor([0, 0])), wanted)
        assert wanted.std() > 0.01
        if not classes:
            torch.testing.assert_close(ours(x, time), wanted)
            return
        assert not torch.allclose(wanted, ours(x, time, label=label.flip(0)))
        for nothing in ({"label": torch.tensor([1, classes])}, {}):
            with pytest.raises(LatentiaError, match="by class only"):
                ours(x, time, **nothing)


def test_a_unet_of_other_classes_than_a_table_is_refused(tmp_path: Path) -> None:
    theirs = diffusers.UNet2DModel(
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        class_embed_type="timestep",
    )
    theirs.save_pretrained(tmp_path / "unet")
    with pytest.raises(LatentiaError, match="embeds classes by 'timestep'"):
        import_diffusers(tmp_path / "unet", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_becomes_a_pipeline(tiny_model: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["export", str(tiny_model), "--to", "diffusers", "--out", str(tmp_path / "pipe")])
    assert result.exit_code == 0, result.output
    for turn in range(2):  # as written by us, and by the pipeline itself
        made = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "pipe", trust_remote_code=True)
        made.set_progress_bar_config(disable=True)
        ours = latentia.load(tiny_model)
        wanted = ours.generate([3, 7, 3, 7], steps=5, guidance_scale=2.0, seed=9)
        given = {"num_inference_steps": 5, "guidance_scale": 2.0, "generator": torch.Generator().manual_seed(9)}
        found = made(class_labels=[3, 7, 3, 7], **given).images
        assert np.array_equal(np.stack([np.asarray(image) for image in found]), wanted[..., 0])
        assert wanted.std() > 1
        noise = torch.randn(2, *ours.latent_shape, generator=torch.Generator().manual_seed(1))
        (found,) = made("3", num_images_per_prompt=2, latents=noise, output_type="np", return_dict=False)
        assert np.abs(255 * found - ours.generate([3, 3], latents=noise)).max() < 0.01
        if not turn:
            shutil.rmtree(tmp_path / "pipe")
            made.save_pretrained(tmp_path / "pipe")
    assert len(made(3, num_inference_steps=2, generator=torch.Generator()).images) == 1  # whose seed is large
    with pytest.raises(LatentiaError, match="output_type"):
        made(output_type="latent")
    assert isinstance(latentia.load(tmp_path / "pipe" / "model"), latentia.LatentModel)


def test_only_pictures_become_a_pipeline_and_nothing_is_overwritten(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(LatentiaError, match="exists"):
        export_diffusers(latentia.load(tiny_model), tmp_path)
    model = latentia.load(tiny_model)
    with pytest.raises(LatentiaError, match=r"only models that draw pictures .* trained for inpaint"):
        export_diffusers(latentia.load(TRAINED / "inpainter"), tmp_path / "out")
    with pytest.raises(LatentiaError, match=r"only models that draw pictures .* texts"):
        export_diffusers(replace(model, codec=TextCodec(train_tokenizer(["a"], 300), 8)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_prompt_reaches_the_pipeline(tmp_path: Path) -> None:
    """Of a model that reads prompts: also the negative one, and several pictures of each."""
    squares = latentia.load(TRAINED / "squares")
    export_diffusers(squares, tmp_path / "pipe")
    made = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "pipe", trust_remote_code=True)
    made.set_progress_bar_config(disable=True)
    given = {"num_inference_steps": 4, "guidance_scale": 2.0, "output_type": "np"}
    found = made(prompt=["a red square", "blue"], negative_prompt="green", num_images_per_prompt=2, **given).images
    asked = {"steps": 4, "guidance_scale": 2.0, "negative_prompt": "green"}
    wanted = squares.generate(4, prompts=["a red square"] * 2 + ["blue"] * 2, **asked)
    assert np.abs(255 * found - wanted).max() < 0.01
    assert np.abs(found[0] - found[2]).max() > 0.1


@pytest.mark.parametrize(
    "unet",
    [
        {"block_out_channels": [10**9]},
        {"block_out_channels": [8], "layers_per_block": 10**9},
        {"block_out_channels": "8"},
        {"block_out_channels": [8], "norm_num_groups": 4, "nonsense": 1},
        {"block_out_channels": [8], "norm_num_groups": 4, "down_block_types": ["Nonsense"]},
    ],
)
def test_hostile_unets_are_refused(unet: dict) -> None:
    with pytest.raises(LatentiaError, match=r"is no such model|diffusers makes no UNet2DModel"):
        DiffusersUNet(in_channels=3, unet=unet)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "UNet3D"}, "holds a UNet3D, expected"),
        ({"_class_name": "AutoencoderKL", "block_out_channels": [8]}, "cannot be read as a AutoencoderKL"),
    ],
)
def test_other_folders_are_refused(tmp_path: Path, config: dict, message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(LatentiaError, match=message) as caught:
        import_diffusers(tmp_path, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_pickled_weights_and_other_pipelines_are_refused(
    pipeline: tuple[diffusers.DiTPipeline, Path], tmp_path: Path
) -> None:
    make_vae().save_pretrained(tmp_path / "vae", safe_serialization=False)
    with pytest.raises(LatentiaError, match="cannot be read"):
        import_diffusers(tmp_path / "vae", tmp_path / "out")
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(LatentiaError, match="only DiTPipeline"):
        import_diffusers(tmp_path, tmp_path / "out")
    with pytest.raises(LatentiaError, match="exists"):
        import_diffusers(pipeline[1], tmp_path)


@pytest.mark.parametrize(
    ("vae", "message"),
    [
        ({"block_out_channels": None}, r"channels: .* at least 1 item"),
        ({"block_out_channels": [10**9]}, r"channels\.0: .* less than or equal"),
        ({"block_out_channels": [8], "layers_per_block": 10**9}, "layers_per_block"),
        ({"block_out_channels": [8], "down_block_types": ["AttnDownBlock2D"]}, "down_block_types"),
    ],
)
def test_hostile_configs_are_refused(vae: dict, message: str) -> None:
    with pytest.raises(LatentiaError, match=message):
        DiffusersKL(3, 4, vae)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_flow_matching_scheduler_becomes_a_rectified_flow(
    shift: float, pipeline: tuple[diffusers.DiTPipeline, Path], tmp_path: Path
) -> None:
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(8)
    process = imported_process(theirs, pipeline[1], tmp_path)
    assert (type(process), process.shift) == (RectifiedFlow, shift)
    z, output = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    for now, then, time in zip(theirs.sigmas, theirs.sigmas[1:], theirs.timesteps, strict=False):
        clean = process.denoised(output[None], z[None], now)[0]
        eps = (z - process.alpha(now) * clean) / process.sigma(now)
        expected = theirs.step(output, time, z).prev_sample
        torch.testing.assert_close(process.alpha(then) * clean + process.sigma(then) * eps, expected)
        torch.testing.assert_close(process.network_time(now), time)


def test_an_edm_scheduler_becomes_edm(pipeline: tuple[diffusers.DiTPipeline, Path], tmp_path: Path) -> None:
    theirs = diffusers.EDMEulerScheduler(sigma_min=0.01, sigma_max=50.0, sigma_data=0.6)
    theirs.set_timesteps(8)
    process = imported_process(theirs, pipeline[1], tmp_path)
    assert (process.sigma_min, process.sigma_max, process.sigma_data) == (0.01, 50.0, 0.6)
    z, output = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    for sigma, time in zip(theirs.sigmas[:-1], theirs.timesteps, strict=True):
        expected = theirs.precondition_outputs(z, output, sigma)
        torch.testing.assert_close(process.denoised(output[None], z[None], sigma)[0], expected)
        torch.testing.assert_close(process.input_scale(sigma) * z, theirs.precondition_inputs(z, sigma))
        torch.testing.assert_close(process.network_time(sigma), time)


def imported_process(scheduler: diffusers.SchedulerMixin, source: Path, tmp_path: Path) -> Process:
    folder = Path(shutil.copytree(source, tmp_path / "theirs"))
    scheduler.save_pretrained(folder / "scheduler")
    import_diffusers(folder, tmp_path / "ours")
    model = latentia.load(tmp_path / "ours")
    model.generate([0], steps=2)
    return model.process


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"_class_name": "CMStochasticIterativeScheduler"}, "CMStochasticIterativeScheduler"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}, "use_dynamic_shifting"),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"}, "EDMEulerScheduler .*v_prediction"),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True}, "DPMSolverMultistepScheduler"),
        ({}, "a None"),
    ],
)
def test_a_scheduler_without_a_counterpart_is_refused_by_name(config: dict, words: str) -> None:
    with pytest.raises(LatentiaError, match=words):
        process_from_scheduler(config)


def test_the_statistics_of_an_autoencoder_become_those_of_the_first_stage(tmp_path: Path) -> None:
    vae = make_vae()
    vae.register_to_config(latents_mean=[1.0, 2.0, 3.0, 4.0], latents_std=[0.5, 1.0, 2.0, 4.0], scaling_factor=0.5)
    vae.save_pretrained(tmp_path / "vae")
    import_diffusers(tmp_path / "vae", tmp_path / "out")
    stage = load_part(tmp_path / "out", first_stages())
    assert stage.latent_mean.tolist() == [1, 2, 3, 4]
    assert stage.latent_std.tolist() == [1, 2, 4, 8]
