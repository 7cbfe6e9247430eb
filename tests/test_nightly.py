"""What changed between two nights."""

from rsr_ray.decide.changes import Move, Newcomer, compare, places
from rsr_ray.report.terminal.night import changes_in_words
from rsr_ray.store.nights import History


def night(*teachers: tuple[str, int, int], fingerprint: str = "f", **rejects: int) -> dict:
    """Results of (name, place or 0, trajectories)."""
    rows = [
        {
            "teacher": name,
            "place": place or None,
            "rsr": place / 2 if place else None,
            "n_trajectories": n,
            "rejects": rejects if i == 0 else {},
        }
        for i, (name, place, n) in enumerate(teachers)
    ]
    equation = {"read": 9, "scored": 5, "rejected": {}, "already_scored": 4}
    return {"fingerprint": fingerprint, "teachers": rows, "equation": equation}


def said(last, now) -> str:
    changes = compare(last, now)
    told = {"changes": changes and changes.to_json(), "since": last and "1"}
    return "\n".join(changes_in_words(now | told, "2"))


def test_who_only_makes_room_for_a_newcomer_has_not_moved():
    changes = compare(
        night(("A", 1, 10), ("B", 2, 10)), night(("A", 1, 12), ("N", 2, 7), ("B", 3, 10))
    )
    assert changes.to_json() == {
        "new_trajectories": {"A": 2, "N": 7},
        "new_teachers": [{"teacher": "N", "place": 2, "of": 3, "rsr": 1.0}],
        "gone_teachers": [],
        "moved": [],
        "unsure": [],
        "new_rejects": {},
    }


def test_places_that_changed_and_teachers_that_went():
    changes = compare(night(("A", 1, 1), ("B", 2, 1), ("C", 3, 1)), night(("C", 1, 1), ("A", 2, 1)))
    assert changes.unsure == [Move("C", was=3, now=1), Move("A", was=1, now=2)]
    assert changes.moved == []  # without bounds on places nobody has surely moved
    assert changes.gone_teachers == ["B"]


def test_new_rejects_by_reason():
    changes = compare(
        night(("A", 1, 1), not_text=2, over_length=1),
        night(("A", 1, 1), not_text=5, over_length=1, empty_response=1),
    )
    assert changes.new_rejects == {"not_text": 3, "empty_response": 1}


def test_nothing_to_compare_with():
    now = night(("A", 1, 1))
    assert compare(None, now) is None
    assert compare(night(("A", 1, 1), fingerprint="other"), now) is None
    assert "first night" in said(None, now)
    assert "settings or weights were different" in said(
        night(("A", 1, 1), fingerprint="other"), now
    )


def test_the_summary_in_words():
    text = said(
        night(("A", 1, 10), ("B", 2, 10)),
        night(("N", 1, 7), ("B", 2, 11), ("A", 3, 10), ("Z", 0, 0), over_length=2),
    )
    assert "new teacher N takes place 1 of 3 (rsr 0.500, lower is better)" in text
    assert "new teacher Z has no scored trajectories" in text
    assert "B moved from place 2 to 2" not in text
    assert "place changes that may be noise: A 1 -> 3" in text
    assert "+8 trajectories: N +7, B +1" in text
    assert "+2 rejected as over_length" in text
    assert "nothing changed" in said(night(("A", 1, 1)), night(("A", 1, 1)))


def test_a_student_is_compared_with_the_last_night_that_it_did_not_fail(tmp_path):
    history = History(str(tmp_path), None)
    for name, entry in {
        "1": {"error": None, **night(("A", 1, 1))},
        "2": {"error": "broke"},
        "3": {"error": None, **night(("A", 1, 9))},
    }.items():
        history.write({"night": name, "students": {"s": entry}})
    history = History(str(tmp_path), None)
    assert history.last("s", "3")["night"] == "1"
    assert history.last("s", "4")["night"] == "3"
    assert history.last("s", "1") is None
    assert history.last("other", "4") is None


def test_places_are_those_of_the_ranking():
    """On the prompts that all answered; the teachers table has them on all prompts."""
    entry = night(("A", 1, 10), ("B", 2, 10), ("N", 3, 5), ("Z", 0, 0))
    ranked = entry | {
        "ranking": {
            "teachers": [
                {"teacher": name, "place": place, "value": place / 4}
                for place, name in enumerate("BAN", 1)
            ]
        }
    }
    assert places(entry) == {"A": 1, "B": 2, "N": 3, "Z": None}
    assert places(ranked) == {"A": 2, "B": 1, "N": 3, "Z": None}
    before = night(("B", 1, 10), ("A", 2, 10))
    changes = compare(before, ranked)
    assert changes.moved == []
    assert changes.new_teachers == [
        Newcomer("N", 3, of=3, rsr=0.75),
        Newcomer("Z", None, of=3, rsr=None),
    ]
    assert [m.teacher for m in compare(before, entry).unsure] == ["A", "B"]


def bounded(name: str, place: int, first: int, last: int) -> dict:
    return {
        "teacher": name,
        "place": place,
        "value": place / 2,
        "first_place": first,
        "last_place": last,
    }


def test_a_move_is_one_where_the_places_that_a_teacher_may_have_are_others():
    before = night(("A", 1, 9), ("B", 2, 9), ("C", 3, 9), ("D", 4, 9))
    after = night(("C", 1, 9), ("B", 2, 9), ("D", 3, 9), ("A", 4, 9))
    before["ranking"] = {
        "teachers": [
            bounded("A", 1, 1, 3),
            bounded("B", 2, 1, 3),
            bounded("C", 3, 2, 4),
            bounded("D", 4, 3, 4),
        ]
    }
    after["ranking"] = {
        "teachers": [
            bounded("C", 1, 1, 1),
            bounded("B", 2, 2, 3),
            bounded("D", 3, 2, 3),
            bounded("A", 4, 4, 4),
        ]
    }
    changes = compare(before, after)
    assert changes.moved == [Move("C", was=3, now=1), Move("A", was=1, now=4)]
    assert changes.unsure == [Move("D", was=4, now=3)]
    text = said(before, after)
    assert "A moved from place 1 to 4" in text
    assert "place changes that may be noise: D 4 -> 3" in text
