"""What moco-evaluate prints about a result beside its numbers."""

import json

from moco_tf.cli import result_notes


def test_warnings_name_the_curve_of_a_comparison(capsys):
    result_notes.print_warnings({"warnings": ["one", "two"]})
    curve = {"initialisation": "random", "layers": "all"}
    result_notes.print_warnings({"curves": [curve, {**curve, "warnings": ["too large"]}]})
    lines = ["warning: one", "warning: two", "warning: random, all layers, too large"]
    assert capsys.readouterr().out.splitlines() == lines


def test_replaced_result_of_another_backbone_is_named(tmp_path, capsys):
    result = {"protocol": "knn", "backbone": "a", "data": "photos", "image_size": 32, "k": 1}
    result_notes.print_replaced(str(tmp_path), result)
    (tmp_path / "eval").mkdir()
    path = tmp_path / "eval" / "knn.json"
    path.write_text(json.dumps(result))
    result_notes.print_replaced(str(tmp_path), {**result, "k": 5})
    assert capsys.readouterr().out == ""
    result_notes.print_replaced(str(tmp_path), {**result, "backbone": "b"})
    assert capsys.readouterr().out == f"note: the result replaces that of a on photos in {path}\n"
    path.write_text("[]")
    result_notes.print_replaced(str(tmp_path), result)
    assert capsys.readouterr().out == ""
