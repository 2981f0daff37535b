"""The architectures the structure benchmarks run on: the smallest of every model file of timm, and special parts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mvp_deploy.backbones.timm_import import timm

ONE_PER_FILE = """
beit_base_patch16_224 halonet_h1 test_byobnet cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32
convnext_zepto_rms cpubone_nano crossvit_tiny_240 csatv2 cs3darknet_s cspnext_tiny davit_tiny deepseek_vit_412m
deit_tiny_patch16_224 densenet121 dla46_c dpn48b edgenext_xx_small efficientformer_l1 efficientformerv2_s0
mobilenetv2_035 efficientvim_m1 efficientvit_b0 efficientvit_m0 eva02_tiny_patch14_224 fasternet_t0 fastvit_t8
focalnet_tiny_srf gcvit_xxtiny gemma4_vit_167m ghostnet_050 hardcorenas_a hgnetv2_b0 hiera_tiny_224 sam2_hiera_tiny
hrnet_w18_small iformer_t inception_next_atto inception_resnet_v2 inception_v3 inception_v4 lcnetv2_small levit_128s
lowformer_b0 mambaout_femto maxvit_pico_rw_256 poolformer_s12 gmlp_ti16_224 mobilenetv3_small_050 mobilenetv5_300m
mobilevit_xxs mvitv2_tiny naflexvit_base_patch16_gap nasnetalarge nest_tiny nextvit_small nf_regnet_b0 pit_ti_224
pnasnet5large pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetx_002 repghostnet_050 repvit_m0_9 res2next50 resnest14d
resnet18 resnetv2_18 rexnet_100 selecsls42 legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s050
swiftformer_xs swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224
tnt_s_patch16_224 tresnet_m twins_svt_small vgg11 visformer_tiny vit_tiny_patch16_224 vit_tiny_r_s16_p8_224
vit_relpos_small_patch16_224 samvit_base_patch16_224 vitamin_small_224 volo_d1_224 ese_vovnet19b_slim_dw
legacy_xception xception41 xcit_nano_12_p16_224
""".split()  # noqa: SIM905

SPECIAL = """
botnet26t_256 lambda_resnet26t bat_resnext26ts gcresnext26ts repvgg_a0 mobileone_s0 gernet_s coat_lite_tiny
convnextv2_atto crossvit_9_dagger_240 darknet17 deit_tiny_distilled_patch16_224 deit3_small_patch16_224 dla46x_c
dla60_res2net efficientnet_b0 efficientnet_b0_gn efficientnet_cc_b0_4e mixnet_s mnasnet_small tf_efficientnetv2_b0
vit_tiny_patch16_dinov3_qkvb vit_small_patch16_rope_224 ghostnetv2_100 ghostnetv3_050 levit_conv_128s
coatnet_pico_rw_224 caformer_s18 poolformerv2_s12 convformer_s18 gmixer_12_224 mixer_s32_224 resmlp_12_224
mobilevitv2_050 mobilenetv4_hybrid_medium nf_resnet26 nf_ecaresnet26 pvt_v2_b2_li regnety_002 regnetz_005
ecaresnext26t_32x4d resnetblur18 seresnet18 resnet50_gn resnetv2_50x1_bit twins_pcpvt_small
vit_srelpos_small_patch16_224
""".split()  # noqa: SIM905

MODELS = tuple(ONE_PER_FILE + SPECIAL)

FIRST_BLOCKS = 3
PLAIN = {
    "beit_base_patch16_224",
    "deepseek_vit_412m",
    "gemma4_vit_167m",
    "naflexvit_base_patch16_gap",
    "qwen3_vit_88m",
    "samvit_base_patch16_224",
}
"""Transformers of like blocks without a small variant: they run with their first blocks only."""


def build(name: str) -> tuple[nn.Module, Tensor]:
    """The model with random weights, in eval mode, and two random images of the smallest size it runs at."""
    torch.manual_seed(0)
    more = {"depth": FIRST_BLOCKS} if name in PLAIN else {}
    model = timm().create_model(name, num_classes=10, **more).eval()
    own = timm().data.resolve_model_data_config(model)["input_size"]
    fixed: Any = getattr(model, "default_cfg", {}).get("fixed_input_size", False)
    generator = torch.Generator().manual_seed(1)
    for size in [] if fixed else [96, 128, 160, 192]:
        images = torch.randn(2, own[0], size, size, generator=generator)
        try:
            with torch.no_grad():
                model(images)
            return model, images
        except (RuntimeError, AssertionError, ValueError, IndexError):
            continue
    return model, torch.randn(2, *own, generator=generator)
