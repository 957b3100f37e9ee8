"""``profile``: what a model costs on a device, and which boards have room for it, from its architecture alone.

Networks are read as the ONNX graphs that engines compute, with normalisations folded in.
"""

import csv
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, get_args

import numpy as np

from edgesea.artifact import write_json
from edgesea.audio.mel import LogMelSettings
from edgesea.config import nearest
from edgesea.errors import EdgeseaError, needs
from edgesea.export.rows import front_end_bytes, network_bytes
from edgesea.models import TEACHERS, TFLITE, has_network, is_teacher
from edgesea.models.base import COUNTER
from edgesea.models.cost import INSTRUCTIONS, Layer, student_layers, totals, trace
from edgesea.models.litert import read_tflite
from edgesea.models.student_config import EDGE, FILTERS, Head, StudentConfig, array_shapes, parameter_count
from edgesea.models.student_files import PUBLISHED, read_student

STUDENTS = [*EDGE, *FILTERS]
COUNTED = ("Cortex-M4", "Cortex-M7", "Cortex-M33")  # cores that have these instructions
PROGRAM = {"flash": 16 * 1024, "ram": 8 * 1024}  # bytes, assumed: code, C library and start; stack and microphone
KIB = 1024


@dataclass(frozen=True)
class FrontEndCost:
    """What the C front end takes for the spectrogram of a window."""

    multiplications: int
    flash: int  # bytes: a turn of the cosine, mel filters without their zeros
    ram: int  # bytes, at a hop of one window


@dataclass(frozen=True)
class Profile:
    """What a model takes for a window: numbers and bytes."""

    model: str
    audio: str
    bands: int
    frames: int
    embedding_size: int
    seconds: float
    parameters: int  # that are trained
    macs: int  # multiplications, with additions, of the network
    instructions: int  # with the front end, in C on a Cortex-M7
    stored_float32: int  # bytes of a checkpoint, with the statistics of normalisations: the paper's size
    flash_float32: int  # bytes with normalisations folded in
    flash_int8: int  # bytes: weights in int8, and bias, multiplier and shift of each channel
    activation_bytes: int  # in int8, layer by layer: what an operator takes, makes, and what waits for later
    largest_activation: int  # bytes in int8 by the paper's rule: the largest result of an operator, alone
    rows: int | None  # bytes of the C engine, which holds a few rows of each activation; None: it cannot compute this
    front_end: FrontEndCost
    layers: list[Layer]

    @property
    def need(self) -> dict[str, int]:
        """Bytes on a device, program included."""
        flash, ram = self.flash_int8 + self.front_end.flash, self.network_ram + self.front_end.ram
        return {"flash": flash + PROGRAM["flash"], "ram": ram + PROGRAM["ram"]}

    @property
    def network_ram(self) -> int:
        """Bytes by the C engine, or else layer by layer."""
        return self.activation_bytes if self.rows is None else self.rows


@dataclass(frozen=True)
class Board:
    """A microcontroller, or a board with one, of `boards.csv`."""

    name: str
    core: str
    mhz: int
    flash: int  # KiB
    ram: int  # KiB
    block: int  # KiB of it side by side
    source: str  # of these numbers

    def lacks(self, profile: Profile) -> list[str]:
        """Of what it has too little for a model; RAM, too, if no piece of it holds the network's."""
        lacking = [kind for kind, size in profile.need.items() if size > KIB * getattr(self, kind)]
        return lacking or ["ram"] * (profile.network_ram > KIB * self.block)

    def seconds(self, profile: Profile) -> float | None:
        """Time for a window at one instruction a cycle; None for cores with other instructions."""
        return profile.instructions / (1e6 * self.mhz) if self.core.startswith(COUNTED) else None


@cache
def boards() -> list[Board]:
    with Path(__file__).with_name("boards.csv").open(encoding="utf-8") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    return [Board(**row | {key: int(row[key]) for key in ("mhz", "flash", "ram", "block")}) for row in rows]


def find_board(name: str) -> Board:
    """A board by its name, or by how its name begins, if that of no other does."""
    found = [board for board in boards() if board.name.startswith(name.lower())]
    if len(found) != 1:
        raise EdgeseaError(f"unknown board {nearest([name], [board.name for board in boards()])}")
    return found[0]


def check_room(profile: Profile, board: str) -> None:
    """Raise EdgeseaError, which names what fits, if a board has no room for a model."""
    if find_board(board).lacks(profile):
        raise EdgeseaError(_instead(profile, find_board(board)))


