"""`scripts/soak.sh`: train and convert for a long time, and watch memory, open files and throughput of every process.

`inputs` writes records, models and a nuScenes data set, `jobs` runs the commands, `watch` samples their processes, `reference`
measures the speed of the machine, `trends` computes slopes with intervals, and `report` draws and prints them. `log_length`
measures what the log of a long training costs.
"""
