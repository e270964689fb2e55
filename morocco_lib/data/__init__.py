"""Where records come from: folders in the official layout, downloads, synthetic records; and the stream that is fed.

May import `config` and `tasks`.
"""

from morocco_lib.data.splits import describe as describe
from morocco_lib.data.splits import find_split as find_split
from morocco_lib.data.splits import is_synthetic as is_synthetic
from morocco_lib.data.splits import origin as origin
from morocco_lib.data.splits import read_split as read_split
from morocco_lib.data.synthetic import generator_names  # noqa: F401
from morocco_lib.data.synthetic import write as make_synthetic  # noqa: F401
