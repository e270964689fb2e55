"""Synthetic RUSSE records: two sentences with a homonym marked in each, and whether both marks have the same sense.

Every sentence holds its homonym twice, once in each sense: "Утром сосед потерял ключ от почтового ящика, а вечером
набрал воды из холодного ключа". Each pair of sentences comes with both labels, depending on which mentions are marked,
so the words of the sentences tell nothing and only the surroundings of the marks do.
"""

import random
import re
from typing import NamedTuple

SIZES = {"train": 2000, "val": 400, "test": 400}
NOISE_SHARE = 0.1

# Lemma, then a line of phrases for each sense; the homonym is between asterisks. {a} and {sya} are the endings of a
# past tense. Both senses of a word come in the same case forms, so that the form does not betray the sense.
_WORDS_TEXT = """
ключ
  потерял{a} *ключ* от почтового ящика; открыл{a} старым *ключом* дверь подвала; заказал{a} копию *ключа* от гаража
  отыскал{a} в овраге чистый *ключ*; долго сидел{a} рядом с журчащим *ключом*; набрал{a} воды из холодного *ключа*
лук
  мелко нарезал{a} *лук* для салата; посадил{a} на грядке немного *лука*; посыпал{a} картошку жареным *луком*
  смастерил{a} *лук* и десяток стрел; натянул{a} тетиву тугого *лука*; целил{sya} в мишень спортивным *луком*
коса
  заплел{a} дочери тугую *косу*; полюбовал{sya} длинной *косой* невесты; снял{a} ленту с русой *косы* внучки
  наточил{a} ржавую *косу* для сенокоса; скосил{a} траву старой *косой*; смахнул{a} росу с лезвия острой *косы*
мир
  выступил{a} за *мир* между народами; потребовал{a} прочного *мира* после войны; написал{a} статью о *мире* без оружия
  объехал{a} весь *мир* на велосипеде; изучил{a} карту *мира* в атласе; прочитал{a} книгу о подводном *мире* океана
замок
  осмотрел{a} рыцарский *замок* на холме; сфотографировал{a} башню древнего *замка*; гулял{a} перед королевским *замком*
  повесил{a} тяжелый *замок* на калитку; смазал{a} маслом скважину *замка*; закрыл{a} сарай навесным *замком*
брак
  вступил{a} в законный *брак*; отметил{a} годовщину счастливого *брака*; поздравил{a} молодоженов с *браком*
  обнаружил{a} заводской *брак* в детали; потребовал{a} замены бракованного *брака*; вернул{a} сапоги с явным *браком*
кран
  починил{a} капающий *кран* на кухне; набрал{a} горячей воды из *крана*; поставил{a} ведро под открытым *краном*
  увидел{a} на стройке башенный *кран*; рассмотрел{a} стрелу подъемного *крана*; поднял{a} плиту строительным *краном*
лист
  подобрал{a} в парке кленовый *лист*; заметил{a} гусеницу на *листе* капусты; нарисовал{a} прожилки дубового *листа*
  вырвал{a} из тетради чистый *лист*; написал{a} письмо на *листе* бумаги; оторвал{a} уголок тетрадного *листа*
кисть
  купил{a} мягкую *кисть* для акварели; покрасил{a} забор широкой *кистью*; смыл{a} краску с тонкой *кисти*
  вывихнул{a} левую *кисть* на тренировке; едва шевелил{a} больной *кистью*; чувствовал{a} боль в правой *кисти*
ручка
  купил{a} в киоске шариковую *ручку*; подписал{a} открытку синей *ручкой*; сменил{a} стержень в гелевой *ручке*
  покрасил{a} дверную *ручку*; поцарапал{a} ладонь дверной *ручкой*; завязал{a} веревку на *ручке* чемодана
язык
  показал{a} врачу *язык* и горло; прикусил{a} кончик *языка*; облизал{a} сладкую ложку *языком*
  выучил{a} испанский *язык* без учителя; сдал{a} экзамен по грамматике *языка*; гордил{sya} родным *языком* и культурой
мышь
  заметил{a} в амбаре серую *мышь*; испугал{sya} полевой *мыши* в траве; наблюдал{a} за юркой *мышью* в норе
  подключил{a} к ноутбуку новую *мышь*; сменил{a} батарейку в игровой *мыши*; щелкнул{a} компьютерной *мышью* по значку
"""
_SUBJECTS = {
    "m": "Игорь; Павел; Олег; Сергей; сосед; учитель; студент; инженер; дедушка; мой брат; наш дядя; старый доктор",
    "f": "Анна; Ольга; Мария; Ирина; соседка; учительница; студентка; бабушка; моя сестра; наша тетя; подруга мамы",
}
_ENDINGS = {"m": {"a": "", "sya": "ся"}, "f": {"a": "а", "sya": "ась"}}
_TIMES = (
    "утром; вечером, вчера; сегодня, сначала; потом, летом; осенью, в субботу; в воскресенье, в мае; в июне, "
    "в марте; в апреле, во вторник; в четверг, до обеда; после обеда, в прошлом году; в этом году, зимой; весной"
)


