"""The library's triggers where Airflow's triggerer finds them: it knows the plugins folder, not the DAGs folder.

Every process loads this file, and a task must have the library of its own version of the DAGs. So the library is
imported at the first use of a trigger, which only the triggerer makes.
"""

from typing import Any

import tandem_library


def __getattr__(name: str) -> Any:
    if name != "EndOfJob":
        raise AttributeError(name)
    tandem_library.find()
    from tandem.runtimes.deferral import EndOfJob

    return EndOfJob
