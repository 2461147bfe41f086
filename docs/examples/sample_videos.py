"""Create the videos and the query images of the example of a search in videos.

    python docs/examples/sample_videos.py

It writes to the current folder:

    videos/           three videos of four shots each, 128 x 96 pixels, ten frames a second. A shot
                      takes two seconds and pans over one of 12 photographs.
    queries/          a picture of each of six of these photographs, named VIDEO_SECONDS_NAME.jpg
                      after the shot that shows it
"""

import pathlib
import sys

import av
import numpy as np
import PIL.Image
import skimage.data

PHOTOGRAPHS = (
    *("astronaut", "brick", "camera", "chelsea", "coffee", "coins"),
    *("grass", "gravel", "immunohistochemistry", "moon", "retina", "rocket"),
)
SIZE = (128, 96)
RATE, SHOT_SECONDS, SHOTS = 10, 2, 4


def main():
    for folder in ("videos", "queries"):
        if pathlib.Path(folder).exists():
            sys.exit(f"error: {pathlib.Path(folder).resolve()} exists: use another folder")
        pathlib.Path(folder).mkdir()
    for video, start in enumerate(range(0, len(PHOTOGRAPHS), SHOTS)):
        frames = []
        for shot, name in enumerate(PHOTOGRAPHS[start : start + SHOTS]):
            photograph = PIL.Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
            frames += [view(photograph, n) for n in np.linspace(0, 1, RATE * SHOT_SECONDS)]
            if shot % 2:
                # Between two frames, and brighter.
                query = view(photograph, 0.52).point(lambda value: min(255, 1.1 * value + 5))
                query.save(f"queries/{video}_{SHOT_SECONDS * shot}_{name}.jpg")
        write(f"videos/{video}.mp4", frames)


def view(photograph, progress):
    """Return a part of a photograph that moves from its upper left to its lower right."""
    width, height = photograph.size
    scale = 0.6 * min(width / SIZE[0], height / SIZE[1])
    side = (scale * SIZE[0], scale * SIZE[1])
    left, top = (progress * (a - b) for a, b in zip((width, height), side, strict=True))
    box = (left, top, left + side[0], top + side[1])
    return photograph.resize(SIZE, PIL.Image.Resampling.BILINEAR, box)


def write(path, frames):
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height = SIZE
        stream.pix_fmt, stream.bit_rate = "yuv420p", 2_000_000
        for frame in [*map(av.VideoFrame.from_image, frames), None]:
            container.mux(stream.encode(frame))


if __name__ == "__main__":
    main()
