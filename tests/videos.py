"""Videos that pan and zoom over sample photographs, encoded by PyAV, and their plain decoding."""

import fractions

import av
import numpy as np
import PIL.Image
import skimage.data

# Name of a format: file suffix, codec, options of the codec.
FORMATS = {
    "h264": ("mp4", "libx264", {"bf": "3", "g": "12", "preset": "ultrafast", "crf": "20"}),
    "h264_open_gop": (
        "mkv",
        "libx264",
        {"x264-params": "bframes=3:b-pyramid=normal:keyint=10:min-keyint=10:open-gop=1:scenecut=0"},
    ),
    "h264_ts": ("ts", "libx264", {"bf": "2", "g": "9"}),
    "intra_refresh": ("mp4", "libx264", {"intra-refresh": "1", "g": "10", "bf": "0"}),
    "hevc": ("mp4", "libx265", {"x265-params": "keyint=10:bframes=3:log-level=none"}),
    "vp9": ("webm", "libvpx-vp9", {"g": "10", "lag-in-frames": "8", "auto-alt-ref": "1"}),
    "vp8": ("webm", "libvpx", {"g": "15", "lag-in-frames": "8", "auto-alt-ref": "1"}),
    "mpeg4": ("avi", "mpeg4", {"g": "8"}),
    "mpeg4_b_frames": ("avi", "mpeg4", {"g": "8", "bf": "2"}),
    "mpeg2": ("mpg", "mpeg2video", {"g": "8", "bf": "2"}),
    "mjpeg": ("mov", "mjpeg", {}),
    "flv": ("flv", "libx264", {"g": "8", "bf": "2"}),
}
PHOTOGRAPHS = ("chelsea", "coffee", "astronaut", "rocket")


def photograph(name):
    """Return a sample photograph, uint8 `[H, W, 3]`."""
    return getattr(skimage.data, name)()


def pan(name, count, size=(96, 64), step=2):
    """Return frames of a pan and zoom over a photograph, uint8 `[count, 64, 96, 3]`."""
    image = PIL.Image.fromarray(photograph(name))
    width, height = size
    frames = []
    for number in range(count):
        left, zoom = step * number, 2 + number / (4 * count)
        box = (left, left // 2, left + zoom * width, left // 2 + zoom * height)
        frames.append(np.asarray(image.resize(size, PIL.Image.Resampling.BILINEAR, box)))
    return np.stack(frames)


def encode(path, frames, codec="libx264", options=None, rate=25, times=None):
    """Write a video.

    Args:
        path: Path of the file; the suffix chooses the format.
        frames: uint8 `[N, H, W, 3]`.
        codec: Name of the encoder.
        options: Its options.
        rate: Frames per second.
        times: Time of each frame in seconds, for a variable rate.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if times is not None:
            stream.codec_context.time_base = fractions.Fraction(1, 1000)
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times is not None:
                frame.time_base = fractions.Fraction(1, 1000)
                frame.pts = round(1000 * times[number])
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)


def decoded(path):
    """Return all frames in the order of plain decoding, and their times in seconds."""
    with av.open(str(path)) as container:
        frames = [
            (frame.to_ndarray(format="rgb24"), frame.time) for frame in container.decode(video=0)
        ]
    return [image for image, _ in frames], [time for _, time in frames]
