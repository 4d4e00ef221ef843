FROM python:3.11-slim
ARG EXTRAS=""
COPY . /src
RUN pip install --no-cache-dir "/src${EXTRAS}" && rm -r /src
ENV HOME=/tmp MPLBACKEND=agg
WORKDIR /work
VOLUME ["/work/tfrecords", "/work/runs"]
CMD ["python", "-m", "keras_tune.recipes.pretrain"]