def measure(model: str | Path) -> Profile:
    """The profile of a student or teacher; no published weights are downloaded for it."""
    name = str(model)
    if is_teacher(name):
        return _of_teacher(name)
    if name in STUDENTS:
        config = StudentConfig.named(name)
    elif name in PUBLISHED:
        config = StudentConfig.named(name.removeprefix("edgel3/"), head="relu_max")
    elif name.endswith(TFLITE) and Path(name).is_file():
        config = read_tflite(Path(name).read_bytes(), name)[0]
    else:
        config = read_student(model).config
    return of_student(config, name)


def of_student(config: StudentConfig, name: str = "") -> Profile:
    """The profile of an architecture."""
    if config.head not in get_args(Head):
        raise EdgeseaError(f"{name}: head {config.head} has no profile; {', '.join(get_args(Head))} have")
    shapes = {key: shape for key, shape in array_shapes(config).items() if not key.endswith(COUNTER)}
    counts, layers = (parameter_count(config), sum(map(prod, shapes.values()))), student_layers(config)
    return _profile(name or config.name(), config.front_end(), config.window, counts, layers, network_bytes(config))


@needs("torch", "train")
def _of_teacher(id: str) -> Profile:
    if not has_network(id):
        known = ", ".join(filter(has_network, TEACHERS))
        raise EdgeseaError(f"{id}: has no network that can be looked into; give a student, or one of {known}")
    from edgesea.models.teachers import teacher_graph, untrained

    model = untrained(id)
    stored = sum(array.numel() for name, array in model.state_dict().items() if not name.endswith(COUNTER))
    counts = sum(array.numel() for array in model.parameters()), stored
    front_end, graph = teacher_graph(model)
    settings, seconds = front_end.settings, model.window or 1.0
    frames = settings.layout(round(seconds * model.sample_rate))[0]
    return _profile(id, settings, seconds, counts, trace(graph, frames), None)


def _profile(
    name: str, settings: LogMelSettings, seconds: float, counts: tuple[int, int], layers: list[Layer], rows: int | None
) -> Profile:
    samples = round(seconds * settings.sample_rate)
    front_end = _front_end(settings, samples)
    instructions = sum(layer.instructions for layer in layers)
    return Profile(
        model=name,
        audio=f"{seconds:g} s at {settings.sample_rate / 1000:g} kHz",
        bands=settings.bands,
        frames=settings.layout(samples)[0],
        embedding_size=layers[-1].made[0],
        seconds=seconds,
        parameters=counts[0],
        **totals(layers),
        instructions=instructions + round(INSTRUCTIONS["front_end"] * front_end.multiplications),
        stored_float32=4 * counts[1],
        rows=rows,
        front_end=front_end,
        layers=layers,
    )


