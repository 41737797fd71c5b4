"""Configuration: everything shipped builds, everything wrong is refused in one line, quickly, and without torch."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, open_dict
from pydantic import ValidationError

from rlfamily import algorithms, composing, config, experiment, rewards, tasks
from rlfamily.errors import UserError, nearest

CONF = composing.CONF
FILES = sorted(CONF.rglob("*.yaml"))
DEFAULTS = ("countdown_tiny", "qwen2_tiny", "topr", "cpu", "plain")


def has(task):
    """What a task has to learn from besides a policy's own responses."""
    return tasks.get(yaml.safe_load((CONF / "task" / f"{task}.yaml").read_text())["kind"]).HAS


def learnable(task, method):
    if method == algorithms.NONE:
        return True
    source = algorithms.get(method).SOURCE
    kind = yaml.safe_load((CONF / "task" / f"{task}.yaml").read_text())["reward"]["kind"]
    rewarded = rewards.get(kind).Config.teaches
    return source in has(task) if source in config.LEARNED_FROM else rewarded


ANSWERED = ("majority_vote", "iro_math")  # decoders that ask for answers, which Countdown's responses have not

# Every name of every group, one at a time, and every method on every task; all products would take minutes.
CELLS = sorted(cell for cell in {(*DEFAULTS[:place], name, *DEFAULTS[place + 1:])
                                 for place, group in enumerate(composing.GROUPS) for name in composing.choices(group)}
               | {(task, "qwen2_tiny", method, "cpu", "plain")
                  for task, method in itertools.product(composing.choices("task"), composing.choices("algorithm"))}
               if learnable(cell[0], cell[2]))


@pytest.mark.parametrize("names", CELLS, ids=" ".join)
def test_every_name_of_every_group_builds(names):
    engine = ["rollout.engine=vllm"] if names[3] in ("gpu_4", "gpu_8") else []  # torch does not draw from shares
    names = ("gsm8k_tiny", *names[1:]) if names[4] in ANSWERED else names
    start = [] if "demonstrations" in has(names[0]) else ["algorithm.warm_start=base"]
    built = config.build([f"{group}={name}" for group, name in zip(composing.GROUPS, names, strict=True)] + engine + start)
    assert tuple(built.names[group] for group in composing.GROUPS) == names
    assert json.loads(json.dumps(built.settings()))["algorithm"]["warm_start"] == built.algorithm.warm_start
    assert built.trained == hasattr(built.algorithm, "epochs")


def test_what_is_built_is_typed_and_frozen():
    built = config.build(["algorithm=topr", "seed=3", "algorithm.optimizer.lr=1e-4", "task.eval_draws=2"])
    assert (built.seed, built.algorithm.optimizer.lr, built.task.eval_draws) == (3, 1e-4, 2)
    assert built.algorithm.limits.negative == (0.0, 1.0)
    assert type(built.task).__module__ == "rlfamily.tasks.countdown"
    for part, name in ((built, "seed"), (built.algorithm, "epochs"), (built.algorithm.optimizer, "lr")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, name, 1)


def test_what_trains_nothing_has_only_its_start():
    built = config.build(["algorithm=none", "algorithm.warm_start=sft"])
    assert (built.trained, built.settings()["algorithm"]) == (False, {"warm_start": "sft"})


def test_settings_of_an_algorithm_by_name():
    assert config.algorithm_settings("topr") == config.build(["algorithm=topr"]).algorithm
    assert config.algorithm_settings("topr", epochs=5).epochs == 5
    with pytest.raises(UserError, match=r"algorithm: unknown key 'epoch' \(did you mean 'epochs'\?\)"):
        config.algorithm_settings("topr", epoch=5)
    with pytest.raises(UserError, match=r"algorithm: no method 'toppr' .*did you mean 'topr'"):
        config.algorithm_settings("toppr")


# ---------------------------------------------------------------------------- the files


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CONF).as_posix())
def test_the_files_are_flat_data_with_sources(path):
    text = path.read_text()
    for forbidden in ("_target_", "@package", "${", "!!"):
        assert forbidden not in text
    assert ("defaults:" in text) == (path == CONF / "config.yaml")
    assert text.count("defaults:") <= 1
    lines = text.splitlines()
    for line in _number_lines(yaml.compose(text)):
        assert " # " in lines[line], f"{path.name}:{line + 1}: a number without a comment: {lines[line]}"


