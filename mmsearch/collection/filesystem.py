"""Network file systems, on which a collection must not lie: SQLite's write-ahead log needs memory that all its users
share, which machines do not (https://www.sqlite.org/wal.html), and their file locks are not to be trusted.
"""

from __future__ import annotations

from pathlib import Path

from mmsearch.errors import NetworkFileSystem

MOUNTS = Path("/proc/self/mountinfo")
"""What Linux tells of the mounts that this process sees; without it, no file system is taken for a network's."""

NETWORK = frozenset(
    ["nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "ncpfs", "beegfs", "pvfs2", "davfs"]
    + [f"fuse.{name}" for name in ("sshfs", "davfs", "glusterfs", "ceph", "rclone", "s3fs", "gcsfuse", "smbnetfs")]
)


def file_system(place: Path, *, mounts: Path | None = None) -> str:
    """Return the type of the file system that a path is or will be on, as Linux calls it; "unknown" elsewhere."""
    try:
        lines = (mounts or MOUNTS).read_text().splitlines()
    except OSError:
        return "unknown"
    there = existing(place).resolve()
    found, depth = "unknown", -1
    for line in lines:
        before, _, after = line.partition(" - ")  # proc_pid_mountinfo(5); optional fields end with the dash
        folder = Path(_unescaped(before.split()[4]))
        if there.is_relative_to(folder) and len(folder.parts) >= depth:  # of two at one place, the later one shows
            found, depth = after.split()[0], len(folder.parts)
    return found


def refuse_network(place: Path) -> None:
    """Raise NetworkFileSystem when a collection that is to be written is, or would be, on a network file system.

    9p is one, but for sandboxes whose whole disk is 9p.
    """
    kind = file_system(place)
    if kind in NETWORK and not (kind == "9p" and file_system(Path("/")) == kind):
        raise NetworkFileSystem(
            f"{place} is on a network file system ({kind}), where a collection breaks: put it on a local disk with"
            " --collection PATH or MMSEARCH_HOME; pictures may lie anywhere."
        )


def existing(place: Path) -> Path:
    """Return a path, or the nearest folder above it that is there."""
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def _unescaped(name: str) -> str:
    """Return a mount point without the octal escapes of white space and backslashes."""
    for code in ("040", "011", "012", "134"):
        name = name.replace(f"\\{code}", chr(int(code, 8)))
    return name
