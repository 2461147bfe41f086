"""Train with Detectron2, and with the layers that the paper adds to its detectors.

    python detectron2_train.py --num-gpus 8 --config-file CONFIG KEY VALUE ...
    python detectron2_train.py --num-gpus 8 --config-file CONFIG --eval-only KEY VALUE ...

This script needs Detectron2, but not moco-tf. docs/detectron2.md has the commands of the paper's
experiments. The script adds two names that configs can use:

    MODEL.ROI_HEADS.NAME Res5ROIHeadsWithNorm
        For R50-C4: BatchNormalization after conv5.
    MODEL.BACKBONE.NAME build_dilated_c5_backbone
        For R50-dilated-C5: after conv5, which has dilation 2, a 3x3 convolution with 512 output
        channels and BatchNormalization.
"""

import os

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup, launch
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    COCOEvaluator,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
)
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_resnet_backbone
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads
from torch.nn import functional

DILATED_C5_CHANNELS = 512


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeadsWithNorm(Res5ROIHeads):
    """The head of R50-C4, with BatchNormalization after conv5."""

    @classmethod
    def _build_res5_block(cls, cfg):
        res5, channels = super()._build_res5_block(cfg)
        res5.add_module("norm", get_norm(cfg.MODEL.RESNETS.NORM, channels))
        return res5, channels


class DilatedC5(Backbone):
    """A dilated ResNet followed by a 3x3 convolution with 512 channels."""

    def __init__(self, resnet, norm):
        super().__init__()
        self.resnet = resnet
        shape = resnet.output_shape()["res5"]
        self.stride = shape.stride
        self.reduce = Conv2d(
            shape.channels,
            DILATED_C5_CHANNELS,
            3,
            padding=1,
            bias=False,
            norm=get_norm(norm, DILATED_C5_CHANNELS),
            activation=functional.relu,
        )

    def forward(self, images):
        return {"res5": self.reduce(self.resnet(images)["res5"])}

    def output_shape(self):
        return {"res5": ShapeSpec(channels=DILATED_C5_CHANNELS, stride=self.stride)}


@BACKBONE_REGISTRY.register()
def build_dilated_c5_backbone(cfg, input_shape):
    return DilatedC5(build_resnet_backbone(cfg, input_shape), cfg.MODEL.RESNETS.NORM)


class Trainer(DefaultTrainer):
    @classmethod
    def build_evaluator(cls, cfg, name, output_folder=None):
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        evaluator_type = MetadataCatalog.get(name).evaluator_type
        if evaluator_type == "pascal_voc":
            return PascalVOCDetectionEvaluator(name)
        if evaluator_type == "cityscapes_instance":
            return CityscapesInstanceEvaluator(name)
        if evaluator_type == "lvis":
            return LVISEvaluator(name, output_dir=folder)
        return COCOEvaluator(name, output_dir=folder)


def main(arguments):
    cfg = get_cfg()
    cfg.merge_from_file(arguments.config_file)
    cfg.merge_from_list(arguments.opts)
    cfg.freeze()
    default_setup(cfg, arguments)
    if arguments.eval_only:
        model = Trainer.build_model(cfg)
        DetectionCheckpointer(model, cfg.OUTPUT_DIR).resume_or_load(
            cfg.MODEL.WEIGHTS, resume=arguments.resume
        )
        return Trainer.test(cfg, model)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=arguments.resume)
    return trainer.train()


if __name__ == "__main__":
    arguments = default_argument_parser().parse_args()
    launch(
        main,
        arguments.num_gpus,
        num_machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        dist_url=arguments.dist_url,
        args=(arguments,),
    )
