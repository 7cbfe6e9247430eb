"""One holder at a time; a dead one does not block the next for long."""

import json
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
    assert all(
        held["holder"] == winner.me["holder"] for held in refused if held and "holder" in held
    )
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
    assert held["id"] == live.me["id"]
    assert held["age"] < 2
    live._ended.set()  # as if its process had died: nobody renews it, nobody releases it
    live._renewing.join()
    assert Lease(str(tmp_path), 2, None).take() is not None
    time.sleep(2.2)
    after = Lease(str(tmp_path), 2, None)
    assert after.take() is None
    assert json.loads((tmp_path / leases(tmp_path)[-1]).read_text())["id"] == after.me["id"]
    after.release()


def test_a_half_written_one_is_held(tmp_path):
    (tmp_path / "000000000001.json").write_text("")
    assert (
        Lease(str(tmp_path), 60, None).take() == {"age": 0.0}
        or Lease(str(tmp_path), 60, None).take()["age"] < 60
    )
