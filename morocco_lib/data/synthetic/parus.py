"""Synthetic PARus records: which of two sentences is the cause, or the effect, of the premise?

A scene is "premise | its cause | its effect", and the two choices are always the cause and the effect. Every filled
scene is asked about in up to four ways: for the cause or the effect, with the choices in either order. The records of
a pair that differs in the order only have the same words and opposite labels, so counting words cannot tell them apart.
"""

import random

from morocco_lib.data.synthetic.terra import _fill

SIZES = {"train": 800, "val": 200, "test": 200}
NOISE_SHARE = 0.1
LABELS = (0, 1)

_SCENES_TEXT = """
{who} опоздал{a} на поезд | {he} долго искал{a} билет дома | {he} купил{a} билет на следующий рейс
{who} промок{la} под дождем | {he} забыл{a} зонт дома | {he} переодел{sya} в сухое
{who} проспал{a} | {he} не завел{a} будильник | {he} опоздал{a} на работу
{who} порезал{a} палец | {he} взял{a} слишком острый нож | {he} заклеил{a} рану пластырем
{who} потерял{a} ключи | у {im} в кармане была дыра | {he} вызвал{a} слесаря
{who} заболел{a} | {he} гулял{a} в мороз без шапки | {he} вызвал{a} врача
{who} выиграл{a} в лотерею | {he} много лет покупал{a} билеты | {he} купил{a} путевку на море
{who} разбил{a} чашку | чашка стояла на самом краю стола | {he} собрал{a} осколки веником
{who} сильно проголодал{sya} | {he} пропустил{a} завтрак | {he} съел{a} две тарелки супа
{who} заблудил{sya} в лесу | {he} не взял{a} с собой карту | {he} позвонил{a} спасателям
{who} купил{a} новый телефон | старый аппарат упал в воду | {he} перенес{la} на него все контакты
{who} получил{a} премию | {he} перевыполнил{a} план | {he} пригласил{a} друзей в ресторан
{who} спалил{a} пирог | {he} заговорил{sya} по телефону | {he} открыл{a} окна и проветрил{a} кухню
{who} завел{a} собаку | {emu} было одиноко | теперь {he} рано встает на прогулки
{who} сломал{a} ногу | {he} упал{a} на лыжном спуске | {emu} наложили гипс
{who} простоял{a} в пробке два часа | на дороге случилась авария | {he} опоздал{a} на собеседование
{who} устал{a} | {he} весь день копал{a} картошку | {he} рано лег{la} спать
{who} испугал{sya} | в темноте что-то громко зашуршало | {he} включил{a} свет во всем доме
{who} записал{sya} на курсы испанского | {he} мечтал{a} о поездке в Мадрид | {he} купил{a} учебник и словарь
{who} занял{a} денег у друга | {emu} задержали зарплату | {he} обещал{a} вернуть долг через месяц
{who} провалил{a} экзамен | {he} почти не готовил{sya} | {he} записал{sya} на пересдачу
{who} порвал{a} куртку | {he} перелезал{a} через забор | {he} отнес{la} куртку в ателье
{who} обгорел{a} на солнце | {he} уснул{a} на пляже | {he} намазал{a} плечи сметаной
{who} пересолил{a} суп | {he} перепутал{a} соль с сахаром | {he} вылил{a} весь суп в раковину
{who} посадил{a} яблоню | {emu} подарили саженец | {he} каждый день поливал{a} деревце
{who} не смог{la} застегнуть пальто | {he} поправил{sya} за отпуск | {he} купил{a} пальто большего размера
{who} поссорил{sya} с соседями | они шумели каждую ночь | {he} перестал{a} с ними здороваться
{who} остал{sya} без света | ветер оборвал провода | {he} достал{a} свечи
{who} подобрал{a} чужой кошелек | кто-то уронил его в автобусе | {he} отнес{la} находку в полицию
{who} победил{a} на турнире | {he} тренировал{sya} целый год | {emu} вручили кубок
{who} не спал{a} всю ночь | за стеной играла громкая музыка | утром {he} выпил{a} три чашки кофе
{who} испачкал{a} рубашку | {he} пролил{a} на себя вишневый сок | {he} отдал{a} рубашку в чистку
{who} переехал{a} в другой город | {emu} предложили там хорошую работу | теперь {he} редко видит старых друзей
{who} уронил{a} телефон в реку | {he} делал{a} снимок с моста | {he} остал{sya} без связи
{who} отменил{a} поездку | аэропорт закрыли из-за тумана | {emu} вернули деньги за билеты
{who} прочитал{a} книгу за одну ночь | сюжет оказался захватывающим | утром {he} посоветовал{a} ее друзьям
{who} бросил{a} курить | врач обнаружил у {im} болезнь легких | {he} выбросил{a} все пепельницы
{who} поймал{a} огромную рыбу | {he} приехал{a} на озеро до рассвета | {he} сварил{a} уху на всю деревню
"""
_WHO_TEXT = """
Анна f; Игорь m; Ольга f; Сергей m; Елена f; Павел m; Марина f; Олег m; Вера f; Андрей m; Ирина f; Виктор m; Дарья f;
Максим m; Юлия f; Роман m; Светлана f; Денис m; Наталья f; Антон m; сосед m; соседка f; студент m; студентка f;
мой брат m; моя сестра f; наш учитель m; наша учительница f; мой дядя m; моя тетя f; племянник m; племянница f
"""
_WHEN = ("", "", "", "вчера ", "однажды ", "в понедельник ", "во вторник ", "в среду ", "в четверг ", "в пятницу ",
         "в субботу ", "в воскресенье ", "недавно ", "на прошлой неделе ", "в прошлом месяце ")  # fmt: skip
