"""Faults planted one at a time into a copy of the tree: the narrow test named beside each must
fail.

    python tests/planted_faults.py [WORD ...]   all, or those whose file or test holds a word

What a suite that was made faster may lose without a word is what this looks for. Exit code 1 where
a fault was not caught, or its text or its test is no longer there.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "*.egg-info", "__pycache__", ".*_cache")
FAILED = 1  # pytest's exit code where tests ran and failed; another says that they did not run


@dataclass(frozen=True)
class Fault:
    """`old` is in `file` once; with `new` in its place `test` fails."""

    file: str
    old: str
    new: str
    test: str


CLUSTER = (
    Fault(
        "rsr_ray/cli/__init__.py",
        'os.environ["RAY_DISABLE_FAILURE_SIGNAL_HANDLER"] = "1"',
        "pass",
        "cluster/test_ending.py::test_a_night_that_is_ended_lets_its_lease_go_and_keeps_what_is_"
        "finished[SIGTERM after Ray]",
    ),
    Fault(
        "rsr_ray/files/objects.py",
        "    attempt(remove, place)\n    if not missing",
        "    if not missing",
        "cluster/test_rights.py::test_without_a_right_nothing_starts",
    ),
    Fault(
        "rsr_ray/files/rights.py",
        "        if action in (LIST, READ) and not is_listed(uri, endpoint) and action == READ:\n",
        "        if False:\n",
        "cluster/test_rights.py::test_with_the_rights_of_the_files_every_command_does_its_work",
    ),
    Fault(
        "jobs/policies/write.json",
        '"s3:DeleteObject"',
        '"s3:DeleteBucket"',
        "cluster/test_rights.py::test_a_right_that_is_missing_on_the_way",
    ),
    Fault(
        "jobs/monitoring/dashboard.json",
        "rsr_run_gpu_hours{",
        "rsr_run_gpu_hour{",
        "cluster/test_local_cluster.py::"
        "test_two_nights_after_which_every_query_of_the_dashboard_has_a_number",
    ),
    Fault(
        "rsr_ray/run/reduce.py",
        "counts = ~same & ~rejected",
        "counts = ~rejected",
        "cluster/test_runs.py::test_the_same_trajectory_twice_counts_once",
    ),
    Fault(
        "rsr_ray/run/ledger.py",
        "self.n_already += state.n_done",
        "self.n_already += bool(state.n_done)",
        "cluster/test_runs.py::"
        "test_a_second_run_scores_nothing_and_a_lost_unit_alone_is_scored_again",
    ),
    Fault(
        "rsr_ray/watch.py",
        "if n >= ATTEMPTS:",
        "if n >= ATTEMPTS + 1:",
        "cluster/test_runs.py::test_a_task_that_ends_its_process_again_and_again_is_given_up",
    ),
    Fault(
        "rsr_ray/run/rescore.py",
        "worst, column = float(np.nanmax(differs)), field.name",
        'worst, column = 0.0, ""',
        "cluster/test_rescore.py::test_a_store_that_its_tokens_do_not_bear_out",
    ),
    Fault(
        "rsr_ray/choose/whole_rows.py",
        "_column([row.get(name) for row in rows]",
        "_column([row[name] for row in rows if name in row]",
        "test_sft.py::test_a_column_that_comes_late_is_null_before",
    ),
    Fault(
        "rsr_ray/run/doctor/student.py",
        "tokenizer.eos_token_id not in ends",
        "tokenizer.eos_token_id in ends",
        "cluster/test_doctor.py::test_a_planted_fault_is_found[another_end_token]",
    ),
    Fault(
        "rsr_ray/nightly.py",
        "check_students(config)",
        "pass",
        "cluster/test_nights.py::test_a_broken_second_student_ends_a_night_before_the_first_is_scored",
    ),
    Fault(
        "rsr_ray/run/doctor/estimate.py",
        "residuals = each - each.sum() / self.sizes.sum() * self.sizes",
        "residuals = 0 * each",
        "test_estimate.py::test_the_tokens_of_a_corpus_are_within_the_range",
    ),
    Fault(
        "rsr_ray/run/doctor/engine.py",
        "pairs = lengths * np.minimum(lengths, window)",
        "pairs = lengths",
        "test_estimate.py::test_a_corpus_of_long_rows_is_estimated_from_shorter_ones",
    ),
    Fault(
        "rsr_ray/run/cluster.py",
        'raise UserError(f"no Ray cluster at',
        'raise RunError(f"no Ray cluster at',
        "cluster/test_cli.py::test_a_mistake_is_one_line_and_exit_code_2[no such cluster]",
    ),
    Fault(
        "rsr_ray/demo/corpus.py",
        "rng.choice((-10, -2, 2, 10))",
        "rng.choice((-10, -2, 2, 11))",
        "cluster/test_runs.py::test_the_repositorys_golden_numbers",
    ),
    Fault(
        "rsr_ray/engine/scoring.py",
        "_fetch(begun, found, student.n_devices)",
        "_fetch(begun, found, 0)",
        "test_score.py::test_results_are_fetched_while_later_batches_are_under_way",
    ),
    Fault(
        "rsr_ray/engine/lm_head_triton.py",
        "above += (x > of_target).to(tl.int32)",
        "above += (x >= of_target).to(tl.int32)",
        "test_lm_head_triton.py::test_equals_the_slow_definition",
    ),
    Fault(
        "rsr_ray/student/model.py",
        "class Output(MoeModelOutputWithPast)",
        "class Output(torch.nn.Identity)",
        "test_score.py::test_heads_that_look_for_more_than_hidden_states",
    ),
)

BROWSER = (
    Fault(
        "rsr_ray/report/page/page.js",
        "(up ? 1 : -1)",
        "(up ? 1 : 1)",
        "browser/test_page.py::test_sorts_filters_and_opens_by_mouse[light-desktop]",
    ),
    Fault(
        "rsr_ray/report/page/charts/names.py",
        "shorten(name, room, {*names} - {name})",
        "shorten(name, room)",
        "browser/test_page.py::test_labels_of_names_that_are_alike_differ_where_the_names_do",
    ),
    Fault(
        "rsr_ray/report/page/page.js",
        "fold.open = true",
        "fold.hidden = false",
        "browser/test_strata.py::test_a_link_opens_what_is_folded",
    ),
    Fault(
        "rsr_ray/report/page/page.js",
        'addEventListener("load", follow);',
        "follow();",
        "browser/test_links.py::test_a_link_opens_the_trajectory_it_names",
    ),
)

UNIT = (
    Fault(
        "rsr_ray/cli/__init__.py",
        "    if _is_importing(frame):  # a native module",
        "    if False:  # a native module",
        "test_cli.py::test_a_command_that_is_ended_while_it_imports_a_module",
    ),
    Fault(
        "rsr_ray/corpus/images.py",
        "    if os.path.commonpath([real, inside]) != inside:",
        "    if False:",
        "test_images.py::test_what_is_not_opened",
    ),
    Fault(
        "rsr_ray/corpus/canonical.py",
        "digests.append(digest_of(found[-1]))",
        'digests.append(digest_of(b""))',
        "test_images.py::test_images_are_read_and_not_scored",
    ),
    Fault(
        "rsr_ray/encode/placed.py",
        'return position + int(longer[np.searchsorted(stops, position, "right")])',
        "return position + int(longer[-1])",
        "test_images.py::test_images_are_read_and_not_scored",
    ),
    Fault(
        "rsr_ray/student/vision.py",
        "if own and own != self.placeholder and own in text:",
        "if own and own == self.placeholder and own in text:",
        "test_images.py::test_text_that_looks_like_part_of_an_image",
    ),
    Fault(
        "rsr_ray/student/vision.py",
        "torch.from_numpy(is_image.astype(np.int64))",
        "torch.from_numpy(0 * is_image.astype(np.int64))",
        "test_images.py::test_scores_are_those_of_the_full_logits",
    ),
    Fault(
        "rsr_ray/encode/tokens.py",
        "return np.array([stop for _, stop in ends if stop <= length], np.int32)",
        "return np.array([stop for _, stop in ends], np.int32)",
        "test_images.py::test_images_behind_the_last_answer_are_left_out",
    ),
    Fault(
        "rsr_ray/report/page/corpus_rows.py",
        'same = row["content"] == shown[i].content and',
        "same =",
        "test_texts.py::test_no_text_of_another_row_is_shown",
    ),
    Fault(
        "rsr_ray/report/page/texts.py",
        "left_out=last.left_out + left_out",
        "left_out=left_out",
        "test_texts.py::test_a_long_text_has_its_opening_and_its_end_and_keeps_within_its_room",
    ),
    Fault(
        "rsr_ray/report/page/corpus_rows.py",
        "if left is not None and more > left:",
        "if left is not None and left < 0:",
        "test_texts.py::test_no_more_rows_are_read_than_allowed",
    ),
    Fault(
        "rsr_ray/engine/lm_head.py",
        "torch.gt(",
        "torch.ge(",
        "test_lm_head.py::test_ties_never_raise_a_rank",
    ),
    Fault(
        "rsr_ray/engine/lm_head.py",
        "/ total_N.square()",
        "/ total_N",
        "test_lm_head.py::test_equals_the_slow_definition",
    ),
    Fault(
        "rsr_ray/engine/lm_head_reference.py",
        "(logits_NV > logits_NV",
        "(logits_NV >= logits_NV",
        "test_lm_head.py::test_equals_the_slow_definition",
    ),
    Fault(
        "rsr_ray/engine/sums.py",
        '"rank_sum": add(np.minimum(tokens.rank, r_max)),',
        '"rank_sum": add(tokens.rank),',
        "test_sums.py::test_sums_and_the_clip_bounds",
    ),
    Fault(
        "rsr_ray/metrics.py",
        "(2 * brier / loss",
        "(brier / loss",
        "test_metrics.py::test_lark_is_taken_within_a_prompt",
    ),
    Fault(
        "rsr_ray/metrics.py",
        'return -values if self.better == "higher" else values',
        "return values",
        "test_rank.py::test_a_metric_whose_higher_values_are_better",
    ),
    Fault(
        "rsr_ray/engine/batching.py",
        "most = max(1, batch_tokens // longest)",
        "most = 1 + batch_tokens // longest",
        "test_batching.py::test_every_row_once_and_no_batch_over_the_budget",
    ),
    Fault(
        "rsr_ray/errors.py",
        "if c.isprintable()",
        "if c",
        "test_report.py::test_a_name_cannot_steer_the_terminal",
    ),
    Fault(
        "rsr_ray/engine/scoring.py",
        "start + p - 1 for start, p in",
        "start + p for start, p in",
        "test_score.py::test_equals_the_full_logits_one_row_at_a_time",
    ),
    Fault(
        "rsr_ray/engine/windows.py",
        "first = start + half if start else 0",
        "first = start",
        "test_score.py::test_windows_score_every_token_once_with_at_least_half_a_window_of_context",
    ),
    Fault(
        "rsr_ray/encode/tokens.py",
        "first = max(_first_token(encoding, start, len(found.text)), 1)",
        "first = _first_token(encoding, start, len(found.text))",
        "test_encode.py::test_the_first_token_has_no_context_and_is_not_scored",
    ),
    Fault(
        "rsr_ray/encode/tokens.py",
        "runs = [Run(a, min(b, length), i)",
        "runs = [Run(a, b, i)",
        "test_encode.py::test_a_row_over_the_limit_is_cut_or_left_whole_where_asked",
    ),
    Fault(
        "rsr_ray/corpus/shapes.py",
        "one[given] = numbered(row[given], n)",
        "one[given] = row[given]",
        "test_shapes.py::test_several_answers_to_a_prompt_are_several_trajectories",
    ),
    Fault(
        "rsr_ray/corpus/units.py",
        "(index % unit_rows == 0 or index",
        "(index",
        "test_read.py::test_units_cover_an_object_on_a_fixed_grid",
    ),
    Fault(
        "rsr_ray/corpus/canonical.py",
        "reading.teacher or name_of(\n",
        "name_of(\n",
        "test_read.py::test_the_teacher_comes_from_the_option_the_column_or_the_path",
    ),
    Fault(
        "rsr_ray/files/listing.py",
        'if entry.name[:1] in "._":',
        "if False:",
        "test_read.py::test_a_folder_a_glob_and_a_file_and_each_shard_once",
    ),
    Fault(
        "rsr_ray/files/listing.py",
        'any(part[:1] in "._" for part in below):\n        return HIDDEN',
        "False:\n        return HIDDEN",
        "test_listing.py::test_what_of_a_store_is_no_shard",
    ),
    Fault(
        "rsr_ray/files/objects.py",
        'open(path, "xb")',
        'open(path, "wb")',
        "test_store.py::test_of_many_creators_one_wins",
    ),
    Fault(
        "rsr_ray/files/objects.py",
        "            os.unlink(aside)\n",
        "            pass\n",
        "test_store.py::test_a_write_that_fails_leaves_nothing",
    ),
    Fault(
        "rsr_ray/store/score_files.py",
        "for reason, reject in rejects_of(rows).items():",
        "for reason, reject in list(rejects_of(rows).items())[:0]:",
        "browser/test_page.py::test_rejects_are_the_rows_of_the_store_whatever_its_runs_say",
    ),
    Fault(
        "rsr_ray/choose/prompts.py",
        'for name in (*key, "out", "source", "source_row")])',
        'for name in (*key, "source", "source_row")])',
        "test_choose.py::test_a_candidate_counts_before_its_dropped_copy",
    ),
    Fault(
        "rsr_ray/choose/prompts.py",
        "chosen = ranked.place <= config.k",
        "chosen = ranked.place < config.k",
        "test_choose.py::test_the_choice_is_the_brute_force_one",
    ),
    Fault(
        "rsr_ray/choose/cap.py",
        "Fraction(str(max_share))",
        "Fraction(1)",
        "test_choose.py::test_a_capped_choice_is_the_brute_force_one",
    ),
    Fault(
        "rsr_ray/race/elimination.py",
        "max(len(teachers) - 1, 1) * max(",
        "max(",
        "test_elimination.py::test_all_bounds_together_spend_what_the_confidence_leaves",
    ),
    Fault(
        "rsr_ray/race/elimination.py",
        "equal = lost & (behind == 0)",
        "equal = lost & (behind < 0)",
        "test_elimination.py::test_a_tie_is_called_one",
    ),
    Fault(
        "rsr_ray/race/matched.py",
        "np.all(there, axis=1)",
        "np.any(there, axis=1)",
        "test_race.py::test_prompts_that_every_teacher_answered",
    ),
    Fault(
        "rsr_ray/race/course.py",
        "return self.share(self.raced & ~self.taken)",
        "return self.share(self.raced)",
        "test_race.py::test_what_the_store_has_scored_costs_nothing",
    ),
    Fault(
        "rsr_ray/decide/loading.py",
        "order = order[first]",
        "order = order[first | True]",
        "test_rank.py::test_rows_of_a_store_count_once_and_rejects_do_not",
    ),
    Fault(
        "rsr_ray/decide/buckets.py",
        "for row, of in repeats[low:high].tolist():",
        "for row, of in []:",
        "test_big.py::test_what_is_summed_is_what_all_rows_come_to",
    ),
    Fault(
        "rsr_ray/decide/views.py",
        "(2 * self.every.flags.degenerate > n)",
        "(self.every.flags.degenerate > n)",
        "test_big.py::test_what_is_summed_is_what_all_rows_come_to",
    ),
    Fault(
        "rsr_ray/decide/sums.py",
        "is_whole = n_teachers == n_T",
        "is_whole = n_teachers >= n_T - 1",
        "test_big.py::test_what_is_summed_is_what_all_rows_come_to",
    ),
    Fault(
        "rsr_ray/run/summary.py",
        "of_rows = np.concatenate([prompts, *(some for _, some, _ in found)])",
        "of_rows = prompts",
        "test_kept.py::test_nights_at_random",
    ),
    Fault(
        "rsr_ray/run/summary.py",
        "repeats = np.concatenate([kept.repeats[is_old], buckets.repeats[is_new]])",
        "repeats = kept.repeats",
        "test_kept.py::test_nights_at_random",
    ),
    Fault(
        "rsr_ray/decide/ends.py",
        "return all(now[key] <= last for key, last in before.items() if key in now) and (",
        "return True or (",
        "test_kept.py::test_a_trajectory_that_goes_may_let_another_one_in",
    ),
    Fault(
        "rsr_ray/run/table_sums.py",
        'sums.sums["is_repeated_id"] = buckets.n_repeated_ids',
        'sums.sums["is_repeated_id"] = 0 * buckets.n_repeated_ids',
        "test_big.py::test_a_table_added_up_in_buckets_is_the_one_added_up_at_once",
    ),
    Fault(
        "rsr_ray/decide/moved.py",
        "np.arange(len(order), 0, -1)",
        "np.arange(1, len(order) + 1)",
        "test_compare.py::test_holm_rejects_what_the_steps_of_its_definition_reject",
    ),
    Fault(
        "rsr_ray/decide/accuracies.py",
        "if math.isnan(accuracy[row]):",
        "if False:",
        "test_correlate.py::test_what_is_missing_or_constant_is_null_with_a_reason_and_never_0",
    ),
    Fault(
        "rsr_ray/decide/published.py",
        "0.5 * 10",
        "0.05 * 10",
        "test_correlate.py::"
        "test_the_second_reading_of_a_cell_and_the_order_of_ties_explain_what_is_printed",
    ),
    Fault(
        "rsr_ray/config/fingerprint.py",
        '"r_max": config.r_max,',
        "",
        "test_config.py::test_the_fingerprint_covers_what_changes_a_score_and_nothing_else",
    ),
    Fault(
        "rsr_ray/config/fingerprint.py",
        "**beside.hashed,",
        "",
        "test_adding.py::test_scores_of_an_earlier_version_are_the_same_whatever_is_asked_for",
    ),
    Fault(
        "rsr_ray/run/adding.py",
        "return all(rows[name]",
        "return any(rows[name]",
        "test_adding.py::test_rows_that_are_read_otherwise_now_get_nothing",
    ),
    Fault(
        "rsr_ray/run/adding.py",
        "mark = (has | missing).mark",
        "mark = missing.mark",
        "test_adding.py::test_whatever_units_have_all_of_them_have_what_was_asked_for",
    ),
    Fault(
        "rsr_ray/corpus/units.py",
        "if index >= start:",
        "if index > start:",
        "test_adding.py::test_a_run_reads_again_what_lacks_something_and_no_more",
    ),
    Fault(
        "rsr_ray/store/units.py",
        "if self.units.get(n) == units.get(n)}",
        "}",
        "test_adding.py::test_what_the_teachers_table_knows_of_units_is_not_read_again",
    ),
    Fault(
        "rsr_ray/cli/__init__.py",
        "return 2 if isinstance(e, UserError) else 1",
        "return 1",
        "test_config.py::test_a_number_of_the_command_line_that_means_nothing_is_one_line",
    ),
    Fault(
        "rsr_ray/decide/changes.py",
        "if before.index(name) == after.index(name) or ",
        "if ",
        "test_nightly.py::test_who_only_makes_room_for_a_newcomer_has_not_moved",
    ),
    Fault(
        "rsr_ray/student/facts.py",
        "if n_ids > vocab_size:",
        "if False:",
        "test_student.py::test_a_student_that_cannot_be_used_is_refused_with_what_to_do",
    ),
    Fault(
        "rsr_ray/student/facts.py",
        "weights_hash=hash_files(weights)",
        "weights_hash=hash_files(weights[:0])",
        "test_student.py::test_a_copy_is_the_same_student_and_other_weights_are_not",
    ),
    Fault(
        "rsr_ray/corpus/reading.py",
        "for name, column in sorted(self.columns.items())",
        "for name, column in self.columns.items()",
        "test_reading.py::test_the_order_of_options_is_no_other_reading",
    ),
    Fault(
        "rsr_ray/corpus/reading.py",
        "for (teacher, sample), columns in sorted(answers.items()):",
        "for (teacher, sample), columns in sorted(answers.items())[:1]:",
        "test_reading.py::test_answers_of_several_teachers_side_by_side_are_rows_of_each",
    ),
    Fault(
        "rsr_ray/store/manifest.py",
        "and (name not in self.files or self._version(name, part) == self.files[name])",
        "",
        "test_compaction.py::test_a_unit_written_again_counts_before_its_part",
    ),
    Fault(
        "rsr_ray/store/manifest.py",
        "if highest(files) > manifest.number + 1:",
        "if False:",
        "test_compaction.py::test_a_manifest_that_others_have_passed_does_not_count",
    ),
    Fault(
        "rsr_ray/store/compaction.py",
        "if gone := moved - files.keys():",
        "if gone := set():",
        "test_compaction.py::test_a_unit_that_is_dropped_while_it_is_compacted_does_not_come_back",
    ),
    Fault(
        "rsr_ray/store/compaction.py",
        "if files.get(name) == part.units[name]",
        "if name in files",
        "test_compaction.py::test_a_unit_written_while_it_is_compacted_stays",
    ),
    Fault(
        "rsr_ray/store/compaction.py",
        "if not folder.put(Manifest(number, parts)):",
        "if folder.put(Manifest(number, parts)) is None:",
        "test_compaction.py::test_of_two_at_once_nothing_is_lost",
    ),
    Fault(
        "rsr_ray/store/scores.py",
        "self.parts(fingerprint).change(lambda manifest: manifest.without(names))",
        "pass",
        "test_compaction.py::test_a_unit_that_is_dropped_is_gone_and_its_part_is_rewritten",
    ),
    Fault(
        "rsr_ray/store/parts.py",
        "if hashlib.sha256(data).hexdigest() != part.footer:",
        "if False:",
        "test_compaction.py::test_a_footer_that_was_turned_over_is_refused",
    ),
    Fault(
        "rsr_ray/store/parts.py",
        "if any(zlib.crc32(view[start : start + n]) != check for start, n, check in wanted):",
        "if False:",
        "test_compaction.py::test_no_bit_of_a_part_is_read_otherwise",
    ),
    Fault(
        "rsr_ray/store/packs.py",
        "return self if same else dataclasses.replace(self, version=GONE)",
        "return self",
        "test_packs.py::test_each_row_of_the_corpus_counts_once_whatever_happens",
    ),
    Fault(
        "rsr_ray/store/packs.py",
        "len(groups[-1]) == FILES or ",
        "",
        "test_packs.py::test_a_file_that_is_replaced_takes_only_its_pack_along",
    ),
    Fault(
        "rsr_ray/corpus/endings.py",
        "return False not in said if said else None",
        "return True in said if said else None",
        "test_endings.py::test_what_a_row_says",
    ),
    Fault(
        "rsr_ray/corpus/plan.py",
        "and not is_scored(turn)",
        "and is_scored(turn)",
        "test_plan.py::test_turns_that_are_not_trained_on_are_counted",
    ),
    Fault(
        "rsr_ray/decide/inference.py",
        "math.nan) for t in tails[::-1])",
        "math.nan) for t in tails)",
        "test_inference.py::test_an_interval_is_that_of_all_possible_draws",
    ),
    Fault(
        "rsr_ray/decide/inference.py",
        "before[b, a], before[a, b] = ~is_open",
        "before[a, b], before[b, a] = ~is_open",
        "test_inference.py::test_bounds_on_places_are_those_of_the_steps_of_their_definition",
    ),
    Fault(
        "rsr_ray/decide/stratified.py",
        "resamples(n, seed * (len(parts) + 1) + nth)",
        "resamples(n, seed)",
        "test_strata.py::test_strata_of_one_size_are_drawn_apart",
    ),
    Fault(
        "rsr_ray/decide/stratified.py",
        "np.minimum(found.low, centre - reach)",
        "found.low",
        "test_strata.py::test_an_interval_over_strata_reaches_as_far_as_welchs",
    ),
    Fault(
        "rsr_ray/decide/strata.py",
        "return [weights[name] / total for name in names]",
        "return [1 / len(names) for name in names]",
        "test_strata.py::test_weights_decide_what_is_first_over_all",
    ),
    Fault(
        "rsr_ray/decide/overall.py",
        "if several := n_in_several(strata):",
        "if several := 0 * n_in_several(strata):",
        "test_strata.py::test_nothing_is_said_of_certainty_where_nothing_is_known",
    ),
    Fault(
        "rsr_ray/corpus/rows.py",
        "only |= columns_of(reading.strata, ())",
        "only |= columns_of((), ())",
        "test_strata.py::test_values_of_columns_and_paths_are_kept_as_text",
    ),
    Fault(
        "rsr_ray/store/seal.py",
        "!= _digest(data, at)",
        "!= data[at : at + 64]",
        "test_seal.py::test_every_flipped_bit_is_found",
    ),
    Fault(
        "rsr_ray/store/seal.py",
        '(place.encode() + b"\\0", place.encode() + b\'"\')',
        '(b"", place.encode() + b\'"\')',
        "test_seal.py::test_a_whole_file_at_another_place_is_not_what_was_written_there",
    ),
    Fault(
        "rsr_ray/student/weights.py",
        'unexpected = sorted(report.get("unexpected_keys", ()))',
        "unexpected: list[str] = []",
        "test_student_whole.py::test_what_is_not_whole_is_named_before_anything_starts",
    ),
    Fault(
        "rsr_ray/student/weights.py",
        "if left := sorted(there - taken):",
        "if left := sorted(there - there):",
        "test_student_whole.py::test_what_is_not_whole_is_named_before_anything_starts",
    ),
    Fault(
        "rsr_ray/credentials.py",
        "for _ in range(5):\n        pieces",
        "for _ in range(0):\n        pieces",
        "test_credentials.py::test_it_is_gone_when_it_is_spelt_with_percent_signs",
    ),
    Fault(
        "rsr_ray/student/attention.py",
        "first - reach + 1)",
        "first - reach + 2)",
        "test_attention.py::test_hidden_states_are_those_of_the_architectures_own_attention",
    ),
    Fault(
        "rsr_ray/student/attention.py",
        "range(0, n, n_queries)",
        "range(0, n, n_queries := n)",
        "test_attention.py::test_memory_grows_with_the_length_alone",
    ),
    Fault(
        "rsr_ray/student/model.py",
        "return is_alike and float(",
        "return True or float(",
        "test_attention.py::test_rows_are_not_packed_where_one_would_go_on_in_the_state_of_another",
    ),
    Fault(
        "rsr_ray/student/model.py",
        "<= 2 * SLICE_POSITIONS",
        "<= 99 * SLICE_POSITIONS",
        "test_long.py::test_a_long_row_on_a_cpu",
    ),
    Fault(
        "rsr_ray/encode/degenerate.py",
        "ngrams = doubled[k]",
        "ngrams = doubled[k - 1]",
        "test_degenerate.py::test_repeats_are_those_of_the_slow_definition",
    ),
    Fault(
        "rsr_ray/decide/degeneration.py",
        "if now == first:",
        "if now != first:",
        "test_degeneration.py::test_a_winner_by_loops_gets_the_warning_and_loses_its_place_beside",
    ),
    Fault(
        "rsr_ray/choose/candidates.py",
        "if not config.keep_degenerate:",
        "if config.keep_degenerate:",
        "test_choose.py::test_degenerate_rows_are_left_out_unless_they_are_to_be_kept",
    ),
    Fault(
        "rsr_ray/race/row_scores.py",
        "self.x[self.degenerate] = np.nan",
        "self.x[self.degenerate] = self.x[self.degenerate]",
        "test_race.py::test_degenerate_answers_are_left_out_and_counted_unless_they_are_to_be_kept",
    ),
    Fault(
        "rsr_ray/schema.py",
        "no_teacher",
        "no_teachers",
        "test_readme.py::test_every_reject_reason_is_explained",
    ),
    Fault(
        "rsr_ray/watch.py",
        "from typing import Any",
        "from typing import Any\n\nimport ray",
        "test_imports.py::test_importing_brings_nothing_heavy",
    ),
    Fault(
        ".ci/run",
        "-e '.[test]'",
        "-e '.'",
        "test_readme.py::test_ci_does_what_the_readme_says",
    ),
    Fault(
        "rsr_ray/run/datasets.py",
        "        most = min(1 / MOST, (1 - done) / (ROUNDS * workers))\n",
        "        most = 1 / MOST\n",
        "test_blocks.py::test_the_last_objects_go_one_by_one",
    ),
    Fault(
        "rsr_ray/choose/prompts.py",
        "        chosen ^= ranked.are_among(exchanged)\n",
        "        pass\n",
        "test_choose.py::test_partitions_change_no_row_and_no_sum",
    ),
    Fault(
        "rsr_ray/corpus/rows.py",
        "if any(column not in schema.names for column in mapped):",
        "if False:",
        "test_sft.py::test_a_shard_says_whether_each_row_is_one_trajectory",
    ),
    Fault(
        "rsr_ray/corpus/rows.py",
        "if not left or left[0] >= stop:",
        "if left[0] > start:",
        "test_sft.py::test_rows_are_found_whatever_lies_between_them",
    ),
    Fault(
        "rsr_ray/arms/pool.py",
        "*ends[np.searchsorted(ends, about)]",
        "*about",
        "test_arms.py::test_places_are_those_of_a_slow_definition",
    ),
    Fault(
        "rsr_ray/arms/flow.py",
        "return int(demand(pool, wanted).sum())",
        "return int(demand(pool, wanted).max())",
        "test_arms.py::test_of_a_teacher_with_many_prompts_some_are_as_good_as_all",
    ),
    Fault(
        "rsr_ray/choose/candidates.py",
        "counting = now if now in versions else versions[0]",
        "counting = versions[0]",
        "test_choose.py::test_of_a_file_that_was_scored_in_several_versions_its_present_one_counts",
    ),
)

FAULTS = (*UNIT, *BROWSER, *CLUSTER)


def run(tree: Path, tests: list[str]) -> int:
    """pytest's exit code."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-qx",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        *(f"tests/{test}" for test in tests),
    ]
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, FAILED):
        print(done.stdout[-1500:], done.stderr[-1500:])
    return done.returncode


