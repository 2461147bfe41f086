"""The export formats, and how their scripts are called once the package is installed."""

import re

# The module of `moco_tf.export` behind each format. Modules are not named after packages that they
# import, because a script finds the modules beside it first.
FORMATS = {
    "saved_model": "saved_model",
    "keras": "keras_v3",
    "keras_hub": "keras_hub_preset",
    "onnx": "onnx_file",
    "litert": "litert_file",
    "pytorch": "pytorch",
    "detectron2": "detectron2_pickle",
}


def in_commands(text: str) -> str:
    """Return a help text with the console commands in place of the scripts of a checkout.

    Example:
        >>> in_commands("python train.py; python export/onnx_file.py")
        'moco-train; moco-export onnx'
    """
    for name, module in FORMATS.items():
        text = text.replace(f"python export/{module}.py", f"moco-export {name}")
    return re.sub(r"python (train|evaluate|embed|prepare)\.py", r"moco-\1", text)
