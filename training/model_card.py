"""Writes the model card from an evaluation's report and the recipe: true figures, also those that fall short."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Figures = Mapping[str, Any]

INTRO = """# Model card: scenes

Small latent diffusion models of drawn landscapes, trained from nothing on pictures and captions that this repository
draws itself (`training/scenes`). `scenes` makes pictures from text and paints holes anew;
`scenes-superres` makes pictures four times as large. They show that the service works end to end, in seconds on a CPU.

Every figure here was measured by

    {command}

which wrote this file, on scenes that no training run has seen{captions}. Shares have
their 95 % interval in brackets, then the cases.
"""
LIMITS = """
- They know landscapes from a grammar: time of day, ground, background, clouds, sun or moon, one house, tree, boat and
  balloon, their colours, sizes and places. Other words are spelled from bytes and mean nothing to them.
- The pictures are flat illustrations of {size} pixels, as the training's are. Larger ones repeat or stretch things.
- English only, 48 tokens; no photograph was ever seen, so photographs come back as drawings, if at all.
- The classifier that reads the generated pictures makes mistakes of its own; its figures on drawn pictures stand first.
"""
CAPTIONS = {
    True: ", in words that no training caption has",
    False: "; some of the shorter captions also occur in training, with other pictures",
}
COMMANDS = """
```
python -m training.train --run RUN                      # the weights, in RUN/models; resumes
python -m training.classifier --data RUN/data --out ldm_core/builtin/classifier.safetensors
{command}
```
"""


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that the built-in models are meant to reach."""

    what: str
    reached: float | None
    wanted: float
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.reached is not None and self.reached >= self.wanted


def render_card(report: Figures, training: Figures) -> str:
    """Markdown."""
    sizes = [figures["size"] for figures in report["models"].values()]
    command = report.get("command", "python -m training.evaluate")
    checked = report.get("captions_checked_against_training")
    lines = [INTRO.format(command=command, captions=CAPTIONS[bool(checked)])]
    lines += ["## Targets", "", *_targets(report), ""]
    lines += ["## Classifier", "", *_classifier(report), ""]
    for name, figures in report["models"].items():
        lines += [f"## {name}", "", *_model(figures)]
    lines += ["## Training", "", *_training(training), ""]
    lines += ["## Commands", COMMANDS.format(command=command)]
    lines += ["## Limits", LIMITS.format(size=max(sizes, default=0))]
    return "\n".join(lines).rstrip() + "\n"


def targets(report: Figures) -> list[Target]:
    found: list[Target] = []
    for figures in report["models"].values():
        if drawn := figures.get("txt2img"):
            found += [Target(name, drawn["stated"][name]["share"], 0.95) for name in ("time", "ground", "background")]
            found.append(Target("house there and its colour", drawn["stated"]["house"]["share"], 0.80))
        for key in ("superres", "superres_larger"):
            if enlarged := figures.get(key):
                what = f"super-resolution to {enlarged['size'][0]} px, against bicubic"
                found.append(Target(what, enlarged["model"]["psnr"], enlarged["bicubic"]["psnr"], " dB"))
    return found


def _targets(report: Figures) -> Iterator[str]:
    yield from ("| | reached | wanted | |", "| --- | --- | --- | --- |")
    for target in targets(report):
        reached = "no case" if target.reached is None else f"{target.reached:.3f}{target.unit}"
        verdict = "met" if target.met else "**missed**"
        yield f"| {target.what} | {reached} | {target.wanted:.3f}{target.unit} | {verdict} |"


def _classifier(report: Figures) -> Iterator[str]:
    columns = {f"{report['classifier']['pictures']} drawn pictures": report["classifier"]["read"]}
    for name, figures in report["models"].items():
        columns[f"reconstructed by {name}"] = figures["autoencoder"]["read"]
    yield "Right, by attribute:"
    yield ""
    yield "| | " + " | ".join(columns) + " |"
    yield "| --- |" + " --- |" * len(columns)
    for attribute in report["classifier"]["read"]:
        yield f"| {attribute} | " + " | ".join(f"{read[attribute]:.3f}" for read in columns.values()) + " |"
    means = (sum(read.values()) / len(read) for read in columns.values())
    yield "| mean | " + " | ".join(f"{mean:.3f}" for mean in means) + " |"


