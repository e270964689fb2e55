"""Synthetic TERRa records: small pieces of news in Russian, and hypotheses that follow from them or do not.

Every sentence is assembled from the scenes and tables below. A scene is one small piece of news: lines that start with
"P" are premises (each tells all facts of the scene), "+" lines follow from every premise, "-" lines do not. The word
after the sign is the kind of the hypothesis. Russian inflects, so the tables hold ready word forms and templates ask
for the form by name: {city.loc} is "в Казани", {thing.acc} "скрипку", {person.a} the ending of a past tense.
"""

import random
import re
from types import SimpleNamespace
from typing import NamedTuple

SIZES = {"train": 1500, "val": 300, "test": 300}
NOISE_SHARE = 0.1
LABELS = ("entailment", "not_entailment")
ENTAILMENT_SHARE = {"train": 0.52, "val": 0.5, "test": 0.5}  # TERRa's train split leans the same way

# Endings and words that agree with a noun of the gender; "p" is the plural.
_AGREEING = {
    "m": {"a": "", "sya": "ся", "he": "он", "his": "его", "which": "который", "new": "новый",
          "most": "самый большой"},
    "f": {"a": "а", "sya": "ась", "he": "она", "his": "ее", "which": "которую", "new": "новая",
          "most": "самая большая"},
    "n": {"a": "о"},
    "p": {"a": "и"},
}  # fmt: skip

# Name and columns of a table, then rows split by ";" and cells by ",". Column g is the gender.
_TABLES_TEXT = """
city gen acc loc
  Казани, в Казань, в Казани; Твери, в Тверь, в Твери; Самары, в Самару, в Самаре; Вологды, в Вологду, в Вологде;
  Перми, в Пермь, в Перми; Омска, в Омск, в Омске; Рязани, в Рязань, в Рязани; Тулы, в Тулу, в Туле;
  Калуги, в Калугу, в Калуге; Ярославля, в Ярославль, в Ярославле; Томска, в Томск, в Томске; Курска, в Курск, в Курске;
  Саратова, в Саратов, в Саратове; Воронежа, в Воронеж, в Воронеже; Владимира, во Владимир, во Владимире
day
  в понедельник; во вторник; в среду; в четверг; в пятницу; в субботу; в воскресенье
first nom g
  Игорь, m; Павел, m; Олег, m; Сергей, m; Андрей, m; Виктор, m; Анна, f; Ольга, f; Мария, f; Ирина, f; Елена, f; Вера, f
last
  Лапин; Крылов; Соколов; Гусев; Орлов; Фомин; Зимин; Беляев; Титов; Голубев; Панин; Шубин; Рогов; Жуков; Ершов; Седов
job
  архитектор; режиссер; дирижер; тренер; врач; композитор; депутат; инженер; фотограф; журналист
post
  пресс-секретарь мэрии; представитель областного правительства; корреспондент радио; глава района;
  депутат городской думы; редактор местной газеты; сотрудник пресс-службы; председатель городского совета
said
  сказал; сообщил; рассказал; заявил; отметил; уточнил
paper
  Вечерние новости; Городской вестник; Северный край; Наша область; Утренняя почта; Речной порт
venue nom gen acc g
  библиотека, библиотеки, библиотеку, f; музей, музея, музей, m; бассейн, бассейна, бассейн, m;
  театр, театра, театр, m; каток, катка, каток, m; рынок, рынка, рынок, m; аптека, аптеки, аптеку, f;
  поликлиника, поликлиники, поликлинику, f; гостиница, гостиницы, гостиницу, f; кинотеатр, кинотеатра, кинотеатр, m
club
  Метеор; Буран; Комета; Гранит; Сокол; Вымпел; Заря; Парус; Янтарь; Маяк
score
  3:1; 4:2; 5:0; 2:0; 6:3; 4:1; 3:2; 7:4
thing nom gen acc g
  велосипед, велосипеда, велосипед, m; сумка, сумки, сумку, f; ноутбук, ноутбука, ноутбук, m;
  гитара, гитары, гитару, f; самокат, самоката, самокат, m; скрипка, скрипки, скрипку, f;
  картина, картины, картину, f; фотоаппарат, фотоаппарата, фотоаппарат, m; шуба, шубы, шубу, f
goods nom acc g
  молоко, молоко, n; сахар, сахар, m; бензин, бензин, m; гречка, гречку, f; рыба, рыбу, f; яйца, яйца, p;
  овощи, овощи, p; чай, чай, m; масло, масло, n; мука, муку, f; соль, соль, f; фрукты, фрукты, p
trend went did undid
  выросли, подорожал, подешевел; поднялись, подорожал, подешевел; увеличились, подорожал, подешевел;
  снизились, подешевел, подорожал
offer gen will do
  участия в конкурсе, будет участвовать в конкурсе, участвовать в конкурсе;
  поездки на фестиваль, поедет на фестиваль, поехать на фестиваль;
  выступления на форуме, выступит на форуме, выступить на форуме;
  работы в столице, будет работать в столице, работать в столице; съемок в кино, будет сниматься в кино, сняться в кино;
  переезда за границу, переедет за границу, переехать за границу; интервью, даст интервью, дать интервью
finding claim yes no
  зеленый чай улучшает память, зеленый чай полезен для памяти, зеленый чай вредит памяти;
  дневной сон снижает усталость, после дневного сна люди меньше устают, дневной сон усиливает усталость;
  пчелы умеют считать до пяти, пчелы способны считать, пчелы не умеют считать;
  вороны узнают людей в лицо, вороны запоминают лица, вороны не отличают одного человека от другого;
  уличный шум мешает детям учиться, из-за шума дети учатся хуже, уличный шум никак не влияет на учебу;
  ежедневные прогулки укрепляют сердце, ходить пешком полезно для сердца, прогулки опасны для сердца;
  растения быстрее растут при синем свете, синий свет ускоряет рост растений, синий свет замедляет рост растений
people nom gen
  туристы, туристов; грибники, грибников; рыбаки, рыбаков; школьники, школьников; студенты, студентов; лыжники, лыжников
spot gen loc
  из леса, в лесу; с горы, на горе; с острова, на острове; из пещеры, в пещере; из ущелья, в ущелье; с болота, на болоте
cause
  сильного ветра; снегопада; поломки локомотива; ремонта моста; аварии на переезде; тумана; урагана; упавшего дерева
"""

