"""TUNe and SampleCNN as a PyTorch user would write them: what the benchmarks compare with.

Plain modules with the framework's own layers, channels first, run eagerly. Parameters are as many
as those of the `keras_tune` model of the same preset, which `build` checks.
"""

import torch
from torch import nn
from torch.nn import functional


def block(channels, filters, stride=1, padding=1):
    return nn.Sequential(
        nn.Conv1d(channels, filters, 3, stride, padding), nn.BatchNorm1d(filters), nn.ReLU()
    )


class SampleCNN(nn.Module):
    def __init__(self, widths):
        super().__init__()
        layers = [block(1, widths[0], stride=3, padding=0)]
        for before, width in zip(widths, widths[1:-1], strict=False):
            layers += [block(before, width), nn.MaxPool1d(3)]
        self.layers = nn.Sequential(*layers, block(widths[-2], widths[-1]))

    def forward(self, waveforms):
        return self.layers(waveforms).mean(-1)


class TailedUNet(nn.Module):
    def __init__(self, contraction_depth, decoder_depth, base_filters, tail_filters, links):
        super().__init__()
        widths = [base_filters * 2**level for level in range(contraction_depth + 1)]
        self.contract = nn.ModuleList(
            block(before, width) for before, width in zip([1, *widths], widths, strict=False)
        )
        levels = [contraction_depth - step for step in range(1, decoder_depth + 1)]
        self.upsample = nn.ModuleList(
            nn.ConvTranspose1d(2 * widths[level], widths[level], 3, 3) for level in levels
        )
        self.expand = nn.ModuleList(block(2 * widths[level], widths[level]) for level in levels)
        partners = [*(widths[level] for level in reversed(levels[:-1])), widths[-1]]
        self.links = len(partners) if links else 0
        partners = partners if links else []
        partners += [0] * (len(tail_filters) - len(partners))
        before = [widths[levels[-1]], *tail_filters]
        self.tail = nn.ModuleList(
            block(channels + partner, width)
            for channels, partner, width in zip(before, partners, tail_filters, strict=False)
        )

    def forward(self, x):
        skips, expansive = [], []
        for stage in self.contract[:-1]:
            x = stage(x)
            skips.append(x)
            x = functional.max_pool1d(x, 3)
        x = bottleneck = self.contract[-1](x)
        for upsample, stage in zip(self.upsample, self.expand, strict=True):
            x = stage(torch.cat([upsample(x), skips.pop()], dim=1))
            expansive.append(x)
        partners = [*expansive[-2::-1], bottleneck]
        for index, stage in enumerate(self.tail):
            x = functional.max_pool1d(x, 3)
            if index < self.links:
                x = torch.cat([x, partners[index]], dim=1)
            x = stage(x)
        return x.mean(-1)


def build(preset, parameters):
    """Build the module of a preset.

    Args:
        preset: Name of a preset of `keras_tune.models`.
        parameters: The number of parameters it must have.
    """
    from keras_tune.models import PRESETS

    chosen = PRESETS[preset]
    tail = chosen.tail_filters(chosen.base_filters)
    if chosen.decoder_depth:
        depths = chosen.contraction_depth, chosen.decoder_depth
        module = TailedUNet(*depths, chosen.base_filters, tail, chosen.extra_links)
    else:
        module = SampleCNN(tail)
    found = sum(parameter.numel() for parameter in module.parameters())
    if found != parameters:
        raise ValueError(f"{preset} has {parameters} parameters. Received: {found}")
    return module


class TrainingStep:
    """A step of contrastive training, as in the published code but for the passes of the views.

    Args:
        encoder: Module from (views, 1, samples) to (views, d).
        autocast: Whether to compute in bfloat16.
        device: Where to compute.
    """

    def __init__(self, encoder, autocast=False, device="cpu"):
        width = list(encoder.parameters())[-1].numel()
        self.device, self.autocast = device, autocast
        self.encoder = encoder.to(device)
        self.projector = nn.Sequential(
            nn.Linear(width, width, bias=False), nn.ReLU(), nn.Linear(width, 64, bias=False)
        ).to(device)
        weights = [*self.encoder.parameters(), *self.projector.parameters()]
        self.optimizer = torch.optim.Adam(weights, 3e-4)

    def __call__(self, views):
        """Train on the views (2·clips, 1, samples), the two of a clip next to each other."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.autocast):
            projections = self.projector(self.encoder(views))
        unit = functional.normalize(projections.float(), dim=1)
        logits = unit @ unit.T / 0.5
        logits.fill_diagonal_(float("-inf"))
        positives = torch.arange(len(views), device=views.device) ^ 1
        loss = functional.cross_entropy(logits, positives)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss
