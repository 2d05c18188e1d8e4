# The image of a Python job, and with --target light that of a Spark job that runs without Spark. Its context:
# requirements.txt, sitecustomize.py, cut_symbols.py, app/common/… and app/jobs/<job>/….
# All layers before the code depend only on the requirements, so jobs with the same requirements share them.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS packages
RUN python -c 'import os, sys; sys.exit(sys.version_info[:2] != (3, 11) or "CS_GNU_LIBC_VERSION" not in os.confstr_names)' \
    && python -m pip --version >/dev/null \
    || { echo "BASE_IMAGE has no 'python' 3.11 with pip and the GNU C library, expected an image like python:3.11-slim-bookworm; name one with --build-arg BASE_IMAGE=NAME." >&2; exit 1; }
COPY requirements.txt /
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m pip install -q --disable-pip-version-check --root-user-action=ignore --no-compile \
        --require-hashes --only-binary :all: --target /packages -r /requirements.txt
# Remove files that no job imports: tests, headers and sources for compilers, Arrow's RPC, Matrix Market files, a second
# zstandard, botocore's data of other services, the width of characters on terminals, keys without cryptography.
# libarrow_substrait stays (pyarrow's own library is linked to it). The program `strip` breaks *.libs, so symbols are cut
# off otherwise, and numpy's and scipy's equal libraries become one file. Python sources are removed, too: the compiled
# modules start as fast, and tracebacks keep files and line numbers.
COPY cut_symbols.py /
RUN cd /packages \
    && rm -rf bin share duckdb/experimental numpy/distutils numpy/_core/_simd.* \
        scipy/io/_fast_matrix_market zstandard/_cffi.* \
        pyarrow/include pyarrow/src pyarrow/includes pyarrow/libarrow*flight* pyarrow/_flight* pyarrow/*.so.*.*.* \
        pyarrow/libarrow_python.so pyarrow/libarrow_python_parquet_encryption.so \
    && rm -rf google/cloud/_storage_v2 google/cloud/storage/asyncio pyasn1 pyasn1_modules wcwidth \
    && find . -depth -type d \( -name tests -o -path ./joblib/test \) -exec rm -rf {} + \
    && find . -type f \( -name '*.a' -o -name '*.c' -o -name '*.cpp' -o -name '*.h' -o -name '*.hpp' -o -name '*.pxd' \
        -o -name '*.pxi' -o -name '*.pyi' -o -name '*.pyx' -o -name '*.tp' \) -delete \
    && find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name sts ! -name dynamodb -exec rm -rf {} + \
    && find boto3/data boto3/examples -mindepth 1 -maxdepth 1 ! -name s3 -exec rm -rf {} + \
    && python /cut_symbols.py . \
    && for library in scipy.libs/*; do \
        if cmp -s "$library" "numpy.libs/${library##*/}"; then ln -sf "../numpy.libs/${library##*/}" "$library"; fi; \
    done \
    && python -m compileall -q -j 0 -b --invalidation-mode unchecked-hash . \
    && find . -name '*.py' -delete \
    && chmod -R a+rX .

FROM packages AS code
COPY sitecustomize.py /start/
COPY app /app
RUN cd /app && ln -s jobs/* job \
    && python -m compileall -q --invalidation-mode unchecked-hash /app /start \
    && chmod -R a+rX /app /start

FROM ${BASE_IMAGE} AS image
RUN rm -rf /root/.cache /usr/local/bin/pip* /usr/bin/pip* /usr/local/lib/python3*/ensurepip /usr/lib/python3*/ensurepip \
        /usr/local/lib/python3*/site-packages/* /usr/lib/python3/dist-packages/* /usr/share/python-wheels \
    && chmod go-w /var/tmp /run/lock
COPY --from=packages /packages /packages
COPY --from=code /start /start
COPY --from=code /app /app
ENV PYTHONPATH=/app:/start:/packages PYTHONUNBUFFERED=1 HOME=/tmp TMPDIR=/tmp
USER 10001:10001

# Either build fails if the job lacks a module that it imports.
FROM image AS light
# With --read-only, /tmp is to be on disk, as with --volume /tmp: data that exceed the memory go there.
ENTRYPOINT ["python", "-m", "common.engines.light.submit", "/app/job/main.py"]
RUN python -m common.engines.light.submit /app/job/main.py --help >/dev/null

FROM image
ENTRYPOINT ["python", "/app/job/main.py"]
RUN python /app/job/main.py --help >/dev/null
