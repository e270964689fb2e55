"""Synthetic RWSD records: a sentence with two people and a pronoun, and whether the pronoun means the given one.

The link between the clauses decides: after "потому что" the pronoun means the person to whom something was done, after
"хотя" the one who did it. Every text comes twice, with either person as the candidate and thus with both labels, and
every beginning comes with both kinds of link, so neither the words nor the candidate's case form alone tell the answer.
"""

import random
import re

SIZES = {"train": 800, "val": 200, "test": 200}
NOISE_SHARE = 0.1

# Nominative and accusative of people, by gender.
_PEOPLE = {
    "m": "Игорь, Игоря; Павел, Павла; Олег, Олега; Сергей, Сергея; Андрей, Андрея; Виктор, Виктора; Максим, Максима; "
    "сосед, соседа; учитель, учителя; директор, директора; молодой врач, молодого врача; старый плотник, старого "
    "плотника; лесник, лесника; тренер, тренера; повар, повара; капитан команды, капитана команды",
    "f": "Анна, Анну; Ольга, Ольгу; Мария, Марию; Ирина, Ирину; Елена, Елену; Вера, Веру; Татьяна, Татьяну; соседка, "
    "соседку; учительница, учительницу; бабушка, бабушку; молодая певица, молодую певицу; старая актриса, старую "
    "актрису; медсестра, медсестру; портниха, портниху; хозяйка кафе, хозяйку кафе; тетя Нина, тетю Нину",
}
_ENDINGS = {
    "m": {"a": "", "sya": "ся", "he": "он", "self": "сам"},
    "f": {"a": "а", "sya": "ась", "he": "она", "self": "сама"},
}

# Blocks: V what one did to the other (@ stands for the other), O clauses about the one it was done to, S clauses about
# the one who did it. The verb of a clause is between asterisks: it goes into span2 together with the pronoun.
_SCENES_TEXT = """
V похвалил{a} @; поздравил{a} @; крепко обнял{a} @; наградил{a} @; угостил{a} @ тортом
O блестяще *сдал{a}* экзамен; *выиграл{a}* конкурс; *вернул{sya}* с победой; *получил{a}* диплом; *спел{a}* лучше \
всех; впервые *победил{a}* на турнире
S обычно *хвалил{a}* других неохотно; не *любил{a}* громких слов; в глубине души *завидовал{a}* чужим успехам; \
{self} *мечтал{a}* о таком успехе; не *умел{a}* красиво говорить; давно *сомневал{sya}* в правилах

V отругал{a} @; упрекнул{a} @; вызвал{a} @ на разговор; отчитал{a} @ при всех; строго предупредил{a} @
O *опоздал{a}* на час; *разбил{a}* окно; *потерял{a}* ключи; громко *хлопнул{a}* дверью; *пропустил{a}* встречу; \
опять *забыл{a}* выключить свет
S {self} часто *ошибал{sya}*; редко *повышал{a}* голос; не *хотел{a}* ссориться; давно *устал{a}* от таких споров; \
обычно *старал{sya}* говорить мягко; всегда *избегал{a}* ссор

V накормил{a} @ ужином; проводил{a} @ до дома; утешил{a} @; навестил{a} @ дома; пустил{a} @ переночевать
O *заболел{a}* гриппом; *попал{a}* под ливень; *остал{sya}* без денег; *заблудил{sya}* в городе; весь день ничего не \
*ел{a}*; *потерял{a}* кошелек
S {self} *торопил{sya}* на поезд; почти не *спал{a}* ночью; *жил{a}* очень скромно; не *любил{a}* гостей; очень \
*устал{a}* после работы; *собирал{sya}* рано лечь
"""
_LINKS = {
    "O": (", потому что {he} ", ", ведь {he} ", ", узнав, что {he} "),
    "S": (", хотя {he} ", ", несмотря на то что {he} ", " и признал{sya}, что {he} "),
}
_OPENINGS = (
    "", "вчера ", "после собрания ", "в субботу утром ", "на прошлой неделе ", "в тот вечер ", "перед праздником ",
)  # fmt: skip