# Numbers come as {n} (the true one), {low} (below it) and {m} (another one); all take the genitive plural.
_SCENES_TEXT = """
P {city.loc} {day}{part} открыл{venue.sya} {venue.new} {venue.nom}. Строительство продолжалось {n} месяцев.
P {venue.new} {venue.nom}, {venue.which} строили {n} месяцев, {day}{part} открыл{venue.sya} {city.loc}.
+ place: {city.loc} появил{venue.sya} {venue.new} {venue.nom}.
+ at_least: {venue.acc} строили более {low} месяцев.
+ consequence: у жителей {city.gen} теперь есть {venue.new} {venue.nom}.
+ not_opposite: строительство {venue.gen} больше не ведется.
+ time: {venue.new} {venue.nom} начал{venue.a} работу {day}.
- antonym: {city.loc} закрыли {venue.acc}.
- cancelled: строительство {venue.gen} отменили.
- place: {venue.new} {venue.nom} открыл{venue.sya} {city2.loc}.
- number: {venue.acc} построили ровно за {m} месяцев.
- nobody: на открытие {venue.gen} никто не пришел.
- negation: {venue.new} {venue.nom} еще не открыл{venue.sya}.
- exaggeration: это {venue.most} {venue.nom} в стране.

P {city.loc} {day}{part} футболисты команды "{club}" обыграли клуб "{club2}" со счетом {score}. \
На трибунах собралось {n} тысяч зрителей.
P команда "{club}" победила команду "{club2}" - {score}. \
Матч прошел {day}{part} {city.loc}, его увидели {n} тысяч зрителей.
+ paraphrase: команда "{club}" выиграла матч.
+ paraphrase: команда "{club2}" потерпела поражение.
+ place: игра состоялась {city.loc}.
+ not_opposite: встреча не закончилась вничью.
+ at_least: за игрой следило более {low} тысяч человек.
- roles: команда "{club2}" выиграла матч.
- antonym: команда "{club}" проиграла.
- negation: команды сыграли вничью.
- cancelled: матч отменили из-за погоды.
- nobody: на трибунах никого не было.
- number: матч увидели ровно {m} тысяч зрителей.
- never: команда "{club}" еще никогда не побеждала.

P у жительницы {city.gen} {day}{part} украли {thing.acc}. \
Полицейские задержали вора через {n} часов и вернули {thing.acc} хозяйке.
P полиция задержала вора, который {day}{part} унес {thing.acc} из квартиры жительницы {city.gen}. \
Через {n} часов {thing.nom} вернул{thing.sya} к хозяйке.
+ paraphrase: вора поймали.
+ consequence: {thing.nom} снова у хозяйки.
+ actor: преступника нашли полицейские.
+ not_opposite: хозяйка не осталась без {thing.gen}.
+ time: кража случилась {day}.
- negation: вора так и не нашли.
- antonym: преступнику удалось скрыться.
- time: кража случилась {day2}.
- nobody: о краже никто не узнал.
- refusal: хозяйка отказалась забрать {thing.acc}.
- unsupported: вор успел продать {thing.acc}.
- exaggeration: вор ограбил {m} квартир.

P цены на {goods.acc} {city.loc} за год {trend.went} на {n} процентов. Такие данные {day}{part} опубликовали статистики.
P как сообщили {day}{part} статистики, {city.loc} цены на {goods.acc} {trend.went} на {n} процентов.
+ paraphrase: {goods.nom} {city.loc} {trend.did}{goods.a}.
+ not_opposite: цены на {goods.acc} не остались прежними.
+ generalisation: цены {city.loc} меняются.
+ at_least: цены изменились более чем на {low} процентов.
+ actor: о ценах рассказали статистики.
- antonym: {goods.nom} {city.loc} {trend.undid}{goods.a}.
- negation: цены на {goods.acc} не изменились.
- number: цены {trend.went} ровно на {m} процентов.
- place: {goods.nom} {trend.did}{goods.a} {city2.loc}.
- nobody: никто не следит за ценами.
- refusal: статистики отказались назвать новые цены.
- exaggeration: все товары всегда дорожают одинаково.

P {job} {person} {day}{part} отказал{person.sya} от {offer.gen}. \
По {person.his} словам, {person.he} хочет больше времени проводить с семьей.
P "Я хочу чаще бывать дома с семьей", - сказал{person.a} {job} {person}. \
{day}{part} стало известно, что {person.he} отказал{person.sya} от {offer.gen}.
+ not_opposite: {person} не {offer.will}.
+ cause: причиной отказа стала семья.
+ paraphrase: {person} отклонил{person.a} предложение.
+ consequence: семья оказалась важнее {offer.gen}.
+ actor: {person} объяснил{person.a} свое решение.
- antonym: {person} согласил{person.sya} {offer.do}.
- cause: причиной отказа стала болезнь.
- never: {person} никогда не говорил{person.a} о семье.
- unsupported: {person} мечтает {offer.do}.
- nobody: о решении никто не узнал.
- exaggeration: {person} всегда отказывается от всех предложений.

P ученые из {city.gen} выяснили, что {finding.claim}. Исследование длилось {n} месяцев, результаты опубликовали {day}.
P по данным исследования, которое за {n} месяцев провели ученые {city.loc}, {finding.claim}. Статья вышла {day}{part}.
+ paraphrase: {finding.yes}.
+ actor: открытие сделали ученые.
+ at_least: ученые работали более {low} месяцев.
+ not_opposite: результаты работы не стали скрывать.
+ time: о результатах можно было прочитать {day}.
- antonym: {finding.no}.
- place: открытие сделали {city2.loc}.
- number: ученые потратили на работу ровно {m} месяцев.
- refusal: ученые отказались публиковать результаты.
- nobody: этот вопрос никто не изучал.
- cancelled: исследование прекратили досрочно.

P спасатели {city.gen} {day}{part} нашли и эвакуировали {spot.gen} {n} {people.gen}. \
Все они здоровы и уже вернулись домой.
P {n} {people.gen} заблудились {spot.loc}, но {day}{part} их нашли спасатели из {city.gen}. \
Врачи осмотрели всех и отпустили домой.
+ nobody: никто из {people.gen} не погиб.
+ paraphrase: {people.gen} спасли.
+ at_least: помощь получили более {low} человек.
+ actor: людей нашли спасатели.
+ consequence: {people.nom} уже дома.
- negation: {people.gen} до сих пор не нашли.
- antonym: несколько {people.gen} погибли.
- number: спасли ровно {m} {people.gen}.
- refusal: спасатели отказались искать людей.
- unsupported: всех {people.gen} отправили в больницу.
- roles: {people.nom} спасли спасателей.
- never: {spot.loc} никто никогда не терялся.

P поезд из {city.gen} {city2.acc} {day}{part} опоздал на {n} минут из-за {cause}.
P из-за {cause} поезд, который шел из {city.gen} {city2.acc}, {day}{part} задержался на {n} минут.
P пассажиры поезда из {city.gen} {city2.acc} {day}{part} потеряли {n} минут. Поезд задержался из-за {cause}.
+ paraphrase: поезд прибыл позже расписания.
+ cause: причина опоздания поезда известна.
+ not_opposite: поезд не пришел вовремя.
+ at_least: опоздание составило более {low} минут.
+ consequence: пассажирам пришлось ждать.
+ time: поезд задержался {day}.
- antonym: поезд прибыл раньше срока.
- cancelled: поезд отменили.
- cause: поезд задержался из-за {cause2}.
- number: поезд опоздал ровно на {m} минут.
- roles: поезд шел из {city2.gen} {city.acc}.
- never: этот поезд никогда не опаздывает.
"""

