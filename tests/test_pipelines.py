"""Pipelines: who gets which setting, what is fed to which stage, what is kept and reused."""

import json

import pytest
from judge_server import longer, serving
from notebook_shell import NotebookShell
from rows import demos, pairs

from ft_magic import jobs, launch, pipelines
from ft_magic.axes import METHODS, SIGNALS
from ft_magic.axes.pipelines import PIPELINES
from ft_magic.data import load_data
from ft_magic.errors import DataError, RunError, SpecError
from ft_magic.judging import judge, preferences
from ft_magic.pipelines.shares import shares
from ft_magic.run import Run
from ft_magic.spec import Spec

PROMPTS = [{"prompt": f"Name colour {i}."} for i in range(20)]
RLHF = {"model": "demo", "data": "pairs.jsonl", "method": "rlhf"}


@pytest.fixture(autouse=True)
def folders(runs_folder):
    runs_folder.mkdir()
    preferences._bench.cache_clear()


@pytest.fixture
def trained(runs_folder, monkeypatch):
    """Calls of finetune, which makes a finished run folder and trains nothing; ``ends`` says how others end."""

    class Trained(list):
        def __init__(self):
            super().__init__()
            self.ends = {}

    calls = Trained()

    def finetune(**spec):
        calls.append(spec)
        folder = runs_folder / spec["name"]
        folder.mkdir()
        status = calls.ends.get(spec["method"], "finished")
        (folder / "run.json").write_text(json.dumps({"status": status, "pid": None}))
        if status == "failed":
            raise RunError("the loss became nan.", "Lower the learning rate.")
        return Run(folder)

    monkeypatch.setattr(launch, "finetune", finetune)
    return calls


@pytest.fixture
def answers(monkeypatch, tiny):
    """Prompts the model was asked; it answers 'short' and then something longer, except the fifth prompt: equal."""
    asked = []

    def call(job, arguments, progress=None):
        assert job == "generate"
        asked.append(arguments)
        first = arguments["prompts"][0::2]
        assert arguments["prompts"][1::2] == first
        return [
            text for p in first for text in ("short", "short" if p.endswith(" 5.") else f"long answer to {p}")
        ]

    monkeypatch.setattr(jobs, "call", call)
    return asked


# -- the tables


@pytest.mark.parametrize("pipeline", PIPELINES.values(), ids=lambda row: row.name)
def test_every_stage_fits_what_it_is_fed(pipeline):
    names = [stage.name for stage in pipeline.stages]
    assert pipeline.name not in METHODS
    assert pipeline.stages[-1].method
    assert set(pipeline.needs) <= set(Spec.model_fields)
    for place, stage in enumerate(pipeline.stages):
        assert bool(stage.method) != bool(stage.makes)
        assert {stage.rows, stage.model, stage.rewards} - {""} <= set(names[:place])
        assert set(stage.options) <= set(Spec.model_fields)
        if stage.method:
            assert stage.signal in METHODS[stage.method].signals
        if not stage.rows:
            assert stage.signal == pipeline.signal or stage.signal in SIGNALS[pipeline.signal].converts_to
        for need in METHODS[stage.method].needs if stage.method else ():
            assert stage.rewards or not set(need.split("|")) & {"rewards"}


# -- settings


def test_a_key_goes_to_every_stage_that_reads_it_and_trainer_to_the_last():
    parts = shares(
        PIPELINES["rlhf"],
        RLHF
        | {
            "update": "lora",
            "max_steps": 9,
            "beta": 0.1,
            "packing": True,
            "temperature": 0.7,
            "trainer": {"x": 1},
        },
    )
    assert parts == {
        "sft": {"update": "lora", "max_steps": 9, "packing": True},
        "reward": {"update": "lora", "max_steps": 9},
        "ppo": {"update": "lora", "max_steps": 9, "beta": 0.1, "temperature": 0.7, "trainer": {"x": 1}},
    }


