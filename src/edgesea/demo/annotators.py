"""The people who listen: crowd, team and verified annotations of a clip, with their mistakes."""

import numpy as np

from edgesea.demo.plan import seed_of
from edgesea.demo.scene import Event
from edgesea.demo.taxonomy import COARSE, COARSE_PRESENCE, FINE, FINE_PRESENCE, FINE_PROXIMITY, coarse_of

CROWD = 40  # volunteers in the pool; their ids are 1, 2, ...
TEAM = 5  # members of the team; their ids are -1, -2, ...
VERIFIED = 0  # id of the rows that the team agreed on
CROWD_ROWS = 3  # volunteers per clip
TEAM_ROWS = 2  # team members per verified clip

Row = dict[str, int | str]


def loudest_tags(events: list[Event]) -> dict[str, Event]:
    """For every fine tag of a clip the event that is heard best: what an annotator judges."""
    best: dict[str, Event] = {}
    for event in sorted(events, key=lambda event: event.snr):
        best[event.tag] = event
    return {tag: best[tag] for tag in FINE if tag in best}


def _row(annotator: int, tags: dict[str, str]) -> Row:
    """The annotation columns for fine tags with their proximities; the coarse ones follow from the fine ones."""
    coarse = {coarse_of(tag) for tag in tags}
    row: Row = {"annotator_id": annotator}
    row |= {column: int(code in tags) for code, column in FINE_PRESENCE.items()}
    row |= {column: tags.get(code, "-1") for code, column in FINE_PROXIMITY.items()}
    row |= {column: int(code in coarse) for code, column in COARSE_PRESENCE.items()}
    return row


def _overheard(tag: str, rng: np.random.Generator) -> str:
    """The fine tag that a listener who is sure of the coarse class confuses `tag` with."""
    others = [code for code in FINE if coarse_of(code) == coarse_of(tag) and code != tag]
    if not others:
        return tag
    unsure = [code for code in others if code.endswith("X")]
    return str(rng.choice(unsure if unsure and rng.random() < 0.5 else others))


def _judged(proximity: str, rng: np.random.Generator) -> str:
    """The proximity that a volunteer notes: right three times out of four."""
    other = "far" if proximity == "near" else "near"
    return str(rng.choice([proximity, "notsure", other], p=[0.75, 0.15, 0.1]))


def crowd_row(annotator: int, events: list[Event], skill: np.random.Generator, rng: np.random.Generator) -> Row:
    """What one volunteer notes.

    Parameters
    ----------
    annotator : int
        Positive id.
    events : list of Event
        What is to be heard.
    skill, rng : Generator
        Source of the annotator's lasting error rates, and of the errors in this clip.

    Returns
    -------
    dict
        The columns from ``annotator_id`` on. Faint events are missed more often (about 12 % on average).
    """
    missing, inventing, confusing = skill.uniform(0.03, 0.13), skill.uniform(0.003, 0.02), skill.uniform(0.1, 0.3)
    tags: dict[str, str] = {}
    for tag, event in loudest_tags(events).items():
        if rng.random() < missing + 0.25 / (1.0 + np.exp(0.4 * event.snr)):
            continue
        tags[_overheard(tag, rng) if rng.random() < confusing else tag] = _judged(event.proximity, rng)
    for coarse in COARSE:
        if rng.random() < inventing:
            invented = str(rng.choice([code for code in FINE if coarse_of(code) == coarse]))
            tags.setdefault(invented, str(rng.choice(["far", "notsure"])))
    return _row(annotator, tags)


def team_row(annotator: int, events: list[Event], rng: np.random.Generator) -> Row:
    """What one member of the team notes: few mistakes, and no proximities."""
    tags = [tag for tag in loudest_tags(events) if rng.random() > 0.04]
    return _row(annotator, dict.fromkeys(tags, "-1"))


def verified_row(events: list[Event]) -> Row:
    """What the team agreed on: the truth, without proximities."""
    return _row(VERIFIED, dict.fromkeys(loudest_tags(events), "-1"))


def annotate(events: list[Event], *, verified: bool, seed: int, rng: np.random.Generator) -> list[Row]:
    """All rows of a clip.

    Parameters
    ----------
    events : list of Event
        What is to be heard.
    verified : bool
        Whether team and verified rows follow those of the crowd.
    seed : int
        Seed of the city, which decides how good each volunteer is.
    rng : Generator
        Source of the choice of annotators and of their errors.

    Returns
    -------
    list of dict
        The columns of SONYC-UST's annotation file from ``annotator_id`` on.
    """
    rows = []
    for annotator in sorted(int(one) for one in rng.choice(CROWD, CROWD_ROWS, replace=False) + 1):
        skill = np.random.default_rng(seed_of(seed, "annotator", annotator))
        rows.append(crowd_row(annotator, events, skill, rng))
    if verified:
        for annotator in sorted(int(one) for one in rng.choice(TEAM, TEAM_ROWS, replace=False) + 1):
            rows.append(team_row(-annotator, events, rng))
        rows.append(verified_row(events))
    return rows