# Asides repeat the signal words of false hypotheses ("не", "никто", "отказались"), so that no single word decides.
_ASIDES = """
Об этом пишет газета "{paper}".
Подробный репортаж газета "{paper}" обещает напечатать {day2}.
Об этом сообщил{speaker.a} {post} {speaker}.
Других подробностей {post} {speaker} не сообщил{speaker.a}.
В мэрии от комментариев отказались.
Официально эту новость пока никто не комментировал.
Раньше о таком местные газеты никогда не писали.
По словам очевидцев, новость быстро разошлась по городу, хотя сначала в нее почти никто не поверил.
{post} {speaker} добавил{speaker.a}, что жители обсуждают это событие в социальных сетях, а местные журналисты готовят \
большой репортаж, который выйдет на городском телевидении в конце недели, если в планы не вмешается погода.
""".strip().splitlines()


class Row(SimpleNamespace):
    """One row of a table: a word form for each column; the first column stands for the row itself."""

    def __str__(self) -> str:
        return next(iter(vars(self).values()))


def _parse_tables(text: str) -> dict[str, list[Row]]:
    tables = {}
    for name, columns, rows in re.findall(r"^(\w+)(.*)\n((?:  .*\n)+)", text, flags=re.MULTILINE):
        tables[name] = []
        for row in rows.split(";"):
            forms = dict(zip(columns.split() or ["nom"], (cell.strip() for cell in row.split(",")), strict=True))
            tables[name].append(Row(**forms, **_AGREEING.get(forms.get("g", ""), {})))
    return tables


