ARG SERVING=latest
FROM tensorflow/serving:${SERVING}
COPY . /models
EXPOSE 8500 8501
CMD ["--model_config_file=/models/models.config"]
