"""The pictures show the library's own data: every action, every weight, every message."""

import matplotlib
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from tp_parallel.grid.axis import Message
from tp_parallel.layers.sharding import Shard
from tp_parallel.pipeline.schedules import make_schedule, simulate
from tp_parallel.training.draw import draw_messages, draw_schedule, draw_schedules, draw_shards


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


@pytest.mark.parametrize("name", ["gpipe", "1f1b", "interleaved", "zero_bubble"])
def test_a_schedule_is_drawn_action_by_action(axes, name):
    schedule = make_schedule(name, 2, 4, 2 if name == "interleaved" else 1)
    end = draw_schedule(schedule, axes)
    assert len(axes.patches) == sum(len(row) for row in schedule.ranks)
    share = 1 / schedule.chunks
    slots = simulate(schedule, share, 2 * share, share)
    assert end == max(row[-1].end for row in slots)
    drawn = sorted((bar.get_x(), bar.get_width()) for bar in axes.patches)
    want = sorted((slot.start, slot.end - slot.start) for row in slots for slot in row)
    assert [x for bar in drawn for x in bar] == pytest.approx([x for bar in want for x in bar])


def test_schedules_share_the_longest_time_scale():
    figure = plt.figure()
    draw_schedules([make_schedule("1f1b", 2, 4), make_schedule("gpipe", 2, 8)], figure)
    assert [axes.get_xlim() for axes in figure.axes] == [(0, 27), (0, 27)]
    plt.close(figure)


def test_the_parts_of_a_weight_have_its_area(axes):
    shards = {"column": Shard((10, 4), 0), "row": Shard((4, 8), 1), "gated": Shard((12, 4), 0, 2)}
    draw_shards(shards, 3, axes)  # 10 rows over 3 ranks: 4, 4 and 2
    areas = [bar.get_width() * bar.get_height() for bar in axes.patches]
    assert areas[:3] == [16, 16, 8]
    assert sum(areas[3:6]) == pytest.approx(32)
    assert areas[6:] == [8] * 6  # gate and up are each cut in three


def test_messages_are_drawn_in_order(axes):
    operations = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "send")
    log = [Message(op, "activation", op[:5], 2**20 * n) for n, op in enumerate(operations, start=1)]
    draw_messages(log, 1, axes)
    assert [bar.get_height() for bar in axes.patches] == [1, 2, 3, 4, 5]
    assert [label.get_text() for label in axes.get_xticklabels()] == [op[:5] for op in operations]