def _number_lines(node):
    """Lines that hold an int or a float, as YAML reads them; 1e-6 is a string to YAML and a float to us."""
    if isinstance(node, yaml.MappingNode):
        return {line for _, value in node.value for line in _number_lines(value)}
    if isinstance(node, yaml.SequenceNode):
        return {line for value in node.value for line in _number_lines(value)}
    try:
        float(node.value)
    except ValueError:
        return set()
    return {node.start_mark.line} if node.style is None else set()


# ---------------------------------------------------------------------------- sweeps


@pytest.mark.parametrize("overrides", [
    [], ["seed=1"], ["algorithm=topr,rloo", "seed=0,1"], ["seed=range(3)"], ["seed=range(0,6,2)", "wandb=off"],
    ["algorithm=choice(topr,rloo)", "results=/tmp/a"], ["algorithm.limits.positive=[0.0,1.0],[1.0,1.0]"],
    ["algorithm.optimizer.lr=1e-4,1e-5", "algorithm=rloo", "seed=1"], ["seed=shuffle(range(1))"], ["results='a,b'"],
])
def test_expansion_is_hydras_own(overrides):
    def parsed(combinations):
        parser = OverridesParser.create()
        return [[(item.key_or_group, item.value()) for item in parser.parse_overrides(list(one))] for one in combinations]

    (theirs,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(overrides), None)
    assert parsed(composing.expand(overrides)) == parsed(theirs)


# ---------------------------------------------------------------------------- refusals