class Scene(NamedTuple):
    """Templates of one piece of news: premises, and (kind, hypothesis) pairs by true label."""

    premises: list[str]
    hypotheses: dict[str, list[tuple[str, str]]]


def _parse_scenes(text: str) -> list[Scene]:
    scenes = []
    for block in text.strip().split("\n\n"):
        scene = Scene([], {label: [] for label in LABELS})
        for line in block.splitlines():
            if line.startswith("P "):
                scene.premises.append(line[2:])
            else:
                kind, _, hypothesis = line[2:].partition(": ")
                scene.hypotheses[LABELS["+-".index(line[0])]].append((kind, hypothesis))
        scenes.append(scene)
    return scenes


TABLES = _parse_tables(_TABLES_TEXT)
SCENES = _parse_scenes(_SCENES_TEXT)
# Numbers that take the genitive plural in Russian: not 21, 22, 31, 32, ... ("21 день", "22 дня").
_NUMBERS = [n for n in range(5, 61) if n <= 20 or n % 10 not in (1, 2, 3, 4)]


def _slots(rng: random.Random) -> dict[str, object]:
    """Fill every slot: two different rows of each table ({city} is the true one, {city2} another), people, numbers."""
    slots = {}
    for name, rows in TABLES.items():
        slots[name], slots[name + "2"] = rng.sample(rows, 2)
    for name, first, last in (("person", slots["first"], slots["last"]), ("speaker", slots["first2"], slots["last2"])):
        slots[name] = Row(**{**vars(first), "nom": f"{first} {last}{first.a}"})
    at = rng.randrange(3, len(_NUMBERS))
    slots.update(n=_NUMBERS[at], low=_NUMBERS[rng.randrange(at)], m=rng.choice(_NUMBERS[:at] + _NUMBERS[at + 1 :]))
    return {**slots, "part": rng.choice(("", "", " утром", " днем", " вечером"))}


