"""Synthetic RCB records: a speaker knows, believes or invents something; does the clause follow from that?

Rows of verbs are "class lemma: phrase" with {p} for the clause. After a verb of class E the clause is true, after one
of class C it is false, after one of class N nobody knows; "-" behind the class marks a negated verb, "--" one negated
twice. Each genre has its own speakers, clauses (true | its contrary) and sentences around them.
"""

import random
import re

from morocco_lib.data.synthetic._labels import draw_labels
from morocco_lib.data.synthetic.terra import _fill

SIZES = {"train": 600, "val": 240, "test": 240}
NOISE_SHARE = 0.1
LABELS = ("entailment", "contradiction", "neutral")
PLAIN_SHARE = 0.93  # hypotheses that repeat the clause; the others state its contrary
NEGATIONS = {"no_negation": 86, "negation": 12, "double_negation": 2}  # weights
MISSPELT = 2  # records of the official train split that have the key "no_negation" in place of "negation"

_VERBS_TEXT = """
E понять: понял{a}, что {p}
E узнать: узнал{a}, что {p}
E выяснить: выяснил{a}, что {p}
E заметить: заметил{a}, что {p}
E убедиться: убедил{sya}, что {p}
E вспомнить: вспомнил{a}, что {p}
E помнить: хорошо помнил{a}, что {p}
E забыть: забыл{a}, что {p}
E огорчиться: огорчил{sya} из-за того, что {p}
E- знать: не знал{a}, что {p}
E- заметить: не заметил{a}, что {p}
E- догадаться: не догадал{sya}, что {p}
E-- понять: не мог{la} не понять, что {p}
E-- знать: не мог{la} не знать, что {p}
C соврать: соврал{a}, что {p}
C солгать: солгал{a}, что {p}
C выдумать: выдумал{a}, что {p}
C притвориться: притворил{sya}, будто {p}
C сделать вид: сделал{a} вид, будто {p}
C ошибаться: ошибал{sya}, когда говорил{a}, что {p}
C надеяться: напрасно надеял{sya}, что {p}
C обмануть: обманул{a} всех, сказав, что {p}
C- поверить: не поверил{a}, что {p}, и оказал{sya} прав{a}
C- скрыть: не скрыл{a}, что просто выдумал{a}, будто {p}
C-- соврать: не мог{la} не соврать, что {p}
N думать: думал{a}, что {p}
N считать: считал{a}, что {p}
N предполагать: предполагал{a}, что {p}
N подозревать: подозревал{a}, что {p}
N надеяться: надеял{sya}, что {p}
N сказать: сказал{a}, что {p}
N говорить: говорил{a}, что {p}
N уверять: уверял{a}, что {p}
N верить: верил{a}, что {p}
N- подтвердить: не подтвердил{a}, что {p}
N- говорить: не говорил{a}, что {p}
N- утверждать: не утверждал{a}, что {p}
N-- думать: не мог{la} не думать, что {p}
N-- надеяться: не мог{la} не надеяться, что {p}
"""

# Genre, speakers (a star marks women), clauses (true | contrary), sentences that may stand before or after.
_GENRES_TEXT = """
kp
пенсионерка*; следователь; дачница*; участковый; почтальон; журналистка*; свидетель; местная жительница*; дворник
вор проник в дом через окно | через окно в дом никто не проникал
нарушитель скрылся с места аварии | нарушитель остался на месте аварии
пропавшего школьника нашли в лесу | пропавшего школьника в лесу не нашли
машину угнали со двора | машина осталась стоять во дворе
пожар начался на кухне | пожар начался не на кухне
сосед продал чужой велосипед | сосед не продавал чужой велосипед
щенка бросили на трассе | щенка никто не бросал на трассе
рыбаков унесло на льдине | рыбаков на льдине не уносило
продавщица вызвала полицию | полицию продавщица не вызывала
крышу школы починили к зиме | до зимы крышу школы не починили
Все случилось на прошлой неделе на окраине города; На место сразу приехала полиция; Погода в тот день была ненастной
Об этой истории в районе говорят до сих пор; Позже в отделе составили протокол; Подробности пока уточняются
Очевидцы согласились поговорить с нашим корреспондентом; Жильцы двора обсуждают случай в общем чате

interfax
министр; глава ведомства; аналитик; представительница банка*; эксперт; губернатор; чиновница*; пресс-секретарь
компания построила новый завод | нового завода компания не строила
банк снизил ставку по вкладам | банк не снижал ставку по вкладам
экспорт зерна за год вырос | экспорт зерна за год не вырос
переговоры завершились успешно | переговоры зашли в тупик
закон приняли без поправок | в закон внесли поправки
авиакомпания открыла новые рейсы | новых рейсов авиакомпания не открыла
дорогу достроили раньше срока | дорогу не достроили и к концу срока
завод сократил выпуск машин | завод не сокращал выпуск машин
цены на топливо упали | цены на топливо не упали
сделка с инвесторами сорвалась | сделка с инвесторами состоялась
Пресс-конференция прошла в среду; Заседание длилось около двух часов; Документ опубликуют до конца месяца
Ранее на рынке обсуждали разные прогнозы; Вопрос рассмотрят на следующем совещании; Встреча прошла в закрытом режиме
Официальное сообщение появится на сайте ведомства; Итоги квартала подведут в июле

fiction
старик; хозяйка*; Вера*; доктор; Андрей; тетка Марья*; лесник; Катерина*; молодой учитель
старое письмо сожгли в печи | старое письмо не сгорело
ночью кто-то входил в дом | ночью в дом никто не входил
лошади почуяли волка | волка лошади не почуяли
корабль ушел без капитана | без капитана корабль не ушел
сын вернулся из города | сын из города не вернулся
дверь в сад заперли | дверь в сад оставили открытой
музыка за рекой стихла | музыка за рекой не стихла
гости уехали не простившись | гости простились перед отъездом
мельницу продали купцу | мельницу купцу не продали
дождь размыл дорогу | дождь не размыл дорогу
За окном медленно темнело; В комнате пахло яблоками и дымом; Где-то далеко залаяла собака; Прошла еще одна минута
Часы на стене пробили семь, и снова стало тихо; Чай в стакане давно остыл; Дул ветер, и лампа на крыльце качалась
В тот вечер разговор за столом шел неторопливо; Осень в том году выдалась долгая
"""
_WHEN = ("", "", "", "тогда ", "в тот момент ", "в тот день ", "в тот вечер ")
_AGREEING = {False: {"a": "", "sya": "ся", "la": ""}, True: {"a": "а", "sya": "ась", "la": "ла"}}  # key: a woman


