"""The report of moco-evaluate on a run."""

from absl import flags

from moco_tf import run_data, workers
from moco_tf.cli import backbone_flags, evaluated_backbones, result_notes
from moco_tf.evaluation.results import require_writable
from moco_tf.report.findings import TITLES
from moco_tf.report.report import write_report


def run(values: flags.FlagValues) -> None:
    """Write the report on a run."""
    config = evaluated_backbones.read_config(values)
    source, image_size = backbone_flags.open_source(values, config)
    backbone, name, directory, channels = evaluated_backbones.load_backbone(
        values, config, source, image_size
    )
    backbone_flags.require_images(values, backbone, name, source, channels, image_size)
    if workers.several_workers():
        images = [source.name, source.size, run_data.of_source(source).checksum, image_size]
        checkpoint = getattr(backbone, "checkpoint", "")
        workers.require_same({"the newest checkpoint": checkpoint, "the images": images})
    directory = values.output_dir or directory
    if workers.is_chief():
        require_writable(directory)
        print(source.summary, flush=True)
    if result := write_report(values.workdir, source, image_size, directory):
        result_notes.print_unreadable(directory, result)
        titles = [TITLES[warning][0] for warning in result["warnings"]]
        print(
            f"report of {name} on {source.name}: warnings: {'; '.join(titles) or 'none'}; wrote "
            f"{directory}/report.html, which you can open in a browser"
        )