def _fill(template: str, slots: dict) -> str:
    return re.sub(r'(?:^|[.!?] )"?[а-я]', lambda start: start.group().upper(), template.format(**slots))


def _csv_field(text: str) -> str:
    """Quote as the official files do, which were exported from CSV without undoing its quoting."""
    return '"' + text.replace('"', '""') + '"' if '"' in text else text


def _draw(rng: random.Random, true_label: str) -> tuple[str, str]:
    scene, slots, form = rng.choice(SCENES), _slots(rng), rng.random()
    premise = _fill(rng.choice(scene.premises), slots)
    if form < 0.15 and '"' not in premise:
        premise = f'"{premise[:-1]}", - ' + "{said}{speaker.a} {post} {speaker}.".format(**slots)
    elif form < 0.5:
        premise += " " + _fill(rng.choice(_ASIDES), slots)
    hypothesis = _fill(rng.choice(scene.hypotheses[true_label])[1], slots)
    return _csv_field(premise), _csv_field(hypothesis)


def records_with_truth(split: str, size: int, seed: int) -> list[tuple[dict, str]]:
    """Records as published beside the label that is true by construction (the published one may be flipped)."""
    # Seeding with a string hashes it by SHA-512, so the stream depends neither on the machine nor on PYTHONHASHSEED.
    rng = random.Random(f"terra/{split}/{seed}")
    entailed = round(size * ENTAILMENT_SHARE[split])
    truth = [LABELS[0]] * entailed + [LABELS[1]] * (size - entailed)
    rng.shuffle(truth)
    flipped, flips = set(), round(size * NOISE_SHARE)
    for label, count in zip(LABELS, (flips // 2, flips - flips // 2), strict=True):  # from both, to keep the balance
        flipped.update(rng.sample([idx for idx, true_label in enumerate(truth) if true_label == label], count))
    records, seen = [], set()
    for idx, true_label in enumerate(truth):
        pair = _draw(rng, true_label)
        while pair in seen:
            pair = _draw(rng, true_label)
        seen.add(pair)
        record = {"premise": pair[0], "hypothesis": pair[1]}
        if split != "test":
            record["label"] = LABELS[1 - LABELS.index(true_label)] if idx in flipped else true_label
        records.append(({**record, "idx": idx}, true_label))
    return records


def records(split: str, size: int, seed: int) -> list[dict]:
    """Return records in the schema of TERRa: does the hypothesis follow from the premise?

    Args:
        split: train, val or test; test has no labels.
        size: Number of records; pairs of premise and hypothesis are distinct within the split.
        seed: See `morocco_lib.data.synthetic.records`.
    Limits: a tenth of the labels of train and val is flipped, so no honest classifier passes about 0.90 accuracy. The
        sentences come from a few templates whose wording betrays the label: a score says nothing about real text.
    """
    return [record for record, _ in records_with_truth(split, size, seed)]
