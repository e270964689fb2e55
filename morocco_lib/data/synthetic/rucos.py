"""Synthetic RuCoS records: a piece of news with its entities marked, and a query from which one entity was removed.

Each country, person or city of a text has one sentence of its own, and further mentions in other case forms. The query
says one of those sentences in other words, so the answer is the entity of the sentence that matches the query.
"""

import random
import re

SIZES = {"train": 400, "val": 100, "test": 100}
NOISE_SHARE = 0.1
_CASES = ("nom", "gen", "acc", "ins", "loc")

# Case forms in the order of _CASES; all countries are feminine, and none asks for "во".
_COUNTRIES = """
Норвегия, Норвегии, Норвегию, Норвегией, Норвегии; Бразилия, Бразилии, Бразилию, Бразилией, Бразилии
Германия, Германии, Германию, Германией, Германии; Турция, Турции, Турцию, Турцией, Турции
Канада, Канады, Канаду, Канадой, Канаде; Польша, Польши, Польшу, Польшей, Польше
Сербия, Сербии, Сербию, Сербией, Сербии; Греция, Греции, Грецию, Грецией, Греции
Куба, Кубы, Кубу, Кубой, Кубе; Дания, Дании, Данию, Данией, Дании
Румыния, Румынии, Румынию, Румынией, Румынии; Малайзия, Малайзии, Малайзию, Малайзией, Малайзии
"""
_CITIES = """
Казань, Казани, Казань, Казанью, Казани; Тверь, Твери, Тверь, Тверью, Твери; Самара, Самары, Самару, Самарой, Самаре
Вологда, Вологды, Вологду, Вологдой, Вологде; Пермь, Перми, Пермь, Пермью, Перми
Рязань, Рязани, Рязань, Рязанью, Рязани; Тула, Тулы, Тулу, Тулой, Туле; Калуга, Калуги, Калугу, Калугой, Калуге
Кострома, Костромы, Кострому, Костромой, Костроме
Томск, Томска, Томск, Томском, Томске; Курск, Курска, Курск, Курском, Курске; Тюмень, Тюмени, Тюмень, Тюменью, Тюмени
"""
_FIRST_NAMES = """
Игорь, Игоря, Игоря, Игорем, Игоре; Павел, Павла, Павла, Павлом, Павле; Сергей, Сергея, Сергея, Сергеем, Сергее
Андрей, Андрея, Андрея, Андреем, Андрее; Виктор, Виктора, Виктора, Виктором, Викторе
Максим, Максима, Максима, Максимом, Максиме; Никита, Никиты, Никиту, Никитой, Никите
"""
_LAST_NAMES = "Лапин; Крылов; Соколов; Гусев; Орлов; Фомин; Зимин; Беляев; Титов; Голубев; Панин; Шубин; Рогов; Ершов"
_LAST_ENDINGS = dict(zip(_CASES, ("", "а", "а", "ым", "е"), strict=True))

# Each line: the sentence of an entity | the query that says it in other words | things {x} that fill both.
_FACTS_TEXT = {
    "country": """
{nom} закупила {x} | По данным министерства, {x} за большие деньги приобрела @placeholder | партию электробусов; \
новые самолеты; вакцину от гриппа; речные паромы
в понедельник {nom} запретила {x} | Решение ограничить {x} @placeholder объяснила заботой о гражданах | ввоз бананов; \
продажу петард; рекламу азартных игр; вылов трески
весной {nom} примет {x} | Право провести {x} @placeholder получила после долгих споров | конгресс химиков; \
чемпионат по гребле; саммит министров транспорта; фестиваль кукольных театров
парламент {gen} отменил {x} | От планов вернуть {x} @placeholder отказалась надолго | налог на дачи; визовый сбор; \
пошлину на сахар; школьную форму""",
    "city": """
в {loc} открыли {x} | Увидеть {x} теперь может каждый, кто приедет в @placeholder | музей игрушки; ледовую арену; \
детский технопарк; ботанический сад
жители {gen} попросили построить {x} | Инженеры готовы возвести {x} и уже едут в @placeholder | канатную дорогу; \
вторую линию метро; мост через реку; новый автовокзал
{nom} готовится отреставрировать {x} | Привести в порядок {x} в @placeholder собираются к лету | старинный собор; \
драматический театр; городскую усадьбу; водонапорную башню
пожарные {gen} отстояли {x} | Огонь не уничтожил {x}, рассказали очевидцы из города @placeholder | мебельный склад; \
лесопильный завод; торговый центр; речной вокзал""",
    "person": """
режиссер {nom} снял {x} | На премьере, где показали {x}, @placeholder поблагодарил актеров | фильм о полярниках; \
комедию о студентах; сериал о сыщиках; сказку о драконе
профессор {nom} получил {x} | Когда {x} вручили победителю, @placeholder признался, что не ждал награды | премию за \
открытие кометы; медаль за словарь диалектов; грант на изучение вулканов; орден за спасение тигров
шахматист {nom} выиграл {x} | Домой {x} увез @placeholder, хотя начал игру с поражения | кубок северных стран; \
хрустальную корону; командный приз; золотую ладью
писатель {nom} закончил {x} | Издательство уже печатает {x}, а @placeholder правит последние страницы | роман о \
мореплавателях; повесть о сибирском селе; сборник детских рассказов; пьесу о моряках""",
}
# Further mentions, in the lead and in the lines of highlights.
_MENTIONS = {
    "country": "эксперты внимательно следят за {ins}; о планах {gen} раньше почти не писали; в {loc} новость обсуждают "
    "уже неделю; соседи не всегда понимают {acc}",
    "city": "туристы любят {acc}; из {gen} передают, что погода наладилась; за {ins} теперь следит вся область; "
    "в {loc} новость узнали из газет",
    "person": "с {ins} беседовал наш корреспондент; {acc} поздравили коллеги; у {gen} уже берут интервью; "
    "родные {gen} от разговора отказались",
}
_HIGHLIGHTS = {
    "country": "Чем живет сегодня {nom}; Репортаж из {gen}; Что изменится в {loc}; Пять книг, чтобы понять {acc}",
    "city": "Что посмотреть в {loc}; Город {nom} на старых снимках; Поездка в {acc}; Рассказ о жителях {gen}",
    "person": "Семь вопросов, на которые ответил {nom}; Спор с {ins}; Знакомьтесь: {nom}; Один день из жизни {gen}",
}


