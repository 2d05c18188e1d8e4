"""A small checkout: a Python job and a Spark job that share a module; only the Spark job imports it directly.

LIGHT adds a Spark job that also runs without Spark.
"""

from pathlib import Path

FILES = {
    "common/__init__.py": "",
    "common/near.py": "from common import far\n",
    "common/far.py": "FAR = 1\n",
    "common/lonely.py": "",
    "common/parts/__init__.py": "",
    "common/parts/one.py": "from . import two\nfrom .two import TWO\n",
    "common/parts/two.py": "TWO = 2\n\n\ndef late():\n    from common.parts.deep.three import THREE\n",
    "common/parts/deep/__init__.py": "from .. import four\n",
    "common/parts/deep/three.py": "THREE = 3\n",
    "common/parts/four.py": "",
    "common/contracts/rows@1.toml": 'description = "Rows."\n',
    "common/contracts/other@1.toml": 'description = "Others."\n',
    "requirements/learning.txt": "numpy==1\n",
    "requirements/spark.txt": "pyspark==4.0.2\n",
    "dockerfiles/python-job.Dockerfile": "ARG BASE_IMAGE\nFROM scratch\nCOPY start.py /\nCOPY app /app\n",
    "dockerfiles/spark-job.Dockerfile": "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY requirements/spark.txt /\n",
    "dockerfiles/start.py": "",
    "jobs/learn/job.toml": (
        '[job]\ndescription = "Learns."\nengine = "python"\nrequirements = "requirements/learning.txt"\n'
        '[inputs.rows]\ncontract = "rows@1"\n'
    ),
    "jobs/learn/main.py": "import common.near\n",
    "jobs/count/job.toml": (
        '[job]\ndescription = "Counts."\nengine = "spark"\n[outputs.rows]\ncontract = "rows@1"\n'
        '[spark]\ndriver_memory = "1g"\nexecutor_cores = 2\n[spark.conf]\n"spark.a" = "b c"\n'
    ),
    "jobs/count/main.py": "from common import far\n",
}

LIGHT = {
    "common/engines/__init__.py": "",
    "common/engines/frames/__init__.py": "from common.engines.frames import engine\n",
    "common/engines/frames/engine.py": (
        "from common.engines.light.activate import active\nfrom common.engines.light import files\n"
        "from common.engines.spark import io\n"
    ),
    "common/engines/light/__init__.py": "",
    "common/engines/light/activate.py": "def activate():\n    from common.engines.light import files\n",
    "common/engines/light/files.py": "",
    "common/engines/light/submit.py": "",
    "common/engines/spark/__init__.py": "",
    "common/engines/spark/io.py": "from common import near\n",
    "requirements/light.txt": "duckdb==2.0.0\n",
    "jobs/sum/job.toml": '[job]\ndescription = "Sums."\nengine = "spark"\nrequirements = "requirements/spark.txt"\n',
    "jobs/sum/main.py": "from common.engines import frames\n",
}


def write(root: Path, changes: dict[str, str]) -> None:
    for path, text in changes.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
