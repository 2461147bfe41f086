"""When the files of a folder were written."""


def written(folder):
    """Return the inode and the time of the last change of each file, by its name.

    Not the time at which it was read, which file systems update now and then.
    """
    stats = {path.name: path.stat() for path in folder.iterdir()}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}