_AGREEING = {
    "m": {"a": "", "sya": "ся", "la": "", "he": "он", "im": "него", "emu": "ему"},
    "f": {"a": "а", "sya": "ась", "la": "ла", "he": "она", "im": "нее", "emu": "ей"},
}

SCENES = [line.split(" | ") for line in _SCENES_TEXT.strip().splitlines()]
_WHO = [name.split() for name in _WHO_TEXT.split(";")]


def _draw(rng: random.Random) -> tuple[str, str, str]:
    """Return a filled scene: premise, cause, effect."""
    scene, (*who, gender) = rng.choice(SCENES), rng.choice(_WHO)
    slots = {"who": " ".join(who), **_AGREEING[gender]}
    premise, cause, effect = (_fill(text, slots) + "." for text in (rng.choice(_WHEN) + scene[0], *scene[1:]))
    return premise, cause, effect


def records_with_truth(split: str, size: int, seed: int) -> list[tuple[dict, int]]:
    """Records as published beside the label that is true by construction (the published one may be flipped)."""
    rng = random.Random(f"parus/{split}/{seed}")
    wrong = round(size * NOISE_SHARE)
    drawn, seen = [], set()  # a list of pairs of records with opposite labels; the last pair of an odd size is cut
    while 2 * len(drawn) < size:
        premise, cause, effect = scene = _draw(rng)
        if scene in seen:
            continue
        seen.add(scene)
        questions = ["cause", "effect"]
        rng.shuffle(questions)
        for question in questions[: (size - 2 * len(drawn) + 1) // 2]:
            right, other = (cause, effect) if question == "cause" else (effect, cause)
            drawn.append([(premise, right, other, question, 0), (premise, other, right, question, 1)])
    # Wrong labels come in pairs too, else the noise would be a signal of its own; an odd number leaves a single one.
    chosen = rng.sample(drawn[: size // 2], (wrong + 1) // 2)
    flipped = {row for number, pair in enumerate(chosen) for row in pair[: wrong - 2 * number]}
    rows = [row for pair in drawn for row in pair][:size]
    rng.shuffle(rows)
    records = []
    for idx, row in enumerate(rows):
        *texts, true_label = row
        record = dict(zip(("premise", "choice1", "choice2", "question"), texts, strict=True))
        if split != "test":
            record["label"] = 1 - true_label if row in flipped else true_label
        records.append(({**record, "idx": idx}, true_label))
    return records


def records(split: str, size: int, seed: int) -> list[dict]:
    """Return records in the schema of PARus: which choice is the cause, or the effect, of the premise?

    Args:
        split: train, val or test; test has no labels.
        size: Number of records, distinct within the split; an even size has as many zeros as ones.
        seed: See `morocco_lib.data.synthetic.records`.
    Limits: a tenth of the labels of train and val is flipped. The few scenes recur in every split, so a model that
        sees the order of the words can learn them by heart, which real PARus does not allow.
    """
    return [record for record, _ in records_with_truth(split, size, seed)]
