"""The report on a run, a self-contained HTML page; see `moco_tf.report.report.write_report`."""
