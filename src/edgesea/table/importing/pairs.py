"""Audio files with their embeddings beside them: which belong together, and reading both."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgesea.artifact import file_state
from edgesea.audio.framing import Framing
from edgesea.audio.io import AudioFile
from edgesea.embed.files import result_ending
from edgesea.errors import EdgeseaError
from edgesea.table.importing.arrays import EmbeddingFile
from edgesea.table.importing.framing import Reference
from edgesea.table.importing.pieces import EmbeddedPiece, clip_name
from edgesea.table.manifest import ClipEntry, manifest_digest
from edgesea.table.pieces import Rates, clip_pieces

MP3_TOLERANCE = 0.05  # of the length that an MP3 file announces: what `AudioFile` grants
ROUNDING = 2  # samples that resamplers may make more or less of the same audio


def endings(suffix: str) -> tuple[str, ...]:
    """Endings of the files with embeddings, in the order in which they are preferred."""
    return tuple(result_ending(suffix, ending) for ending in (".npz", ".npy", ".npy.gz"))


@dataclass(frozen=True)
class Pairs:
    """Clips and their embeddings.

    Attributes
    ----------
    entries : list of ClipEntry
        The audio files, and embeddings without audio, sorted by name.
    embeddings : dict of str to (Path or str)
        For each entry's name the file with its embeddings, or why it cannot be used.
    """

    entries: list[ClipEntry]
    embeddings: dict[str, Path | str]

    def digest(self) -> str:
        """sha256 of what is known of all clips, of the files' names and sizes: the identity of the table."""
        digest = hashlib.sha256(manifest_digest(self.entries).encode())
        for entry in self.entries:
            found = self.embeddings[entry.clip]
            fields = (found.name, (file_state(found) or (-1,))[0]) if isinstance(found, Path) else (found,)
            digest.update(repr(fields).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def find_pairs(entries: Sequence[ClipEntry], suffix: str, found: Sequence[Path], root: Path) -> Pairs:
    """Find the embeddings of each clip: ``x.wav.npz`` or else ``x.npz`` beside ``x.wav``, as `embed` names them.

    Parameters
    ----------
    entries : sequence of ClipEntry
        The clips.
    suffix : str
        Appended to the name, after an underscore unless it begins with a dot.
    found : sequence of Path
        All files with embeddings below `root`, to tell which of them have no audio; none if that is not wanted.
    root : Path
        Folder that names are relative to.
    """
    embeddings: dict[str, Path | str] = {}
    owners: dict[Path, str] = {}
    for entry in entries:
        folder, name, stem = entry.path.parent, entry.path.name, entry.path.stem
        names = [base + ending for base in (name, stem) for ending in endings(suffix)]
        path = next((folder / name for name in names if file_state(folder / name)), None)
        if path is None:
            embeddings[entry.clip] = f"no embeddings beside it ({', '.join(names[len(names) // 2 :])})"
        elif path in owners:
            embeddings[entry.clip] = f"no embeddings of its own: {path.name} is taken for those of {owners[path]}"
        else:
            embeddings[entry.clip] = path
            owners[path] = entry.clip
    result = {entry.clip: entry for entry in entries}
    for path in found:
        if path not in owners:
            clip = clip_name(path, root)
            result[clip] = ClipEntry(clip=clip, path=path, sensor=None, time=None, split="train", level=None)
            embeddings[clip] = "embeddings without audio of that name beside them"
    return Pairs([result[clip] for clip in sorted(result)], embeddings)


def read_pair(
    entry: ClipEntry, embeddings: Mapping[str, Path | str], rates: Rates, reference: Reference
) -> Iterator[tuple[ClipEntry, EmbeddedPiece]]:
    """Decode a clip and read its embeddings, up to 64 windows at a time.

    The other resampler may have given a sample more or less, and with it a window, and some tools leave out a last
    window that the audio does not fill: if the numbers of windows differ by one, the smaller counts.

    Raises
    ------
    EdgeseaError
        If either file cannot be used, or they do not fit together; pieces may have been handed out before.
    """
    path = embeddings[entry.clip]
    if isinstance(path, str):
        raise EdgeseaError(path)
    window = rates.framing.at(rates.student).window
    with EmbeddingFile(path) as file:
        reference.check(file)
        _check_announced(entry.path, file, rates, reference.guessed)
        seen = 0
        pieces = clip_pieces(entry, rates)
        for piece in pieces:
            count = min(len(piece.starts), file.count - seen)
            seen += len(piece.starts)
            if seen > file.count + 1:
                raise _misfit(file, seen + sum(len(more.starts) for more in pieces), rates.framing)
            if count > 0:
                pcm = piece.pcm[: int(piece.starts[count - 1]) + window - piece.offset]
                starts, levels = piece.starts[:count], piece.levels[:count]
                yield entry, EmbeddedPiece(piece.offset, pcm, starts, levels, file.read(count), piece.clipped)
        if seen < file.count - 1:
            raise _misfit(file, seen, rates.framing)


def _check_announced(audio: Path, file: EmbeddingFile, rates: Rates, guessed: bool) -> None:
    """Compare with the length in the audio's header, to find a misfit before anything is decoded."""
    with AudioFile(audio) as opened:
        length = round(opened.frames * rates.student / opened.sample_rate)
    framing = rates.framing
    other = Framing(framing.window, framing.hop, not framing.center)
    counts, other_counts = (
        [kind.at(rates.student).count(length + more) for more in (-ROUNDING, 0, ROUNDING)] for kind in (framing, other)
    )
    if counts[0] <= file.count <= counts[-1]:
        return
    slack = 1 + (MP3_TOLERANCE * counts[1] if audio.suffix.lower() == ".mp3" else 0)
    too_far = not counts[0] - slack <= file.count <= counts[-1] + slack
    fits_other = file.count in other_counts
    if too_far or (guessed and fits_other):  # nobody said that it is centred, and it looks as if it were not
        raise _misfit(file, counts[1], framing, f"; they would fit center={other.center}" if fits_other else "")


def _misfit(file: EmbeddingFile, expected: int, framing: Framing, hint: str = "") -> EdgeseaError:
    return EdgeseaError(
        f"{file.path.name}: {file.count} embeddings, where its audio has {expected} windows of {framing.window:g} s "
        f"every {framing.hop:g} s (center={framing.center}){hint}"
    )