def _parse_words(text: str) -> dict[str, list[list[str]]]:
    words = re.findall(r"^(\w+)\n  (.*)\n  (.*)\n", text, flags=re.MULTILINE)
    return {word: [first.split("; "), second.split("; ")] for word, first, second in words}


WORDS = _parse_words(_WORDS_TEXT)
SUBJECTS = [(subject, gender) for gender, names in _SUBJECTS.items() for subject in names.split("; ")]
TIMES = [pair.split("; ") for pair in _TIMES.split(", ")]


class Sentence(NamedTuple):
    """A sentence and where its homonym stands in sense 1 and in sense 2: (start, end), end exclusive."""

    text: str
    spans: dict[int, tuple[int, int]]


def _form(phrase: str) -> str:
    return phrase.split("*")[1]


def _draw_sentence(rng: random.Random, word: str) -> Sentence:
    phrases = [(sense, rng.choice(options)) for sense, options in enumerate(WORDS[word], 1)]
    while _form(phrases[0][1]) == _form(phrases[1][1]):  # so that a search for the marked form finds the marked mention
        phrases = [(sense, rng.choice(options)) for sense, options in enumerate(WORDS[word], 1)]
    rng.shuffle(phrases)
    (subject, gender), (early, late) = rng.choice(SUBJECTS), rng.choice(TIMES)
    marked = f"{early} {subject} {phrases[0][1]}, а {late} {phrases[1][1]}".format(**_ENDINGS[gender])
    text, spans = "", {}
    for number, piece in enumerate(marked.split("*")):
        if number % 2:
            spans[phrases[number // 2][0]] = (len(text), len(text) + len(piece))
        text += piece
    return Sentence(text[0].upper() + text[1:], spans)


def _record(split: str, idx: int, word: str, sentences: tuple, senses: tuple[int, int], label: bool) -> dict:
    """Lay one record out as the official file of the split does, its odd offsets included."""
    texts = [sentence.text for sentence in sentences]
    (start1, end1), (start2, end2) = (s.spans[sense] for s, sense in zip(sentences, senses, strict=True))
    if split == "test":  # the end is inclusive here, and short words are tied to the next one by no-break spaces
        texts = [re.sub(r"\b([вксуо]) ", "\\1\u00a0", text, flags=re.IGNORECASE) + "." for text in texts]
        words = {"word": word, "sentence1": texts[0], "sentence2": texts[1], "idx": idx}
        return {**words, "start2": start2, "end2": end2 - 1, "start1": start1, "end1": end1 - 1}
    record = {"idx": idx, "word": word, "sentence1": texts[0], "sentence2": texts[1]}
    record.update(start1=start1, end1=end1 + 1, start2=start2, end2=end2 + 1)  # one too many, as published
    # The senses agree with the published label, as everywhere in the official file: a flipped label has a wrong sense.
    return {**record, "label": label, "gold_sense1": senses[0], "gold_sense2": senses[0] if label else 3 - senses[0]}


def records_with_truth(split: str, size: int, seed: int) -> list[tuple[dict, bool]]:
    """Records as published beside the label that is true by construction (the published one may be flipped)."""
    rng = random.Random(f"russe/{split}/{seed}")
    drawn, seen = [], set()
    while len(drawn) < size:
        word = rng.choice(list(WORDS))
        sentences = (_draw_sentence(rng, word), _draw_sentence(rng, word))
        texts = frozenset(sentence.text for sentence in sentences)
        if len(texts) == 2 and texts not in seen:
            seen.add(texts)
            same, first = rng.choice((1, 2)), rng.choice((1, 2))
            drawn += [(word, sentences, (same, same)), (word, sentences, (first, 3 - first))]
    drawn = drawn[:size]
    rng.shuffle(drawn)
    truth = [senses[0] == senses[1] for *_, senses in drawn]
    flipped, flips = set(), round(size * NOISE_SHARE)
    for label, count in ((True, flips // 2), (False, flips - flips // 2)):  # from both, to keep the balance
        flipped.update(rng.sample([idx for idx, true_label in enumerate(truth) if true_label == label], count))
    return [
        (_record(split, idx, *drawn[idx], label=label != (idx in flipped)), label) for idx, label in enumerate(truth)
    ]


def records(split: str, size: int, seed: int) -> list[dict]:
    """Return records in the schema of RUSSE: is the marked word used in the same sense in both sentences?

    Args:
        split: train, val or test; test has no labels and no senses, and its offsets follow another convention.
        size: Number of records; every pair of sentences occurs with both labels.
        seed: See `morocco_lib.data.synthetic.records`.
    Limits: a tenth of the labels of train and val is flipped, so no honest classifier passes about 0.90 accuracy. There
        are only twelve words with a few phrases each: a score says nothing about real text.
    """
    return [record for record, _ in records_with_truth(split, size, seed)]
