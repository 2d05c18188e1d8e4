"""Prints, for each pipeline, its parse's opened files, connections and processes, and its seconds of processor time.

The second parse counts, because imports that the first one makes are Airflow's affair.
"""

import json
import runpy
import sys
import time

sys.path.insert(0, sys.argv[1])
seen, parsed = [], {}
watched = ("open", "socket.connect", "socket.getaddrinfo", "sqlite3.connect", "subprocess.Popen", "os.system")
sys.addaudithook(lambda event, arguments: seen.append([event, str(arguments[0])]) if event in watched else None)
for folder in sys.argv[2:]:
    runpy.run_path(f"{sys.argv[1]}/{folder}/dag.py")
    seen.clear()
    began = time.process_time()
    runpy.run_path(f"{sys.argv[1]}/{folder}/dag.py")
    parsed[folder] = [list(seen), time.process_time() - began]
print(json.dumps(parsed))
