"""A frame's objects computed with single calls of the nuScenes devkit."""

import numpy as np
import pytest


def check_against_devkit(tables, frame):
    """Compare a frame's objects; returns their number."""
    sample = tables.get("sample", frame.token)
    _, boxes, _ = tables.get_sample_data(sample["data"]["LIDAR_TOP"])
    rows = [tables.get("sample_annotation", box.token) for box in boxes]
    seen = [(b, r) for b, r in zip(boxes, rows, strict=True) if r["num_lidar_pts"] + r["num_radar_pts"]]
    assert [agent.token for agent in frame.agents] == [box.token for box, _ in seen]
    for agent, (box, row) in zip(frame.agents, seen, strict=True):
        assert (agent.x, agent.y) == pytest.approx(tuple(box.center[:2]), abs=1e-6)
        assert agent.category == box.name
        current = tables.get_box(row["token"])
        for step, position in enumerate(agent.future):
            row = tables.get("sample_annotation", row["next"]) if row and row["next"] else None
            if row is None:
                assert np.isnan(agent.future[step:]).all()
                break
            offset = current.orientation.inverse.rotate(np.array(row["translation"]) - current.center)
            assert position == pytest.approx([-offset[1], offset[0]], abs=1e-6)
    return len(seen)