SCENES = [{line[0]: line[2:].split("; ") for line in block.splitlines()} for block in _SCENES_TEXT[1:-1].split("\n\n")]
PEOPLE = {gender: [row.split(", ") for row in rows.split("; ")] for gender, rows in _PEOPLE.items()}


def _index(text: str, span: str) -> int:
    """Return the position of the span's first word among the whitespace-separated words of the text."""
    return len(re.split(rf"(?<!\w){re.escape(span)}(?!\w)", text, maxsplit=1)[0].split())


def _draw(rng: random.Random) -> list[tuple[str, tuple[str, int], tuple[str, int], bool]]:
    """Draw a schema: one beginning with two endings, each asked of both people, as (text, span1, span2, label)."""
    scene, gender = rng.choice(SCENES), rng.choice("mf")
    (subject, _), (_, other) = rng.sample(PEOPLE[gender], 2)
    first = f"{rng.choice(_OPENINGS)}{subject} " + rng.choice(scene["V"]).replace("@", other)
    if first.startswith(subject):
        subject = subject[0].upper() + subject[1:]
    drawn = []
    for side in "SO":  # the pronoun means the one who acts (S), the one acted upon (O)
        clause, verb, rest = rng.choice(scene[side]).split("*")
        text = (first + rng.choice(_LINKS[side]) + clause + verb + rest + ".").format(**_ENDINGS[gender])
        text = text[0].upper() + text[1:]
        # Officially, too, the pronoun's span is not always contiguous; a "не" stays with its verb.
        middle = "" if rng.random() < 0.15 and "не" not in clause.split() else clause
        pronoun = ("{he} " + middle + verb).format(**_ENDINGS[gender])
        span2 = (pronoun, _index(text, pronoun.split()[0]))
        for role, name in (("S", subject), ("O", other)):
            drawn.append((text, (name, _index(text, name)), span2, role == side))
    return drawn


def _record(split: str, idx: int, text: str, span1: tuple[str, int], span2: tuple[str, int], label: bool) -> dict:
    """Lay one record out with the key order of the official file of the split."""
    target = {"span1_text": span1[0], "span1_index": span1[1], "span2_text": span2[0], "span2_index": span2[1]}
    orders = {
        "train": ("span1_text", "span2_text", "span1_index", "span2_index"),
        "val": ("span2_index", "span1_index", "span1_text", "span2_text"),
        "test": tuple(target),
    }
    target = {key: target[key] for key in orders[split]}
    if split == "train":
        return {"idx": idx, "target": target, "label": label, "text": text}
    record = {"text": text, "target": target, "idx": idx}
    return record if split == "test" else {**record, "label": label}


def records_with_truth(split: str, size: int, seed: int) -> list[tuple[dict, bool]]:
    """Records as published beside the label that is true by construction (the published one may be flipped)."""
    rng = random.Random(f"rwsd/{split}/{seed}")
    drawn, seen = [], set()
    while len(drawn) < size:
        schema = _draw(rng)
        texts = {text for text, *_ in schema}
        if not texts & seen:
            seen |= texts
            drawn += schema
    del drawn[size:]
    rng.shuffle(drawn)
    truth = [label for *_, label in drawn]
    flipped, flips = set(), round(size * NOISE_SHARE)
    for label, count in ((True, flips // 2), (False, flips - flips // 2)):  # from both, to keep the balance
        flipped.update(rng.sample([idx for idx, true_label in enumerate(truth) if true_label == label], count))
    return [
        (_record(split, idx, text, span1, span2, label != (idx in flipped)), label)
        for idx, (text, span1, span2, label) in enumerate(drawn)
    ]


def records(split: str, size: int, seed: int) -> list[dict]:
    """Return records in the schema of RWSD: does the pronoun (span2) mean the person (span1)?

    Args:
        split: train, val or test; test has no labels, and every split has its official key order.
        size: Number of records; every text occurs twice, once with each label.
        seed: See `morocco_lib.data.synthetic.records`.
    Limits: a tenth of the labels of train and val is flipped, so no honest classifier passes about 0.90 accuracy. A few
        conjunctions decide, where real Winograd sentences ask for knowledge of the world.
    """
    return [record for record, _ in records_with_truth(split, size, seed)]