def _parse_verbs(text: str) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Return (class, negation) -> pairs of lemma and phrase."""
    verbs = {}
    for verb_class, minus, lemma, phrase in re.findall(r"^(\w)(-*) ([^:]+): (.+)$", text, flags=re.MULTILINE):
        verbs.setdefault((verb_class, list(NEGATIONS)[len(minus)]), []).append((lemma, phrase))
    return verbs


def _parse_genres(text: str) -> dict[str, tuple[list[str], list[list[str]], list[str]]]:
    """Return genre -> speakers, clauses with their contraries, other sentences."""
    genres = {}
    for name, speakers, *lines in (block.splitlines() for block in text.strip().split("\n\n")):
        others = [sentence for line in lines if "|" not in line for sentence in line.split("; ")]
        genres[name] = speakers.split("; "), [line.split(" | ") for line in lines if "|" in line], others
    return genres


VERBS = _parse_verbs(_VERBS_TEXT)
GENRES = _parse_genres(_GENRES_TEXT)


def _draw(rng: random.Random, true_label: str) -> dict[str, str]:
    """Return premise, hypothesis, verb, negation and genre."""
    plain = rng.random() < PLAIN_SHARE
    verb_class = {"entailment": "CE"[plain], "contradiction": "EC"[plain], "neutral": "N"}[true_label]
    negation = rng.choices(list(NEGATIONS), NEGATIONS.values())[0]
    verb, phrase = rng.choice(VERBS[verb_class, negation])
    genre = rng.choice(list(GENRES))
    speakers, clauses, others = GENRES[genre]
    speaker, (clause, contrary) = rng.choice(speakers), rng.choice(clauses)
    slots = {"p": clause, **_AGREEING[speaker.endswith("*")]}
    sentences = [f"{rng.choice(_WHEN)}{speaker.strip('*')} {phrase}", *rng.sample(others, rng.randint(1, 3))]
    rng.shuffle(sentences)
    premise = _fill(". ".join(sentences) + ".", slots)
    hypothesis = _fill(clause if plain else contrary, slots) + "."
    return {"premise": premise, "hypothesis": hypothesis, "verb": verb, "negation": negation, "genre": genre}


def records_with_truth(split: str, size: int, seed: int) -> list[tuple[dict, str]]:
    """Records as published beside the label that is true by construction (the published one may be flipped)."""
    rng = random.Random(f"rcb/{split}/{seed}")
    counts = {label: size // 3 + (place < size % 3) for place, label in enumerate(LABELS)}
    misspelt = set(rng.sample(range(size), min(MISSPELT, size))) if split == "train" else set()
    records, seen = [], set()
    for idx, (true_label, label) in enumerate(draw_labels(rng, counts, NOISE_SHARE)):
        drawn = _draw(rng, true_label)
        while (drawn["premise"], drawn["hypothesis"]) in seen:
            drawn = _draw(rng, true_label)
        seen.add((drawn["premise"], drawn["hypothesis"]))
        record = {"premise": drawn.pop("premise")}
        if split != "test":
            record["label"] = label
        for key, value in drawn.items():
            record["no_negation" if key == "negation" and idx in misspelt else key] = value
        records.append(({**record, "idx": idx}, true_label))
    return records


def records(split: str, size: int, seed: int) -> list[dict]:
    """Return records in the schema of RCB: is the hypothesis entailed, contradicted or left open by the premise?

    Args:
        split: train, val or test; test has no labels. Train has two records with a misspelt key, as officially.
        size: Number of records; pairs of premise and hypothesis are distinct within the split.
        seed: See `morocco_lib.data.synthetic.records`.
    Limits: a tenth of the labels of train and val is wrong, and the verb betrays most of the others.
    """
    return [record for record, _ in records_with_truth(split, size, seed)]
