"""Damages small valid files at random, and watches the readers read them.

`python -m tests.fuzz --seconds 60` tries all readers; `--reader` and `--seed` choose. Each reader
has a file in `readers/`, and runs in a process of its own (`reading.py`), which `watching.py`
starts again after a fault. The input of a fault is kept in out/fuzz. Faults are an exception that
is not documented or does not name the file, more than 5 s of processor time, a process that ends,
a file opened outside the input's folder, and a program or a connection started. Files that C
libraries open are not seen.

Found so far, in 1.7 million inputs: pycocotools ends the process at a polygon's point that is NaN
or far away, and Pillow draws a circle of labelme's for a minute if its radius is 2³². Numbers of
thousands of digits, JSON nested too deeply, a long field of CSV, and a file's name that is no text
or too long raised what is not documented: in lists of classes, COCO, labelme's masks, indices of
shards and the server's Content-Length; so did GDAL for a JPEG with damaged EXIF.
"""