def outcome(tree: Path, fault: Fault) -> str:
    """`caught`, or why not. The tree is afterwards as it was."""
    path = tree / fault.file
    text = path.read_text()
    if (n := text.count(fault.old)) != 1:
        return f"NOT PLANTED: its text is there {n} times"
    path.write_text(text.replace(fault.old, fault.new))
    try:
        code = run(tree, [fault.test])
    finally:
        path.write_text(text)
    return {FAILED: "caught", 0: "NOT CAUGHT"}.get(code, f"NOT RUN: pytest ended with {code}")


def main(words: list[str]) -> int:
    wanted = [
        fault
        for fault in FAULTS
        if not words or any(word in fault.file + fault.test for word in words)
    ]
    with tempfile.TemporaryDirectory(prefix="rsr-faults-") as folder:
        tree = shutil.copytree(REPOSITORY, Path(folder) / "tree", ignore=LEFT_OUT)
        # the real corpus, where it is beside the tree
        (Path(folder) / "shared").symlink_to(REPOSITORY.parent / "shared")
        if code := run(tree, sorted({fault.test for fault in wanted})):
            print(f"without a fault pytest ends with {code}")
            return 1
        caught = 0
        for fault in wanted:
            begun = time.monotonic()
            said = outcome(tree, fault)
            caught += said == "caught"
            print(
                (
                    f"{said:<10}  {time.monotonic() - begun:5.1f} s  {fault.file}: "
                    f"{fault.new.strip()!r:.60}  {fault.test}"
                ),
                flush=True,
            )
    print(f"{caught} of {len(wanted)} planted faults caught")
    return int(caught < len(wanted))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
