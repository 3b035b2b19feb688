"""io_uv.datadir on what power cuts leave: a start finds everything there, so nothing is to be repaired, and it says so.

The states are those of test_power_cuts, a random part of them: `SEED=… ` replays a choice.
"""

import os
import random
from pathlib import Path

import pytest

from io_uv import datadir
from tests.integration.test_stopped_anywhere import image_of, put
from tests.lib import power_cut_scripts
from tests.lib.crashfs import Replay

IMAGES = 10
"""Directories of each script."""


@pytest.mark.parametrize("name", sorted(power_cut_scripts.SCRIPTS))
def test_no_power_cut_is_taken_for_damage(name: str, tmp_path: Path) -> None:
    """Nothing but notes is found, the rehearsal starts without a mark, and a repair leaves every file alone."""
    seed = int(os.environ.get("SEED", random.randrange(1 << 30)))
    print("seed", seed)
    rng = random.Random(seed)
    memory = power_cut_scripts.record(name, seed)
    replay, seen = Replay(memory.base), set()
    images = []
    for event in memory.journal:
        if event[0] != "note":
            replay.step(event)
        for image in replay.losses(rng, 1):
            if image.key not in seen:
                seen.add(image.key)
                images.append(image)
    for number, image in enumerate(rng.sample(images, min(IMAGES, len(images)))):
        dir = put(image.files, tmp_path / str(number))
        before = image_of(dir)
        findings = [one for one in datadir.check(dir) if one.severity != datadir.NOTE]
        rehearsal = datadir.rehearse(dir)
        assert rehearsal.starts, (rehearsal.problem, sorted(image.files))
        assert not rehearsal.recovering
        assert findings == [], sorted(image.files)
        assert not datadir.repair(dir, apply=True).needed
        assert image_of(dir) == before
