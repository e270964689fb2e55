"""RuLeanALBERT as an ordinary transformers model: what it is (`configuration`, `modeling`), its published form (`checkpoint`),
and answers without padding (`packed`).

May import `errors` and `foreign`, `packed` also the parts of `transformer` that it shares. transformers and torch are imported by who asks for it.
"""


def register() -> None:
    """Make transformers' Auto classes know a lean_albert."""
    from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForPreTraining

    from morocco_lib.models.lean_albert import modeling
    from morocco_lib.models.lean_albert.configuration import LeanAlbertConfig as Config

    AutoConfig.register(Config.model_type, Config, exist_ok=True)
    AutoModel.register(Config, modeling.LeanAlbertModel, exist_ok=True)
    AutoModelForMaskedLM.register(Config, modeling.LeanAlbertForMaskedLM, exist_ok=True)
    AutoModelForPreTraining.register(Config, modeling.LeanAlbertForPreTraining, exist_ok=True)
