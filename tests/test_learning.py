"""Small models from random weights learn the synthetic tasks, those too that word counts cannot tell.

What a head sees of a sequence decides whether RUSSE and RWSD can be learnt at all: a wrong span, a product left out or a
mask that is off by one, and these scores are chance.
"""

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")
pytest.importorskip("transformers", reason="needs the torch extra: make setup-torch")

from conftest import ROOT

from morocco_lib import data, train, who
from morocco_lib.models import weights
from morocco_lib.tasks import get_task
from morocco_lib.tasks.base import task_value

pytestmark = pytest.mark.slow
MARGIN = 0.15  # over always giving the most frequent answer; a tenth of the labels is wrong


def fitted(model, name, synthetic_data, folder):
    task = get_task(name)
    files = {split: data.find_split(synthetic_data, task, split) for split in ("train", "val")}
    result = train.fit(train.Plan(who.load_model(model, ROOT), name, files, [1], ROOT), folder)
    val = task.read(files["val"])
    gold = [task.gold(record) for record in val]
    constant = [task.constant(task.majority(gold), record) for record in val]
    return result["val_score"], task_value(task, task.score(gold, constant))


@pytest.mark.parametrize("name", ["russe", "rwsd", "parus"])
@pytest.mark.parametrize("model", ["tiny-encoder", "tiny-decoder"])
def test_what_word_counts_cannot_tell_is_learnt(model, name, synthetic_data, tmp_path):
    score, floor = fitted(model, name, synthetic_data, tmp_path)
    assert score >= floor + MARGIN


def test_what_was_learnt_on_terra_answers_lidirus(synthetic_data, tmp_path):
    score, floor = fitted("tiny-bert", "terra", synthetic_data, tmp_path)
    assert score >= floor + MARGIN
    model, lidirus = weights.load(tmp_path, "lidirus")
    _, records = data.read_split(synthetic_data, lidirus, "val")
    assert lidirus.score([lidirus.gold(r) for r in records], model.answer(records))["all_mcc"] >= 0.3
