"""The tags of SONYC-UST v2 and the columns of its annotation file.

Source of the tags: Cartwright et al., "SONYC-UST-V2: an urban sound tagging dataset with spatiotemporal context",
DCASE workshop 2020. A fine tag is named by its code ``<coarse id>-<fine id>``; the fine id ``X`` means that the coarse
class is certain and the fine one is not.
"""

COARSE: dict[str, str] = {
    "1": "engine",
    "2": "machinery-impact",
    "3": "non-machinery-impact",
    "4": "powered-saw",
    "5": "alert-signal",
    "6": "music",
    "7": "human-voice",
    "8": "dog",
}

FINE: dict[str, str] = {
    "1-1": "small-sounding-engine",
    "1-2": "medium-sounding-engine",
    "1-3": "large-sounding-engine",
    "1-X": "engine-of-uncertain-size",
    "2-1": "rock-drill",
    "2-2": "jackhammer",
    "2-3": "hoe-ram",
    "2-4": "pile-driver",
    "2-X": "other-unknown-impact-machinery",
    "3-1": "non-machinery-impact",
    "4-1": "chainsaw",
    "4-2": "small-medium-rotating-saw",
    "4-3": "large-rotating-saw",
    "4-X": "other-unknown-powered-saw",
    "5-1": "car-horn",
    "5-2": "car-alarm",
    "5-3": "siren",
    "5-4": "reverse-beeper",
    "5-X": "other-unknown-alert-signal",
    "6-1": "stationary-music",
    "6-2": "mobile-music",
    "6-3": "ice-cream-truck",
    "6-X": "music-from-uncertain-source",
    "7-1": "person-or-small-group-talking",
    "7-2": "person-or-small-group-shouting",
    "7-3": "large-crowd",
    "7-4": "amplified-speech",
    "7-X": "other-unknown-human-voice",
    "8-1": "dog-barking-whining",
}

CONTEXT_COLUMNS = (
    "split",
    "sensor_id",
    "audio_filename",
    "annotator_id",
    "borough",
    "block",
    "latitude",
    "longitude",
    "year",
    "week",
    "day",
    "hour",
)
FINE_PRESENCE = {code: f"{code}_{name}_presence" for code, name in FINE.items()}
FINE_PROXIMITY = {code: f"{code}_{name}_proximity" for code, name in FINE.items()}
COARSE_PRESENCE = {code: f"{code}_{name}_presence" for code, name in COARSE.items()}

ANNOTATION_COLUMNS: tuple[str, ...] = (
    *CONTEXT_COLUMNS,
    *FINE_PRESENCE.values(),
    *FINE_PROXIMITY.values(),
    *COARSE_PRESENCE.values(),
)


def coarse_of(fine: str) -> str:
    """Coarse id of a fine code: ``"5"`` for ``"5-X"``."""
    return fine.split("-")[0]


def sure_codes(coarse: str) -> tuple[str, ...]:
    """The fine codes of a coarse class without its ``X`` tag, in the order of the taxonomy."""
    return tuple(code for code in FINE if coarse_of(code) == coarse and not code.endswith("X"))


def taxonomy_yaml() -> str:
    """The taxonomy as YAML text with the keys and nesting of SONYC-UST's ``dcase-ust-taxonomy.yaml``."""
    lines = ["fine:"]
    for coarse in COARSE:
        lines.append(f"    {coarse}:")
        lines += [f"        {code.split('-')[1]}: {name}" for code, name in FINE.items() if coarse_of(code) == coarse]
    lines += ["", "coarse:"]
    lines += [f"    {coarse}: {name}" for coarse, name in COARSE.items()]
    return "\n".join(lines) + "\n"