def _parse_forms(text: str) -> list[dict[str, str]]:
    return [dict(zip(_CASES, row.split(", "), strict=True)) for row in re.split("; |\n", text.strip())]


PLACES = {"country": _parse_forms(_COUNTRIES), "city": _parse_forms(_CITIES)}
FIRST_NAMES = _parse_forms(_FIRST_NAMES)
FACTS = {kind: [line.split(" | ") for line in text[1:].split("\n")] for kind, text in _FACTS_TEXT.items()}


def _draw_entities(rng: random.Random, kind: str, count: int) -> list[dict[str, str]]:
    if kind != "person":
        return rng.sample(PLACES[kind], count)
    names = zip(rng.sample(FIRST_NAMES, count), rng.sample(_LAST_NAMES.split("; "), count), strict=True)
    return [{case: f"{first[case]} {last}{_LAST_ENDINGS[case]}" for case in _CASES} for first, last in names]


def _mark(template: str, number: int, forms: dict[str, str], thing: str = "") -> str:
    """Fill a template and mark its entity with the entity's number: "<2:Перми>"."""
    text = template.format(x=thing, **{case: f"<{number}:{form}>" for case, form in forms.items()})
    return text[0].upper() + text[1:]


def _unmark(marked: str) -> tuple[str, list[tuple[int, dict]]]:
    """Return the text without marks, and every mention as (entity number, span) in the order of the text."""
    text, mentions = "", []
    for position, piece in enumerate(re.split("<(.*?)>", marked)):
        if position % 2:
            number, piece = piece.split(":")
            mentions.append((int(number), {"start": len(text), "end": len(text) + len(piece)}))
        text += piece
    return text, mentions


def _mentions(rng: random.Random, entities: list[tuple[str, dict]], templates: dict[str, str]) -> list[str]:
    """Mention two of the entities, each in another template."""
    left = {kind: iter(rng.sample(lines.split("; "), len(lines.split("; ")))) for kind, lines in templates.items()}
    numbers = rng.sample(range(len(entities)), 2)
    return [_mark(next(left[entities[number][0]]), number, entities[number][1]) for number in numbers]


def _draw(rng: random.Random) -> tuple[str, str, int]:
    """Return a marked text, a query, and the number of the entity that answers it."""
    entities = []  # kind, forms; two kinds, at least two entities each, so that the kind alone does not tell the answer
    for kind, count in zip(rng.sample(sorted(FACTS), 2), (2, rng.choice((2, 3))), strict=True):
        entities += [(kind, forms) for forms in _draw_entities(rng, kind, count)]
    facts = {kind: iter(rng.sample(lines, len(lines))) for kind, lines in FACTS.items()}
    sentences, queries = [], []
    for number, (kind, forms) in enumerate(entities):
        told, query, things = next(facts[kind])
        thing = rng.choice(things.split("; "))
        sentences.append(_mark(told, number, forms, thing) + ".")
        queries.append(query.format(x=thing) + ".")
    sentences += [line + "." for line in _mentions(rng, entities, _MENTIONS)]
    rng.shuffle(sentences)
    lines = [" ".join(sentences), *_mentions(rng, entities, _HIGHLIGHTS)]
    asked = rng.randrange(len(entities))
    return "\n@highlight\n".join(lines), queries[asked], asked


def records_with_truth(split: str, size: int, seed: int) -> list[tuple[dict, list[dict]]]:
    """Records as published beside the true answers (the published ones may be the mentions of a wrong entity)."""
    rng = random.Random(f"rucos/{split}/{seed}")
    flipped = set(rng.sample(range(size), round(size * NOISE_SHARE)))
    pairs = []
    for idx in range(size):
        marked, query, asked = _draw(rng)
        text, mentions = _unmark(marked)
        wrong = rng.choice(sorted({number for number, _ in mentions} - {asked}))
        truth, others = (
            [{**span, "text": text[span["start"] : span["end"]]} for number, span in mentions if number == entity]
            for entity in (asked, wrong)
        )
        answers = {} if split == "test" else {"answers": others if idx in flipped else truth}
        passage = {"text": text, "entities": [span for _, span in mentions]}
        qas = [{"query": query, **answers, "idx": idx}]
        pairs.append(({"idx": idx, "source": "Lenta", "passage": passage, "qas": qas}, truth))
    return pairs


def records(split: str, size: int, seed: int) -> list[dict]:
    """Return records in the schema of RuCoS: which entity of the passage was removed from the query?

    Args:
        split: train, val or test; test has no answers.
        size: Number of passages, each with one query.
        seed: See `morocco_lib.data.synthetic.records`.
    Limits: a tenth of the answers of train and val is a wrong entity. Finding one sentence is enough for every query,
        and the texts come from a few templates: a score says nothing about real text.
    """
    return [record for record, _ in records_with_truth(split, size, seed)]