def _front_end(settings: LogMelSettings, samples: int) -> FrontEndCost:
    filters, taps = settings.filters(), settings.n_fft
    weights = 0 if filters is None else int(np.count_nonzero(filters))
    # A butterfly of radix 4 has 12 products, and what comes before and after it 6 for each sample; a logarithm has 8
    products = 6 * taps + 12 * (taps // 8) * ((taps // 2).bit_length() // 2) + weights + 8 * settings.bands
    return FrontEndCost(
        multiplications=settings.layout(samples)[0] * products,
        flash=4 * (taps + weights + settings.bands),
        ram=front_end_bytes(settings, samples, samples),
    )


def profile(models: list[str] | None = None, *, board: str | None = None, out: Path | None = None) -> dict[str, Any]:
    """Print what models cost on a device: parameters, multiplications, flash, RAM, and which boards have room for them.

    Of one model also its layers. All of it follows from the architecture: nothing is run, and no published weights are
    downloaded.

    Parameters
    ----------
    models : list of str, optional
        Students: edge-10, sea-64 ..., a student's folder, a published .h5 file, a .tflite file of `edgesea export`,
        edgel3/sea-64 ... Teachers: openl3/..., efficientat/... Default: all students that have names.
    board : str, optional
        A microcontroller, or how its name begins, such as stm32h743, stm32u5, nrf52840, esp32s3, rp2040, audiomoth: say
        whether it has room for the models, and if not, what would fit.
    out : Path, optional
        JSON file for all numbers.

    Returns
    -------
    dict
        models: what each takes; boards: what each has (flash, ram and block in KiB), and of each model what it lacks
        and the seconds for a window; text: Markdown.

    EdgeseaError: there is no such model or board.
    """
    chosen = boards() if board is None else [find_board(board)]
    found = [measure(name) for name in models or STUDENTS]
    rooms = [{"lacks": [each.lacks(item) for item in found], "seconds": [*map(each.seconds, found)]} for each in chosen]
    result = {
        "models": [{**asdict(item), "need": item.need} for item in found],
        "boards": [{**asdict(each), **room} for each, room in zip(chosen, rooms, strict=True)],
    }
    if out is not None:
        write_json(Path(out), result)
    parts = [_costs(found), *(_layers(item) for item in found if len(found) == 1), _room(found, chosen)]
    parts += [_instead(item, chosen[0]) for item in found if board is not None and chosen[0].lacks(item)]
    return {**result, "text": "\n\n".join(parts)}


def _table(head: list[str], rows: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def _kib(size: float) -> str:
    return f"{size / KIB:,.1f} KiB".replace(",", " ")


def _costs(found: list[Profile]) -> str:
    """The table of what models take for a window, a column each."""
    rows: dict[str, Callable[[Profile], str]] = {
        "audio": lambda it: it.audio,
        "spectrogram, bands x frames": lambda it: f"{it.bands} x {it.frames}",
        "dimensions": lambda it: str(it.embedding_size),
        "parameters": lambda it: f"{it.parameters:,}".replace(",", " "),
        "checkpoint, float32 (the paper's size)": lambda it: f"{it.stored_float32 / 1e6:.2f} MB",
        "weights in flash, float32": lambda it: _kib(it.flash_float32),
        "weights in flash, int8": lambda it: _kib(it.flash_int8),
        "activations, int8, layer by layer": lambda it: _kib(it.activation_bytes),
        "activations, int8, rows of the C engine": lambda it: "-" if it.rows is None else _kib(it.rows),
        "activations, int8, the largest (the paper's rule; understates)": lambda it: _kib(it.largest_activation),
        "the same in float32 (the paper's figure)": lambda it: f"{4e-6 * it.largest_activation:.2f} MB",
        "multiplications, network": lambda it: f"{it.macs / 1e6:.1f} M",
        "multiplications, front end": lambda it: f"{it.front_end.multiplications / 1e6:.2f} M",
        "instructions in C, Cortex-M7": lambda it: f"{it.instructions / 1e6:.1f} M",
        "front end, flash": lambda it: _kib(it.front_end.flash),
        "front end, RAM": lambda it: _kib(it.front_end.ram),
        "all with program, flash": lambda it: _kib(it.need["flash"]),
        "all with program, RAM": lambda it: _kib(it.need["ram"]),
    }
    head = ["a window", *(item.model for item in found)]
    return _table(head, [[name, *map(shown, found)] for name, shown in rows.items()])


def _layers(item: Profile) -> str:
    head = ["operator", "makes, channels x bands x frames", "weights", "multiplications", "instructions", "in memory"]
    rows = []
    for it in item.layers:
        if it.macs or "Pool" in it.operator:
            counts = (f"{count / 1e6:.3f} M" for count in (it.macs, it.instructions))
            rows.append([it.operator, " x ".join(map(str, it.made)), str(it.weights), *counts, _kib(it.live)])
    return _table(head, rows)


def _room(found: list[Profile], chosen: list[Board]) -> str:
    """The table of boards and models: seconds for a window, or what is lacking."""

    def cell(board: Board, item: Profile) -> str:
        if lacking := board.lacks(item):
            return f"no: {' and '.join(lacking)}".replace("ram", "RAM")
        return "fits" if (seconds := board.seconds(item)) is None else f"fits, {seconds:.2f} s"

    head = ["board", "core", "clock", "flash", "RAM", *(item.model for item in found)]
    rows = [
        [board.name, board.core, f"{board.mhz} MHz", f"{board.flash} KiB", f"{board.ram} KiB"]
        + [cell(board, item) for item in found]
        for board in chosen
    ]
    note = "Seconds for a window, at one instruction a cycle; not known of cores other than Cortex-M4, M7 and M33."
    return f"{_table(head, rows)}\n\n{note}"


def _instead(item: Profile, board: Board) -> str:
    """What fits if a model does not."""
    needs = " and ".join(f"{_kib(item.need[kind])} of {kind}".replace("ram", "RAM") for kind in board.lacks(item))
    students = [name for name in STUDENTS if not board.lacks(measure(name))]
    others = [each.name for each in boards() if not each.lacks(item)]
    return (
        f"{item.model} does not fit on {board.name}: it takes {needs}. Students that fit: "
        f"{', '.join(students) or 'none'}. Boards on which it fits: {', '.join(others) or 'none'}."
    )