def test_stages_override_single_settings():
    parts = shares(PIPELINES["rlhf"], RLHF | {"max_steps": 9, "stages": {"reward": {"max_steps": 50}}})
    assert [parts[name]["max_steps"] for name in ("sft", "reward", "ppo")] == [9, 50, 9]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"num_generations": 4}, "no stage of rlhf reads 'num_generations'"),
        ({"max_stepz": 4}, "unknown key 'max_stepz'. Did you mean 'max_steps'"),
        ({"rewards": "length"}, "no stage of rlhf reads 'rewards'"),
        (
            {"stages": {"rewards": {"max_steps": 1}}},
            "'rewards' is no stage with settings. Did you mean 'reward'",
        ),
        ({"stages": {"sft": {"beta": 1}}}, "sft does not read 'beta'"),
        ({"stages": {"ppo": {"model": "demo"}}}, "ppo does not read 'model'"),
        ({"stages": ["sft"]}, "stages is no mapping"),
        ({"detach": True}, "cannot detach"),
        ({"learning_rate": 5}, "learning_rate: 5 cannot be used"),
        ({"name": "a/b"}, "no plain folder name"),
        ({"data": None}, "rlhf needs data"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_runs(given, problem, trained):
    with pytest.raises(SpecError, match=problem):
        pipelines.run(**RLHF | given)
    assert not trained


def test_several_problems_are_told_at_once():
    with pytest.raises(SpecError, match="2 things in this spec cannot be") as told:
        shares(PIPELINES["rlaif"], {"model": "demo", "data": "x", "max_stepz": 1})
    assert "rlaif needs judge" in told.value.instead


def test_data_no_stage_can_use_is_refused_before_anything_runs(trained):
    with pytest.raises(DataError, match="carries 'demo' rows, and stage reward of rlhf needs 'pair' rows"):
        pipelines.run(**RLHF | {"data": demos(4)})
    with pytest.raises(DataError, match=r"eval_data: .* stage dpo of rlaif needs 'pair' rows"):
        pipelines.run(
            model="demo",
            data=PROMPTS,
            eval_data=PROMPTS,
            method="rlaif",
            judge={"base_url": "http://h", "model": "m"},
        )
    assert not trained


# -- rlhf


def test_rlhf_feeds_each_stage_with_its_signal_and_the_runs_before(trained):
    last = pipelines.run(
        **RLHF | {"data": pairs(6), "name": "h", "max_steps": 3, "stages": {"ppo": {"max_steps": 2}}}
    )
    assert last.name == "h-ppo"
    sft, reward, ppo = trained
    assert [call["method"] for call in trained] == ["sft", "reward", "ppo"]
    assert [call["data"].signal for call in trained] == ["demo", "pair", "prompt"]
    assert sft["model"] == "demo"
    assert (
        reward["model"].name == ppo["model"].name == "h-sft"
    )  # one merged base for both, so that PPO shares it
    assert ppo["rewards"].name == "h-reward"
    assert [call["max_steps"] for call in trained] == [3, 3, 2]


def test_held_out_rows_reach_every_stage_as_its_signal(trained):
    pipelines.run(**RLHF | {"data": pairs(6), "eval_data": pairs(2), "name": "h"})
    assert [(call["eval_data"].signal, len(call["eval_data"])) for call in trained] == [
        ("demo", 2),
        ("pair", 2),
        ("prompt", 2),
    ]


def test_a_failed_stage_says_how_to_go_on_and_finished_ones_are_reused(
    trained, runs_folder, monkeypatch, capsys
):
    given = RLHF | {"data": pairs(6), "name": "h"}
    trained.ends["reward"] = "failed"
    with pytest.raises(RunError, match=r"nan.*\n.*\nStages before reward are kept.*name: h to go on"):
        pipelines.run(**given)
    resumed = []

    def resume(run):
        resumed.append(run.name)
        (run.path / "run.json").write_text('{"status": "finished"}')
        return run

    monkeypatch.setattr(Run, "resume", resume)
    assert pipelines.run(**given).name == "h-ppo"
    assert resumed == ["h-reward"]
    assert [call["method"] for call in trained] == ["sft", "reward", "ppo"]  # nothing ran twice
    shown = capsys.readouterr().err
    assert "stage 1 of 3, sft: done before; run h-sft is reused." in shown
    assert "stage 2 of 3, reward: run h-reward is failed; it goes on." in shown


def test_a_stopped_stage_ends_the_pipeline_and_is_returned(trained, capsys):
    trained.ends["sft"] = "stopped"
    assert pipelines.run(**RLHF | {"data": pairs(6), "name": "h"}).name == "h-sft"
    assert len(trained) == 1
    assert "stopped. Run the same cell with name: h to go on." in capsys.readouterr().err


def test_a_changed_setting_trains_that_stage_and_those_after_it_anew(trained):
    given = RLHF | {"data": pairs(6), "name": "h"}
    pipelines.run(**given)
    pipelines.run(**given | {"stages": {"reward": {"max_steps": 7}}})
    assert [call["name"] for call in trained] == ["h-sft", "h-reward", "h-ppo", "h-reward-2", "h-ppo-2"]
    assert trained[-1]["rewards"].name == "h-reward-2"
    with pytest.raises(RunError, match="run 'h-sft' exists already and was made with other settings"):
        pipelines.run(**given | {"data": pairs(5), "if_exists": "error"})


def test_without_a_name_the_pipeline_says_its_own(trained, capsys):
    last = pipelines.run(**RLHF | {"data": pairs(6)})
    name = last.name.removesuffix("-ppo")
    assert (
        f"This pipeline is called {name}; should it be interrupted, write name: {name}."
        in capsys.readouterr().err
    )


def test_a_run_is_no_pipeline(trained, runs_folder):
    (runs_folder / "h").mkdir()
    (runs_folder / "h" / "run.json").write_text("{}")
    with pytest.raises(RunError, match="'h' is a run"):
        pipelines.run(**RLHF | {"data": pairs(6), "name": "h"})


# -- rlaif


def rlaif(server, tiny, **more):
    judge = {"base_url": server.url, "model": "wise", "parallel": 1}
    return pipelines.run(model=str(tiny), data=PROMPTS, method="rlaif", judge=judge, name="a", **more)


def test_rlaif_answers_twice_judges_and_trains_on_the_decided_pairs(trained, answers, tiny, runs_folder):
    with serving(longer) as server:
        last = rlaif(server, tiny, max_steps=2, temperature=0.9, max_completion_length=32)
    assert last.name == "a-dpo"
    (dpo,) = trained
    assert dpo["model"] == str(tiny)
    assert dpo["max_steps"] == 2
    assert dpo["data"].signal == "pair"
    assert len(dpo["data"]) == 19  # prompt 5 got equal answers
    assert dict(dpo["data"][0]) == {
        "prompt": "Name colour 0.",
        "chosen": "long answer to Name colour 0.",
        "rejected": "short",
    }
    assert "1 ties left out (0 changed with the order, 1 equal answers" in dpo["data"].lineage[-1]
    # 20 prompts in chunks of 16, each prompt twice in a row
    assert [len(call["prompts"]) for call in answers] == [32, 8]
    assert {(call["temperature"], call["max_new_tokens"]) for call in answers} == {(0.9, 32)}
    kept = {file.name.split("-")[0]: file for file in (runs_folder / "a").iterdir()}
    assert {"generate", "judge", "verdicts.jsonl", "pipeline.json"} <= kept.keys()
    assert len(kept["generate"].read_text().splitlines()) == 20
    assert len(kept["judge"].read_text().splitlines()) == 19
    assert len(kept["verdicts.jsonl"].read_text().splitlines()) == 38


def test_an_interrupted_rlaif_goes_on_where_it_stopped(trained, answers, tiny, monkeypatch, capsys):
    monkeypatch.setattr("tenacity.sleep_using_event", lambda event: lambda seconds: None)
    calls = []
    working = jobs.call

    def dies(job, arguments, progress=None):
        calls.append(job)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return working(job, arguments, progress)

    down = ["A", "B"]
    with serving(
        lambda text: longer(text) if down is None else down.pop() if down else (503, "", {})
    ) as server:
        with monkeypatch.context() as patch:
            patch.setattr(jobs, "call", dies)
            with pytest.raises(KeyboardInterrupt):
                rlaif(server, tiny)
        with pytest.raises(RunError, match=r"2 of 38 replies are stored"):
            rlaif(server, tiny)
        assert [len(call["prompts"]) for call in answers] == [32, 8]  # the first chunk was not made again
        down = None
        asked = len(server.bodies)
        rlaif(server, tiny)
        assert len(server.bodies) - asked == 36
        rlaif(server, tiny, max_steps=4)  # only the training changes
        assert len(server.bodies) - asked == 36
    assert [call["name"] for call in trained] == ["a-dpo", "a-dpo-2"]
    assert "(16 answered before)" in capsys.readouterr().err


def test_demos_become_prompts_and_other_prompts_other_answers(trained, answers, tiny):
    with serving(longer) as server:
        judge = {"base_url": server.url, "model": "wise"}
        given = {"model": str(tiny), "method": "rlaif", "judge": judge, "name": "a"}
        pipelines.run(data=demos(4), **given)
        pipelines.run(data=demos(3), **given)
    assert [len(call["prompts"]) for call in answers] == [8, 6]
    assert [len(call["data"]) for call in trained] == [4, 3]


def test_a_judge_that_cannot_be_asked_is_refused_before_anything_is_generated(
    trained, answers, tiny, monkeypatch
):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    judge = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "key_env": "NO_SUCH_KEY"}
    with pytest.raises(SpecError, match="NO_SUCH_KEY is not set"):
        pipelines.run(model=str(tiny), data=PROMPTS, method="rlaif", judge=judge, name="a")
    assert not answers