def _model(figures: Figures) -> Iterator[str]:
    parameters = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in figures["parameters"].items())
    megabytes = figures["weights_bytes"] / 1e6
    yield f"Native size {figures['size']} px. Parameters: {parameters}. Weights {megabytes:.1f} MB."
    yield ""
    ae = figures["autoencoder"]
    yield f"Autoencoder: {ae['psnr']:.2f} dB, SSIM {ae['ssim']:.4f} over {ae['pictures']} pictures."
    yield ""
    if "txt2img" in figures:
        yield from _txt2img(figures["txt2img"])
    if "inpaint" in figures:
        yield from _inpaint(figures["inpaint"])
    for key in ("superres", "superres_larger"):
        if key in figures:
            yield from _superres(figures[key])


def _txt2img(drawn: Figures) -> Iterator[str]:
    settings = f"{drawn['steps']} steps, guidance {drawn['guidance_scale']}"
    yield f"### Text to image ({drawn['captions']} captions, {settings})"
    yield ""
    yield from ("| | right where the caption states it |", "| --- | --- |")
    for attribute, count in drawn["stated"].items():
        yield f"| {attribute} | {counted(count)} |"
    yield f"| all that a caption states | {counted(drawn['whole_caption'])} |"
    yield ""
    yield from ("| | there when asked for | absent when not asked for |", "| --- | --- | --- |")
    for thing, count in drawn["there_when_asked"].items():
        yield f"| {thing} | {counted(count)} | {counted(drawn['absent_when_not_asked'][thing])} |"
    yield ""


def _inpaint(painted: Figures) -> Iterator[str]:
    kept = ", ".join(f"{name} {counted(count)}" for name, count in painted["kept"].items())
    settings = f"{painted['steps']} steps, guidance {painted['guidance_scale']}"
    yield f"### Inpainting ({painted['pictures']} houses painted anew in another colour, {settings})"
    yield ""
    yield f"- New colour right: {counted(painted['new_colour'])}. Kept: {kept}."
    yield (
        f"- Seam: {painted['seam_levels']:.1f} grey levels across the hole's border, "
        f"{painted['seam_levels_in_originals']:.1f} there in the originals, ratio {painted['seam_ratio']:.2f}."
    )
    yield (
        f"- Outside the hole: identical in {counted(painted['outside_identical'])}; before the known pixels are put "
        f"back {painted['psnr_outside_before_compositing']:.2f} dB."
    )
    yield ""


def _superres(enlarged: Figures) -> Iterator[str]:
    side = enlarged["size"][0]
    yield f"### Super-resolution to {side} px ({enlarged['pictures']} pictures, {enlarged['steps']} steps)"
    yield ""
    yield from ("| | PSNR | SSIM |", "| --- | --- | --- |")
    for name in ("model", "bicubic"):
        yield f"| {name} | {enlarged[name]['psnr']:.2f} dB | {enlarged[name]['ssim']:.4f} |"
    yield ""
    yield f"Better than bicubic in {counted(enlarged['better_than_bicubic'])}."
    yield ""


def _training(training: Figures) -> Iterator[str]:
    recipe = training.get("recipe")
    if not recipe:
        yield "No `training.json` lies beside these weights."
        return
    yield f"{recipe['pictures']} pictures of {recipe['size']} px. AdamW; weights are moving averages."
    yield ""
    yield from ("| stage | steps | batch | samples | learning rate |", "| --- | --- | --- | --- | --- |")
    for name in ("autoencoder", "text", "unet", "superres"):
        stage = recipe[f"{name}_stage"]
        samples = stage["steps"] * stage["batch"]
        yield f"| {name} | {stage['steps']} | {stage['batch']} | {samples} | {stage['learning_rate']} |"


def counted(count: Figures) -> str:
    """Such as "0.95 [0.91, 0.97] 190/200"."""
    if not count["of"]:
        return "no case"
    return f"{count['share']:.2f} [{count['low']:.2f}, {count['high']:.2f}] {count['right']}/{count['of']}"
