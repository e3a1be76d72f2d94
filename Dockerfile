# Airflow with Tololo in it. The lock is the same as the one of `make install`.
FROM apache/airflow:3.3.2-python3.12
COPY --chown=airflow:0 requirements.txt /opt/tololo/requirements.txt
RUN pip install --no-cache-dir --no-deps -r /opt/tololo/requirements.txt
COPY --chown=airflow:0 . /opt/tololo
RUN pip install --no-cache-dir --no-deps -e /opt/tololo
ENV AIRFLOW__CORE__DAGS_FOLDER=/opt/tololo/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/tololo/plugins \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    TOLOLO_INCLUDE=/opt/tololo/include \
    TOLOLO_HOME=/var/lib/tololo