def test_a_run_answers_with_its_adapter_and_qlora_with_its_quantized_base(tiny, trained):
    from ft_magic.pipelines.making import model_reference

    assert model_reference(str(tiny), {}) == {
        "base": str(tiny),
        "adapter": None,
        "bits": 0,
        "precision": "fp32",
    }
    assert model_reference(str(tiny), {"update": "qlora", "precision": "bf16"})["bits"] == 4


# -- dry run


def test_the_plan_of_a_pipeline_shows_its_stages_and_plans_the_first(tiny):
    made = pipelines.plan(**RLHF | {"model": str(tiny), "data": pairs(12), "max_steps": 2})
    assert list(made.plans) == ["sft"]
    assert "Planned once the stages before are done: reward, ppo." in repr(made)
    assert "result of sft, the data as prompt rows, score of reward" in repr(made)
    assert "<table" in made._repr_html_()


# -- for real


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    jobs.unload()


def test_rlaif_with_a_real_model_real_answers_and_a_real_judge(tiny, quick, runs_folder):
    with serving(longer) as server:
        judge = {"base_url": server.url, "model": "wise"}
        given = {"model": str(tiny), "data": PROMPTS[:6], "judge": judge, "name": "a"}
        more = {"max_completion_length": 8, "max_steps": 3, "eval_fraction": 0, "audit": "warn"}
        last = pipelines.run(method="rlaif", backend="fake", trainer={"fake_step_s": 0.0}, **given, **more)
    assert (last.name, last.status) == ("a-dpo", "finished")
    rows = load_data(str(last.folder.train_rows))
    assert rows.signal == "pair"
    assert all(len(row["chosen"]) > len(row["rejected"]) for row in rows)


