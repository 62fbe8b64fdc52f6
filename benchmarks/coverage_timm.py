"""Channel removal on the architectures of timm, as both PyTorch exporters write them.

    python benchmarks/coverage_timm.py
    python benchmarks/coverage_timm.py --models resnet10t mixer_s32_224 --exporters dynamo

Needs timm and torchvision (and onnxscript for the newer exporter). By default small members of timm's families, at the
smallest image size that they take. Weights are random. Equivalence is checked as `coverage.py` does, and the reach: the
smallest share of the MACs that random channels leave, at least 0.5 wanted; that model must run, too. Where they can
reach it, the whole tool must as well, with `--prune double` and `channels`. Where PyTorch can't write a network, that
is noted and not a failure. The exit code is 1 if any model fails.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from coverage import (
    EXPORTERS,
    check_equivalence,
    describe_channels,
    export_network,
    find_reach,
    judge,
    print_line,
    print_summary,
)
from coverage_pipeline import TARGET, compress_model
from torchvision_networks import import_models

from onnx_basisprune.graph.model_io import load_model
from onnx_basisprune.graph.normalize import normalize_model

NAMES = [
    "botnet26t_256", "caformer_s18", "cait_xxs24_224", "coat_lite_tiny", "coat_tiny", "coatnet_nano_rw_224",
    "convformer_s18", "convit_tiny", "convmixer_768_32", "convnext_atto", "convnext_zepto_rms",
    "convnextv2_atto", "cpubone_nano", "crossvit_tiny_240", "cs3darknet_focus_s", "cs3darknet_s", "csatv2",
    "cspdarknet53", "cspnext_tiny", "cspresnet50", "cspresnext50", "darknet17", "davit_tiny",
    "deit3_small_patch16_224", "deit_tiny_distilled_patch16_224", "densenet121", "dla34", "dla46x_c",
    "dla60_res2net", "dpn68", "eca_botnext26ts_256", "eca_nfnet_l0", "eca_resnext26ts", "ecaresnet26t",
    "edgenext_xx_small", "efficientformer_l1", "efficientformerv2_s0", "efficientnet_b0", "efficientnet_b0_gn",
    "efficientnet_cc_b0_4e", "efficientnet_lite0", "efficientnetv2_rw_t", "efficientvim_m1", "efficientvit_b0",
    "efficientvit_m0", "ese_vovnet19b_slim", "eva02_tiny_patch14_224", "fasternet_t0", "fastvit_t8",
    "fbnetc_100", "fbnetv3_b", "focalnet_tiny_srf", "gcresnext26ts", "gcvit_xxtiny", "gernet_s", "ghostnet_050",
    "ghostnetv2_100", "ghostnetv3_050", "gmixer_12_224", "gmlp_ti16_224", "halonet26t", "hardcorenas_a",
    "hgnetv2_b0", "hiera_tiny_224", "hrnet_w18_small", "iformer_t", "inception_next_atto", "inception_v3",
    "lambda_resnet26t", "lcnet_050", "lcnetv2_small", "legacy_seresnet18", "legacy_seresnext26_32x4d",
    "levit_128s", "levit_conv_128s", "lowformer_b0", "mambaout_femto", "maxvit_pico_rw_256", "mixer_s32_224",
    "mixnet_s", "mnasnet_small", "mobilenetv2_035", "mobilenetv3_small_050", "mobilenetv4_conv_small_035",
    "mobilenetv4_hybrid_medium_075", "mobileone_s0", "mobilevit_xxs", "mobilevitv2_050", "mvitv2_tiny",
    "nest_tiny", "nextvit_small", "nf_regnet_b0", "nf_resnet26", "pit_ti_224", "poolformer_s12",
    "poolformerv2_s12", "pvt_v2_b0", "rdnet_tiny", "regnetv_040", "regnetx_002", "regnety_002", "regnetz_005",
    "regnetz_b16", "repghostnet_050", "repvgg_a0", "repvit_m0_9", "repvit_m1", "res2net50_14w_8s",
    "resmlp_12_224", "resnest14d", "resnest26d", "resnest50d_4s2x40d", "resnet10t", "resnet18d", "resnetaa34d",
    "resnetblur18", "resnetv2_18", "resnetv2_50x1_bit", "resnext26ts", "rexnet_100", "rexnetr_100",
    "selecsls42b", "semnasnet_050", "sequencer2d_s", "seresnext26t_32x4d", "shvit_s1", "skresnet18",
    "starnet_s050", "swiftformer_xs", "swin_tiny_patch4_window7_224", "swinv2_cr_tiny_224",
    "swinv2_tiny_window8_256", "test_convnext3", "test_efficientnet_evos", "test_efficientnet_ln", "test_nfnet",
    "test_vit4", "tf_efficientnetv2_b0", "tiny_vit_5m_224", "tinynet_e", "tnt_s_patch16_224", "tresnet_m",
    "twins_pcpvt_small", "twins_svt_small", "vgg11_bn", "visformer_tiny", "vit_relpos_small_patch16_224",
    "vit_relpos_small_patch16_rpn_224", "vit_small_patch16_dinov3_qkvb", "vit_tiny_patch16_224",
    "vit_tiny_r_s16_p8_224", "vitamin_small_224", "vovnet39a", "xception41", "xception71",
    "xcit_nano_12_p16_224", "nasnetalarge", "pnasnet5large", "beit_base_patch16_224", "inception_resnet_v2",
    "naflexvit_base_patch16_gap", "inception_v4", "volo_d1_224", "mobilenetv5_base", "bat_resnext26ts"
]  # fmt: skip
# Channels of these stay for a reason that is reported: normalisations across all of them (or a mean of them, for global
# response), recurrences, state spaces. What they let go isn't half of the MACs.
STAYING = frozenset(
    [
        "convnextv2_atto", "efficientnet_b0_gn", "efficientvim_m1", "gmlp_ti16_224", "resnetv2_50x1_bit",
        "sequencer2d_s", "test_efficientnet_evos", "test_efficientnet_ln",
    ]
)  # fmt: skip
NO_EXPORT = "no export"
SIZES = (64, 96, 128, 224, 256)
# Layer scales start so small that what they scale would do nothing.
SMALLEST_SCALE = 0.5


def build_network(name: str) -> tuple[torch.nn.Module, int]:
    """Return a network with random, uneven weights and statistics, and the smallest image size that it takes."""
    import_models()
    import timm

    own = int(timm.get_pretrained_cfg(name).input_size[-1])
    sizes = [size for size in SIZES if size < own]
    for size in [*sizes, own]:
        torch.manual_seed(0)
        try:
            network = create_network(name, size)
            network(torch.randn(2, 3, size, size))
        except Exception:  # networks refuse sizes in every way
            if size == own:
                raise
            continue
        break
    with torch.no_grad():
        randomize_network(network, size)
    return network.eval(), size


def create_network(name: str, size: int) -> torch.nn.Module:
    """Return a network for an image size, where it has to be told."""
    import timm

    try:
        network = timm.create_model(name, num_classes=50, img_size=size)
    except TypeError:  # it takes images of any size
        network = timm.create_model(name, num_classes=50)
    return network.eval()


def randomize_network(network: torch.nn.Module, size: int) -> None:
    """Let every part of a network matter, in place."""
    norms = [module for module in network.modules() if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d))]
    for parameter in network.parameters():
        if not parameter.any():
            parameter.normal_(0, 0.05)  # biases, and what starts residual branches at nothing
        elif parameter.numel() > 1 and parameter.min() == parameter.max() and parameter.abs().max() < SMALLEST_SCALE:
            parameter.uniform_(0.2, 0.6)
    for module in network.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.normal_(0, module.in_features**-0.5)  # transformers start with smaller ones
    for norm in norms:
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(0, 0.2)
        norm.momentum = None  # averages exactly
        norm.train()
    if norms:
        network(torch.randn(4, 3, size, size))
    for norm in norms:
        norm.running_mean += 0.2 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.7, 1.4)


def check_model(name: str, exporter: str, folder: Path) -> dict[str, Any]:
    """Return what one line says."""
    network, size = build_network(name)
    try:
        export_network(network, size, exporter, folder / "model.onnx")
    except Exception as error:  # noqa: BLE001 - exporters fail in every way
        return {"failure": f"{NO_EXPORT}: {' '.join(str(error).split())[:100]}"}
    del network
    model = normalize_model(load_model(folder / "model.onnx"))
    channel_map, free, result = describe_channels(model)
    if free:
        result |= check_equivalence(model, channel_map, free, size)
        result["reach"] = find_reach(model, channel_map, free, size)
        if result["reach"] <= TARGET:
            compress_model(folder / "model.onnx", size)
    return result


def main() -> None:
    """Print a line for each model and a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=NAMES)
    parser.add_argument("--exporters", nargs="+", choices=EXPORTERS, default=list(EXPORTERS))
    arguments = parser.parse_args()
    results: dict[tuple[str, str], dict[str, Any]] = {}
    for name in arguments.models:
        for exporter in arguments.exporters:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    results[name, exporter] = check_model(name, exporter, Path(folder))
                except Exception as error:  # noqa: BLE001 - one failure is one line
                    results[name, exporter] = {"failure": f"{type(error).__name__}: {error}"}
            print_line(name, exporter, results[name, exporter])
    print_summary(results, [])
    sys.exit(any(has_failed(name, result) for (name, _), result in results.items()))


def has_failed(name: str, result: dict[str, Any]) -> bool:
    """Return whether a model does otherwise than it should."""
    verdict = judge(result)
    if name in STAYING and verdict in ("no free channel", "MACs"):
        return False
    return verdict != "ok" and not verdict.startswith(NO_EXPORT)


if __name__ == "__main__":
    main()
