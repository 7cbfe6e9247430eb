"""One holder at a time; a dead one does not block the next for long."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

from rsr_ray.files.objects import list_files
from rsr_ray.store.lease import Lease


def leases(folder) -> list[str]:
    return sorted(name for name in list_files(str(folder), None) if name.endswith(".json"))


def test_one_of_many_takes_it(tmp_path):
    many = [Lease(str(tmp_path), 60, None) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        refused = list(pool.map(Lease.take, many))
    assert refused.count(None) == 1
    winner = many[refused.index(None)]
    assert all(held.by == winner.me for held in refused if held and held.by)
    winner.release()


def test_a_released_one_is_free_at_once_and_only_the_newest_is_kept(tmp_path):
    for _ in range(3):
        lease = Lease(str(tmp_path), 60, None)
        assert lease.take() is None
        lease.release()
    assert leases(tmp_path) == ["000000000003.json"]


def test_a_live_one_is_renewed_and_a_dead_one_expires(tmp_path):
    live = Lease(str(tmp_path), 2, None)
    assert live.take() is None
    time.sleep(2.5)
    held = Lease(str(tmp_path), 2, None).take()
    assert held is not None
    assert held.by == live.me
    assert held.age < 2
    live._ended.set()  # as if its process had died: nobody renews it, nobody releases it
    live._renewing.join()
    assert Lease(str(tmp_path), 2, None).take() is not None
    last = tmp_path / leases(tmp_path)[-1]
    os.utime(last, (time.time() - 2.2,) * 2)  # time that nobody has to wait for
    after = Lease(str(tmp_path), 2, None)
    assert after.take() is None
    assert json.loads((tmp_path / leases(tmp_path)[-1]).read_text())["id"] == after.me.id
    after.release()


def test_a_half_written_one_is_held(tmp_path):
    (tmp_path / "000000000001.json").write_text("")
    held = Lease(str(tmp_path), 60, None).take()
    assert held is not None
    assert (held.by, held.holder) == (None, None)
    assert held.age < 60
    assert held.to_json() == {"age": held.age}


def test_who_holds_it_is_told_as_it_wrote(tmp_path):
    live = Lease(str(tmp_path), 60, None)
    assert live.take() is None
    held = Lease(str(tmp_path), 60, None).take()
    wrote = {"holder": live.me.holder, "id": live.me.id, "seconds": 60}
    wrote["since"] = live.me.since
    assert held is not None
    assert list(held.to_json().items()) == [*wrote.items(), ("age", held.age)]
    live.release()
    kept = json.loads((tmp_path / leases(tmp_path)[-1]).read_text())
    assert list(kept.items())[:5] == [*wrote.items(), ("released", True)]