@pytest.mark.slow
def test_rlhf_trains_all_three_stages(tiny, quick):
    more = {"max_steps": 2, "batch_size": 4, "max_completion_length": 8, "name": "h", "eval_fraction": 0}
    last = pipelines.run(method="rlhf", model=str(tiny), data=pairs(8), **more)
    assert (last.name, last.status) == ("h-ppo", "finished")
    # The reward run it made can judge: the same answers in both orders, so never a tie of order.
    found = judge(pairs(4), judge="h-reward")
    assert found.judge == "h-reward"
    assert found.ties["order"] == 0
    with pytest.raises(SpecError, match="has learned its criteria"):
        judge(pairs(4), judge="h-reward", criteria="Brevity")


# -- as typed


def test_each_pipeline_has_a_magic_with_its_method_pinned(monkeypatch):
    given = []
    monkeypatch.setattr(launch, "finetune", lambda **spec: given.append(spec) or "the run")
    shell = NotebookShell()
    try:
        shell.run("%%rlhf run\nmodel: demo\ndata: pairs.jsonl\nstages:\n  reward: {max_steps: 50}\n")
        assert shell.variables["run"] == "the run"
        shell.run("%rlaif model=demo data=prompts.jsonl judge=demo")
    finally:
        shell.close()
    assert given == [
        {"model": "demo", "data": "pairs.jsonl", "method": "rlhf", "stages": {"reward": {"max_steps": 50}}},
        {"model": "demo", "data": "prompts.jsonl", "method": "rlaif", "judge": "demo"},
    ]