TOPR = "(conf/algorithm/topr.yaml or command line)"
CHOICES = f"; there is {', '.join(composing.choices('algorithm'))}"
REFUSED = {
    "unknown key": ("algorithm.bta=1 algorithm=dpo",
                    "command line: unknown key 'algorithm.bta' (see conf/algorithm/) (did you mean 'algorithm.beta'?)"),
    "unknown nested key": (
        "task.source.sed=1", "command line: unknown key 'task.source.sed' (see conf/task/) (did you mean 'task.source.seed'?)"),
    "unknown top key": ("sed=1", "command line: unknown key 'sed' (see conf/config.yaml) (did you mean 'seed'?)"),
    "unknown key of a mapping": ("algorithm.optimizer={lrr:1e-3}",
                                 "command line: unknown key 'algorithm.optimizer.lrr' (did you mean 'lr'?)"),
    "unknown key of a rule": ("algorithm.curriculum={kind:varied,round:1}",
                              f"algorithm: unknown key 'curriculum.round' (did you mean 'rounds'?) {TOPR}"),
    "unknown rule": ("algorithm.curriculum.kind=vari", "algorithm.curriculum: no rule 'vari' in rlfamily/curricula "
                     "(did you mean 'varied'?)"),
    "unknown group": ("algorithms=topr",
                      "command line: unknown key 'algorithms' (see conf/config.yaml) (did you mean 'algorithm'?)"),
    "another method's key": ("algorithm=sft algorithm.beta=0.1",
                             "command line: unknown key 'algorithm.beta' (see conf/algorithm/) "
                             "(did you mean 'algorithm.optimizer.beta2'?)"),
    "a setting of training, and none": (
        "algorithm=none algorithm.prompts=3", "command line: unknown key 'algorithm.prompts' (see conf/algorithm/) "
        "(did you mean 'algorithm.warm_start'?)"),
    "unknown choice": ("algorithm=tpor", f"algorithm: no 'tpor' in conf/algorithm/ (did you mean 'topr'?){CHOICES}"),
    "no choice": ("algorithm=", f"algorithm: no '' in conf/algorithm/{CHOICES}"),
    "null choice": ("algorithm=null", f"algorithm: no 'null' in conf/algorithm/{CHOICES}"),
    "list of choices": ("algorithm=[topr]", f"algorithm: no '[topr]' in conf/algorithm/ (did you mean 'topr'?){CHOICES}"),
    "wrong type": ("algorithm.epochs=1.5", f"algorithm: epochs: Input should be a valid integer, got 1.5 {TOPR}"),
    "text for a number": ("algorithm.optimizer.lr=fast",
                          f"algorithm: optimizer.lr: Input should be a valid number, got 'fast' {TOPR}"),
    "text for a switch": ("algorithm.asymmetric=maybe",
                          f"algorithm: asymmetric: Input should be a valid boolean, got 'maybe' {TOPR}"),
    "value for a section": ("algorithm.optimizer=3", "algorithm: optimizer: Input should be a valid dictionary or "
                            f"instance of Optimizer, got 3 {TOPR}"),
    "null": ("algorithm.epochs=null", f"algorithm: epochs: Input should be a valid integer {TOPR}"),
    "out of range": ("algorithm.epochs=0", f"algorithm: epochs: Input should be greater than 0, got 0 {TOPR}"),
    "not a number": ("algorithm.optimizer.lr=nan",
                     "algorithm.optimizer.lr: nan is no finite number"),
    "infinite": ("algorithm.optimizer.lr=inf",
                 "algorithm.optimizer.lr: inf is no finite number"),
    "unknown option": ("algorithm.weights=taperd",
                       f"algorithm: weights: Input should be 'canonical', 'report' or 'tapered', got 'taperd' {TOPR}"),
    "unknown kind": ("model.kind=hubb", "model: Input tag 'hubb' found using 'kind' does not match any of the expected "
                     "tags: 'scratch', 'hub' (conf/model/qwen2_tiny.yaml or command line)"),
    "unknown task": ("task.kind=countdwn", "task.kind: no task 'countdwn' in rlfamily/tasks (did you mean 'countdown'?)"),
    "leave-one-out of one": ("algorithm.group_size=1", "algorithm: group_size=1 leaves no other response for the "
                             "leave-one-out baseline: set algorithm.group_size>=2 or "
                             f"algorithm.baseline=none|running_mean {TOPR}"),
    "leave-one-out of equals": ("algorithm.sampling.mode=greedy", "algorithm: sampling.mode=greedy makes the responses "
                                "of a group identical, so the leave-one-out advantage is exactly 0: set "
                                "algorithm.sampling.mode=sample, algorithm.baseline=none, or "
                                f"algorithm.allow_degenerate_baseline=true for report parity {TOPR}"),
    "a shortest response above the longest": (
        "task.min_new_tokens=9 task.max_new_tokens_rollout=8", "task: min_new_tokens=9 is above max_new_tokens_rollout=8: "
        "lower the one or raise the other (conf/task/countdown_tiny.yaml or command line)"),
    "a shortest response above the whole": (
        "task.min_new_tokens=50", "task: min_new_tokens=50 is above max_tokens_rollout=48: lower the one or raise the "
        "other (conf/task/countdown_tiny.yaml or command line)"),
    "no room for a prompt": (
        "task.max_new_tokens_evaluation=48", "task: max_tokens_evaluation=48 leaves no room for a prompt beside "
        "max_new_tokens_evaluation=48: raise the one or lower the other (conf/task/countdown_tiny.yaml or command line)"),
    "more puzzles than there are": ("task.eval_prompts=9999", "task: eval_prompts=9999 but the test split has 256 prompts: lower "
                                    "the one or raise the other (task.source) (conf/task/countdown_tiny.yaml or command line)"),
    "nothing logged": ("algorithm=rpo", "algorithm=rpo learns from logged responses, and task=countdown_tiny has none: use a "
                       "method that learns from responses of its own, such as algorithm=rloo algorithm.warm_start=base"),
    "nothing rewarded": ("task=ultrafeedback algorithm=grpo algorithm.warm_start=base", "algorithm=grpo learns from the rewards "
                         "of its own responses, and task=ultrafeedback gives none (task.reward.kind=none): use a method that "
                         "learns from what is logged, such as algorithm=rpo"),
    "a logged reward for rollouts": ("algorithm.reward=shuffled", "algorithm.reward=shuffled: topr does not learn from logged "
                                     "responses: use task, reward_model or random"),
    "a partition of sums with means": ("algorithm=rpo algorithm.partition=paper_logspace", "algorithm: partition=paper_logspace "
                                       "weighs responses by the sum of their log-probs: set algorithm.log_ratio=sum "
                                       "(conf/algorithm/rpo.yaml or command line)"),
    "added key": ("+extra=1", "command line: '+extra=1' adds, moves or deletes a key; there is no 'extra' (did "
                  "you mean 'executor'?); a table is run by make reproduce TABLE=name"),
    "added experiment": ("+modl=x", "command line: '+modl=x' adds, moves or deletes a key; there is no 'modl' (did you mean "
                         "'model'?); a table is run by make reproduce TABLE=name"),
    "a folder of one's own": ("hydra.searchpath=[/tmp]", "command line: 'hydra.searchpath=[/tmp]': configurations are read "
                              f"from {composing.CONF} alone: put your files there"),
    "help of Hydra's": ("--hydra-help", "command line: unknown flag '--hydra-help' (did you mean '--help'?)"),
    "nothing to imitate": ("task=math_tiny algorithm=sft", "algorithm=sft imitates demonstrations, and task=math_tiny has none: "
                           "use a method that learns from responses of its own, such as algorithm=rloo "
                           "algorithm.warm_start=base"),
    "nothing to warm up with": ("task=tldr_tiny algorithm=topr", "algorithm.warm_start=sft imitates demonstrations, and "
                                "task=tldr_tiny has none: use algorithm.warm_start=base"),
    "forced key": ("++seed=1", "command line: '++seed=1' adds, moves or deletes a key; every key exists already, "
                   "so write seed=value"),
    "deleted key": ("~seed", "command line: '~seed' adds, moves or deletes a key; every key exists already, "
                    "so write seed=value"),
    "moved group": ("algorithm@task=topr", "command line: 'algorithm@task=topr' adds, moves or deletes a key; every key "
                    "exists already, so write algorithm=value"),
    "interpolation": ("results=${oc.env:HOME}", "command line: 'results=${oc.env:HOME}' is an interpolation: "
                      "write the value itself"),
    "negative seed": ("seed=-1", "conf/config.yaml or command line: seed: Input should be greater than or equal to 0, "
                      "got -1"),
    "seed in words": ("seed=one", "conf/config.yaml or command line: seed: Input should be a valid integer, got 'one'"),
    "unknown mirror": ("wandb=onlin", "conf/config.yaml or command line: wandb: Input should be 'offline', 'online' or "
                       "'off', got 'onlin'"),
    "no key for wandb": ("wandb=online", "wandb=online needs WANDB_API_KEY in the environment: set it, or use "
                         "wandb=offline"),
    "a sweep": ("algorithm=topr,rloo", "command line: these overrides are a sweep of 2 cells: add -m"),
    "values without a list": ("-m algorithm.optimizer.lr=interval(0,1)", "command line: "
                              "'algorithm.optimizer.lr=interval(0,1)' does not list its values: write them out"),
    "values by pattern": ("-m algorithm=glob(*)", "command line: 'algorithm=glob(*)' does not list its values: "
                          "write them out"),
    "one bad cell of a sweep": ("-m algorithm.epochs=1,0", f"algorithm: epochs: Input should be greater than 0, got 0 {TOPR}"),
    "unknown flag": ("--multirn seed=1", "command line: unknown flag '--multirn' (did you mean '--multirun'?)"),
    "another config": ("--config-name=x", "command line: unknown flag '--config-name=x'"),
    "machine too small": ("hardware.processes=999", f"hardware.processes: 999 at once, but there are {len(os.sched_getaffinity(0))} "
                          "cpu slots here"),
}
TABLES = ", ".join(experiment.names())
CELL = "row 'Experiment 1', column 'Countdown (TinyZero)': "
REFUSED_TABLES = {
    "no table": ("", f"command line: which table? Give one of {TABLES}, or all"),
    "unknown table": ("topr_tab3", "table: no experiment 'topr_tab3' in experiments/ (did you mean 'topr_tab2'?)"),
    "unknown table of several": ("topr_tab2,topr_tab3", "table: no experiment 'topr_tab3' in experiments/ (did you mean "
                                 "'topr_tab2'?)"),
    "unknown scale": ("topr_tab2 scale=tinny", "scale: no 'tinny' in this experiment (did you mean 'tiny'?); "
                      "it has tiny, paper"),
    "bad seeds": ("topr_tab2 seeds=0,x", "seeds: '0,x' is not a list of numbers: write seeds=0,1,2"),
    "negative seeds": ("topr_tab2 seeds=-1", "seeds: '-1' is not a list of numbers: write seeds=0,1,2"),
    "no seeds": ("topr_tab2 seeds=", "seeds: '' is not a list of numbers: write seeds=0,1,2"),
    "one seed": ("topr_tab2 seed=1",
                 "row 'Experiment 1': a table has its own seeds: write seeds=0,1 instead of seed=0"),
    "unknown flag": ("topr_tab2 --pln", "command line: unknown flag '--pln' (did you mean '--plan'?)"),
    "unknown executor": ("topr_tab1 executor=locl", "executor: no 'locl' in rlfamily/stages/executors "
                         "(did you mean 'local'?); there is local"),
    "unknown key": ("topr_tab2 algorithm.bta=1", f"{CELL}command line: unknown key 'algorithm.bta' "
                    "(see conf/algorithm/) (did you mean 'algorithm.optimizer.beta2'?)"),
    "out of range": ("topr_tab2 hardware.slots=-1", f"{CELL}hardware: slots: Input should be greater than or equal to 0, "
                     "got -1 (conf/hardware/cpu.yaml or command line)"),
    "a sweep": ("topr_tab2 algorithm.epochs=1,2",
                "row 'Experiment 1': sweeps belong on the train command line, a cell has one value per key"),
}
DRIVER = """
import contextlib, io, json, os, sys, time
from rlfamily import reproduce, train
from rlfamily.execution import guarded
rows = []
for module, text in json.load(sys.stdin):
    sys.argv = [module, *text.split()]
    spoken, start = io.StringIO(), time.process_time()
    with contextlib.redirect_stderr(spoken):
        code = guarded({"train": train._main, "reproduce": reproduce._cli}[module])
    rows.append([code, spoken.getvalue(), time.process_time() - start])
print(json.dumps({"rows": rows, "torch": sorted({"torch", "transformers", "pandas"} & set(sys.modules)), "files": os.listdir(".")}))
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """Every bad command line, given to the real entry points of one process: code, message, CPU seconds."""
    cases = [("train", text) for text, _ in REFUSED.values()] + [("reproduce", text) for text, _ in REFUSED_TABLES.values()]
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_API_KEY"}
    done = subprocess.run([sys.executable, "-c", DRIVER], input=json.dumps(cases), cwd=tmp_path_factory.mktemp("empty"),
                          capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    return dict(zip(cases, result["rows"], strict=True)), result


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_cell_is_refused(refusals, case):
    text, message = REFUSED[case]
    assert refusals[0]["train", text][:2] == [2, f"error: {message}\n"]


@pytest.mark.parametrize("case", REFUSED_TABLES)
def test_a_bad_table_is_refused(refusals, case):
    text, message = REFUSED_TABLES[case]
    assert refusals[0]["reproduce", text][:2] == [2, f"error: {message}\n"]


def test_refusals_are_quick_and_load_and_write_nothing(refusals):
    assert refusals[1]["torch"] == []
    assert refusals[1]["files"] == []
    assert max(seconds for *_, seconds in refusals[1]["rows"]) < 1


@pytest.mark.parametrize(("module", "argument"), [("rlfamily.train", "algorithm=tpor"), ("rlfamily.reproduce", "topr_tab3")])
def test_a_refusal_is_quick_from_the_shell(run_cli, module, argument):
    before = os.times()
    done = run_cli(module, argument)
    after = os.times()
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert (done.stdout, "Traceback" in done.stderr) == ("", False)
    # CPU seconds, since other tests run beside this one, and slow it down; alone it takes 0.6
    assert after.children_user + after.children_system - before.children_user - before.children_system < 3


# ---------------------------------------------------------------------------- wrong files


@pytest.fixture
def conf(tmp_path, monkeypatch):
    """A copy of conf/ that a test may spoil; returns a function that edits one file."""
    folder = tmp_path / "conf"
    shutil.copytree(CONF, folder)
    monkeypatch.setattr(composing, "CONF", folder)

    def edit(file: str, old: str, new: str) -> None:
        path = folder / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return edit


WRONG_FILES = {
    "misspelt key": ("algorithm/topr.yaml", "epochs:", "epoch:",
                     f"algorithm: unknown key 'epoch' (did you mean 'epochs'?) {TOPR}"),
    "misspelt nested key": ("algorithm/topr.yaml", "temperature:", "temperatur:",
                            f"algorithm: unknown key 'sampling.temperatur' (did you mean 'temperature'?) {TOPR}"),
    "extra key": ("model/qwen2_tiny.yaml", "layers: 2", "depth: 3\nlayers: 2",
                  "model: unknown key 'depth' (conf/model/qwen2_tiny.yaml or command line)"),
    "missing key": ("hardware/cpu.yaml", "slots: 0", "",
                    "hardware: missing key 'slots': give it a value (conf/hardware/cpu.yaml or command line)"),
    "missing nested key": ("task/countdown_tiny.yaml", "  corpus: 24000", "",
                           "task: missing key 'source.corpus': give it a value "
                           "(conf/task/countdown_tiny.yaml or command line)"),
    "missing kind": ("task/countdown_tiny.yaml", "kind: countdown", "",
                     "conf/task/countdown_tiny.yaml: missing key 'kind': name a file of rlfamily/tasks"),
    "mistyped value": ("task/countdown_tiny.yaml", "eval_draws: 4", "eval_draws: four",
                       "task: eval_draws: Input should be a valid integer, got 'four' "
                       "(conf/task/countdown_tiny.yaml or command line)"),
    "braces in a template": ("task/countdown_tiny.yaml", "{target}", "{goal}",
                             "task: template: must hold {nums} once, {target} once and no other braces, "
                             "got 'use {nums} to make {goal} :' (conf/task/countdown_tiny.yaml or command line)"),
    "key at the top": ("config.yaml", "\nseed:", "\nsede:", "conf/config.yaml: unknown key 'sede' (did you mean 'seed'?)"),
    "key missing at the top": ("config.yaml", "wandb:", "#", "conf/config.yaml or command line: missing key 'wandb': "
                               "give it a value"),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_wrong_file_is_refused(conf, case):
    *edit, message = WRONG_FILES[case]
    conf(*edit)
    with pytest.raises(UserError) as caught:
        config.build([])
    assert str(caught.value) == message


@pytest.mark.parametrize(("file", "new"), [("algorithm/topr.yaml", "a: b: c"), ("config.yaml", "  - planet: earth"),
                                           ("model/qwen2_tiny.yaml", "\t- x"), ("algorithm/topr.yaml", "x: ${y")])
def test_a_file_that_cannot_be_read_is_one_line(conf, file, new):
    path = Path(composing.CONF) / file
    first = path.read_text().splitlines()[1 if file != "config.yaml" else 2]
    conf(file, first, new)
    with pytest.raises(UserError) as caught:
        config.build([])
    assert "\n" not in str(caught.value)


def test_a_new_file_is_a_new_choice(conf):
    """Nothing registers anything: a model is one yaml."""
    folder = Path(composing.CONF) / "model"
    (folder / "mine.yaml").write_text((folder / "qwen25_05b.yaml").read_text().replace("Qwen/Qwen2.5-0.5B", "me/mine"))
    assert config.build(["model=mine"]).model.path == "me/mine"


def test_nearest():
    assert nearest("tpor", ["topr", "rloo"]) == " (did you mean 'topr'?)"
    assert nearest("zzz", ["topr", "rloo"]) == ""
    assert nearest("", []) == ""


# ---------------------------------------------------------------------------- composing


@pytest.mark.parametrize("overrides", [
    [], ["algorithm=rloo", "algorithm.kl={coef: 0.2, form: k2, place: loss}", "seed=3"],
    ["task.source.train=80", "task=countdown_tiny", "hardware=cpu", "algorithm.optimizer.lr=1e-4", "seed=2", "seed=1"],
])
def test_values_are_set_as_hydra_sets_them(overrides):
    """Values are set on a copy of the composed groups; Hydra composing them all gives the same."""
    ours, chosen = composing.compose(overrides)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        theirs = compose("config", overrides=overrides, return_hydra_config=True)
    assert chosen == theirs.hydra.runtime.choices
    with open_dict(theirs):
        del theirs.hydra
    assert ours == OmegaConf.to_container(theirs)
    assert composing.compose([])[0]["seed"] == 0  # the copy was changed, not what is kept
